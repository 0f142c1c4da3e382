"""The page is whole, loads nothing, runs nothing, and shows hostile text only escaped."""

import base64
import hashlib
import os
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scoring.__main__ import main
from scoring.commands.report import write_report
from scoring.exits import InputError
from scoring.explanation import load_explanations
from scoring.files import write_atomically
from scoring.profile import load_profile
from scoring.report.page import write_page
from scoring.score import score_folder

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects elements and text, and checks that elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self.text.append(data)


def make_page(campaign, folder, profile="mlperf", use_window=False):
    score = score_folder(campaign.write(folder), "4.0.0", load_profile(profile), use_window)
    return write_page(score)


@pytest.fixture(scope="module")
def text(make_campaign, tmp_path_factory):
    """Give the page of a valid campaign."""
    return make_page(make_campaign(), tmp_path_factory.mktemp("page"))


def test_page_of_a_valid_campaign(text):
    page = Page(text)
    words = " ".join(page.text)
    assert words.index("VALID") < words.index("score = 7.19/R + 9.05/B") < words.index("ResNet-50:")
    assert "NOT VALID" not in words and "DEMONSTRATION" not in words
    assert "scaled to reference" in words
    assert "None: every check passed." in words
    assert "NVIDIA A100-SXM-80GB" in words
    tags = [tag for tag, _ in page.elements]
    assert tags.count("svg") == 12
    assert not {"script", "iframe", "object", "embed", "link", "img", "form", "base"} & set(tags)


def test_content_policy_fits_the_page(text):
    page = Page(text)
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    styles = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert len(styles) == 1
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href", "src"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "url(http" not in text and "@import" not in text


def test_pictures_are_sound_and_their_ids_apart(text):
    identities = []
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        root = ElementTree.fromstring(svg)
        inside = [element.get("id") for element in root.iter() if element.get("id")]
        identities += inside
        for target in re.findall(r"url\(#([^)]*)\)", svg) + re.findall(r'href="#([^"]*)"', svg):
            assert target in inside
        assert root.get("viewBox") and not root.get("width")
    assert len(identities) == len(set(identities))


def test_findings_quote_their_line(campaign, tmp_path):
    campaign.runs.pop("bert")
    campaign.runs["resnet"][0].find("submission_division")["value"] = "open"
    words = " ".join(Page(make_page(campaign, tmp_path)).text)
    assert "NOT VALID" in words
    assert "error: division" in words
    assert ':::MLLOG {"namespace": "", "time_ms"' in words
    assert '"key": "submission_division", "value": "open"' in words


def test_findings_link_to_what_they_mean(campaign, tmp_path):
    campaign.runs.pop("bert")
    for run in campaign.runs["resnet"][:2]:
        run.find("submission_division")["value"] = "open"
    text = make_page(campaign, tmp_path)
    page = Page(text)
    assert text.count('href="#about-division"') == 2
    assert [a["id"] for tag, a in page.elements if tag == "dt"].count("about-division") == 1
    explanation = load_explanations()["division"]
    words = " ".join(page.text)
    assert explanation.meaning in words and explanation.mend in words


def test_the_band_is_drawn_and_named(campaign, tmp_path, text):
    assert "published, batch 3,264" in text and "published, batch 448" in text
    assert "45 published runs of batch 3,264, the mean and two deviations to either side" in text
    campaign.runs.pop("bert")
    for run in campaign.runs["resnet"]:
        run.find("global_batch_size")["value"] = 2048
    other = make_page(campaign, tmp_path)
    assert "published, batch" not in other and "No band" in other


def test_what_the_logs_say_of_the_system(campaign, tmp_path):
    campaign.runs.pop("bert")
    for run in campaign.runs["resnet"]:
        line = run.make("number_of_nodes", 4, hosts=["a1", "a2", "a3", "a4"])
        run.insert_after("submission_platform", line)
        run.insert_after("seed", run.make("source_sha256", "f" * 64, torch="2.13.0"))
    words = " ".join(Page(make_page(campaign, tmp_path)).text)
    assert '"a3"' in words and '"torch": "2.13.0"' in words and "f" * 64 in words
    assert words.count("2.13.0") == 1


def test_hostile_text_stays_text(campaign, tmp_path):
    evil = "</pre></style><script>alert(1)</script>&amp;\x1b[31m\x00\"'"
    campaign.system.update(submitter=evil, accelerator_model_name=evil, **{evil: evil})
    for run in campaign.runs["resnet"]:
        run.find("submission_platform")["value"] = evil
        run.find("opt_name")["value"] = evil
    campaign.runs["bert"][1].find("submission_platform")["value"] = evil
    campaign.runs["bert"][2].find("seed")["value"] = evil
    folder = campaign.write(tmp_path)
    (folder / "bert" / "result_<script>alert(1)<.txt").write_text("")
    score = score_folder(folder, "4.0.0", load_profile("mlperf"), False)
    text = write_page(score)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "<script" not in text and "\x1b" not in text and "\x00" not in text


def test_demonstration_says_so_first(demonstration, tmp_path):
    demonstration.runs.pop("bert")
    page = Page(make_page(demonstration, tmp_path, "demo"))
    words = " ".join(page.text).split()
    assert " ".join(words[3:9]) == "DEMONSTRATION - NOT AN MLPERF RESULT"


@pytest.mark.parametrize("damage", ["empty", "no_evaluations", "backwards"])
def test_broken_runs_still_make_a_page(campaign, tmp_path, damage):
    campaign.runs.pop("bert")
    for run in campaign.runs["resnet"]:
        if damage == "empty":
            run.clear()
        elif damage == "no_evaluations":
            run.drop("eval_accuracy")
        else:
            run.find("run_stop")["time_ms"] = 0
    words = " ".join(Page(make_page(campaign, tmp_path)).text)
    assert "NOT VALID" in words and "R cannot be computed" in words


def test_windows_are_shown(unpack_group):
    folder = unpack_group("ten-runs-all-converged")
    score = score_folder(folder, "4.0.0", load_profile("mlperf"), True)
    words = " ".join(Page(write_page(score)).text)
    assert "More runs than needed" in words
    assert "outside the window that counts" in words


def test_the_command_writes_whole_files(campaign, tmp_path):
    campaign.runs.pop("bert")
    folder = campaign.write(tmp_path)
    output = tmp_path / "report.html"
    assert main(["report", str(folder), "--output", str(output)]) == 0
    assert output.read_text().endswith("</html>\n")
    assert [path.name for path in tmp_path.glob(".*")] == []
    with pytest.raises(InputError, match="no such folder"):
        write_report(None, tmp_path / "no" / "report.html")


@pytest.mark.parametrize("linked", [False, True])
def test_the_page_replaces_nothing_but_files(tmp_path, linked):
    os.mkfifo(tmp_path / "pipe")
    output = tmp_path / "link" if linked else tmp_path / "pipe"
    if linked:
        output.symlink_to("pipe")
    refused = pytest.raises(InputError, match=r"--output .* is no regular file")
    with refused, write_atomically(output) as file:
        file.write(b"page")
    assert stat.S_ISFIFO(output.stat().st_mode)
    assert output.is_symlink() is linked
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_takes_no_file_is_named_with_its_option():
    # Nobody may make files there, whoever runs the tests.
    output = Path("/proc/report.html")
    refused = pytest.raises(InputError, match=r"^--report /proc/report.html: .*nothing was written")
    with refused, write_atomically(output, "--report") as file:
        file.write(b"page")


def test_a_name_may_be_as_long_as_names_may_be(tmp_path):
    output = tmp_path / ("x" * 255)
    with write_atomically(output) as file:
        file.write(b"page")
    assert output.read_bytes() == b"page"
    assert list(tmp_path.iterdir()) == [output]


def test_an_invalid_result_is_reported_with_status_1(campaign, tmp_path):
    campaign.runs["bert"].clear()
    campaign.runs.pop("resnet")
    output = tmp_path / "report.html"
    assert main(["report", str(campaign.write(tmp_path)), "--output", str(output)]) == 1
    assert "NOT VALID" in output.read_text()
