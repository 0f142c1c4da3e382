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

# A band that is less wider than this, in percent, is not worth a measurement.
LEAST_WIDENING = 1.0


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

    def widened(known: Assumptions) -> str:
        other = simulate(job, known, convergence, reference, seed)
        _, low, high = take_band(other.minutes)
        share = 100 * (width / (high - low) - 1) if high > low else 0.0
        return f"{share:.0f} % wider" if share >= LEAST_WIDENING else "hardly wider"

    gigabits, overhead = assumed.network_gigabits, assumed.overhead_samples
    measured = assumed.measured_network_bytes_per_second is not None or assumed.exposed is not None
    if job.nodes > 1 and gigabits.low < gigabits.high and not measured:
        wider = widened(replace(assumed, network_gigabits=Uncertain.known(gigabits.middle)))
        notes.append(
            f"network not stated, taken as {gigabits.low:g} to {gigabits.high:g} Gbit/s a node: "
            f"the band of {letter} is {wider} for it; state --network-gigabits-per-node, or as "
            "--all-reduce-gigabytes-per-second what preflight measures"
        )
    if overhead.low < overhead.high:
        wider = widened(replace(assumed, overhead_samples=Uncertain.known(overhead.middle)))
        notes.append(
            f"one batch size only: the band of {letter} is {wider} than with a second probe; the "
            "further a batch lies from the measured one, the wider"
        )
    if assumed.evaluation_per_second is None:
        low, high = assumed.evaluation_ratio.low, assumed.evaluation_ratio.high
        notes.append(
            f"evaluation not measured, taken as {low:g} to {high:g} times as fast as training; "
            f"state --{UNITS[job.benchmark]}-evaluated-per-second"
        )
    if assumed.input_per_second is None:
        notes.append(
            "input not measured, taken as never waited for; state "
            f"--{UNITS[job.benchmark]}-read-per-second"
        )
    return notes
