"""Made-up campaigns that pass every check, to be altered by the tests, and the published logs."""

import copy
import json
import logging
import lzma
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scoring.profile import load_profile
from scoring.stock_process import answer_job

PUBLISHED = Path(__file__).parents[3] / "shared" / "logs"
START_MS = 1_700_000_000_000
# One system makes one benchmark after the other.
BEGIN_MS = {"resnet": START_MS, "bert": START_MS + 14_400_000}
RESNET_CURVE = (15_000, 22_000, 26_000, 29_000, 32_000, 34_500, 36_400, 37_500, 38_000)
SETTINGS = {
    "resnet": {
        "global_batch_size": 3264,
        "gradient_accumulation_steps": 1,
        "model_bn_span": 204,
        "opt_name": "lars",
        "lars_opt_base_learning_rate": 10.5,
        "lars_opt_end_learning_rate": 0.0001,
        "lars_opt_learning_rate_decay_poly_power": 2,
        "lars_opt_learning_rate_decay_steps": 13756,
        "lars_epsilon": 0.0,
        "lars_opt_learning_rate_warmup_epochs": 2,
        "lars_opt_momentum": 0.9,
        "lars_opt_weight_decay": 5e-05,
    },
    "bert": {
        "global_batch_size": 448,
        "gradient_accumulation_steps": 1,
        "opt_name": "lamb",
        "max_sequence_length": 512,
        "max_predictions_per_seq": 76,
        "opt_base_learning_rate": 0.000425,
        "opt_epsilon": 1e-6,
        "opt_lamb_epsilon": 1e-6,
        "opt_lamb_beta_1": 0.9,
        "opt_lamb_beta_2": 0.999,
        "opt_lamb_weight_decay_rate": 0.01,
        "opt_lamb_learning_rate_decay_poly_power": 1.0,
        "opt_learning_rate_training_steps": 6700,
        "opt_learning_rate_warmup_steps": 0,
        "num_warmup_steps": 0,
        "start_warmup_step": 0,
    },
}
SYSTEM = {
    "submitter": "maker",
    "division": "closed",
    "status": "Available on-premise",
    "system_name": "fast4",
    "number_of_nodes": "4",
    "accelerators_per_node": "4",
    "accelerator_model_name": "NVIDIA A100-SXM-80GB",
}


class Lines(list):
    """The lines of one log as dictionaries, or as bytes where a test wants garbage."""

    def find(self, key, place=0):
        """Give the place-th line with a key."""
        return [line for line in self if isinstance(line, dict) and line["key"] == key][place]

    def drop(self, key):
        """Drop all lines with a key."""
        self[:] = [line for line in self if not isinstance(line, dict) or line["key"] != key]

    def insert_after(self, key, *lines, place=-1):
        """Put lines behind the place-th line with a key."""
        index = self.index(self.find(key, place)) + 1
        self[index:index] = lines

    def shift(self, milliseconds):
        """Move all times."""
        for line in self:
            line["time_ms"] += milliseconds

    def make(self, key, value=None, time_ms=None, **metadata):
        """Make a line like the others."""
        return make_line(
            self[-1]["time_ms"] if time_ms is None else time_ms, key, value, **metadata
        )


def make_line(time_ms, key, value=None, lineno=None, **metadata):
    """Make one log line as a dictionary."""
    lineno = sum(key.encode()) % 900 if lineno is None else lineno
    return {
        "namespace": "",
        "time_ms": time_ms,
        "event_type": "POINT_IN_TIME",
        "key": key,
        "value": value,
        "metadata": {"file": "train.py", "lineno": lineno, **metadata},
    }


def make_lines(benchmark, index):
    """Make the log of one converged run; `index` tells the runs of a campaign apart."""
    start = BEGIN_MS[benchmark] + index * 1_100_000 + index * index * 7
    lines = Lines()

    def add(seconds, key, value=None, **metadata):
        lines.append(make_line(round(start + seconds * 1000), key, value, **metadata))

    names = {"benchmark": benchmark, "org": "maker", "division": "closed", "status": "onprem"}
    for key, value in {**names, "platform": "4xfast"}.items():
        add(-60, f"submission_{key}", value)
    add(-55, "cache_clear", True)
    add(-50, "init_start")
    add(-40, "seed", 1000 + index)
    for key, value in SETTINGS[benchmark].items():
        add(-40, key, value)
    add(-0.05, "init_stop")
    add(0, "run_start")
    (add_resnet if benchmark == "resnet" else add_bert)(add, index)
    return lines


def add_resnet(add, index):
    """Add 35 epochs of 27 s with evaluations of 2 s after epochs 3, 7, ... 35."""
    add(0.1, "train_samples", 1_281_167)
    add(0.1, "eval_samples", 50_000)
    now, first = 0.2, 1
    for place, last in enumerate(range(3, 36, 4)):
        add(now, "block_start", first_epoch_num=first, epoch_count=last - first + 1)
        for epoch in range(first, last + 1):
            add(now, "epoch_start", epoch_num=epoch)
            now += 27 + 0.01 * index
            add(now, "epoch_stop", epoch_num=epoch)
            throughput = {"throughput": 1_281_167 / (27 + 0.01 * index)}
            add(now, "tracked_stats", throughput, step=epoch)
        add(now, "eval_start", epoch_num=last)
        now += 2
        add(now, "eval_stop", epoch_num=last)
        add(now, "eval_accuracy", (RESNET_CURVE[place] + index * 3) / 50_000, epoch_num=last)
        add(now, "block_stop", first_epoch_num=first)
        first = last + 1
    add(now + 0.01, "run_stop", status="success")


def add_bert(add, index):
    """Add 17 intervals of 50 s with evaluations of 1 s, every 150 000 samples rounded up."""
    add(0, "eval_samples", 10_000)
    add(0, "epoch_start", epoch_num=0)
    add(0, "block_start", first_epoch_num=1, epoch_count=1)
    now, points = 0.2, [-(-place * 150_000 // 448) * 448 for place in range(1, 18)]
    for place, point in enumerate(points):
        now += 50 + 0.02 * index
        add(now, "eval_start", epoch_num=point)
        now += 1
        add(now, "eval_stop", epoch_num=point)
        accuracy = 0.721 if place == 16 else 0.40 + 0.018 * place
        add(now, "eval_accuracy", accuracy + index * 1e-5, epoch_num=point)
    add(now, "block_stop", first_epoch_num=1)
    add(now, "epoch_stop", epoch_num=points[-1])
    add(now, "train_samples", points[-1])
    add(now + 0.01, "run_stop", status="success")


@dataclass
class Campaign:
    """Logs of a whole campaign, by benchmark, and the system description."""

    runs: dict
    system: dict = field(default_factory=lambda: copy.deepcopy(SYSTEM))

    def write(self, folder):
        """Write the campaign below `folder` and give its folder."""
        place = folder / "fast4"
        for benchmark, runs in self.runs.items():
            (place / benchmark).mkdir(parents=True)
            for index, lines in enumerate(runs):
                path = place / benchmark / f"result_{index}.txt"
                path.write_bytes(b"".join(encode_line(line) for line in lines))
        if self.system is not None:
            (place / "system.json").write_text(json.dumps(self.system))
        return place


def encode_line(line):
    """Write one line of a log as bytes."""
    if isinstance(line, bytes):
        return line
    return f":::MLLOG {json.dumps(line)}\n".encode()


@pytest.fixture(scope="session")
def make_campaign():
    """Give a function that makes a valid campaign: 5 and 10 runs on four nodes."""

    def make():
        counts = {"resnet": 5, "bert": 10}
        return Campaign(
            {name: [make_lines(name, i) for i in range(n)] for name, n in counts.items()}
        )

    return make


@pytest.fixture
def campaign(make_campaign):
    """Give a valid campaign of both benchmarks."""
    return make_campaign()


@pytest.fixture
def demonstration():
    """Give a valid campaign of the demonstration: its own sizes, and the line that says so."""
    campaign = Campaign(
        {"resnet": [make_lines("resnet", i) for i in range(5)], "bert": []}, system=None
    )
    campaign.runs["bert"] = [make_demonstration_bert(index) for index in range(10)]
    sizes = load_profile("demo").resnet
    for index, lines in enumerate(campaign.runs["resnet"]):
        lines.find("train_samples")["value"] = sizes.train_samples
        lines.find("eval_samples")["value"] = sizes.eval_samples
        lines.drop("tracked_stats")
        for place in range(9):
            share = 0.8 if place == 8 else 0.08 * (place + 1)
            accuracy = (round(share * sizes.eval_samples) + index) / sizes.eval_samples
            lines.find("eval_accuracy", place)["value"] = accuracy
    for lines in (*campaign.runs["resnet"], *campaign.runs["bert"]):
        lines.insert(0, make_line(lines[0]["time_ms"], "demonstration", True))
    return campaign


def make_demonstration_bert(index):
    """Make a BERT log of the demonstration, with the profile's sizes."""
    sizes = load_profile("demo").bert
    lines = make_lines("bert", index)
    lines.find("global_batch_size")["value"] = 64
    lines.find("eval_samples")["value"] = sizes.eval_samples
    interval = sizes.evaluation_interval_samples
    for place in range(17):
        for key in ("eval_start", "eval_stop", "eval_accuracy"):
            lines.find(key, place)["metadata"]["epoch_num"] = interval * (place + 1)
    lines.find("train_samples")["value"] = interval * 17
    return lines


def unpack(source, folder):
    """Unpack the published logs of one folder."""
    folder.mkdir(parents=True)
    for path in source.glob("*.xz"):
        (folder / path.stem).write_bytes(lzma.decompress(path.read_bytes()))


@pytest.fixture(scope="session")
def published():
    """Give the expected answers of the published logs; skip where they are not beside us."""
    path = PUBLISHED / "expected.json"
    if not path.exists():
        pytest.skip("the published logs (../shared/logs) are not beside the checkout")
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def unpack_set(published, tmp_path_factory):
    """Give a function that unpacks published sets into one folder named like their system."""

    def unpack_sets(*names):
        place = tmp_path_factory.mktemp("published") / names[0].split("/")[-2]
        for name in names:
            unpack(PUBLISHED / name, place / name.rsplit("/", 1)[-1])
        system = PUBLISHED / names[0].rsplit("/", 1)[0] / "system.json"
        (place / "system.json").write_bytes(system.read_bytes())
        return place

    return unpack_sets


@pytest.fixture
def unpack_group(published, tmp_path):
    """Give a function that unpacks a published group of more runs than needed."""

    def unpack_one(name):
        unpack(PUBLISHED / "m-greater-than-n" / name, tmp_path / "group" / "resnet")
        return tmp_path / "group"

    return unpack_one


class InProcess:
    """Answers jobs in this process, in the place of the real one."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, job):
        return answer_job(job)


@pytest.fixture(scope="module")
def in_process():
    """Spare each score the process of its own, which would take a second to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoring.score.StockProcess", InProcess)
        yield
    logging.disable(logging.NOTSET)
