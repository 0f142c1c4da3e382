"""The harness's pages and scoring's report are one family: same colours, widths and classes."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from harness import prediction_pictures
from harness.page import STYLE, write_document, write_table
from scoring.report import units

REPORT_STYLE = Path(__file__).resolve().parents[2] / "scoring" / "report" / "style.css"
SHARED = ("body", "h1", "h2", "h3", "p", ".soft", ".figures", ".figures div", ".figures b",
          ".charts", "figure", "figure svg", ".scroll", "table", "th, td", "thead th")  # fmt: skip


def read_rules(style: str) -> dict[str, dict[str, str]]:
    """{selector: {property: value}} of the rules outside @media."""
    style = style.partition("@media")[0]
    return {
        selector.strip(): {
            name.strip(): re.sub(r"\s+", " ", value.strip())
            for name, _, value in (one.partition(":") for one in body.split(";") if one.strip())
        }
        for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style)
    }


def test_pages_look_as_the_campaigns_report():
    ours, theirs = read_rules(STYLE), read_rules(REPORT_STYLE.read_text("utf-8"))
    assert ours[":root"] == theirs[":root"]
    for selector in SHARED:
        assert ours[selector] == theirs[selector], selector


def test_pictures_have_the_colours_of_the_campaigns_report():
    assert units.PALETTE[: len(prediction_pictures.COLOURS)] == prediction_pictures.COLOURS
    for name in ("BLUE", "ORANGE", "GREEN", "GRAY"):
        assert getattr(prediction_pictures, name) == getattr(units, name)
    root = read_rules(STYLE)[":root"]
    assert (root["--ink"], root["--soft"]) == (prediction_pictures.INK, prediction_pictures.SOFT)


def test_a_page_allows_its_own_style_alone():
    page = write_document("a <b> \x1b page", ["<p>x</p>"])
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page
    assert "<title>a &lt;b&gt;   page</title>" in page


def test_cells_are_escaped():
    table = "".join(write_table(("<h>", "n"), [("<script>", "1")], frozenset({1})))
    assert "<script>" not in table and "&lt;h&gt;" in table
    assert '<td class="number">1</td>' in table
