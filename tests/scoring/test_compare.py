"""Two results side by side: figures, what differs, and whether the difference may be chance."""

import io
import json
import math
import tarfile
import zipfile

import pytest

from scoring.__main__ import main
from scoring.comparison import compare_scores
from scoring.comparison_input import score_side
from scoring.comparison_prose import write_comparison, write_statements
from scoring.exits import InputError
from scoring.profile import load_profile
from scoring.report.comparison_page import write_comparison_page
from scoring.score import score_folder
from scoring.welch import compare_means
from tests.scoring.conftest import make_line
from tests.scoring.test_page import Page


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0, 2.0, 3.0], [2.0, 3.5, 9.0, 4.0]),
        ([15.86, 15.93, 15.83, 15.86, 15.86], [15.9, 15.8, 15.95, 15.9, 15.91]),
        ([1e6, 2e6], [1e6, 1e6 + 1]),
    ],
)
def test_means_are_tested_as_scipy_does(first, second):
    from scipy.stats import ttest_ind

    known = ttest_ind(second, first, equal_var=False)
    ours = compare_means(first, second)
    assert (ours.t, ours.p) == pytest.approx((known.statistic, known.pvalue), 1e-9)
    interval = known.confidence_interval(0.95)
    assert ours.interval == pytest.approx((interval.low, interval.high), 1e-9)
    assert ours.difference == pytest.approx(sum(second) / len(second) - sum(first) / len(first))


def test_nothing_is_tested_where_nothing_scatters():
    same = compare_means([35.0] * 5, [35.0] * 5)
    assert (same.difference, same.t, same.p) == (0.0, None, None)
    assert compare_means([0.1 + 0.2] * 3, [0.3] * 3).p is None
    assert compare_means([35.0] * 5, [36.0] * 5).p is None
    assert compare_means([1.0], [1.0, 2.0]) is None
    assert compare_means([], []) is None


def slow_down(campaign, factor):
    """Make every run of a benchmark take `factor` times as long."""
    for lines in campaign.runs["bert"]:
        start = lines.find("run_start")["time_ms"]
        for line in lines:
            if line["time_ms"] > start:
                line["time_ms"] = round(start + (line["time_ms"] - start) * factor)


@pytest.fixture(scope="module")
def pair(make_campaign, tmp_path_factory):
    """Give two campaigns: the second is slower in BERT, has one seed twice, another system."""
    first = make_campaign().write(tmp_path_factory.mktemp("first"))
    other = make_campaign()
    slow_down(other, 1.1)
    other.runs["resnet"][1].find("seed")["value"] = 1000
    for lines in other.runs["resnet"]:
        lines.find("lars_opt_base_learning_rate")["value"] = 11.0
    other.system["accelerators_per_node"] = "8"
    return first, other.write(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def comparison(pair):
    profile = load_profile("lp2bm")
    scores = [score_folder(folder, "4.0.0", profile, False) for folder in pair]
    return compare_scores(("one", "other"), tuple(scores))


def test_both_are_told_in_one_document(comparison):
    document = json.loads(json.dumps(comparison.describe(), allow_nan=False))
    assert [side["valid"] for side in document["results"]] == [True, False]
    assert (document["profile"], document["demonstration"]) == ("lp2bm", False)
    bert = document["benchmarks"]["bert"]
    one, other = bert["sides"]
    assert other["latency_minutes"] == pytest.approx(1.1 * one["latency_minutes"], 1e-4)
    assert len(one["minutes"]) == one["converged_runs"] == 10
    assert one["samples_per_second_per_accelerator"] == pytest.approx(
        one["samples_per_second"] / 16
    )
    assert other["samples_per_second_per_accelerator"] == pytest.approx(
        one["samples_per_second"] / 1.1 / 32, 1e-4
    )
    for phase in ("first_interval", "training", "evaluation"):
        assert other["phase_seconds"][phase] == pytest.approx(
            1.1 * one["phase_seconds"][phase], 1e-3
        )
    assert other["phase_seconds"]["initialisation"] == one["phase_seconds"]["initialisation"]
    assert bert["settings"] == {}
    settings = document["benchmarks"]["resnet"]["settings"]
    assert settings == {"lars_opt_base_learning_rate": [10.5, 11.0]}
    assert document["system"] == {"accelerators_per_node": ["4", "8"]}


@pytest.mark.parametrize("nodes", [4, 2])
def test_a_count_is_the_same_as_text_and_as_number(make_campaign, tmp_path, nodes):
    """A log says 4 nodes, a description "4": told only where the number is another."""
    described = make_campaign().write(tmp_path / "described")
    logged = make_campaign()
    for lines in (*logged.runs["resnet"], *logged.runs["bert"]):
        lines.insert_after("cache_clear", make_line(lines[0]["time_ms"], "number_of_nodes", nodes))
    folder = logged.write(tmp_path / "logged")
    (folder / "system.json").unlink()
    profile = load_profile("lp2bm")
    scores = [score_folder(side, "4.0.0", profile, False) for side in (described, folder)]
    system = compare_scores(("one", "other"), tuple(scores)).system
    assert system["accelerators_per_node"] == ("4", None)
    assert system.get("number_of_nodes") == (None if nodes == 4 else ("4", 2))


def test_the_difference_comes_with_its_test(comparison):
    bert = comparison.benchmarks["bert"]
    assert bert.minutes.difference == pytest.approx(0.1 * bert.minutes.means[0], 1e-4)
    assert bert.minutes.p < 1e-6 and bert.minutes.runs == (10, 10)
    assert bert.samples_to_converge.p is None
    minutes, samples = write_statements("bert", bert)
    assert "(+10.00 %)" in minutes and "p < 1e-06: significant at 5 %" in minutes
    assert "Welch's t-test, two-sided, 10 and 10 runs" in minutes
    assert "the same in all runs of both: nothing to test" in samples
    resnet = comparison.benchmarks["resnet"]
    assert resnet.minutes.p == pytest.approx(1.0)
    assert "not significant" in next(write_statements("resnet", resnet))


def test_findings_of_one_alone_are_told(comparison):
    only = comparison.describe()["findings_only_in"]
    assert only[0] == []
    assert ("same-seed", "resnet", 1) in [(f["rule"], f["benchmark"], f["count"]) for f in only[1]]


def test_prose_and_page_say_the_same(comparison):
    prose, page = write_comparison(comparison), Page(write_comparison_page(comparison))
    words = " ".join(page.text)
    for text in ("NOT VALID", "ResNet-50 R", "same-seed", "lars_opt_base_learning_rate", "10.00 %"):
        assert text in prose and text in words
    tags = [tag for tag, _ in page.elements]
    assert tags.count("svg") == 6 and "script" not in tags


def test_a_missing_benchmark_is_absent(make_campaign, pair, tmp_path):
    campaign = make_campaign()
    campaign.runs.pop("bert")
    profile = load_profile("mlperf")
    scores = [
        score_folder(folder, "4.0.0", profile, False)
        for folder in (pair[0], campaign.write(tmp_path))
    ]
    comparison = compare_scores(("one", "other"), tuple(scores))
    assert comparison.describe()["benchmarks"]["bert"]["sides"][1] is None
    assert "absent" in write_comparison(comparison)
    assert "absent" in write_comparison_page(comparison)


def test_runs_that_did_not_end_make_no_figures(make_campaign, pair, tmp_path):
    campaign = make_campaign()
    for lines in campaign.runs["bert"]:
        lines.drop("run_stop")
    profile = load_profile("mlperf")
    other = score_folder(campaign.write(tmp_path), "4.0.0", profile, False)
    first = score_folder(pair[0], "4.0.0", profile, False)
    comparison = compare_scores(("one", "other"), (first, other))
    side = comparison.benchmarks["bert"].sides[1]
    assert (side.minutes, side.samples_per_second) == ([], None)
    assert "fewer than two converged runs" in write_comparison(comparison)
    assert "fewer than two converged runs" in write_comparison_page(comparison)


# -- what is compared ---------------------------------------------------------------------------


def list_package(folder, system="fast4"):
    """List a package's files of a campaign: path and content."""
    for path in sorted(folder.rglob("*.txt")):
        yield f"maker/results/{system}/{path.relative_to(folder)}", path.read_bytes()
    yield f"maker/systems/{system}.json", (folder / "system.json").read_bytes()


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def test_packages_are_compared_like_folders(pair, tmp_path):
    profile = load_profile("lp2bm")
    expected = score_folder(pair[0], "4.0.0", profile, False).describe()
    files = list(list_package(pair[0]))
    archive = write_zip(tmp_path / "x.zip", files)
    tar = tmp_path / "x.tar.gz"
    with tarfile.open(tar, "w:gz", format=tarfile.USTAR_FORMAT) as writer:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    folder = tmp_path / "folder"
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    before = sorted(folder.rglob("*"))
    for path in (archive, tar, folder):
        assert score_side(path, "4.0.0", profile, False).describe() == expected
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("maker/README.md", b"x")], "holds no results/<system>/<benchmark>/"),
        (
            [
                ("maker/results/a/bert/result_0.txt", b""),
                ("maker/results/b/bert/result_0.txt", b""),
            ],
            "holds the results of a, b",
        ),
        ([("maker/../x", b"x")], "x.zip: "),
    ],
)
def test_packages_without_one_result_are_refused(tmp_path, files, words):
    path = write_zip(tmp_path / "x.zip", files)
    with pytest.raises(InputError, match=words):
        score_side(path, "4.0.0", load_profile("mlperf"), False)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder or package"):
        score_side(tmp_path / "x", "4.0.0", load_profile("mlperf"), False)
    (tmp_path / "x").write_text("hello")
    with pytest.raises(InputError, match="no folder, tar"):
        score_side(tmp_path / "x", "4.0.0", load_profile("mlperf"), False)


# -- the command --------------------------------------------------------------------------------


def test_the_command(pair, tmp_path, capsys):
    output = tmp_path / "page.html"
    arguments = ["compare", str(pair[0]), str(pair[1]), "--rfp", "lp2bm"]
    assert main([*arguments, "--json", "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["benchmarks"]["bert"]["minutes"]["p"] < 1e-6
    assert captured.err == f"wrote {output}\n" and output.read_text().endswith("</html>\n")
    assert main(["compare", str(pair[0]), str(pair[0])]) == 0
    assert "first" in capsys.readouterr().out


def test_a_demonstration_says_so(demonstration, tmp_path, capsys):
    folder = str(demonstration.write(tmp_path))
    output = tmp_path / "page.html"
    assert main(["compare", folder, folder, "--rfp", "demo", "--output", str(output)]) == 0
    assert capsys.readouterr().out.startswith("####")
    assert "DEMONSTRATION - NOT AN MLPERF RESULT" in output.read_text()


def test_hostile_text_stays_text(make_campaign, pair, tmp_path, capsys):
    campaign = make_campaign()
    evil = "</td><script>alert(1)</script>\x1b[31m\x00"
    campaign.system.update(submitter=evil, **{evil: evil})
    for lines in campaign.runs["bert"]:
        lines.find("opt_lamb_beta_1")["value"] = evil
    folder = campaign.write(tmp_path)
    output = tmp_path / "page.html"
    assert main(["compare", str(pair[0]), str(folder), "--output", str(output)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    page = output.read_text()
    assert "<script" not in page and "\x1b" not in page and "\x00" not in page


def test_numbers_that_json_lacks_are_named(make_campaign, pair, tmp_path, capsys):
    campaign = make_campaign()
    campaign.system["host_memory_capacity"] = [float("nan"), {"x": float("inf")}]
    for lines in campaign.runs["bert"]:
        lines.find("num_warmup_steps")["value"] = float("nan")
    folder = campaign.write(tmp_path)
    main(["compare", str(pair[0]), str(folder), "--json"])
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["system"]["host_memory_capacity"] == [None, ["nan", {"x": "inf"}]]
    assert document["benchmarks"]["bert"]["settings"]["num_warmup_steps"] == [0, "nan"]


def test_endless_descriptions_are_cut(make_campaign, pair, tmp_path, capsys):
    campaign = make_campaign()
    campaign.system.update({f"{number}{'x' * 5000}": "y" * 5000 for number in range(90)})
    folder = campaign.write(tmp_path)
    assert main(["compare", str(pair[0]), str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "system and software that differ (80 of 90)" in printed
    assert max(map(len, printed.split("\n"))) < 500


def test_a_published_pair(unpack_set):
    """Two published results: 16 A100 against 32 H100; the figures are those of their logs."""
    profile = load_profile("mlperf")
    names = (
        "v3.0/Dell/4xXE8545x4A100-SXM-80GB/resnet",
        "v2.1/NVIDIA/dgxh100_n4_preview/resnet",
    )
    scores = [score_folder(unpack_set(name), "4.0.0", profile, False) for name in names]
    document = compare_scores(names, tuple(scores)).describe()["benchmarks"]["resnet"]
    speeds = [side["samples_per_second_per_accelerator"] for side in document["sides"]]
    assert [round(speed) for speed in speeds] == [2945, 5202]
    assert math.isclose(document["minutes"]["difference"], -11.382, abs_tol=0.01)
    assert document["samples_to_converge"]["p"] is None
