"""What the user gives for a prediction, and where runs are taken to converge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.commands import InputError
from harness.prediction_configuration import Settings
from harness.prediction_convergence import (
    RESNET_LARGEST_SMALL_BATCH,
    Convergence,
    find_bert_convergence,
    find_group,
    find_known_reference,
    find_resnet_convergence,
    follow_runs,
    spread_over_schedule,
    state_convergence,
)
from harness.prediction_references import Reference
from harness.prediction_step import Probe
from harness.results import RunEnd, read_run_end
from harness.systems import System

UNITS = {"resnet": "images", "bert": "sequences"}
POINTS = {"resnet": "epochs", "bert": "samples"}
# Last evaluation of published ResNet schedules at small global batches.
RESNET_LAST_EPOCH = 39
LETTERS = {"resnet": "R", "bert": "B"}


@dataclass(frozen=True)
class Inputs:
    """What the user gives for one benchmark; None or empty where not given."""

    rate: float | None = None
    probes: tuple[Probe, ...] = ()
    network_gigabits: float | None = None
    network_bytes_per_second: float | None = None
    evaluation_per_second: float | None = None
    input_per_second: float | None = None
    converges_at: float | None = None
    runs_folder: Path | None = None


def choose_convergence(
    system: System, settings: Settings, given: Inputs, notes: list[str]
) -> tuple[Convergence, Reference | None]:
    """Where runs converge, and the reference that the result is judged against, if any applies."""
    job = settings.job
    benchmark, batch = job.benchmark, job.global_batch_size
    demonstration = system.campaign.profile == "demo"
    reference = None
    if demonstration:
        notes.append("a demonstration: reference convergence points (RCPs) do not apply")
    if given.converges_at is not None:
        if given.converges_at > job.grid.points[-1]:
            raise InputError(
                f"{settings.file}: the schedule's last evaluation is at {job.grid.points[-1]:,g} "
                f"{POINTS[benchmark]}, before the stated {given.converges_at:,g}"
            )
        return state_convergence(given.converges_at, POINTS[benchmark]), None
    if given.runs_folder is not None:
        return follow_runs(read_points(given.runs_folder, benchmark), str(given.runs_folder)), None
    if demonstration:
        notes.append(
            "nobody knows in advance when a demonstration converges, so the band covers its whole "
            "schedule: give --runs-from a results folder of it to narrow this"
        )
        return spread_over_schedule(job.grid), None
    if benchmark == "resnet":
        convergence, reference = find_resnet_convergence(batch)
        if job.grid.points[-1] > RESNET_LAST_EPOCH and batch <= RESNET_LARGEST_SMALL_BATCH:
            notes.append(
                f"{settings.file}: the schedule goes on to epoch {job.grid.points[-1]:g}, while "
                "those of published runs at such batches end at 35 to 39: a longer one converges "
                "later than predicted here"
            )
    else:
        stated = settings.hyperparameters
        assert stated is not None
        convergence, reference = find_bert_convergence(stated)
        if find_group(stated) is None and find_known_reference(stated) is None:
            notes.append(
                f"nobody has published runs with these hyperparameters (global batch {batch:,}, "
                f"learning rate {stated.learning_rate:g}, {stated.training_steps:,} training "
                f"steps, weight decay {stated.weight_decay:g}, betas {stated.beta_1:g} and "
                f"{stated.beta_2:g}): when they converge is a guess, and widens the band"
            )
    if batch < reference.global_batch_size:
        notes.append(
            f"global batch {batch:,} is below the smallest reference point, "
            f"{reference.global_batch_size:,}, which stands in for it"
        )
    return convergence, reference


def read_points(folder: Path, benchmark: str) -> list[float]:
    """Where the runs of a results folder converged. Raises InputError where it holds none."""
    if not folder.is_dir():
        raise InputError(f"--runs-from {folder}: no such folder")
    points = []
    for log in sorted((folder / benchmark).glob("result_*.txt")):
        end = read_end(log)
        if end is not None and end.status == "success" and end.reached_at is not None:
            points.append(float(end.reached_at))
    if not points:
        raise InputError(f"{folder / benchmark}: no finished run that reached its target")
    return points


def read_end(log: Path) -> RunEnd | None:
    """A run's end, None where it has none. Raises InputError for a log that is not one of ours."""
    try:
        end = read_run_end(log)
        if end is not None:
            float(end.reached_at or 0), float(end.minutes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{log}: not a run log: {error!r}") from None
    return end
