"""Real logs, altered in the ways that published results were found to be wrong or odd."""

import json
import re
import shutil

import pytest

from scoring.profile import load_profile
from scoring.score import score_folder
from tests.scoring.conftest import make_line

RESNET = "v4.0/NVIDIA/eos_ngc24.04_mxnet/resnet"
BERT = "v4.0/NVIDIA/eos_ngc23.04_pytorch/bert"
OLD_BERT = "v2.1/NVIDIA/dgxh100_n4_preview/bert"
MINUTE_MS = 60_000


@pytest.fixture
def copy_set(unpack_set, in_process, tmp_path):
    """Give a function that copies a published set to alter it, and gives its run logs."""

    def copy(name):
        folder = tmp_path / name.split("/")[-2]
        shutil.copytree(unpack_set(name), folder)
        return folder, sorted(
            (folder / name.rsplit("/", 1)[1]).glob("*.txt"),
            key=lambda path: int(re.search(r"\d+", path.name)[0]),
        )

    return copy


def judge(folder, ruleset="4.0.0"):
    return score_folder(folder, ruleset, load_profile("mlperf"), False)


def get_rules(score, *severities):
    return {f.rule for f in score.findings if f.severity in severities}


def rewrite(path, change):
    """Change log lines: `change(event)` alters the dictionary of one."""
    lines = []
    for line in path.read_bytes().split(b"\n"):
        head, token, text = line.rpartition(b":::MLLOG ")
        if token:
            event = json.loads(text)
            change(event)
            line = head + token + json.dumps(event).encode()
        lines.append(line)
    path.write_bytes(b"\n".join(lines))


def test_the_aborted_run_has_another_batch(copy_set):
    folder, paths = copy_set(RESNET)

    def change(event):
        if event["key"] == "global_batch_size":
            event["value"] = 816
        if event["key"] == "eval_accuracy":
            event["value"] = min(event["value"], 0.7586)
        if event["key"] == "run_stop":
            event["metadata"]["status"] = "aborted"

    rewrite(paths[4], change)
    score = judge(folder)
    assert get_rules(score, "error") == {"gbs-differs", "rcp"}
    assert "one-unusable-run" in get_rules(score, "warning")
    rcp = score.verdicts["resnet"].convergence
    assert rcp.message == "no global batch size common to all runs"
    assert "KeyError" in rcp.stock_message


def test_two_evaluations_an_hour_after_the_stop(copy_set):
    folder, paths = copy_set(BERT)
    points = []

    def find(event):
        if event["key"] == "eval_accuracy":
            points.append(event["metadata"]["epoch_num"])

    def change(event):
        late = event["key"] == "eval_accuracy" and event["metadata"]["epoch_num"] in points[-2:]
        event["time_ms"] += 69 * MINUTE_MS if late else 0

    rewrite(paths[3], find)
    rewrite(paths[3], change)
    score = judge(folder)
    assert get_rules(score, "error") == {"eval-outside-run"}
    assert "work-after-run-stop" not in get_rules(score, "warning")


def test_a_run_is_there_twice(copy_set):
    folder, paths = copy_set(RESNET)
    shutil.copy(paths[1], paths[3])
    expected = {"same-run-twice", "same-curve-twice", "same-seed"}
    assert get_rules(judge(folder), "error") == expected


def test_a_run_is_there_twice_with_another_seed(copy_set):
    folder, paths = copy_set(BERT)
    shutil.copy(paths[3], paths[8])

    def change(event):
        if event["key"] == "seed":
            event["value"] = 424_242

    rewrite(paths[8], change)
    assert get_rules(judge(folder), "error") == {"same-run-twice", "same-curve-twice"}


def test_evaluations_after_every_epoch_at_the_end(copy_set):
    folder, paths = copy_set(RESNET)
    lines = paths[0].read_bytes().split(b"\n")
    place = max(i for i, line in enumerate(lines) if b'"eval_accuracy"' in line)
    event = json.loads(lines[place].rpartition(b":::MLLOG ")[2])
    event["metadata"]["epoch_num"] -= 1
    event["value"] -= 0.001
    event["time_ms"] -= 20_000
    lines.insert(place, b":::MLLOG " + json.dumps(event).encode())
    paths[0].write_bytes(b"\n".join(lines))
    assert get_rules(judge(folder), "error") == {"cadence-resnet"}


def test_evaluations_appended_in_the_end_with_their_true_times(copy_set):
    folder, paths = copy_set(BERT)
    before = judge(folder)
    for path in paths:
        lines = path.read_bytes().split(b"\n")
        place = next(i for i, line in enumerate(lines) if b'"run_stop"' in line)
        late = [line for line in lines[:place] if b'"eval_accuracy"' in line]
        kept = [line for line in lines[:place] if b'"eval_accuracy"' not in line]
        path.write_bytes(b"\n".join([*kept, *late, *lines[place:]]))
    after = judge(folder)
    assert after.valid
    assert after.verdicts["bert"].latency_minutes == before.verdicts["bert"].latency_minutes
    assert get_rules(after, "warning") - get_rules(before, "warning") == {"clock-back"}


def test_evaluations_numbered_by_passes_are_no_samples(copy_set):
    folder, paths = copy_set(BERT)
    for path in paths:
        rewrite(path, lambda event: event["metadata"].update(epoch_num=1))
    score = judge(folder)
    cadence = [finding for finding in score.findings if finding.rule == "cadence-bert"]
    assert len(cadence) == len(paths)
    assert "not by training samples" in cadence[0].message


def test_one_image_is_missing(copy_set):
    folder, paths = copy_set(RESNET)
    before = judge(folder)
    for path in paths:
        rewrite(path, lambda e: e.update(value=49_999) if e["key"] == "eval_samples" else None)
    after = judge(folder)
    assert after.valid
    assert get_rules(after, "warning") - get_rules(before, "warning") == {"dataset-size"}


@pytest.mark.parametrize(
    ("ruleset", "passes"), [("1.0.0", True), ("2.0.0", True), ("2.1.0", False), ("4.0.0", False)]
)
def test_the_old_name_of_epsilon_passes_by_the_old_rules(unpack_set, in_process, ruleset, passes):
    score = judge(unpack_set(OLD_BERT), ruleset)
    runs = score.verdicts["bert"].result.runs
    assert [run.compliant for run in runs] == [passes] * 10
    assert ("too-many-unusable" in get_rules(score, "error")) is not passes
    if not passes:
        assert all("opt_lamb_epsilon" in run.compliance_messages[0][1] for run in runs)


def to_windows(content):
    return content.replace(b"\n", b"\r\n")


def to_old_mac(content):
    return content.replace(b"\n", b"\r")


def add_mark(content):
    return b"\xef\xbb\xbf" + content


def add_latin(content):
    return b"Knoten Zwei: f\xfcnf Ger\xe4te\n" + content


def add_nul(content):
    return content + b"\0" * 4096


def add_prefixes(content):
    return b"\n".join(b" 12: \x1b[32m[3] " + line for line in content.split(b"\n"))


def add_system_line(content):
    return content + b'\n0: :::SYSJSON {"number_of_nodes": "1", "status": "x"}\n'


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (to_windows, set()),
        (to_old_mac, set()),
        (add_mark, set()),
        (add_latin, {"not-utf8"}),
        (add_nul, {"nul-bytes"}),
        (add_prefixes, set()),
        (add_system_line, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_bytes_around_the_lines_change_no_figure(copy_set, change, rules):
    folder, paths = copy_set(RESNET)
    before = judge(folder)
    for path in paths:
        path.write_bytes(change(path.read_bytes()))
    after = judge(folder)
    assert get_rules(after, "error", "warning", "note") == rules | get_rules(
        before, "error", "warning", "note"
    )
    old, new = before.describe()["benchmarks"], after.describe()["benchmarks"]
    assert old == new


def test_another_node_count_in_a_system_line(copy_set):
    folder, paths = copy_set(RESNET)
    content = paths[2].read_bytes()
    paths[2].write_bytes(b':::SYSJSON {"number_of_nodes": "2"}\n' + content)
    score = judge(folder)
    assert [(f.rule, f.file, f.line) for f in score.findings if f.severity == "error"] == [
        ("node-count", "resnet/result_2.txt", 1)
    ]


def test_a_description_that_repeats_a_member_is_read(copy_set):
    folder, _ = copy_set(RESNET)
    before = judge(folder)
    path = folder / "system.json"
    text = path.read_text()
    member = re.search(r'"host_storage_type": *"[^"]*",', text)[0]
    path.write_text(text.replace(member, member * 2))
    assert judge(folder).findings == before.findings
    other = re.sub(r': *"', ': "other ', member)
    path.write_text(text.replace(member, member + other))
    assert get_rules(judge(folder), "error") == {"system-json"}


def test_two_runs_in_one_file(copy_set):
    folder, paths = copy_set(RESNET)
    paths[0].write_bytes(paths[0].read_bytes() + b"\n" + paths[1].read_bytes())
    paths[1].write_bytes(b"")
    rules = get_rules(judge(folder), "error", "warning")
    assert {"marker-twice", "no-log-lines"} <= rules


def test_lines_put_in_to_shorten_a_run(copy_set):
    folder, paths = copy_set(RESNET)
    lines = paths[4].read_bytes().split(b"\n")
    start = next(line for line in lines if b'"run_start"' in line)
    event = json.loads(start.rpartition(b":::MLLOG ")[2])
    late = make_line(event["time_ms"] + 3 * MINUTE_MS, "run_start")
    lines.insert(lines.index(start) + 1, b":::MLLOG " + json.dumps(late).encode())
    paths[4].write_bytes(b"\n".join(lines))
    assert "marker-twice" in get_rules(judge(folder), "error")
