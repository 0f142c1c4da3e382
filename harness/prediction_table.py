"""The validation as tables for docs/prediction.md and docs/prediction_validation.md, as JSON, and
as a picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.commands import GOOD, NOT_GOOD, InputError
from harness.files import write_atomically
from harness.prediction_pictures import BLUE, GRAY, GREEN, ORANGE, Series, draw_points
from harness.prediction_published import load_published_results
from harness.prediction_validation import (
    GROUPS,
    Comparison,
    Statistics,
    compare_all,
    fit_platform,
    group_comparisons,
    list_anchors,
    summarize,
)
from harness.prediction_variation import vary_anchors

# The markers of a document's generated parts; the first with a part's name.
BEGIN = "<!-- begin: python -m harness.predict validate, {part} -->"
END = "<!-- end -->"
# What the validation must reach, as fractions.
MEAN_LIMIT, LARGEST_LIMIT, BIAS_LIMIT, LEAST_ROWS = 0.04, 0.12, 0.01, 20
KINDS = {
    "training": "convergence and evaluation given",
    "time": "convergence given",
    "outright": "nothing given",
}


def write_validation(options: argparse.Namespace) -> int:
    """Print the comparison, and write what the options ask for; 1 where a limit is missed."""
    groups = group_comparisons(compare_all())
    if options.picture is not None:
        if options.picture.suffix != ".svg":
            raise InputError(f"--picture {options.picture}: must end in .svg, the format written")
        with write_atomically(options.picture) as file:
            file.write(draw_errors(groups))
    parts = write_parts(groups)
    for document in options.document:
        replace_generated(document, parts)
    if options.json:
        print(json.dumps(describe_validation(groups), indent=1))
    else:
        print("\n\n".join(parts.values()))
    return GOOD if is_good(judge(groups)) else NOT_GOOD


def judge(groups: dict[str, list[Comparison]]) -> Statistics:
    """The errors that the exit status is for: several nodes with a port for each accelerator,
    convergence and evaluation given, so that whose hyperparameters they ran does not matter."""
    rows = [*groups["several nodes"], *groups["own hyperparameters"]]
    return summarize(c.training_error for c in rows if c.result.nodes > 1)


def is_good(found: Statistics) -> bool:
    """True where every limit is kept."""
    return not name_missed(found)


def name_missed(found: Statistics) -> list[str]:
    """The limits that are missed."""
    kept = {
        "rows": found.rows >= LEAST_ROWS,
        "mean": found.mean <= MEAN_LIMIT,
        "largest": found.largest <= LARGEST_LIMIT,
        "bias": abs(found.bias) <= BIAS_LIMIT,
    }
    return [name for name, is_kept in kept.items() if not is_kept]


def summarize_kind(rows: list[Comparison], kind: str) -> Statistics:
    """Statistics of one kind of error: a key of KINDS."""
    return summarize(getattr(comparison, f"{kind}_error") for comparison in rows)


def describe_validation(groups: dict[str, list[Comparison]]) -> dict[str, Any]:
    """The JSON document: every row with its errors, statistics by group and kind, the fits."""
    return {
        "schema": 1,
        "good": is_good(judge(groups)),
        "groups": {
            group: {
                "statistics": {kind: asdict(summarize_kind(rows, kind)) for kind in KINDS},
                "missed": {kind: name_missed(summarize_kind(rows, kind)) for kind in KINDS},
                "rows": [
                    {
                        **asdict(c.result),
                        **{k: getattr(c, f"{k}_error") for k in KINDS},
                        "band_minutes": c.band,
                    }
                    for c in rows
                ],
            }
            for group, rows in groups.items()
        },
        "fits": {name: asdict(fit_platform(name)) for name in list_platforms()},
    }


def list_platforms() -> list[str]:
    """Platforms with a fit, in the order of the table."""
    return list(dict.fromkeys(comparison.result.platform for comparison in compare_all()))


def write_parts(groups: dict[str, list[Comparison]]) -> dict[str, str]:
    """The generated parts of the documents, by name, as Markdown."""
    judged = GROUPS[0]
    others = {name: rows for name, rows in groups.items() if name != judged}
    details = [*_write_fits(), "", *_write_variations(), "", *_write_rows(others)]
    return {
        "summary": "\n".join(_write_statistics(groups)),
        judged: "\n".join(_write_rows({judged: groups[judged]})),
        "details": "\n".join(details),
    }


def _write_statistics(groups: dict[str, list[Comparison]]) -> Iterator[str]:
    yield "| predicted rows | what is given | rows | mean | median | largest | bias | missed |"
    yield "|---|---|---|---|---|---|---|---|"
    together = [c for name, rows in groups.items() if name != "shared ports" for c in rows]
    for group, rows in [*groups.items(), ("all but shared ports", together)]:
        for kind, given in KINDS.items():
            found = summarize_kind(rows, kind)
            yield (
                f"| {group} | {given} | {found.rows} | {_percent(found.mean)} | "
                f"{_percent(found.median)} | {_percent(found.largest)} | {found.bias:+.1%} | "
                f"{', '.join(name_missed(found)) or '-'} |"
            )
    inside = sum(comparison.in_band for comparison in together)
    yield ""
    yield (
        f"Of these {len(together)} rows {inside} lie in their 90 % band of the prediction without "
        f"anything given, and {sum(abs(c.outright_error) > LARGEST_LIMIT for c in together)} are "
        f"more than {LARGEST_LIMIT:.0%} off."
    )


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _write_fits() -> Iterator[str]:
    yield "| platform | fitted to | a sample | a step | in samples |"
    yield "|---|---|---|---|---|"
    for name in list_platforms():
        step = fit_platform(name)
        anchors = list_anchors(name)
        words = [f"{a.round} {a.submitter} {a.nodes} x {a.accelerators_per_node}" for a in anchors]
        if len(anchors) < 2:
            words.append("another's shape")
        yield (
            f"| {name} | {', '.join(words)} | {1e3 * step.per_sample_seconds:.4f} ms | "
            f"{1e3 * step.per_step_seconds:.2f} ms | "
            f"{step.per_step_seconds / step.per_sample_seconds:.0f} |"
        )


def _write_variations() -> Iterator[str]:
    yield (
        "| platform | pairs of anchors | mean error, median (worst) | bias, median (worst) | "
        "mean error, nothing given |"
    )
    yield "|---|---|---|---|---|"
    for name in list_platforms():
        found = vary_anchors(name)
        if found is not None:
            yield (
                f"| {name} | {found.pairs} | {_percent(found.mean)} ({_percent(found.worst_mean)}) "
                f"| {found.bias:+.1%} ({found.worst_bias:+.1%}) | {_percent(found.outright)} "
                f"({_percent(found.worst_outright)}) |"
            )


def _write_rows(groups: dict[str, list[Comparison]]) -> Iterator[str]:
    yield "| result | nodes, batch | published | training | time | outright | band |"
    yield "|---|---|---|---|---|---|---|"
    for group, rows in groups.items():
        yield f"| **{group}** | | | | | | |"
        for comparison in rows:
            row = comparison.result
            letter = "R" if row.benchmark == "resnet" else "B"
            yield (
                f"| {letter} {row.round} {row.submitter} {_shorten(row.system)} | "
                f"{row.nodes} x {row.accelerators_per_node}, {row.global_batch_size} | "
                f"{row.minutes:.3f} | {comparison.training_error:+.1%} | "
                f"{comparison.time_error:+.1%} | {comparison.outright_error:+.1%} | "
                f"{'in' if comparison.in_band else 'out'} |"
            )


def _shorten(system: str) -> str:
    return system if len(system) <= 34 else f"{system[:16]}..{system[-16:]}"


def replace_generated(document: Path, parts: dict[str, str]) -> None:
    """Put those parts that a document has markers for between them. Raises InputError where it has
    none, or one without its end."""
    try:
        text = document.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{document}: not UTF-8: {error}") from None
    markers = {part: BEGIN.format(part=part) for part in parts}
    present = [part for part, marker in markers.items() if marker in text]
    for part in present or list(parts)[:1]:
        before, begin, rest = text.partition(markers[part])
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise InputError(f"{document}: must hold the lines '{markers[part]}' and '{END}'")
        text = f"{before}{begin}\n{parts[part]}\n{end}{after}"
    with write_atomically(document) as file:
        file.write(text)


def draw_errors(groups: dict[str, list[Comparison]]) -> str:
    """Predicted over published minutes, nothing given, as a picture."""
    colours = dict(zip(GROUPS, (BLUE, ORANGE, GREEN, GRAY), strict=True))
    series = [
        Series(
            f"{group} ({len(rows)})",
            tuple((c.result.minutes, c.outright_minutes) for c in rows),
            colours[group],
            names=tuple(
                f"{c.result.round} {c.result.submitter} {c.result.system}: {c.outright_error:+.1%}"
                for c in rows
            ),
        )
        for group, rows in groups.items()
    ]
    values = [row.minutes for row in load_published_results()]
    line = ((min(values), min(values)), (max(values), max(values)))
    series.append(Series("equal", line, "#475467", joined=True))
    title = "predicted against published minutes, nothing given"
    return draw_points(series, "published minutes", "predicted minutes", log=True, title=title)
