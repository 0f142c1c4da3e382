"""The two sides of a comparison: probe documents or results folders, and what may be compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from harness.commands import InputError
from harness.comparison_runs import ABOUT_ZERO, MEASURES, POINTS, RunTimes, list_logs, read_run
from harness.comparison_statistics import Difference, compare_medians, compare_values
from harness.prediction_step import Probe, read_probe

BENCHMARKS = ("resnet", "bert")
UNITS = {"resnet": "images", "bert": "sequences"}


@dataclass(frozen=True)
class Section:
    """What was compared of one benchmark. slower: the second side's rate is lower beyond chance."""

    benchmark: str
    what: str
    differences: list[Difference]
    slower: bool
    notes: list[str] = field(default_factory=list)


def compare(first: Path, second: Path, level: float) -> list[Section]:
    """Compare two probes, two folders of probes, or two results folders.

    Raises InputError where a side is neither, or the sides have nothing in common.
    """
    sides = [read_probes(path) for path in (first, second)]
    if all(sides):
        return _compare_probe_sides(sides, level)
    if any(sides):
        probes, other = (first, second) if sides[0] else (second, first)
        raise InputError(f"{probes} holds probes and {other} does not: give two of a kind")
    sections = []
    for benchmark in BENCHMARKS:
        logs = [list_logs(path, benchmark) for path in (first, second)]
        if all(logs):
            runs = [[read_run(log, benchmark) for log in each] for each in logs]
            sections.append(_compare_runs(benchmark, runs, level))
    if not sections:
        raise InputError(
            f"{first} and {second} have nothing to compare: give two probe documents (--json), two "
            "folders of them, or two results folders with runs of one benchmark in both"
        )
    sections[0].notes.extend(_compare_settings(first, second))
    return sections


def read_probes(path: Path) -> list[Probe]:
    """The probes of a file or a folder of JSON files; none in a results folder."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        return [read_probe(path)]
    if any((path / benchmark).is_dir() for benchmark in BENCHMARKS):
        return []
    return [read_probe(file) for file in sorted(path.glob("*.json"))]


def _compare_probe_sides(sides: list[list[Probe]], level: float) -> list[Section]:
    sections = []
    for benchmark in BENCHMARKS:
        pair = [[probe for probe in side if probe.benchmark == benchmark] for side in sides]
        if all(pair):
            sections.append(_compare_probes(benchmark, pair[0], pair[1], level))
    if not sections:
        raise InputError("the two sides hold probes of different benchmarks: give two of one")
    return sections


def _compare_probes(
    benchmark: str, first: list[Probe], second: list[Probe], level: float
) -> Section:
    sizes = sorted({probe.ranks for probe in (*first, *second)})
    if len(sizes) > 1:
        words = " and ".join(f"{size} rank(s)" for size in sizes)
        raise InputError(f"{benchmark}: probes of {words} at once: give probes of equally many")
    notes = _note_probes(first, second)
    unit = UNITS[benchmark]
    per_sample = [[1e6 * probe.seconds / probe.batch for probe in side] for side in (first, second)]
    name, scale = f"step time, for each of its {unit}", "us"
    if len(first) == len(second) == 1:
        one, other = first[0], second[0]
        medians = (per_sample[0][0], per_sample[1][0])
        ranges = (2 * one.spread * medians[0], 2 * other.spread * medians[1])
        found: Difference | None = compare_medians(
            name, scale, medians, ranges, (one.steps, other.steps), level
        )
        notes.append(
            "one probe a side: the test sees the noise of their steps alone, not what changes "
            "between two probes (clock, temperature, neighbours): repeat in turn and give two "
            "folders"
        )
    else:
        found = compare_values(name, scale, per_sample[0], per_sample[1], level)
    assert found is not None
    rates = [[1e6 / value for value in side] for side in per_sample]
    shown = [found]
    rate = compare_values(name_rate(unit), "/s", rates[0], rates[1], level)
    if rate is not None:
        shown.append(rate)
    slower = found.is_real(level) and found.change > 0
    return Section(benchmark, "probes", shown, slower, notes)


def name_rate(unit: str) -> str:
    """The name of a probe's rate: images or sequences a second."""
    return f"{unit} a second and rank"


def _note_probes(first: list[Probe], second: list[Probe]) -> list[str]:
    notes = []
    for name, values in (
        ("devices", [sorted({p.device for p in side}) for side in (first, second)]),
        ("samples a step", [sorted({str(p.batch) for p in side}) for side in (first, second)]),
    ):
        if values[0] != values[1]:
            words = " and ".join(", ".join(side) for side in values)
            notes.append(f"the {name} differ: {words}")
    return notes


def _compare_runs(benchmark: str, sides: list[list[RunTimes]], level: float) -> Section:
    differences, notes = [], []
    for key, (name, unit) in MEASURES.items():
        first, second = (
            [value for run in side if (value := getattr(run, key)) is not None] for side in sides
        )
        unit = unit.format(points=POINTS[benchmark])
        found = compare_values(name, unit, first, second, level, key in ABOUT_ZERO)
        if found is not None:
            differences.append(found)
    batches = [sorted({run.global_batch_size for run in side}) for side in sides]
    if batches[0] != batches[1]:
        words = " and ".join(", ".join(map(str, side)) for side in batches)
        notes.append(f"the global batches differ: {words}")
    missed = [sum(run.minutes is None for run in side) for side in sides]
    if any(missed):
        notes.append(f"runs that missed the target: {missed[0]} and {missed[1]}")
    notes.append(
        "time to target holds the chance of convergence, which speed does not change: judge a "
        "change of speed by the training rate"
    )
    rate = next((d for d in differences if d.name == MEASURES["samples_per_second"][0]), None)
    slower = rate is not None and rate.is_real(level) and rate.change < 0
    return Section(benchmark, "runs", differences, slower, notes)


def _compare_settings(first: Path, second: Path) -> list[str]:
    """What the records of two campaigns say has changed between them."""
    records = []
    for folder in (first, second):
        try:
            record = json.loads((folder / "campaign.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return []
        if not isinstance(record, dict):
            return []
        records.append(record)
    names = sorted({*records[0], *records[1]})
    changed = [name for name in names if records[0].get(name) != records[1].get(name)]
    if not changed:
        return ["both campaigns record the same settings: what differs is chance or the machine"]
    return [f"settings that differ (campaign.json): {', '.join(changed)}"]
