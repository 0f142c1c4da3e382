"""Verification: the honest package is valid, and every tampering has a finding of its own."""

import copy
import dataclasses
import hashlib
import json
import shutil
import tempfile

import pytest

from scoring.package import call_sites, verification
from scoring.package.call_site_process import list_calls
from scoring.package.configuration import SETTINGS, check_configurations
from scoring.package.examination import Part
from scoring.package.reading import open_package
from scoring.package.verification import LOG_LIMIT_BYTES, verify_package
from scoring.package.verification_prose import write_verification
from scoring.profile import load_profile
from scoring.score import score_folder
from tests.scoring import honest_package

RESNET_LOG = "results/fast4/resnet/result_{}.txt"
BERT_LOG = "results/fast4/bert/result_{}.txt"
SOURCE = "benchmarks/{}/implementations/fast4/{}"
SCORES = {}
IMAGE = {
    "schema": 1,
    "packages": {f"package-{number}": "1.0" for number in range(40)},
    "files": {"/opt/kit/harness/ranks.py": "ab" * 32},
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Give the folder of an honest package, not to be changed."""
    return honest_package.make_honest_package(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def with_image(tmp_path_factory):
    """Give the folder of an honest package of runs in a container."""
    place = tmp_path_factory.mktemp("image")
    return honest_package.make_honest_package(place, "/images/kit.sif", IMAGE)


class Tampered:
    """A copy of a package to be changed; paths are relative to the submitter's folder."""

    def __init__(self, folder):
        self.package = folder
        self.folder = folder / "maker"

    def read(self, path):
        return (self.folder / path).read_text()

    def write(self, path, text):
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def remove(self, path):
        place = self.folder / path
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    def replace(self, path, before, after, count=1):
        text = self.read(path)
        assert before in text, f"{path} does not hold {before}"
        self.write(path, text.replace(before, after, count))

    def change(self, path, change):
        """Apply a function to the JSON document of a file."""
        document = json.loads(self.read(path))
        change(document)
        self.write(path, json.dumps(document))

    def change_lines(self, path, key, change, place=0):
        """Apply a function to the place-th log line with a key."""
        lines = self.read(path).split("\n")
        found = [i for i, line in enumerate(lines) if f'"key": "{key}"' in line]
        line = json.loads(lines[found[place]].removeprefix(":::MLLOG "))
        change(line)
        lines[found[place]] = f":::MLLOG {json.dumps(line)}"
        self.write(path, "\n".join(lines))

    def list_again(self):
        """Write the manifest's list anew, as one would who hides a change."""
        files = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name != "package.json":
                content = path.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                files[name] = {"sha256": digest, "bytes": len(content)}
        self.change("package.json", lambda document: document.update(files=files))

    def hash_source(self, benchmark):
        return honest_package.hash_kit(
            self.folder / f"benchmarks/{benchmark}/implementations/fast4", benchmark
        )

    def hash_again(self):
        """Write the sources' new hashes wherever the old ones stood: manifest and logs."""
        new = {benchmark: self.hash_source(benchmark) for benchmark in ("resnet", "bert")}
        old = json.loads(self.read("package.json"))["source_sha256"]
        for log in sorted((self.folder / "results").rglob("*.txt")):
            name = log.relative_to(self.folder).as_posix()
            benchmark = log.parent.name
            self.replace(name, old[benchmark], new[benchmark])
        self.change("package.json", lambda document: document.update(source_sha256=new))


@pytest.fixture
def tampered(honest, tmp_path):
    """Give a copy of the honest package."""
    return Tampered(shutil.copytree(honest, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _remember_scores(monkeypatch):
    """Score equal logs once: most tamperings leave them as they are."""

    def score(folder, ruleset, profile, window):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents = [(path.relative_to(folder), path.read_bytes()) for path in files]
        key = (repr(contents), ruleset, profile.name, window)
        if key not in SCORES:
            SCORES[key] = score_folder(folder, ruleset, profile, window)
        return SCORES[key]

    monkeypatch.setattr(verification, "score_folder", score)


@pytest.fixture(autouse=True)
def _parse_here(monkeypatch, request):
    """Parse honest source files without the process that guards against hostile ones."""
    if "hostile" in request.node.name or "honest" in request.node.name:
        return
    monkeypatch.setattr(
        call_sites, "_list_calls", lambda paths: {path: list_calls(path) for path in paths}
    )


def verify(package, profile="lp2bm", rebuilt=None):
    with open_package(package) as opened:
        verified = verify_package(opened, "4.0.0", load_profile(profile), rebuilt)
        document = verified.describe()
        assert json.dumps(document, allow_nan=False)
        return document


def get_slugs(document, severity="error"):
    return {f["rule"] for f in document["findings"] if f["severity"] == severity}


def get_results(document):
    return {check["name"]: check["result"] for check in document["checks"]}


# -- honest packages ------------------------------------------------------------------------------


def test_the_honest_package_is_valid(honest):
    document = verify(honest)
    assert document["valid"] is True
    assert document["findings"] == []
    assert document["claim"]["score"] == document["score"]["score"] > 1
    assert (document["submitter"], document["system"]) == ("maker", "fast4")
    results = get_results(document)
    assert results.pop("image") == "not possible"
    assert set(results.values()) == {"passed"}
    assert list(results)[:4] == ["profile", "files", "score", "claim"]


def test_every_form_of_a_package_gives_the_same(honest, tmp_path):
    wanted = verify(honest)
    for form in ("tar", "gztar", "zip"):
        archive = shutil.make_archive(str(tmp_path / form), form, honest, "maker")
        assert verify(tmp_path / archive) == wanted


def test_a_demonstration_is_verified_as_one(demonstration, tmp_path):
    demonstration.system = {
        **honest_package.DESCRIPTION,
        "status": "Available on-premise",
        "accelerators_per_node": "0",
    }
    package = honest_package.make_honest_package(tmp_path, demonstration=demonstration)
    document = verify(package, "demo")
    assert get_slugs(document) == set()
    assert document["demonstration"] is True
    document = verify(package)
    assert document["valid"] is False
    assert {"package-profile", "demonstration"} <= get_slugs(document)
    assert any("--rfp demo" in check["message"] for check in document["checks"])
    with open_package(package) as opened:
        page = write_verification(verify_package(opened, "4.0.0", load_profile("demo"), None))
    assert "# DEMONSTRATION - NOT AN MLPERF RESULT #" in page


# -- files ----------------------------------------------------------------------------------------

FILES = [
    "README.md",
    "score.json",
    "report.html",
    "systems/fast4.json",
    RESNET_LOG.format(0),
    BERT_LOG.format(9),
    SOURCE.format("resnet", "resnet/train.py"),
    SOURCE.format("bert", "bert/configs/fast4.toml"),
    SOURCE.format("bert", "LICENSE"),
    SOURCE.format("resnet", "run_and_time.sh"),
    "campaign/campaign.json",
    "campaign/output/resnet_0.txt",
]


@pytest.mark.parametrize("path", FILES)
def test_one_changed_byte(tampered, path):
    content = bytearray((tampered.folder / path).read_bytes())
    content[len(content) // 2] ^= 1
    (tampered.folder / path).write_bytes(content)
    document = verify(tampered.package)
    assert any(
        f["rule"] == "package-files" and f["file"] == path and "changed" in f["message"]
        for f in document["findings"]
    )


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "results/fast4/resnet/scaling.json",
        "results/fast4/resnet/result_x.txt",
        "results/fast4/bert/deeper/result_0.txt",
        "results/other/bert/result_0.txt",
        "systems/other.json",
        "benchmarks/bert/implementations/other/train.py",
    ],
)
def test_a_file_more(tampered, path, listed):
    tampered.write(path, "{}")
    if listed:
        tampered.list_again()
    document = verify(tampered.package)
    assert get_slugs(document) == {"package-files"}
    assert get_results(document)["files"] == "failed"


@pytest.mark.parametrize("path", ["README.md", "report.html", RESNET_LOG.format(4), "score.json"])
def test_a_file_less(tampered, path):
    tampered.remove(path)
    assert "package-files" in get_slugs(verify(tampered.package))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1', "[" * 5000])
def test_a_broken_manifest_leaves_the_other_steps(tampered, text):
    tampered.write("package.json", text)
    document = verify(tampered.package)
    assert get_slugs(document) == {"package-manifest"}
    results = get_results(document)
    assert results["files"] == "failed"
    for step in ("score", "claim", "source", "call sites", "configuration", "nodes"):
        assert results[step] == "passed", step


def test_the_manifest_names_another_submitter(tampered):
    tampered.change("package.json", lambda document: document.update(submitter="other"))
    assert {"package-manifest", "system-file-differs"} <= get_slugs(verify(tampered.package))


@pytest.mark.parametrize(("key", "value"), [("profile", "mlperf"), ("ruleset", "3.1.0")])
def test_a_package_for_other_rules(tampered, key, value):
    tampered.change("package.json", lambda document: document.update({key: value}))
    assert get_slugs(verify(tampered.package)) == {"package-profile"}


# -- claim and logs -------------------------------------------------------------------------------


def shorten_run(tampered):
    def change(line):
        line["time_ms"] -= 4

    tampered.change_lines(RESNET_LOG.format(2), "run_stop", change)


def swap_logs(tampered):
    first, second = (tampered.read(BERT_LOG.format(index)) for index in (0, 1))
    tampered.write(BERT_LOG.format(0), second)
    tampered.write(BERT_LOG.format(1), first)


def change_claim(change):
    return lambda tampered: tampered.change("score.json", change)


def claim_score(document):
    document["score"] *= 1 + 1e-8


def claim_latency(document):
    document["benchmarks"]["bert"]["latency_minutes"] -= 0.001


def claim_text(document):
    document["benchmarks"]["bert"]["latency_minutes"] = "14.479"


def claim_run(document):
    document["benchmarks"]["resnet"]["runs"][1]["dropped"] = "slowest"


def claim_fewer_runs(document):
    document["benchmarks"]["resnet"]["runs"].pop()


def claim_finding(document):
    document["findings"].append({"rule": "idle-gap", "file": "bert/result_0.txt"})


@pytest.mark.parametrize(
    "change",
    [
        shorten_run,
        swap_logs,
        change_claim(claim_score),
        change_claim(claim_latency),
        change_claim(claim_text),
        change_claim(claim_run),
        change_claim(claim_fewer_runs),
        change_claim(claim_finding),
        change_claim(lambda document: document.update(valid=1)),
        change_claim(lambda document: document.update(findings=[[]])),
        change_claim(lambda document: document.pop("score_rcp_normalized")),
        change_claim(lambda document: document["benchmarks"].update(other=1)),
        lambda tampered: tampered.write("score.json", "[" * 4000),
        lambda tampered: tampered.write("score.json", '{"score": NaN}'),
        lambda tampered: tampered.remove("score.json"),
    ],
)
def test_a_claim_that_the_logs_do_not_give(tampered, change):
    change(tampered)
    tampered.list_again()
    assert "claim-differs" in get_slugs(verify(tampered.package))


def test_a_differing_claim_names_field_and_both_values(tampered):
    tampered.change("score.json", claim_latency)
    tampered.list_again()
    (finding,) = verify(tampered.package)["findings"]
    assert "benchmarks.bert.latency_minutes is 14.478 in the claim, 14.479" in finding["message"]


def test_a_claim_may_come_from_another_version_of_the_stock_checkers(tampered):
    tampered.change("score.json", lambda document: document.update(mlperf_logging="4.1.99"))
    tampered.list_again()
    assert verify(tampered.package)["valid"] is True


def test_a_benchmark_less(tampered):
    tampered.remove("results/fast4/bert")
    tampered.change("score.json", lambda document: document["benchmarks"].pop("bert"))
    tampered.change("score.json", lambda document: document.update(score=None))
    tampered.list_again()
    assert "benchmark-missing" in get_slugs(verify(tampered.package))


def test_no_logs_at_all(tampered):
    tampered.remove("results")
    tampered.list_again()
    document = verify(tampered.package)
    assert "benchmark-missing" in get_slugs(document)
    assert document["score"] is None
    assert get_results(document)["claim"] == "not possible"


def test_an_invalid_result(tampered):
    tampered.change_lines(RESNET_LOG.format(0), "seed", lambda line: line.update(value=1001))
    tampered.list_again()
    document = verify(tampered.package)
    assert "same-seed" in get_slugs(document)
    assert get_results(document)["score"] == "failed"


def test_a_log_that_is_too_large(tampered):
    with open(tampered.folder / BERT_LOG.format(3), "a") as file:
        file.write("x" * LOG_LIMIT_BYTES)
    tampered.list_again()
    assert {"log-too-large", "run-count"} <= get_slugs(verify(tampered.package))


# -- source ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["resnet/step.py", "harness/gradients.py"])
def test_a_changed_source(tampered, path):
    tampered.replace(SOURCE.format("resnet", path), "import", "import  ")
    document = verify(tampered.package)
    assert {"package-files", "source-differs"} <= get_slugs(document)
    tampered.list_again()
    assert get_slugs(verify(tampered.package)) == {"source-differs"}
    digest = tampered.hash_source("resnet")
    tampered.change("package.json", lambda d: d["source_sha256"].update(resnet=digest))
    document = verify(tampered.package)
    assert get_slugs(document) == {"source-differs"}
    assert all("resnet/result_" in f["file"] for f in document["findings"])


def test_a_source_file_more_or_less(tampered):
    tampered.write(SOURCE.format("bert", "bert/faster.py"), "")
    tampered.remove(SOURCE.format("resnet", "resnet/probe.py"))
    tampered.list_again()
    findings = verify(tampered.package)["findings"]
    assert {(f["rule"], f["benchmark"]) for f in findings} == {
        ("source-differs", "bert"),
        ("source-differs", "resnet"),
    }


@pytest.mark.parametrize(
    "path",
    [
        "harness/ranks.so",
        "harness/__pycache__/gradients.cpython-311.pyc",
        "torch/__init__.py",
        "usercustomize.py",
        "resnet/weights.pkl",
        "data/images.rec",
        "dockerignore",
    ],
)
def test_a_source_file_that_no_package_delivers(tampered, path):
    tampered.write(SOURCE.format("bert", path), "")
    tampered.list_again()
    findings = verify(tampered.package)["findings"]
    assert [(f["rule"], f["file"]) for f in findings] == [
        ("package-files", SOURCE.format("bert", path))
    ]
    assert "remove it" in findings[0]["message"]


@pytest.mark.parametrize("path", ["LICENSE", "run_and_time.sh", "pyproject.toml"])
def test_a_source_without_what_a_rerun_needs(tampered, path):
    tampered.remove(SOURCE.format("resnet", path))
    tampered.list_again()
    findings = verify(tampered.package)["findings"]
    assert [(f["rule"], f["file"]) for f in findings] == [
        ("package-files", SOURCE.format("resnet", path))
    ]


def test_a_run_left_out(tampered):
    log = tampered.folder / BERT_LOG.format(9)
    log.rename(log.with_name("result_12.txt"))
    tampered.replace("score.json", "bert/result_9.txt", "bert/result_12.txt")
    tampered.list_again()
    findings = verify(tampered.package)["findings"]
    assert [(f["rule"], f["file"]) for f in findings] == [("package-files", BERT_LOG.format(9))]


def test_no_source(tampered):
    tampered.remove("benchmarks/bert")
    tampered.list_again()
    slugs = get_slugs(verify(tampered.package))
    assert {"source-differs", "call-site", "configuration-differs"} <= slugs


def test_a_log_without_source_hash(tampered):
    tampered.change_lines(BERT_LOG.format(0), "source_sha256", lambda line: line.update(key="x"))
    tampered.list_again()
    assert "source-differs" in get_slugs(verify(tampered.package))


def test_shifted_source_lines(tampered):
    """Who changes the source and every hash of it must still bring the lines into agreement."""
    path = SOURCE.format("resnet", "resnet/train.py")
    tampered.write(path, f"\n{tampered.read(path)}")
    tampered.hash_again()
    tampered.list_again()
    assert get_slugs(verify(tampered.package)) == {"call-site"}


def find_comment(tampered):
    lines = tampered.read(SOURCE.format("bert", "bert/train.py")).split("\n")
    number = next(i for i, line in enumerate(lines, 1) if not line.strip())
    return {"file": "bert/train.py", "lineno": number}


@pytest.mark.parametrize(
    "metadata",
    [
        find_comment,
        lambda tampered: {"file": "bert/config.py", "lineno": 20},
        lambda tampered: {"file": "../../../../../../etc/passwd", "lineno": 1},
        lambda tampered: {"file": "/etc/passwd", "lineno": 1},
        lambda tampered: {"file": None, "lineno": 1},
        lambda tampered: {"file": ["bert/train.py"], "lineno": {}},
        lambda tampered: {"lineno": 10**30},
    ],
)
def test_a_log_line_of_no_call(tampered, metadata):
    wrong = metadata(tampered)
    tampered.change_lines(
        BERT_LOG.format(4), "eval_accuracy", lambda line: line["metadata"].update(wrong), place=3
    )
    tampered.list_again()
    document = verify(tampered.package)
    (finding,) = [f for f in document["findings"] if f["rule"] == "call-site"]
    assert (finding["file"], finding["severity"]) == ("bert/result_4.txt", "error")
    assert finding["line"] > 0 and '"eval_accuracy"' in finding["message"]


def test_a_log_line_of_the_call_of_another_key(tampered):
    log = RESNET_LOG.format(1)
    tampered.change_lines(log, "train_samples", lambda line: line.update(key="lars_epsilon"))
    tampered.list_again()
    assert "call-site" in get_slugs(verify(tampered.package))


@pytest.mark.parametrize(
    "text",
    [
        "def (",
        "\0",
        "(" * 100_000,
        "x" + ".x" * 200_000,
        "-" * 200_000 + "1",
        "#" * 2_000_000,
        "\xff",
        "import os\nos._exit(0)\nopen('/tmp/was-executed', 'w')\n",
    ],
)
def test_hostile_sources_are_not_run_and_end_nothing(tampered, text):
    path = SOURCE.format("bert", "bert/train.py")
    (tampered.folder / path).write_bytes(text.encode("latin-1"))
    tampered.hash_again()
    tampered.list_again()
    document = verify(tampered.package)
    assert get_slugs(document) == {"call-site"}
    assert not any(f["benchmark"] == "resnet" for f in document["findings"])


# -- settings and machine -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            '{"reason": "error: out of memory", "clock_started": true}',
            "after its clock had started",
        ),
        ('{"reason": "no\\u001b[2J", "clock_started": false}', "before its clock started"),
        ("[", "not told"),
    ],
)
def test_a_failed_attempt_is_told_and_invalidates_nothing(tampered, record, words):
    tampered.write("campaign/failed/bert_3_0.json", record)
    tampered.write("campaign/failed/bert_3_0.output.txt", "Traceback")
    tampered.list_again()
    document = verify(tampered.package)
    (finding,) = [f for f in document["findings"] if f["rule"] == "failed-runs"]
    assert document["valid"] and finding["severity"] == "warning"
    assert (finding["benchmark"], finding["file"]) == ("bert", "campaign/failed/bert_3_0.json")
    assert words in finding["message"] and finding["message"].isprintable()


def test_nothing_else_stands_among_failed_attempts(tampered):
    tampered.write("campaign/failed/extra.txt", "?")
    tampered.list_again()
    assert get_slugs(verify(tampered.package)) == {"package-files"}


def test_a_changed_configuration(tampered):
    path = SOURCE.format("resnet", "resnet/configs/fast4.toml")
    tampered.replace(path, "base_learning_rate = 10.5", "base_learning_rate = 10.6")
    tampered.hash_again()
    tampered.list_again()
    document = verify(tampered.package)
    assert get_slugs(document) == {"configuration-differs", "campaign-differs"}
    messages = [f["message"] for f in document["findings"] if f["rule"] == "configuration-differs"]
    finding = next(text for text in messages if text.startswith("lars_opt_base_learning_rate is "))
    assert "is 10.5" in finding and "optimizer.base_learning_rate) 10.6" in finding


def record_again(tampered, name, path):
    """Let the campaign's record say that a delivered file is the one that it began with."""
    digest = hashlib.sha256((tampered.folder / path).read_bytes()).hexdigest()
    tampered.change("campaign/campaign.json", lambda document: document.update({name: digest}))


def test_a_setting_that_no_log_holds_changed_after_the_runs(tampered):
    """All hashes made right again but for the one that each run logged of its own file."""
    name = "resnet/configs/fast4.toml"
    for benchmark in ("resnet", "bert"):
        path = SOURCE.format(benchmark, name)
        tampered.replace(path, "label_smoothing = 0.1", "label_smoothing = 0.0")
    tampered.hash_again()
    record_again(tampered, name, SOURCE.format("resnet", name))
    tampered.list_again()
    document = verify(tampered.package)
    assert get_slugs(document) == {"configuration-differs"}
    message = document["findings"][0]["message"]
    assert message.startswith('"resnet/configs/fast4.toml" had SHA-256 ')


def test_a_system_file_changed_after_the_runs(tampered):
    for benchmark in ("resnet", "bert"):
        path = SOURCE.format(benchmark, "systems/fast4.toml")
        tampered.replace(path, "threads_per_rank = 1", "threads_per_rank = 2")
    record_again(tampered, "fast4.toml", SOURCE.format("bert", "systems/fast4.toml"))
    tampered.list_again()
    assert get_slugs(verify(tampered.package)) == {"system-file-differs"}


@pytest.mark.parametrize(
    ("framework", "slugs"),
    [("PyTorch 2.13.0", set()), ("PyTorch 2.9", {"framework-differs"}), (None, {"description"})],
)
def test_the_framework_described_is_the_logs(tampered, framework, slugs):
    for log in sorted((tampered.folder / "results").rglob("*.txt")):
        path = log.relative_to(tampered.folder).as_posix()
        tampered.change_lines(
            path, "source_sha256", lambda d: d["metadata"].update(torch="2.13.0+cu130")
        )
    tampered.change("systems/fast4.json", lambda document: document.update(framework=framework))
    tampered.list_again()
    document = verify(tampered.package)
    assert get_slugs(document) | get_slugs(document, "warning") == slugs
    assert document["valid"] == bool(framework)


@pytest.mark.parametrize("settings", [None, [], {"fast4.toml": 1}, "x"])
def test_a_log_that_does_not_say_with_what_it_ran(tampered, settings):
    path = "results/fast4/resnet/result_1.txt"
    tampered.change_lines(path, "source_sha256", lambda d: d["metadata"].update(settings=settings))
    tampered.list_again()
    document = verify(tampered.package)
    rules = {"configuration-differs", "system-file-differs", "software-differs"}
    # By the logs the score is no longer the one that score.json claims.
    assert get_slugs(document) == rules | {"claim-differs"}
    files = {finding["file"] for finding in document["findings"] if finding["rule"] in rules}
    assert files == {"resnet/result_1.txt"}


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_every_hyperparameter_is_compared(honest, benchmark):
    """Each key of a configuration changed, one at a time: the logs' values then differ."""
    with open_package(honest) as opened:
        material = verify_package(opened, "4.0.0", load_profile("lp2bm"), None).material
    assert check_configurations(material).result == "passed"
    settings = SETTINGS[benchmark]
    changed = [*settings.items(), ("lars_opt_learning_rate_decay_steps", "optimizer.decay_epochs")]
    for key, place in changed if benchmark == "resnet" else settings.items():
        table = copy.deepcopy(material.configurations[benchmark].value)
        section, name = place.split(".")
        value = table[section][name]
        table[section][name] = f"not {value}" if isinstance(value, str) else value + 1
        configurations = {**material.configurations, benchmark: Part(table)}
        check = check_configurations(dataclasses.replace(material, configurations=configurations))
        assert check.result == "failed"
        assert any(finding.message.startswith(f"{key} is ") for finding in check.findings), key


@pytest.mark.parametrize("text", ["x = ", "x = " + "[" * 50_000, "\xff", ""])
def test_a_broken_configuration(tampered, text):
    path = SOURCE.format("bert", "bert/configs/fast4.toml")
    (tampered.folder / path).write_bytes(text.encode("latin-1"))
    tampered.list_again()
    assert "configuration-differs" in get_slugs(verify(tampered.package))


def change_system(before, after):
    def change(tampered):
        for benchmark in ("resnet", "bert"):
            tampered.replace(SOURCE.format(benchmark, "systems/fast4.toml"), before, after)

    return change


def change_hosts(line):
    line["metadata"]["hosts"] = ["node0", "NODE0 ", "node1", "node2"]


def change_log(key, change):
    return lambda tampered: tampered.change_lines(RESNET_LOG.format(0), key, change)


def change_description(**fields):
    return lambda tampered: tampered.change("systems/fast4.json", lambda d: d.update(fields))


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        (change_system("count = 4", "count = 8"), "nodes-differ"),
        (change_system("ranks_per_node = 4", "ranks_per_node = 8"), "nodes-differ"),
        (change_description(number_of_nodes="8"), "nodes-differ"),
        (change_log("number_of_nodes", change_hosts), "nodes-differ"),
        (change_log("number_of_nodes", lambda line: line.update(value=8)), "nodes-differ"),
        (change_log("number_of_nodes", lambda line: line["metadata"].pop("ranks")), "nodes-differ"),
        (change_log("number_of_nodes", lambda line: line.update(key="x")), "nodes-differ"),
        (change_system('"4xfast"', '"4xslow"'), "system-file-differs"),
        (change_system('"onprem"', '"cloud"'), "system-file-differs"),
        (change_system('"lp2bm"', '"demo"'), "system-file-differs"),
        (change_system("one_machine = false", "one_machine = true"), "system-file-differs"),
        (change_system('device = "cuda"', ""), "system-file-differs"),
        (change_system("bert/configs/fast4", "bert/configs/4x4"), "configuration-differs"),
        (change_system('"maker"', '"other"'), "system-file-differs"),
        (change_description(accelerators_per_node="8"), "description"),
        (change_description(division="open"), "division"),
        (change_description(system_name="other"), "description"),
        (lambda tampered: tampered.write("systems/fast4.json", "[]"), "description"),
        (lambda tampered: tampered.remove("systems/fast4.json"), "description"),
        (lambda t: t.change("campaign/campaign.json", lambda d: d.clear()), "campaign-differs"),
        (lambda t: t.write("campaign/campaign.json", "{"), "campaign-differs"),
    ],
)
def test_a_machine_that_differs(tampered, change, slug):
    change(tampered)
    tampered.list_again()
    document = verify(tampered.package)
    assert slug in get_slugs(document)
    assert document["valid"] is False


def test_system_files_that_differ_between_the_benchmarks(tampered):
    path = SOURCE.format("bert", "systems/fast4.toml")
    tampered.write(path, f"{tampered.read(path)}# changed\n")
    tampered.list_again()
    assert get_slugs(verify(tampered.package)) == {"system-file-differs"}


def test_a_package_without_record_of_the_campaign(tampered):
    tampered.remove("campaign")
    tampered.list_again()
    document = verify(tampered.package)
    assert document["valid"] is True
    assert get_results(document)["campaign"] == "not possible"


def test_an_impossible_speed_needs_a_person(tampered):
    change_description(accelerator_model_name="NVIDIA A30")(tampered)
    tampered.list_again()
    document = verify(tampered.package)
    (check,) = [check for check in document["checks"] if check["name"] == "speed"]
    assert "a person must judge" in check["message"]
    assert "implausible-throughput" in get_slugs(document, "warning")


# -- image ----------------------------------------------------------------------------------------


def test_images_that_agree(with_image):
    assert get_results(verify(with_image))["image"] == "not possible"
    document = verify(with_image, rebuilt=json.loads(json.dumps(IMAGE)))
    assert get_results(document)["image"] == "passed"
    assert document["valid"] is True


def test_a_rebuilt_image_that_differs(with_image):
    rebuilt = json.loads(json.dumps(IMAGE))
    rebuilt["packages"] = {f"package-{number}": "1.1" for number in range(41)}
    rebuilt["files"] = {}
    document = verify(with_image, rebuilt=rebuilt)
    assert get_slugs(document) == {"image-differs"}
    found = [f["message"] for f in document["findings"]]
    assert len(found) == 21
    assert any("and 22 more findings" in message for message in found)
    assert any("ranks.py" in message and "delivered image only" in message for message in found)


def test_an_image_manifest_that_was_exchanged(with_image, tmp_path):
    tampered = Tampered(shutil.copytree(with_image, tmp_path / "copy"))
    tampered.write("image/manifest.json", "{}")
    tampered.list_again()
    assert get_slugs(verify(tampered.package)) == {"image-differs"}


@pytest.mark.parametrize("digest", [None, "ab" * 32, 5])
def test_a_run_in_another_image(with_image, tmp_path, digest):
    tampered = Tampered(shutil.copytree(with_image, tmp_path / "copy"))

    def change(line):
        line["metadata"]["image_manifest_sha256"] = digest

    tampered.change_lines(BERT_LOG.format(3), "source_sha256", change)
    tampered.list_again()
    found = {(one["rule"], one["file"]) for one in verify(tampered.package)["findings"]}
    log = "bert/result_3.txt"
    assert found >= {("image-differs", log), ("software-differs", log)}
    assert {rule for rule, _ in found} <= {"image-differs", "software-differs", "claim-differs"}


def test_another_image_than_the_system_file_names(with_image, tmp_path):
    tampered = Tampered(shutil.copytree(with_image, tmp_path / "copy"))
    tampered.change("package.json", lambda d: d["image"].update(reference="/images/other.sif"))
    assert get_slugs(verify(tampered.package)) == {"image-differs"}


def test_a_rebuilt_image_without_one_delivered(honest):
    assert get_slugs(verify(honest, rebuilt=IMAGE)) == {"image-differs"}


def test_nothing_is_left_behind(honest, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    verify(honest)
    assert list(tmp_path.iterdir()) == []
