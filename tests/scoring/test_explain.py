"""Every finding is explained, in words that name a mend; an unknown one gets its neighbours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scoring.__main__ import main
from scoring.exits import InputError
from scoring.explanation import find_explanation, load_explanations, read_explanations
from scoring.findings import SEVERITIES

ROOT = Path(__file__).parents[2]


def test_every_finding_has_its_explanation():
    missing = sorted(set(SEVERITIES) - set(load_explanations()))
    assert not missing, f"scoring/explanations.toml lacks {', '.join(missing)}"
    assert set(load_explanations()) == set(SEVERITIES)


def test_one_explanation_is_printed_whole(capsys):
    assert main(["explain", "rcp"]) == 0
    printed = capsys.readouterr().out
    explanation = load_explanations()["rcp"]
    assert printed.startswith("rcp (error)\n")
    words = " ".join(printed.split())
    for text in (explanation.meaning, explanation.source, explanation.mend, explanation.innocent):
        assert text in words
    assert max(map(len, printed.split("\n"))) <= 100


def test_all_are_listed_with_their_severities(capsys):
    assert main(["explain"]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.strip().split("\n")]
    assert lines == [[SEVERITIES[slug], slug] for slug in SEVERITIES]


def test_json_is_one_document(capsys):
    assert main(["explain", "rcp", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["slug"], document["severity"]) == ("rcp", "error")
    assert main(["explain", "--json"]) == 0
    assert {item["slug"] for item in json.loads(capsys.readouterr().out)} == set(SEVERITIES)


@pytest.mark.parametrize(
    ("slug", "near"),
    [("marker-twise", "marker-twice"), ("RCP", "rcp"), ("cadence", "cadence-resnet")],
)
def test_a_near_miss_is_suggested(slug, near):
    with pytest.raises(InputError, match=f"do you mean .*{near}"):
        find_explanation(slug)


def test_an_unknown_finding_is_one_sentence():
    command = [sys.executable, "-m", "scoring", "explain", "\x1b[31mqqqq" * 50]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "\x1b" not in done.stderr and len(done.stderr) < 300
    assert len(done.stderr.strip().split("\n")) == 1 and "listed" in done.stderr


GOOD = '[rcp]\nmeaning = "a"\nsource = "b"\nmend = "c"\ninnocent = "d"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rcp\n", "not valid TOML"),
        (GOOD.replace("[rcp]", "[rpc]"), "explains rpc"),
        ("rcp = 1", "must be a section"),
        (GOOD.replace("mend", "men"), "rcp.men is unknown"),
        (GOOD.replace('mend = "c"\n', ""), "rcp.mend is missing"),
        (GOOD.replace('"c"', "3"), "rcp.mend must be a text"),
        (GOOD.replace('"c"', '" "'), "rcp.mend must be a text"),
    ],
)
def test_a_wrong_file_names_its_key(tmp_path, text, words):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_explanations(path)


def test_line_ends_count_as_blanks(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(GOOD.replace('"a"', '"""a\nb"""'))
    assert read_explanations(path)["rcp"].meaning == "a b"
    assert read_explanations(path)["rcp"].published is None
