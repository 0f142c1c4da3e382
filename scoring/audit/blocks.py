"""Checks of ResNet's blocks and epochs: numbered on, and closed by the evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from scoring.findings import Finding
from scoring.log import Event
from scoring.rules import is_number
from scoring.run import Run
from scoring.submission import Result


def check_blocks(result: Result) -> Iterator[Finding]:
    """Report a block that does not follow on the one before, or ends elsewhere than evaluated."""
    if result.benchmark != "resnet":
        return
    for run in result.runs:
        blocks = [
            (event.metadata["first_epoch_num"], event.metadata["epoch_count"], event)
            for event in run.get_events("block_start")
            if is_number(event.metadata.get("first_epoch_num"))
            and is_number(event.metadata.get("epoch_count"))
        ]
        yield from _check_chain(run, blocks)
        points = run.evaluations_by_point
        if not blocks or not run.converged or not points:
            continue
        first, count, event = blocks[-1]
        if points[-1].point != first + count - 1:
            message = (
                f"the last block ends with epoch {first + count - 1:g}, "
                f"the last evaluation was after epoch {points[-1].point:g}"
            )
            yield run.remark("block-chain", message, event)


def _check_chain(run: Run, blocks: list[tuple[float, float, Event]]) -> Iterator[Finding]:
    for (first, count, _), (following, _, event) in itertools.pairwise(blocks):
        if first + count != following:
            message = f"the block starts with epoch {following:g}, expected {first + count:g}"
            yield run.remark("block-chain", message, event)
            return


def check_epochs(result: Result) -> Iterator[Finding]:
    """Report ResNet epochs not numbered 1, 2, 3 and on, and evaluations after others than begun."""
    if result.benchmark != "resnet":
        return
    for run in result.runs:
        expected = 1
        for event in run.get_events("epoch_start"):
            number = event.metadata.get("epoch_num")
            if number == expected:
                expected += 1
            elif number != expected - 1:
                # The same number again is the line of another rank.
                message = f"an epoch numbered {number!r:.20} where {expected} is next"
                yield run.remark("epoch-numbering", message, event)
                break
        else:
            begun = expected - 1
            late = next((e for e in run.evaluations_by_point if begun and e.point > begun), None)
            if late:
                message = (
                    f"evaluated after epoch {late.point:g}, but only {begun} epochs were begun"
                )
                yield run.remark("epoch-numbering", message, late.event)
