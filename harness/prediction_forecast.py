"""One benchmark's forecast: from what is given and assumed to minutes, their band and the notes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from harness.commands import InputError
from harness.prediction_assumptions import assume
from harness.prediction_campaign import (
    Assumptions,
    Campaigns,
    Uncertain,
    compute_expected,
    simulate,
    take_band,
)
from harness.prediction_configuration import Settings
from harness.prediction_convergence import Convergence
from harness.prediction_inputs import LETTERS, POINTS, UNITS, Inputs, choose_convergence
from harness.prediction_references import Reference
from harness.prediction_time import Terms
from harness.systems import System


@dataclass(frozen=True)
class Forecast:
    """What was predicted of one benchmark, and why; the band is BAND of the campaigns' minutes."""

    settings: Settings
    assumed: Assumptions
    convergence: Convergence
    reference: Reference | None
    campaigns: Campaigns
    minutes: float
    band: tuple[float, float]
    normalized_minutes: float
    terms: Terms
    notes: list[str] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        """resnet or bert."""
        return self.settings.job.benchmark


def forecast(system: System, settings: Settings, given: Inputs, cores: int, seed: int) -> Forecast:
    """Predict one benchmark. Raises InputError for what cannot be used or is not known."""
    notes: list[str] = []
    if system.nodes.one_machine:
        ranks = settings.job.ranks
        settings = replace(settings, job=replace(settings.job, nodes=1, ranks_per_node=ranks))
    convergence, reference = choose_convergence(system, settings, given, notes)
    assumed = assume(system, settings, given, cores, notes)
    job = settings.job
    campaigns = simulate(job, assumed, convergence, reference, seed)
    if math.isnan(campaigns.point):
        raise InputError(
            f"{settings.file}: no campaign would be valid: its schedule ends after "
            f"{job.grid.points[-1]:,g} {POINTS[job.benchmark]}, before two of its runs converge "
            f"({convergence.source})"
        )
    middle, low, high = take_band(campaigns.minutes)
    notes += _say_what_widens(settings, assumed, convergence, reference, seed, high - low)
    return Forecast(
        settings=settings,
        assumed=assumed,
        convergence=convergence,
        reference=reference,
        campaigns=campaigns,
        minutes=middle,
        band=(low, high),
        normalized_minutes=take_band(campaigns.normalized)[0],
        terms=compute_expected(job, assumed, campaigns.point),
        notes=notes,
    )


def _say_what_widens(
    settings: Settings, assumed: Assumptions, convergence: Convergence,
    reference: Reference | None, seed: int, width: float,
) -> list[str]:  # fmt: skip
    """How much of the band goes with each measurement that was not made."""
    job, notes = settings.job, []
    letter = LETTERS[job.benchmark]

    def narrowed(changed: Assumptions) -> float:
        _, low, high = take_band(simulate(job, changed, convergence, reference, seed).minutes)
        return max(0.0, 1 - (high - low) / width) if width else 0.0

    gigabits, overhead = assumed.network_gigabits, assumed.overhead_samples
    unstated = gigabits.low < gigabits.high and assumed.measured_network_bytes_per_second is None
    if job.nodes > 1 and unstated:
        share = narrowed(replace(assumed, network_gigabits=Uncertain.known(gigabits.middle)))
        notes.append(
            f"network not stated: between {gigabits.low:g} and {gigabits.high:g} Gbit/s a node; "
            f"--network-gigabits-per-node would narrow the band of {letter} by {100 * share:.0f} %"
        )
    if overhead.low < overhead.high:
        share = narrowed(replace(assumed, overhead_samples=Uncertain.known(overhead.middle)))
        notes.append(
            f"one batch size only: a second probe would narrow the band of {letter} by "
            f"{100 * share:.0f} %, and that of every other batch more"
        )
    if assumed.evaluation_per_second is None:
        low, high = assumed.evaluation_ratio.low, assumed.evaluation_ratio.high
        notes.append(
            f"evaluation not measured: {low:g} to {high:g} times the training rate; state "
            f"--{UNITS[job.benchmark]}-evaluated-per-second"
        )
    return notes
