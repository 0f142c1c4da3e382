"""Makes a package that keeps every promise: a made-up campaign of a small copy of this kit."""

import copy
import hashlib
import json
import math
import re
import shutil
import sys
from pathlib import Path
from unittest import mock

from scoring.package.build import Order, build_package
from scoring.package.description import FIELDS
from scoring.package.source import FOLDERS
from scoring.profile import load_profile
from tests.scoring.conftest import Campaign, make_line, make_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SYSTEM_FILE = """
name = "fast4"
[submission]
organization = "maker"
platform = "4xfast"
status = "onprem"
[nodes]
count = 4
ranks_per_node = 4
device = "cuda"
one_machine = false
threads_per_rank = 1
[container]
runtime = "none"
image = ""
binds = []
[benchmarks.resnet]
config = "resnet/configs/fast4.toml"
[benchmarks.bert]
config = "bert/configs/fast4.toml"
[campaign]
profile = "lp2bm"
"""
NUMBERS = {
    "number_of_nodes": "4",
    "accelerators_per_node": "4",
    "host_processors_per_node": "2",
    "host_processor_core_count": "64",
    "host_processor_vcpu_count": "128",
}
DESCRIPTION = {
    **dict.fromkeys(FIELDS, "stated"),
    **NUMBERS,
    "submitter": "maker",
    "division": "closed",
    "status": "Available on-premise",
    "system_name": "fast4",
    "accelerator_model_name": "NVIDIA A100-SXM-80GB",
}
COPIED = """run_and_time.sh pyproject.toml LICENSE
    harness/runclock.py harness/provenance.py harness/gradients.py
    resnet/train.py resnet/step.py resnet/probe.py
    resnet/configs/h100_4x4.toml resnet/configs/demo.toml
    bert/train.py bert/step.py bert/configs/h100_4x4.toml bert/configs/demo.toml"""
METHODS = {
    "submission_benchmark": "log_submission",
    "submission_org": "log_submission",
    "submission_division": "log_submission",
    "submission_status": "log_submission",
    "submission_platform": "log_submission",
    "cache_clear": "log_cache_clear",
    "init_start": "start_init",
    "init_stop": "start_run",
    "run_start": "start_run",
    "block_start": "start_block",
    "block_stop": "stop_block",
    "epoch_start": "start_epoch",
    "epoch_stop": "stop_epoch",
    "eval_start": "start_evaluation",
    "eval_stop": "stop_evaluation",
    "eval_accuracy": "stop_evaluation",
    "run_stop": "stop_run",
}
SETTINGS = {
    "resnet": """global_batch_size=batch.global_batch_size model_bn_span=batch.batch_norm_span
        gradient_accumulation_steps=batch.gradient_accumulation_steps
        lars_opt_base_learning_rate=optimizer.base_learning_rate
        lars_opt_end_learning_rate=optimizer.end_learning_rate
        lars_opt_learning_rate_decay_poly_power=optimizer.decay_power
        lars_opt_learning_rate_warmup_epochs=optimizer.warmup_epochs
        lars_opt_momentum=optimizer.momentum lars_opt_weight_decay=optimizer.weight_decay
        lars_epsilon=optimizer.epsilon""",
    "bert": """max_sequence_length=input.max_sequence_length
        max_predictions_per_seq=input.max_predictions_per_sequence
        global_batch_size=batch.global_batch_size d_batch_size=batch.local_batch_size
        gradient_accumulation_steps=batch.gradient_accumulation_steps
        opt_base_learning_rate=optimizer.base_learning_rate
        opt_learning_rate_training_steps=optimizer.training_steps
        opt_learning_rate_warmup_steps=optimizer.warmup_steps
        start_warmup_step=optimizer.start_warmup_step
        opt_lamb_learning_rate_decay_poly_power=optimizer.decay_power
        opt_lamb_beta_1=optimizer.beta_1 opt_lamb_beta_2=optimizer.beta_2
        opt_lamb_epsilon=optimizer.epsilon opt_lamb_weight_decay_rate=optimizer.weight_decay
        opt_gradient_clip_norm=optimizer.max_gradient_norm gradient_clip=optimizer.gradient_clip
        opt_epsilon=optimizer.epsilon num_warmup_steps=optimizer.warmup_steps""",
}


def copy_kit(place):
    """Copy a little of the kit: what writes log lines, with a system and configurations."""
    for file in COPIED.split():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, place / file)
    shutil.copy(place / "resnet/configs/h100_4x4.toml", place / "resnet/configs/fast4.toml")
    text = (place / "bert/configs/h100_4x4.toml").read_text()
    for before, after in (("size = 768", "size = 448"), ("size = 48 ", "size = 28 ")):
        assert before in text
        text = text.replace(before, after)
    (place / "bert/configs/fast4.toml").write_text(text)
    for folder in FOLDERS:
        (place / folder).mkdir(exist_ok=True)
    (place / "systems/fast4.toml").write_text(SYSTEM_FILE)
    return place


def hash_kit(kit, benchmark):
    """Hash a benchmark's sources in the words of docs/reproducing.md, written out here anew."""
    digest = hashlib.sha256()
    for folder in ("harness", benchmark):
        for path in sorted((kit / folder).rglob("*")):
            if path.suffix in (".py", ".toml"):
                content = path.read_bytes()
                digest.update(f"{path.relative_to(kit).as_posix()}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()


def make_honest(lines, kit, benchmark, hosts, software):
    """Make the log of one run what the copied kit would have written."""
    table = tomllib.loads((kit / benchmark / "configs/fast4.toml").read_text())
    for pair in SETTINGS[benchmark].split():
        key, place = pair.split("=")
        section, name = place.split(".")
        lines.drop(key)
        time_ms = lines.find("seed")["time_ms"]
        lines.insert_after("seed", lines.make(key, table[section][name], time_ms))
    if benchmark == "resnet":
        batch, optimizer = table["batch"]["global_batch_size"], table["optimizer"]
        epochs = optimizer["decay_epochs"] - optimizer["warmup_epochs"]
        steps_per_epoch = math.ceil(lines.find("train_samples")["value"] / batch)
        steps = lines.find("lars_opt_learning_rate_decay_steps")
        steps["value"] = epochs * steps_per_epoch + 1
    where = {"hosts": hosts, "ranks": 4 * len(hosts), "launcher": "mpirun"}
    digest = hash_kit(kit, benchmark)
    settings = {"fast4.toml": kit / "systems/fast4.toml"}
    settings[f"{benchmark}/configs/fast4.toml"] = kit / benchmark / "configs/fast4.toml"
    software = {**software, "settings": hash_files(settings)}
    start = lines[0]["time_ms"]
    lines.insert_after(
        "submission_platform",
        make_line(start, "number_of_nodes", 4, **where),
        make_line(start, "source_sha256", digest, python="3.11.7", **software),
    )
    for line in lines:
        file, number = find_call(kit, benchmark, line["key"])
        line["metadata"].update(file=file, lineno=number)


def hash_files(files):
    """SHA-256 of files, by the names that a campaign gives them."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def find_call(kit, benchmark, key):
    """Find the line of the trainer, or of the harness, that writes a key."""
    file = "harness/provenance.py" if key in ("number_of_nodes", "source_sha256") else ""
    file = file or f"{benchmark}/train.py"
    pattern = rf"\.{METHODS[key]}\(" if key in METHODS else rf'\.log\("{key}"'
    source = (kit / file).read_text().split("\n")
    for wanted in (pattern, r"clock\.log\(key, value\)"):
        found = [number for number, text in enumerate(source, 1) if re.search(wanted, text)]
        if found:
            return file, found[0]
    raise AssertionError(f"no call logs {key}")


def make_campaign():
    """Make a valid campaign of four nodes."""
    counts = {"resnet": 5, "bert": 10}
    runs = {name: [make_lines(name, i) for i in range(n)] for name, n in counts.items()}
    return Campaign(runs, copy.deepcopy(DESCRIPTION))


def order_honest_package(place, image="", image_manifest=None, demonstration=None):
    """Make kit and campaign below `place`; gives the order of a package of them.

    image, image_manifest: what the runs were made in. demonstration: the campaign to deliver
    instead of a valid one on four nodes.
    """
    software = {}
    if image_manifest is not None:
        text = json.dumps(image_manifest)
        (place / "manifest.json").write_text(text)
        software["image_manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    kit = copy_kit(place / "kit")
    system = kit / "systems/fast4.toml"
    hosts = [f"node{number}" for number in range(4)]
    if image:
        text = system.read_text().replace('"none"', '"singularity"')
        system.write_text(text.replace('image = ""', f'image = "{image}"'))
    if demonstration:
        make_demonstration_kit(kit)
        hosts = ["laptop"]
    campaign = demonstration or make_campaign()
    for name, runs in campaign.runs.items():
        for lines in runs:
            make_honest(lines, kit, name, hosts, software)
    results = campaign.write(place / "results")
    configurations = [f"{name}/configs/fast4.toml" for name in campaign.runs]
    recorded = {"fast4.toml": system, **{name: kit / name for name in configurations}}
    (results / "campaign.json").write_text(json.dumps(hash_files(recorded)))
    (results / "output").mkdir()
    (results / "output/resnet_0.txt").write_text("what the ranks wrote\n")
    profile = load_profile("demo" if demonstration else "lp2bm")
    output = place / "package"
    manifest = place / "manifest.json" if software else None
    return Order(results, system, output, profile, "4.0.0", False, None, manifest, source=kit)


def make_demonstration_kit(kit):
    """Give the copied kit the demonstration's machine and sizes."""
    system = kit / "systems/fast4.toml"
    text = system.read_text()
    for before, after in (
        ("ranks_per_node = 4", "ranks_per_node = 1"),
        ('"cuda"', '"cpu"'),
        ("one_machine = false", "one_machine = true"),
        ('"lp2bm"', '"demo"'),
    ):
        assert before in text
        text = text.replace(before, after)
    system.write_text(text)
    for name in ("resnet", "bert"):
        shutil.copy(kit / name / "configs/demo.toml", kit / name / "configs/fast4.toml")


def make_honest_package(place, image="", image_manifest=None, demonstration=None):
    """Make the package as a folder below `place` and give its path."""
    order = order_honest_package(place, image, image_manifest, demonstration)
    # What draws the page has tests of its own, and takes seconds.
    with mock.patch("scoring.report.page.write_page", return_value="<p>the report</p>"):
        build_package(order)
    return order.output
