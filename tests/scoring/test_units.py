"""What the pictures share, and what the style of the page keeps within a narrow screen."""

import re
from pathlib import Path

from scoring.profile import load_profile
from scoring.report import page
from scoring.report.units import PALETTE

STYLE = (Path(page.__file__).parent / "style.css").read_text(encoding="utf-8")


def test_every_run_of_a_result_has_a_colour_of_its_own():
    runs = load_profile("lp2bm").get_runs("bert")
    assert len(set(PALETTE)) == len(PALETTE) >= runs


def test_long_hashes_do_not_widen_a_narrow_page():
    narrow = STYLE[STYLE.index("@media (max-width: 40rem)") : STYLE.index("@media print")]
    assert re.search(r"\.names td \{[^}]*overflow-wrap: anywhere", STYLE)
    assert re.search(r"\.names tbody, \.names tr,[^{]*\{ display: block", narrow)
