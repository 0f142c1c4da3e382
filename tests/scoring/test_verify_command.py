"""`python -m scoring verify`: its page, its statuses, and what hostile packages can do to it."""

import gzip
import io
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from tests.scoring import honest_package

ROOT = Path(__file__).parents[2]
MEMORY_LIMIT_BYTES = 500 << 20
SYSTEM = "benchmarks/resnet/implementations/fast4/systems/fast4.toml"
LOG = "maker/results/fast4/resnet/result_0.txt"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Give the folder of an honest package, not to be changed."""
    return honest_package.make_honest_package(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def changeable(honest, tmp_path):
    """Give a copy of the honest package."""
    return shutil.copytree(honest, tmp_path / "copy")


@pytest.fixture
def private(tmp_path):
    """Give the folder that commands unpack into; it must be empty at the end."""
    place = tmp_path / "private"
    place.mkdir()
    yield place
    assert list(place.iterdir()) == []


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def make_command(*arguments):
    return [sys.executable, "-m", "scoring", "verify", *map(str, arguments)]


def run(private, *arguments, limited=False):
    return subprocess.run(
        make_command(*arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "TMPDIR": str(private)},
        preexec_fn=limit_memory if limited else None,
    )


def refuse(private, package, words, *arguments):
    """Expect status 2 and one sentence."""
    done = run(private, package, *arguments, limited=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and done.stderr.startswith("error: ")
    assert len(done.stderr.strip().split("\n")) == 1


def get_slugs(document):
    return {f["rule"] for f in document["findings"] if f["severity"] == "error"}


# -- the page -------------------------------------------------------------------------------------


def test_the_page(honest, private):
    done = run(private, honest)
    lines = done.stdout.split("\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == "VALID: maker, system fast4, judged by profile lp2bm, ruleset 4.0.0"
    assert lines[3].split() == ["R", "16.0652", "min", "16.0652", "min"]
    assert lines[5].split()[0] == "score"
    assert sum(line.startswith("  passed") for line in lines) == 12
    assert "findings: none" in lines
    assert len(lines) < 40
    assert "DEMONSTRATION" not in done.stdout


def test_the_page_of_a_package_that_is_not_valid(changeable, private):
    (changeable / "maker/score.json").write_text('{"score": "\\u001b[31m9"}')
    done = run(private, changeable)
    assert done.returncode == 1
    assert done.stdout.startswith("NOT VALID: maker")
    assert "FAILED        claim" in done.stdout
    assert "\x1b" not in done.stdout
    assert len(done.stdout.split("\n")) < 60


def test_a_submitter_whose_name_stdout_cannot_hold(tmp_path, private, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("M\u00fcller/notes.txt", b"none")
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    done = run(private, tmp_path / "a.zip")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("NOT VALID: M\\xfcller, ")


def test_the_document(honest, private):
    done = run(private, honest, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert (document["schema"], document["valid"], document["profile"]) == (1, True, "lp2bm")
    assert document["score"]["schema"] == 1
    assert {check["result"] for check in document["checks"]} == {"passed", "not possible"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: PKG"),
        (["/nowhere"], "cannot be opened"),
        (["{package}", "--rfp", "other"], "other"),
        (["{package}", "--ruleset", "9.9.9"], "no such ruleset"),
        (["{package}", "--report", "/nowhere/report.html"], "--report"),
        (["{package}", "--image-manifest", "/nowhere"], "--image-manifest"),
        (["{package}", "--image-manifest", "{package}"], "--image-manifest"),
        (["{package}", "--image-manifest", "LICENSE"], "--image-manifest"),
    ],
)
def test_wrong_calls(honest, private, arguments, words):
    done = run(private, *(argument.format(package=honest) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1


def test_a_rebuilt_image_is_compared(honest, private, tmp_path):
    (tmp_path / "manifest.json").write_text('{"packages": {}}')
    done = run(private, honest, "--image-manifest", tmp_path / "manifest.json", "--json")
    assert done.returncode == 1
    assert get_slugs(json.loads(done.stdout)) == {"image-differs"}


def test_a_killed_command_leaves_nothing_behind(private, tmp_path):
    """The package is large enough for the signal to come while it is unpacked or examined."""
    package = tmp_path / "package"
    (package / "maker").mkdir(parents=True)
    for number in range(3000):
        (package / "maker" / f"{number}.txt").write_text("x")
    environment = {**os.environ, "TMPDIR": str(private)}
    with subprocess.Popen(
        make_command(package), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 600
        while not list(private.glob("*/*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) in (1, 130)


# -- hostile archives -----------------------------------------------------------------------------


def make_tar(path, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    with tarfile.open(path, "w") as archive:
        archive.addfile(info, io.BytesIO(content))
    return path


def test_hostile_archives_are_one_sentence(private, tmp_path):
    path = tmp_path / "a.tar"
    refuse(private, make_tar(path, "../x"), "'..'")
    refuse(private, make_tar(path, "maker/x", type=tarfile.SYMTYPE, linkname="/"), "link")
    refuse(private, make_tar(path, "maker/x\x1b[31m"), "control characters")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("maker/x", b"1")
        archive.writestr("other/x", b"1")
    refuse(private, tmp_path / "a.zip", "stands beside")
    (tmp_path / "noise").write_bytes(os.urandom(10_000))
    refuse(private, tmp_path / "noise", "is no folder")
    os.mkfifo(tmp_path / "pipe")
    refuse(private, tmp_path / "pipe", "neither a file nor a folder")


def test_a_bomb_takes_neither_memory_nor_disk(private, tmp_path):
    header = tarfile.TarInfo("maker/x")
    header.size = 8**11 - 1
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=9) as file:
        file.write(header.tobuf() + bytes(1 << 20))
    refuse(private, tmp_path / "a.tgz", "is larger than")
    header.size = 60 << 20
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as file:
        for number in range(3):
            header.name = f"maker/{number}"
            file.write(header.tobuf())
            for _ in range(60):
                file.write(bytes(1 << 20))
    refuse(private, tmp_path / "a.tgz", "times its size")


# -- hostile content ------------------------------------------------------------------------------

LINE = '{{"time_ms": 1, "key": "x", "value": {}, "metadata": {{"file": "x", "lineno": 1}}}}'
HOSTILE_LOGS = {
    "a million lines": f":::MLLOG {LINE.format(1)}\n" * 1_000_000,
    "as many lines as are read": f":::MLLOG {LINE.format(1)}\n" * 40_000,
    "a line of 50 MB": ":::MLLOG " + LINE.format('"' + "x" * 50_000_000 + '"'),
    "a large object": ":::MLLOG " + LINE.format("[" + "{}," * 300_000 + "{}]"),
    "deep nesting": ":::MLLOG " + LINE.format("[" * 100_000 + "]" * 100_000),
    "NUL bytes": "\0" * 1_000_000,
    "no UTF-8": "\udcff\udcfe:::MLLOG \udcff{}\n",
    "markup": ":::MLLOG " + LINE.format('"</pre><script>alert(1)</script>"'),
    "a number without end": ":::MLLOG " + LINE.format("9" * 1_000_000),
}


@pytest.mark.parametrize("name", HOSTILE_LOGS)
def test_hostile_logs(changeable, private, name):
    content = HOSTILE_LOGS[name].encode("utf-8", "surrogateescape")
    (changeable / LOG).write_bytes(content)
    done = run(private, changeable, "--json", limited=name != "markup")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert {"package-files", "claim-differs"} <= get_slugs(document)
    # The other steps and the other logs are examined all the same.
    results = {check["name"]: check["result"] for check in document["checks"]}
    assert results["campaign"] == "passed"
    assert document["score"]["benchmarks"]["bert"]["valid"] is True
    assert len(document["findings"]) < 300
    assert all(len(f["message"]) < 1000 and "\n" not in f["message"] for f in document["findings"])


def test_the_report_escapes_what_logs_hold(changeable, private, tmp_path):
    (changeable / LOG).write_text(HOSTILE_LOGS["markup"])
    done = run(private, changeable, "--report", tmp_path / "report.html")
    assert done.returncode == 1
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<script>" not in page and "alert(1)" in page


def test_values_aimed_at_the_stock_checkers_rules(changeable, private, tmp_path):
    """They are pasted into the path of a file whose text is executed as Python."""
    marker = tmp_path / "was-executed"
    code = f"open({str(marker)!r}, 'w')"
    rules = changeable / "maker/results/fast4/rules.yaml"
    rules.write_text(f"- KEY:\n    NAME: x\n    REQ: EXACTLY_ONE\n    CHECK: '{code}'\n")
    text = (changeable / LOG).read_text()
    value = json.dumps(f"../../../../../../../..{rules.with_suffix('')}")
    for key, old in (("submission_benchmark", "resnet"), ("opt_name", "lars")):
        before = f'"key": "{key}", "value": "{old}"'
        assert before in text
        (changeable / LOG).write_text(text.replace(before, f'"key": "{key}", "value": {value}'))
        done = run(private, changeable, "--json")
        assert done.returncode == 1
        assert "package-files" in get_slugs(json.loads(done.stdout))
    assert not marker.exists()


DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize("content", [DEEP, '{"a": ' * 100_000, "\0", "x" * 2_000_000, '{"a": NaN}'])
def test_hostile_documents(changeable, private, content):
    paths = ["package.json", "score.json", "systems/fast4.json", "campaign/campaign.json"]
    for path in (*paths, SYSTEM):
        (changeable / "maker" / path).write_text(content)
    done = run(private, changeable, "--json", limited=True)
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(done.stdout)
    failed = {check["name"] for check in document["checks"] if check["result"] == "failed"}
    assert {"files", "claim", "description", "campaign", "system file"} <= failed
    assert document["score"]["benchmarks"]["bert"]["latency_minutes"] > 14


def test_modes_of_a_hostile_package_change_nothing(changeable, private):
    (changeable / LOG).chmod(0o6777)
    assert run(private, changeable).returncode == 0
    assert stat.S_IMODE((changeable / LOG).stat().st_mode) == 0o6777
