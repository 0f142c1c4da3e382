"""Damaged logs never stop the scoring, never mend an invalid result, and names never change it.

`--hypothesis-profile=long` runs each property thousands of times.
"""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.prose import write_prose
from tests.fuzz import scoring_log, scoring_package, scoring_verify
from tests.fuzz.damage import damage_bytes, damage_lines
from tests.fuzz.loop import run_executions
from tests.scoring import altered_times, altered_values
from tests.scoring.conftest import PUBLISHED, Campaign, encode_line, make_lines, unpack
from tests.scoring.judging import judge_runs, read_run

SEEDS = st.integers(0, 2**32 - 1)
# For the properties that read all logs of a result anew.
FEWER = settings(max_examples=settings().max_examples // 3)
COUNTS = {"resnet": 5, "bert": 10}
# Faults that one run carries by itself, or that two runs share, with the runs that have them. As
# every check looks at such runs whatever the others hold, no damage to another run can mend them.
FAULTS = [
    (altered_times.stop_twice, "bert", {4}),
    (altered_times.replay_run_start, "resnet", {1}),
    (altered_times.same_run, "resnet", {1, 3}),
    (altered_times.same_curve, "bert", {1, 3}),
    (altered_times.evaluation_after_stop, "bert", {6}),
    (altered_times.epochs_before_start, "resnet", {2}),
    (altered_times.skip_an_evaluation, "resnet", {0}),
    (altered_times.bert_one_point_moved, "bert", {5}),
    (altered_times.long_initialisation, "resnet", {0}),
    (altered_times.evaluations_swap_times, "bert", {3}),
    (altered_values.no_seed, "bert", {9}),
    (altered_values.seed_of_another_line, "resnet", {1, 2}),
    (altered_values.open_division, "bert", {0}),
    (altered_values.wrong_folder, "resnet", {2}),
    (altered_values.setting("resnet", "lars_opt_momentum", 0.95, 2), "resnet", {2}),
    (altered_values.a_demonstration, "resnet", {0}),
]
PUBLISHED_FAULTS = [
    ("v4.0/tinycorp/tinybox_green/resnet", {2}),
    ("v3.0/Dell/8xR750xax4A100-PCIE-80GB/bert", {3, 4}),
    ("v3.1/Intel-HabanaLabs/HLS-Gaudi2-PT/bert", {0, 9}),
]


def damage(seed, lines):
    """Damage a log, given as lines, one to six times."""
    generator = random.Random(seed)
    for _ in range(generator.randrange(1, 7)):
        lines = damage_lines(generator, lines)
    content = b"".join(lines)
    return damage_bytes(generator, content) if generator.random() < 0.3 else content


def make_logs(benchmark, alter=None):
    """Make the logs of one benchmark as lists of lines, altered as a whole campaign is."""
    runs = {name: [make_lines(name, i) for i in range(n)] for name, n in COUNTS.items()}
    if alter:
        alter(Campaign(runs))
    return [[encode_line(line) for line in run] for run in runs[benchmark]]


class Logs:
    """Logs of one benchmark, read once; each judgement replaces some of them."""

    def __init__(self, benchmark, logs, names=None):
        self.benchmark, self.logs = benchmark, logs
        self.names = names or [f"result_{index}.txt" for index in range(len(logs))]
        self.runs = [self.read(index, b"".join(log)) for index, log in enumerate(logs)]

    def read(self, index, content):
        """Read the content of one of the files."""
        return read_run(self.benchmark, self.names[index], content)

    def judge(self, contents):
        """Judge the logs, some of them with another content."""
        runs = list(self.runs)
        for index, content in contents.items():
            runs[index] = self.read(index, content)
        return judge_runs(self.benchmark, runs)


def read_published(name, folder):
    """Read the logs of a published set from where they were unpacked."""
    paths = sorted(folder.iterdir(), key=lambda path: int(path.stem.split("_")[1]))
    logs = [path.read_bytes().splitlines(keepends=True) for path in paths]
    return Logs(name.rsplit("/", 1)[1], logs, [path.name for path in paths])


@pytest.fixture(scope="module")
def published_faults(published, tmp_path_factory):
    sets = {}
    for name, _ in PUBLISHED_FAULTS:
        folder = tmp_path_factory.mktemp("faults") / "logs"
        unpack(PUBLISHED / name, folder)
        sets[name] = read_published(name, folder)
    return sets


@pytest.fixture(scope="module")
def faulty():
    """Give the logs of each fault; every one is not valid to begin with."""
    made = {alter: Logs(benchmark, make_logs(benchmark, alter)) for alter, benchmark, _ in FAULTS}
    for alter, logs in made.items():
        assert not logs.judge({}).valid, alter
    return list(made.values())


def check_is_whole(score):
    """Check that a verdict can be told, in words and as data."""
    assert write_prose(score).endswith("\n")
    document = json.dumps(score.describe(), allow_nan=False)
    assert json.loads(document)["schema"] == 1
    assert all(finding.message.isprintable() for finding in score.findings)


@given(place=st.integers(0, len(FAULTS) - 1), seed=SEEDS)
def test_damage_to_one_run_never_mends_another(faulty, place, seed):
    logs, spared = faulty[place], FAULTS[place][2]
    generator = random.Random(seed)
    index = generator.choice([i for i in range(len(logs.logs)) if i not in spared])
    score = logs.judge({index: damage(seed, logs.logs[index])})
    check_is_whole(score)
    assert not score.valid
    assert score.compute(normalized=False) is None


@given(place=st.integers(0, len(PUBLISHED_FAULTS) - 1), seed=SEEDS)
def test_damage_never_mends_a_published_fault(published_faults, place, seed):
    name, spared = PUBLISHED_FAULTS[place]
    logs = published_faults[name]
    generator = random.Random(seed)
    index = generator.choice([i for i in range(len(logs.logs)) if i not in spared])
    score = logs.judge({index: damage(seed, logs.logs[index])})
    check_is_whole(score)
    assert not score.valid


@pytest.fixture(scope="module")
def sound():
    return {benchmark: Logs(benchmark, make_logs(benchmark)) for benchmark in COUNTS}


@FEWER
@given(benchmark=st.sampled_from(("resnet", "bert")), seed=SEEDS)
def test_damage_to_all_runs_is_survived(sound, benchmark, seed):
    logs = sound[benchmark]
    score = logs.judge({i: damage(seed + i, lines) for i, lines in enumerate(logs.logs)})
    check_is_whole(score)


@given(benchmark=st.sampled_from(("resnet", "bert")), seed=SEEDS)
def test_two_damaged_runs_that_cannot_be_read_are_too_many(sound, benchmark, seed):
    logs = sound[benchmark]
    generator = random.Random(seed)
    chosen = generator.sample(range(len(logs.logs)), 2)
    cut = {i: b"".join(logs.logs[i])[: -generator.randrange(20, 5000)] for i in chosen}
    score = logs.judge(cut)
    assert "too-many-unusable" in {finding.rule for finding in score.findings}
    assert not score.valid


def summarize(score, benchmark):
    """Give what names may not change: the figures, and the findings but for those on names."""
    document = score.describe()["benchmarks"][benchmark]
    rules = sorted(f.rule for f in score.findings if f.rule not in ("file-order", "file-names"))
    minutes = sorted((run["minutes"] or 0.0, run["converged"]) for run in document["runs"])
    return score.valid, document["latency_minutes"], document["rcp"], minutes, rules


@pytest.fixture(scope="module")
def any_logs(sound, faulty):
    return [*sound.values(), *faulty]


@FEWER
@given(place=st.integers(0, len(FAULTS) + 1), seed=SEEDS)
def test_names_of_files_change_nothing(any_logs, place, seed):
    logs = any_logs[place]
    generator = random.Random(seed)
    count = len(logs.logs)
    numbers = generator.sample(range(1000), count)
    names = [generator.choice((f"result_{n}.txt", f"result_job_{n}.txt")) for n in numbers]
    order = generator.sample(range(count), count)
    runs = [read_run(logs.benchmark, names[i], b"".join(logs.logs[i])) for i in order]
    renamed = judge_runs(logs.benchmark, runs)
    assert summarize(renamed, logs.benchmark) == summarize(logs.judge({}), logs.benchmark)


PREFIXES = st.one_of(
    st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=20),
    st.sampled_from(["0: ", " 12: ", "[3] ", "\x1b[32m", ":::MLLOG ", ':::MLLOG {"key": ', ":::"]),
)


@FEWER
@given(place=st.integers(0, len(FAULTS) + 1), prefixes=st.lists(PREFIXES, min_size=1, max_size=9))
def test_what_stands_before_the_token_changes_nothing(any_logs, place, prefixes):
    logs = any_logs[place]
    contents = {
        index: b"".join(
            prefixes[number % len(prefixes)].encode() + line for number, line in enumerate(lines)
        )
        for index, lines in enumerate(logs.logs)
        if all(line.startswith(b":::MLLOG ") for line in lines)
    }
    prefixed, plain = logs.judge(contents).describe(), logs.judge({}).describe()
    assert prefixed == plain


@pytest.mark.parametrize("first", [0, 10_000_000])
def test_the_fuzzer_of_logs(first):
    run_executions(scoring_log.make_fuzzer(), seed=3, first=first, executions=600)


def test_the_fuzzer_of_packages(tmp_path):
    with scoring_package.make_fuzzer(tmp_path) as execute:
        run_executions(execute, seed=3, first=0, executions=400)


def test_the_fuzzer_of_examined_packages(tmp_path, monkeypatch):
    with scoring_verify.make_fuzzer(tmp_path) as execute:
        run_executions(execute, seed=3, first=0, executions=25)
        # Were an unlisted change to go unseen, it would be told.
        monkeypatch.setattr(scoring_verify, "examine", lambda package, profile: True)
        with pytest.raises(scoring_verify.Damaged):
            run_executions(execute, seed=3, first=0, executions=25)


def test_a_fuzzer_that_sees_nothing_would_be_seen(monkeypatch):
    monkeypatch.setattr(scoring_log, "parse_log", lambda name, content: 1 / len(content[9:]))
    with pytest.raises(scoring_log.Damaged):
        run_executions(scoring_log.make_fuzzer(), seed=3, first=0, executions=50)
