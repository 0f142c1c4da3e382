"""The verdict while a campaign runs: what is new, what is provisional, what will fail."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from scoring.__main__ import main
from scoring.commands import watch
from scoring.commands.watch import Screen, write_news, write_state
from scoring.exits import InputError
from scoring.outlook import compute_convergence_so_far, compute_latency_so_far
from scoring.profile import load_profile
from scoring.run import Run
from scoring.watcher import Watcher

ROOT = Path(__file__).parents[2]


def encode(line):
    return line if isinstance(line, bytes) else f":::MLLOG {json.dumps(line)}\n".encode()


class Stage:
    """A campaign that comes into being file by file."""

    def __init__(self, campaign, folder):
        self.campaign, self.folder = campaign, folder / "fast4"
        for benchmark in campaign.runs:
            (self.folder / benchmark).mkdir(parents=True)
        (self.folder / "system.json").write_text(json.dumps(campaign.system))

    def finish(self, benchmark, *numbers):
        for number in numbers:
            lines = self.campaign.runs[benchmark][number]
            path = self.folder / benchmark / f"result_{number}.txt"
            path.write_bytes(b"".join(map(encode, lines)))

    def begin(self, benchmark, number, lines, tail=b'0: :::MLLOG {"namespace": "", "time'):
        path = self.folder / benchmark / f".unfinished_{number}.txt"
        path.write_bytes(b"".join(map(encode, lines)) + tail)
        return path

    def watch(self, profile="lp2bm"):
        return Watcher(self.folder, "4.0.0", load_profile(profile))


@pytest.fixture
def stage(campaign, tmp_path):
    return Stage(campaign, tmp_path)


def read_state(look):
    return "\n".join(text + times for text, times in write_state(look))


def test_each_run_is_told_once(stage):
    watcher = stage.watch()
    look = watcher.look(time.time())
    assert (look.new_runs, look.new_findings, look.complete) == ([], [], False)
    assert "ResNet-50: 0 of 5 runs" in read_state(look)
    stage.finish("resnet", 0, 1)
    news = write_news(watcher.look(time.time()))
    assert [line.split(":")[0] for line in news] == ["resnet/result_0.txt", "resnet/result_1.txt"]
    assert "min, 35 epochs to converge, accuracy 0.7600" in news[0]
    stage.finish("resnet", 2)
    assert len(write_news(watcher.look(time.time()))) == 1
    assert write_news(watcher.look(time.time())) == []


def test_unchanged_files_are_not_read_again(stage, monkeypatch):
    watcher = stage.watch()
    stage.finish("resnet", 0)
    watcher.look(time.time())
    monkeypatch.setattr("scoring.watcher.read_submission", lambda *_: pytest.fail("read again"))
    assert watcher.look(time.time()).score is not None
    stage.finish("resnet", 1)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        watcher.look(time.time())


def test_findings_are_told_when_they_come_and_missing_runs_are_none(stage):
    watcher = stage.watch()
    stage.finish("resnet", 0, 1)
    assert watcher.look(time.time()).new_findings == []
    same = stage.campaign.runs["resnet"][0].find("seed")["value"]
    stage.campaign.runs["resnet"][2].find("seed")["value"] = same
    stage.finish("resnet", 2)
    assert [finding.rule for finding in watcher.look(time.time()).new_findings] == ["same-seed"]
    stage.finish("resnet", 3)
    assert watcher.look(time.time()).new_findings == []


def test_latency_is_provisional_until_all_runs_are_there(stage):
    watcher = stage.watch()
    stage.finish("resnet", 0, 1, 2, 3)
    state = read_state(watcher.look(time.time()))
    minutes = sorted((35 * (27 + 0.01 * i) + 9 * 2 + 0.2 + 0.01) / 60 for i in range(4))
    assert f"R so far = {sum(minutes[1:3]) / 2:.4f} min" in state
    assert "(provisional: mean of 2 of 4, 1 missing)" in state
    stage.finish("resnet", 4)
    state = read_state(watcher.look(time.time()))
    assert "5 of 5 runs, R = 16." in state and "provisional" not in state.split("BERT")[0]


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        ([], (None, 0)),
        ([4.0], (4.0, 1)),
        ([4.0, 6.0], (5.0, 2)),
        ([4.0, None], (4.0, 1)),
        ([4.0, 9.0, 5.0], (5.0, 1)),
        ([4.0, None, 5.0], (5.0, 1)),
        ([None, None, 5.0], (None, 1)),
    ],
)
def test_latency_so_far(monkeypatch, minutes, expected):
    runs = [Run("resnet", None, unusable=[] if m else [(None, "x")]) for m in minutes]
    values = {id(run): m for run, m in zip(runs, minutes, strict=True)}
    monkeypatch.setattr(Run, "minutes", property(lambda run: values[id(run)]))
    latency = compute_latency_so_far(runs)
    assert (latency.minutes, latency.kept) == expected


def shorten(lines, evaluations):
    """Make a BERT run pass at its `evaluations`-th evaluation."""
    last = lines.find("eval_accuracy", evaluations - 1)
    last["value"] = 0.7215
    stop = lines.find("run_stop")
    lines[lines.index(last) + 1 : lines.index(stop)] = []
    stop["time_ms"] = last["time_ms"] + 10
    lines.insert_after("eval_accuracy", lines.make("train_samples", last["metadata"]["epoch_num"]))


def test_three_runs_that_converge_too_fast_are_told(stage):
    for lines in stage.campaign.runs["bert"][:3]:
        shorten(lines, 12)
    stage.finish("bert", 0, 1, 2)
    look = stage.watch().look(time.time())
    state = read_state(look)
    assert "WOULD FAIL, too fast, with these runs alone" in state
    soon = compute_convergence_so_far(look.score.verdicts["bert"])
    assert soon.mean == pytest.approx(12 * 150_000, rel=0.001)
    assert soon.minimum == pytest.approx(2_274_732, rel=1e-6)
    deviation = 197_392.48 * math.sqrt(7 / 30)
    below = (soon.mean - soon.minimum) / deviation
    assert soon.chance == pytest.approx((1 + math.erf(below / math.sqrt(2))) / 2, rel=1e-4)
    assert "less than 1 % likely to pass with 10" in state
    # Not yet a finding: seven more runs may still mend it.
    assert all(finding.rule != "rcp" for finding in look.new_findings)


@pytest.mark.parametrize(
    ("chance", "words"),
    [
        (0.0, "less than 1 %"),
        (0.0049, "less than 1 %"),
        (0.0065, "about 1 %"),
        (0.5, "about 50 %"),
        (0.994, "about 99 %"),
        (0.996, "more than 99 %"),
        (1.0, "more than 99 %"),
    ],
)
def test_no_chance_is_told_as_a_small_one(chance, words):
    assert watch._write_chance(chance) == words


def test_the_demonstration_has_no_convergence_test(demonstration, tmp_path):
    stage = Stage(demonstration, tmp_path)
    stage.finish("resnet", 0, 1, 2)
    assert "convergence" not in read_state(stage.watch("demo").look(time.time()))


# -- runs under way -----------------------------------------------------------------------------


def cut(lines, key, place):
    return lines[: lines.index(lines.find(key, place)) + 1]


def test_a_run_under_way_is_read_from_half_a_log(stage):
    stage.finish("bert", 0, 1, 2)
    lines = stage.campaign.runs["bert"][3]
    path = stage.begin("bert", 3, cut(lines, "eval_accuracy", 7))
    before = path.stat()
    start, last = lines.find("run_start")["time_ms"], lines.find("eval_accuracy", 7)["time_ms"]
    look = stage.watch().look((last + 20_000) / 1000)
    (seen,) = look.under_way
    assert (seen.point, seen.accuracy) == (1_200_192, pytest.approx(0.52603))
    assert seen.elapsed_seconds == pytest.approx((last + 20_000 - start) / 1000)
    # Its sisters converged at 17 intervals; eight took (last - start).
    assert seen.remaining_seconds == pytest.approx((last - start) / 1000 * 9 / 8 - 20, rel=0.01)
    state = read_state(look)
    assert "accuracy 0.5260 at 1,200,192 samples, 7.1 min on the clock, about" in state
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert look.new_findings == []


@pytest.mark.parametrize(
    ("key", "words"),
    [("init_start", "initialising, 5 s"), ("eval_samples", "not evaluated yet, 5 s on the clock")],
)
def test_a_run_before_its_first_evaluation(stage, key, words):
    lines = cut(stage.campaign.runs["resnet"][0], key, 0)
    for line in lines:
        line["time_ms"] = lines[-1]["time_ms"]
    stage.begin("resnet", 0, lines)
    look = stage.watch().look(lines[-1]["time_ms"] / 1000 + 5)
    assert words in read_state(look) and "left" not in read_state(look)


def test_without_a_finished_run_the_reference_says_when(stage):
    lines = cut(stage.campaign.runs["resnet"][0], "eval_accuracy", 4)
    stage.begin("resnet", 0, lines)
    last = lines[-1]
    start = next(line["time_ms"] for line in lines if line["key"] == "run_start")
    (seen,) = stage.watch().look(last["time_ms"] / 1000).under_way
    total = (last["time_ms"] - start) / 1000 * 35.1538 / 19
    assert seen.remaining_seconds == pytest.approx(total - (last["time_ms"] - start) / 1000, 1e-3)


def test_a_clock_behind_makes_no_negative_times(stage):
    lines = cut(stage.campaign.runs["resnet"][0], "eval_accuracy", 2)
    stage.begin("resnet", 0, lines)
    (seen,) = stage.watch().look(0).under_way
    assert seen.silent_seconds == 0 and seen.elapsed_seconds > 0 and seen.remaining_seconds > 0


def test_a_silent_run_is_told(stage):
    lines = cut(stage.campaign.runs["resnet"][0], "eval_accuracy", 2)
    stage.begin("resnet", 0, lines)
    look = stage.watch().look(lines[-1]["time_ms"] / 1000 + 3 * 3600)
    assert "silent for 3.0 h" in read_state(look)


def test_a_result_file_that_is_still_written_is_no_finding(stage):
    lines = stage.campaign.runs["resnet"][0]
    path = stage.folder / "resnet" / "result_0.txt"
    path.write_bytes(b"".join(map(encode, cut(lines, "eval_accuracy", 2))) + b":::MLLOG {")
    watcher = stage.watch()
    look = watcher.look(time.time())
    assert (look.new_runs, look.new_findings) == ([], [])
    assert "resnet/result_0.txt: accuracy" in read_state(look)
    # Ten minutes later nobody writes it any more: it is a run that broke off.
    look = watcher.look(time.time() + 601)
    assert [run.name for run in look.new_runs] == ["resnet/result_0.txt"]
    assert {"marker-missing", "parse-error"} <= {finding.rule for finding in look.new_findings}
    assert "UNUSABLE" in write_news(look)[0]


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_odd_unfinished_files_do_not_stop_it(stage, tmp_path, kind):
    path = stage.folder / "bert" / ".unfinished_0.txt"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/hostname")
    else:
        path.mkdir()
    assert stage.watch().look(time.time()).under_way == []


# -- the command --------------------------------------------------------------------------------


def test_a_complete_campaign_ends_with_its_status(stage, capsys):
    stage.finish("resnet", *range(5))
    stage.finish("bert", *range(10))
    assert main(["watch", str(stage.folder), "--rfp", "lp2bm"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("result_") >= 15 and "\x1b" not in printed
    assert "complete:" in printed and "valid: yes" in printed
    stage.campaign.runs["bert"][0].find("submission_division")["value"] = "open"
    stage.finish("bert", 0)
    assert main(["watch", str(stage.folder), "--rfp", "lp2bm", "--interval", "5"]) == 1
    assert "division" in capsys.readouterr().out


def test_once_leaves_at_once(stage, capsys):
    stage.finish("resnet", 0)
    assert main(["watch", str(stage.folder), "--once"]) == 1
    assert "1 of 5 runs" in capsys.readouterr().out


def test_it_waits_for_the_missing_run(stage, capsys, monkeypatch):
    stage.campaign.runs.pop("bert")
    (stage.folder / "bert").rmdir()
    stage.finish("resnet", *range(4))
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            stage.finish("resnet", 4)

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=wait, time=time.time))
    assert main(["watch", str(stage.folder), "--interval", "0.2"]) == 0
    assert waits == [0.2, 0.2]
    printed = capsys.readouterr().out
    assert printed.index("4 of 5 runs") < printed.index("result_4.txt") < printed.index("complete")


def test_interrupt_is_130(tmp_path):
    command = [sys.executable, "-m", "scoring", "watch", str(tmp_path), "--interval", "60"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as its:
        assert b"waiting" in its.stdout.readline()
        its.send_signal(signal.SIGINT)
        assert its.wait(300) == 130
        assert its.stderr.read() == b"interrupted\n"


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "x", "1e9"])
def test_wrong_intervals_are_one_sentence(tmp_path, capsys, interval):
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(tmp_path), f"--interval={interval}"])
    assert ended.value.code == 2
    assert "seconds from 0.1 to 3600" in capsys.readouterr().err


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        main(["watch", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="neither resnet/ nor bert/"):
        main(["watch", str(tmp_path), "--once"])


def test_a_terminal_gets_the_state_in_its_place(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    screen = Screen()
    screen.show([("a", " 1 s"), ("q" * 500, "")])
    screen.show([("a", " 2 s")])
    screen.say(["\x1b[31mnews"])
    printed = capsys.readouterr().out
    rows = -(-500 // (80 - 1 - 4)) + 1
    assert f"\x1b[{rows}F\x1b[Ja 2 s\n" in printed
    assert printed.endswith("\x1b[1F\x1b[J\\u{1b}[31mnews\n")
    assert printed.count("q") == 500


def test_elsewhere_only_changes_are_printed(capsys):
    screen = Screen()
    screen.show([("a", " 1 s"), ("b", "")])
    screen.show([("a", " 2 s"), ("c", "")])
    assert capsys.readouterr().out == "a 1 s\nb\nc\n"
