"""Units, colours and labels of the pictures. Labels are run numbers, never text out of a log."""

from __future__ import annotations

from scoring.run import Run
from scoring.submission import get_run_number
from scoring.verdict import Verdict

BLUE, ORANGE, GREEN, RED, GRAY = "#2563a8", "#d97706", "#2f855a", "#b42318", "#98a2b3"
# As many as a result has runs of BERT, so that no two of them look alike.
PALETTE = (
    "#2563a8", "#d97706", "#2f855a", "#7c3aed", "#06b6d4", "#be185d", "#84a30f", "#78350f",
    "#111827", "#ec8fb8",
)  # fmt: skip
POINTS_SHOWN = 2000


def label_run(run: Run, place: int) -> str:
    """Give a run's number as its file name has it, else its place."""
    number = get_run_number(run.name)
    return str(number) if number is not None else f"#{place}"


def get_unit(verdict: Verdict) -> tuple[float, str]:
    """Give what evaluation points are divided by in pictures, and the unit's name."""
    if verdict.result.benchmark == "resnet":
        return 1.0, "epochs"
    points = [run.evaluations_by_point[-1].point for run in verdict.result.runs if run.evaluations]
    if max(points, default=0) < 1e5:
        return 1.0, "samples"
    return 1e6, "million samples"
