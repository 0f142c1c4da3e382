"""`package`: the layout, the same bytes each time, and every reason not to make one."""

import copy
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from scoring.__main__ import main
from scoring.exits import InputError
from scoring.package.build import build_package
from scoring.package.layout import Image, parse_manifest
from scoring.package.order import DEMONSTRATION_MEND, RefusalError
from scoring.package.readme import escape
from scoring.package.source import ROOT, hash_benchmark_sources, read_source
from scoring.score import score_folder
from tests.conftest import unpack_tar
from tests.scoring.honest_package import order_honest_package
from tests.scoring.package_campaign import (
    SYSTEM_FILE,
    copy_order,
    make_description,
    make_order,
    write_files,
)

# The stock package checker has no exit status: its verdict is this line of its log.
VERDICT = "PACKAGE CHECKER FOUND NO ERRORS"


@pytest.fixture(autouse=True)
def draw_little(request, monkeypatch):
    """Spare the drawing of the report, a second each, where a test does not ask for it."""
    if "full_report" not in request.fixturenames:
        monkeypatch.setattr("scoring.report.page.write_page", lambda score: "a page")


@pytest.fixture
def full_report():
    """Have the report drawn."""


@pytest.fixture
def order(campaign, tmp_path):
    """Give an order that can be carried out."""
    return make_order(campaign, tmp_path)


@pytest.fixture
def logs(order):
    """Give the campaign's folder."""
    return order.results / "fast4"


def list_files(folder):
    """Give path, content and right to run of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), os.access(path, os.X_OK))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refuse(order, kind=RefusalError):
    """Carry out an order that must fail; give what it says, having left nothing behind."""
    before = sorted(os.listdir(order.output.parent))
    with pytest.raises(kind) as raised:
        build_package(order)
    assert sorted(os.listdir(order.output.parent)) == before
    said = raised.value.reasons if kind is RefusalError else [str(raised.value)]
    return "\n".join(said)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- what is made -----------------------------------------------------------------------------


def test_layout_and_manifest(order):
    built = build_package(order)
    assert os.listdir(order.output) == ["maker"]
    top = order.output / "maker"
    files = list_files(top)
    source = {
        *("Dockerfile", "Dockerfile.dockerignore", "LICENSE", "README.md", "pyproject.toml"),
        *("run_and_time.sh", "scripts/environment", "systems/fast4.toml", "harness/ops.py"),
        *("harness/ops/__init__.py", "harness/runclock.py", "resnet/configs/h100_4x4.toml"),
        *("resnet/train.py", "bert/__init__.py", "bert/configs/h100_4x4.toml", "bert/train.py"),
    }
    wanted = {
        *("package.json", "README.md", "score.json", "report.html", "systems/fast4.json"),
        *("campaign/campaign.json", "campaign/output/resnet_0.txt"),
        *(f"results/fast4/resnet/result_{n}.txt" for n in range(5)),
        *(f"results/fast4/bert/result_{n}.txt" for n in range(10)),
        *(f"benchmarks/resnet/implementations/fast4/{path}" for path in source),
        *(f"benchmarks/bert/implementations/fast4/{path}" for path in source),
    }
    assert set(files) == wanted
    manifest = parse_manifest(files["package.json"][0])
    assert manifest == built.manifest
    assert set(manifest.files) == wanted - {"package.json"}
    for path, entry in manifest.files.items():
        content = files[path][0]
        assert (entry.sha256, entry.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    programs = {path.rsplit("/", 1)[-1] for path, (_, runs) in files.items() if runs}
    assert programs == {"run_and_time.sh", "environment"}
    assert (manifest.kit, manifest.profile, manifest.window) == ("1.2.3", "lp2bm", False)
    assert manifest.source_sha256 == hash_benchmark_sources(read_source(order.source).files)
    assert built.remarks == ()


def test_failed_attempts_are_delivered(order):
    names = ("resnet_0_0.json", "resnet_0_0.txt", "resnet_0_0.output.txt")
    for name in (*names, "resnet_0.txt", "notes.md"):
        path = order.results / "fast4" / "failed" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"reason": "error: a rank died", "clock_started": true}')
    built = build_package(order)
    there = {path for path in built.manifest.files if path.startswith("campaign/failed/")}
    assert there == {f"campaign/failed/{name}" for name in names}


def test_the_claim_is_what_score_says(order, logs, capsys):
    build_package(order)
    claim = (order.output / "maker/score.json").read_text()
    assert main(["score", str(logs), "--rfp", "lp2bm", "--json"]) == 0
    assert claim == capsys.readouterr().out
    delivered = order.output / "maker/results/fast4"
    score = score_folder(delivered, "4.0.0", order.profile, False)
    assert score.compute(False) == json.loads(claim)["score"]


@pytest.mark.parametrize("name", ["p", "p.zip"])
def test_the_same_input_gives_the_same_bytes(order, tmp_path, name):
    compare_two(order, tmp_path, name)


def test_the_report_too_is_the_same_each_time(order, full_report, tmp_path):
    compare_two(order, tmp_path, "p.tar.gz")


def compare_two(order, tmp_path, name):
    first = replace(order, output=tmp_path / name)
    build_package(first)
    (tmp_path / "other").mkdir()
    second = copy_order(order, tmp_path / "other")
    second = replace(second, output=tmp_path / "other" / name)
    for path in (tmp_path / "other").rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    umask = os.umask(0o077)
    try:
        build_package(second)
    finally:
        os.umask(umask)
    if first.output.is_dir():
        assert list_files(first.output) == list_files(second.output)
    else:
        assert first.output.read_bytes() == second.output.read_bytes()


def test_every_form_holds_the_same_files(order, tmp_path):
    build_package(order)
    wanted = list_files(order.output)
    for name in ("p.tar", "p.tgz", "p.zip"):
        build_package(replace(order, output=tmp_path / name))
        place = tmp_path / f"unpacked-{name}"
        if name.endswith("zip"):
            unpack_zip(tmp_path / name, place)
        else:
            unpack_tar(tmp_path / name, place)
        assert list_files(place) == wanted


def unpack_zip(path, place):
    """Unpack with the modes, which zipfile's own extraction drops."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for member in archive.infolist():
            archive.extract(member, place)
            (place / member.filename).chmod(member.external_attr >> 16 & 0o777)


def test_results_may_be_the_campaign_itself(order, logs):
    build_package(replace(order, results=logs))
    assert (order.output / "maker/results/fast4/bert/result_9.txt").is_file()


def test_readme_tells_how_to_reproduce(order):
    manifest = build_package(order).manifest
    text = (order.output / "maker/README.md").read_text()
    for words in (
        "cp -r maker/benchmarks/resnet/implementations/fast4 kit",
        "docker build",
        "./run_and_time.sh --system fast4 --results rerun",
        "-m scoring score rerun/fast4 --rfp lp2bm --ruleset 4.0.0",
        "-m scoring verify PACKAGE",
        *manifest.source_sha256.values(),
    ):
        assert words in text
    assert "apptainer" not in text and "DEMONSTRATION" not in text


def test_commands_of_the_readme_exist(order):
    build_package(order)
    text = (order.output / "maker/README.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith('"$python" -c '))
    source = order.output / "maker/benchmarks/resnet/implementations/fast4"
    done = subprocess.run(
        ["bash", "-c", f"python={sys.executable}; cd {source}; PYTHONPATH={ROOT} {command}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(hash_benchmark_sources(read_source(order.source).files))


def test_an_image_is_identified(order, tmp_path):
    image = tmp_path / "kit.sif"
    image.write_bytes(b"image")
    edit(order.system, 'image = ""', f'image = "{image}"')
    (order.results / "fast4/campaign.json").unlink()
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"packages": {}}')
    built = build_package(replace(order, image_manifest=manifest))
    digest = hashlib.sha256(b"image").hexdigest()
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert built.manifest.image == Image(str(image), f"sha256:{digest}", sha256)
    delivered = order.output / "maker/image/manifest.json"
    assert delivered.read_bytes() == manifest.read_bytes()
    assert "--image-manifest manifest.json" in (order.output / "maker/README.md").read_text()
    assert any("has no campaign.json" in remark for remark in built.remarks)


def test_a_digest_in_the_reference_counts(order):
    digest = f"sha256:{'a' * 64}"
    edit(order.system, 'image = ""', f'image = "registry/kit@{digest}"')
    (order.results / "fast4/campaign.json").unlink()
    built = build_package(order)
    assert built.manifest.image == Image(f"registry/kit@{digest}", digest, None)
    assert any("no --image-manifest" in remark for remark in built.remarks)


def test_more_runs_than_needed_with_a_window(make_campaign, tmp_path):
    campaign = make_campaign()
    lines = copy.deepcopy(campaign.runs["resnet"][4])
    start = lines.find("run_start")["time_ms"]
    for line in lines:
        line["time_ms"] += 1_200_000 + round((line["time_ms"] - start) * 1e-4)
    lines.find("seed")["value"] = 999
    for place in range(9):
        lines.find("eval_accuracy", place)["value"] += 1 / 50_000
    campaign.runs["resnet"].append(lines)
    order = make_order(campaign, tmp_path)
    assert "run-count: resnet: 6 runs" in refuse(order)
    assert build_package(replace(order, window=True)).manifest.window is True
    assert (order.output / "maker/results/fast4/resnet/result_5.txt").is_file()
    assert "--ruleset 4.0.0 --window" in (order.output / "maker/README.md").read_text()


def test_unfinished_runs_and_files_left_out_are_told(order, logs):
    write_files(logs, {"resnet/.unfinished_5.txt": "", "resnet/scaling.json": "{}"})
    write_files(order.source, {"docs/talk.pptx": ""})
    remarks = "\n".join(build_package(order).remarks)
    assert "resnet/.unfinished_5.txt: a run that was begun" in remarks
    assert "1 files of the kit are not of a kind that is delivered: docs/talk.pptx" in remarks


def test_the_stock_package_checker_accepts_it(order, tmp_path, caplog):
    from mlperf_logging.package_checker.package_checker import check_training_package

    build_package(order)
    copy = tmp_path / "copy"
    shutil.copytree(order.output, copy)
    with caplog.at_level(logging.INFO):
        check_training_package(
            str(copy / "maker"), "training", "4.0.0", False, False, False, False, False, os.devnull
        )
    assert VERDICT in caplog.text
    (copy / "maker/results/fast4/resnet/result_4.txt").unlink()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        check_training_package(
            str(copy / "maker"), "training", "4.0.0", False, False, False, False, False, os.devnull
        )
    assert VERDICT not in caplog.text


def test_the_stock_repository_checker_has_nothing_to_say(order, caplog):
    from mlperf_logging.repo_checker.repo_checker import run_checks

    build_package(order)
    with caplog.at_level(logging.INFO):
        run_checks(str(order.output))
    assert "ALL CHECKS PASSED" in caplog.text


def test_a_system_file_from_elsewhere_is_delivered(order, tmp_path):
    (tmp_path / "mine").mkdir()
    system = order.system.rename(tmp_path / "mine/fast4.toml")
    built = build_package(replace(order, system=system))
    path = "benchmarks/bert/implementations/fast4/systems/fast4.toml"
    assert (order.output / "maker" / path).read_text() == SYSTEM_FILE
    assert built.manifest.system_file == "systems/fast4.toml"
    (order.source / "systems/fast4.toml").write_text(f"{SYSTEM_FILE}# other\n")
    order = replace(order, system=system, output=tmp_path / "again")
    assert "the kit holds another systems/fast4.toml" in refuse(order, InputError)


# -- what is refused --------------------------------------------------------------------------


def change_source(order, logs):
    write_files(order.source, {"harness/runclock.py": "print('faster')\n"})
    return "source_sha256 is", "resnet/result_0.txt:", "(and 4 more logs)", "bert/result_0.txt:"


def change_one_log(order, logs):
    edit(logs / "bert/result_3.txt", '"value": "maker"', '"value": "x"')
    return ('bert/result_3.txt:2: submission_org is "x", the system file has "maker"',)


def drop_source_line(order, logs):
    edit(logs / "resnet/result_2.txt", '"source_sha256"', '"source"')
    return ("resnet/result_2.txt: the log has no source_sha256",)


def change_platform(order, logs):
    edit(order.system, "4xfast", "4xfaster")
    return 'submission_platform is "4xfast"', 'has "4xfaster"', "campaign.json: fast4.toml had SHA"


def change_configuration(order, logs):
    write_files(order.source, {"bert/configs/h100_4x4.toml": "epochs = 9\n"})
    return "campaign.json: bert/configs/h100_4x4.toml had SHA-256", "bert/result_0.txt:"


def forget_configuration(order, logs):
    record = json.loads((logs / "campaign.json").read_text())
    del record["fast4.toml"]
    (logs / "campaign.json").write_text(json.dumps(record))
    return ("campaign.json: does not name fast4.toml",)


def break_record(order, logs):
    (logs / "campaign.json").write_text("{")
    return ("campaign.json: not JSON",)


def name_another_configuration(order, logs):
    edit(order.system, "bert/configs/h100_4x4.toml", "../secret.toml")
    return ("names ../secret.toml, which is not in the source delivered",)


def drop_last_run(order, logs):
    (logs / "bert/result_9.txt").unlink()
    return ("run-count: bert: 9 runs",)


def drop_middle_run(order, logs):
    (logs / "bert/result_4.txt").unlink()
    return "bert/result_4.txt: missing, while there are later runs", "run-count"


def rename_run(order, logs):
    (logs / "bert/result_4.txt").rename(logs / "bert/result_4_slow.txt")
    return "bert/result_4_slow.txt: must be named", "bert/result_4.txt: missing"


def drop_benchmark(order, logs):
    shutil.rmtree(logs / "bert")
    return ("bert: no logs: both benchmarks",)


def open_division(order, logs):
    path = logs / "resnet/result_1.txt"
    edit(path, '"submission_division", "value": "closed"', '"submission_division", "value": "open"')
    return ("division: resnet/result_1.txt:3: the division is",)


def describe_other_nodes(order, logs):
    (logs / "system.json").write_text(json.dumps(make_description(number_of_nodes="8")))
    return "description: system.json: number_of_nodes is 8", "node-count"


def describe_nothing(order, logs):
    (logs / "system.json").write_text("{}")
    return ("description: system.json: field submitter is missing",)


def use_other_nodes(order, logs):
    edit(order.system, "count = 4", "count = 8")
    return ("the system file has 8 nodes, profile lp2bm asks for 4",)


@pytest.mark.parametrize(
    "spoils",
    [
        (change_one_log, drop_source_line, open_division, drop_last_run),
        (change_source, describe_other_nodes, rename_run),
        (change_platform, change_configuration, drop_middle_run),
        (forget_configuration, name_another_configuration, describe_nothing),
        (break_record, use_other_nodes, drop_benchmark),
    ],
)
def test_every_reason_not_to_package_is_named(order, logs, spoils):
    words = [word for spoil in spoils for word in spoil(order, logs)]
    said = refuse(order)
    assert [word for word in words if word not in said] == []
    assert all(line.isprintable() for line in said.split("\n"))


def test_a_campaign_without_any_log(order, logs):
    for name in ("resnet", "bert"):
        for path in (logs / name).iterdir():
            path.rename(path.with_name(f"{path.stem}_x.txt"))
    said = refuse(order)
    assert "bert: no logs" in said and "resnet/result_0_x.txt: must be named" in said


def test_an_image_manifest_that_is_none(order, tmp_path):
    path = tmp_path / "manifest.json"
    for content in ("[]", "[" * 100_000):
        path.write_text(content)
        assert "image's manifest is no JSON" in refuse(replace(order, image_manifest=path))
    missing = replace(order, image_manifest=tmp_path / "nowhere")
    assert "cannot be opened" in refuse(missing, InputError)
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    for option in ("image_manifest", "system", "description"):
        said = refuse(replace(order, **{option: tmp_path / "loop.toml"}), InputError)
        assert "loop.toml" in said and "Too many levels of symbolic links" in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"maker"', r'"ma\nker"'),
        ('"maker"', r'"\u001b[2J"'),
        ('"maker"', '"///"'),
        ('"maker"', '""'),
        ('"fast4"', '"../fast4"'),
        ('"fast4"', r'"fast4\n"'),
    ],
)
def test_hostile_names_in_the_system_file(order, old, new):
    edit(order.system, old, new)
    said = refuse(order, InputError)
    assert said.isprintable()


def test_markup_in_a_name_stays_text(make_campaign, full_report, tmp_path):
    name = "<img src=x onerror=alert(1)> [a](http://b) `c` | d"
    campaign = make_campaign()
    for lines in (*campaign.runs["resnet"], *campaign.runs["bert"]):
        lines.find("submission_org")["value"] = name
    order = make_order(campaign, tmp_path)
    for path in (order.system, order.results / "fast4/system.json"):
        edit(path, '"maker"', json.dumps(name))
    (order.results / "fast4/campaign.json").unlink()
    build_package(order)
    (top,) = os.listdir(order.output)
    assert top == "img_src_x_onerror_alert_1_a_http_b_c_d"
    assert "<img" not in (order.output / top / "report.html").read_text()
    text = (order.output / top / "README.md").read_text()
    assert "<img" not in text.replace(r"\<img", "") and "[a](" not in text
    assert escape("a\n# b") == r"a\\u\{a\}\# b"


def test_input_that_cannot_be_used(order, logs, tmp_path):
    assert "no such folder" in refuse(replace(order, results=tmp_path / "nowhere"), InputError)
    assert "neither resnet/ nor bert/" in refuse(
        replace(order, results=order.source / "scripts"), InputError
    )
    description = replace(order, description=tmp_path / "nowhere.json")
    assert "cannot be opened" in refuse(description, InputError)
    (logs / "system.json").unlink()
    said = refuse(order, InputError)
    assert "python -m scoring describe --system" in said and said.isprintable()
    (tmp_path / "d.json").write_text(json.dumps(make_description()))
    build_package(replace(order, description=tmp_path / "d.json"))


def test_output_is_never_replaced(order, tmp_path):
    for name in ("there", "there.zip"):
        (tmp_path / name).write_text("mine")
        assert "is there already" in refuse(replace(order, output=tmp_path / name), InputError)
        assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "is there already" in refuse(replace(order, output=tmp_path / "dangling"), InputError)
    elsewhere = replace(order, output=tmp_path / "no/where")
    with pytest.raises(InputError, match="no such folder"):
        build_package(elsewhere)
    assert "a package is a folder" in refuse(replace(order, output=tmp_path / "p.rar"), InputError)


def test_an_interrupt_leaves_nothing_behind(order, tmp_path):
    steps = []
    build_package(replace(order, output=tmp_path / "p.zip", say=steps.append))
    assert len(steps) == 3
    for step in steps:
        # The output named in the last step differs, the words before it do not.
        def stop(text, step=step):
            if text.split()[0] == step.split()[0]:
                raise KeyboardInterrupt

        refuse_with = replace(order, say=stop)
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            build_package(refuse_with)
        assert sorted(os.listdir(tmp_path)) == before


def test_a_campaign_that_is_running(order, logs):
    with open(logs / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "a campaign is running" in refuse(order, InputError)
    build_package(order)


def test_logs_that_are_links(order, logs, tmp_path):
    moved = (logs / "bert").rename(tmp_path / "elsewhere")
    (logs / "bert").symlink_to(moved)
    assert "is a link" in refuse(order, InputError)
    (logs / "bert").unlink()
    moved.rename(logs / "bert")
    log = (logs / "bert/result_0.txt").rename(tmp_path / "log.txt")
    (logs / "bert/result_0.txt").symlink_to(log)
    assert "leads out of the folder" in refuse(order, InputError)


# -- the command ------------------------------------------------------------------------------


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "scoring", "package", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def write_line(order):
    """Write an order as the command's arguments, but for its output and profile."""
    line = ["--results", order.results, "--system", order.system]
    return [*map(str, line), "--source", str(order.source)]


def test_command_packages_what_verifies(tmp_path):
    order = order_honest_package(tmp_path)
    done = run(*write_line(order), "--output", tmp_path / "p.tar.gz")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/p.tar.gz: ")
    assert "files, score " in done.stdout
    verified = subprocess.run(
        [sys.executable, "-m", "scoring", "verify", str(tmp_path / "p.tar.gz")],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert verified.returncode == 0


def test_what_only_verification_finds_is_refused_too(tmp_path):
    order = replace(order_honest_package(tmp_path), verify=True)
    path = order.results / "bert/result_7.txt"
    lines = path.read_text().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if '"key": "seed"' in line)
    event = json.loads(lines[place].removeprefix(":::MLLOG "))
    event["metadata"]["lineno"] = 1
    lines[place] = f":::MLLOG {json.dumps(event)}\n"
    path.write_text("".join(lines))
    for form in ("p", "p.zip"):
        said = refuse(replace(order, output=tmp_path / form))
        assert f"call-site: bert/result_7.txt:{place + 1}:" in said


def test_the_demonstration_needs_its_profile_and_says_so(demonstration, tmp_path):
    order = order_honest_package(tmp_path, demonstration=demonstration)
    done = run(*write_line(order), "--output", tmp_path / "p.zip")
    assert (done.returncode, done.stdout) == (1, "")
    assert DEMONSTRATION_MEND in done.stderr and "--rfp demo" in done.stderr
    done = run(*write_line(order), "--output", tmp_path / "p", "--rfp", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DEMONSTRATION - NOT AN MLPERF RESULT\n")
    top = tmp_path / "p/maker"
    assert "# DEMONSTRATION - NOT AN MLPERF RESULT" in (top / "README.md").read_text()
    assert "DEMONSTRATION" in json.loads((top / "systems/fast4.json").read_text())["hw_notes"]
    assert json.loads((top / "package.json").read_text())["profile"] == "demo"
    assert json.loads((top / "score.json").read_text())["demonstration"] is True


def test_command_refuses_with_its_reasons(order, tmp_path):
    write_files(order.source, {"harness/runclock.py": "print('faster')\n"})
    done = run(*write_line(order), "--output", tmp_path / "p.tar")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: resnet/result_0.txt:" in done.stderr
    assert "no package was made: " in done.stderr
    assert not (tmp_path / "p.tar").exists()


def test_output_that_cannot_be_written(order):
    done = run(*write_line(order), "--output", "/proc/p")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: --output /proc/p: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: --results"),
        (["--results", ".", "--system", "no.toml", "--output", "x"], "--system no.toml"),
        (["--results", "nowhere", "--system", "systems/demo.toml", "--output", "x"], "nowhere: no"),
        (
            ["--results", ".", "--system", "systems/demo.toml", "--output", "x", "--rfp", "x"],
            "--rfp: no profile",
        ),
    ],
)
def test_wrong_calls_are_one_sentence(arguments, words):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1


def test_a_full_disk_is_one_sentence(order, monkeypatch):
    def fail(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("scoring.package.stage.Path.write_bytes", fail)
    said = refuse(order, InputError)
    assert said == f"--output {order.output}: No space left on device: nothing was written"
