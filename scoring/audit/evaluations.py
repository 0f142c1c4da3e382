"""Checks of the evaluations: their times, their distance, their values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from scoring.findings import Finding, quote
from scoring.rules import TARGETS, compute_bert_interval_samples, is_number
from scoring.run import Run
from scoring.submission import Result

STOP_SLACK_MS = 1000
RANK_SKEW_MS = 10
GRANULARITY = 0.02


def check_inside_run(result: Result) -> Iterator[Finding]:
    """Refuse evaluations stamped outside the run and work before the clock starts."""
    for run in result.runs:
        start, stop = run.start, run.stop
        for evaluation in run.evaluations:
            if start and evaluation.time_ms < start.time_ms:
                message = "an accuracy is stamped before run_start"
                yield run.remark("eval-outside-run", message, evaluation.event)
            elif stop and evaluation.time_ms > stop.time_ms + STOP_SLACK_MS:
                minutes = (evaluation.time_ms - stop.time_ms) / 60_000
                message = f"an accuracy is stamped {minutes:.2f} min after run_stop"
                yield run.remark("eval-outside-run", message, evaluation.event)
            elif stop and evaluation.time_ms > stop.time_ms + RANK_SKEW_MS:
                # Within the second that the clocks of two processes may differ by.
                late_ms = evaluation.time_ms - stop.time_ms
                message = f"an accuracy is stamped {late_ms:.0f} ms after the clock was stopped"
                yield run.remark("work-after-run-stop", message, evaluation.event)
        early = next((e for e in run.work if start and e.time_ms < start.time_ms), None)
        if early:
            message = f"{early.key} is stamped before run_start"
            yield run.remark("work-before-run-start", message, early)
        late = next(
            (
                e
                for e in run.work
                if stop
                and e.time_ms > stop.time_ms + STOP_SLACK_MS
                # A late accuracy is an evaluation outside the run, told above.
                and e.key != "eval_accuracy"
            ),
            None,
        )
        if late:
            message = f"{late.key} is stamped after run_stop"
            yield run.remark("work-after-run-stop", message, late)


def check_time_order(result: Result) -> Iterator[Finding]:
    """Refuse a later evaluation point with an earlier or equal time."""
    for run in result.runs:
        points = run.evaluations_by_point
        for before, after in itertools.pairwise(points):
            if after.time_ms <= before.time_ms:
                message = (
                    f"the evaluation at {after.point:g} is not stamped after "
                    f"that at {before.point:g} in line {before.event.line}"
                )
                yield run.remark("eval-time-order", message, after.event)


def check_cadence(result: Result) -> Iterator[Finding]:
    """Refuse evaluations at other points than the rules ask for, or more than one at a point."""
    for run in result.runs:
        if not run.evaluations:
            continue
        check = _check_epochs if result.benchmark == "resnet" else _check_samples
        found = list(check(result, run))
        yield from found or _find_repeats(run)


def _find_repeats(run: Run) -> Iterator[Finding]:
    """Report a point with two accuracies: one model has one, so it was not the same model.

    The same accuracy again is the line of another rank.
    """
    accuracies: dict[float, float] = {}
    for evaluation in run.evaluations:
        first = accuracies.setdefault(evaluation.point, evaluation.accuracy)
        if evaluation.accuracy != first:
            message = (
                f"the point {evaluation.point:.10g} is evaluated twice, "
                f"with {first:g} and {evaluation.accuracy:g}: one evaluation at each is asked for"
            )
            yield run.remark(f"cadence-{run.benchmark}", message, evaluation.event)
            return


def _check_epochs(result: Result, run: Run) -> Iterator[Finding]:
    interval = result.profile.resnet.evaluation_interval_epochs
    evaluations = run.evaluations_by_point
    first = evaluations[0].point
    for place, evaluation in enumerate(evaluations):
        wanted = first + interval * place
        if evaluation.point != wanted or not 1 <= first <= interval or first != int(first):
            message = (
                f"evaluated after epoch {evaluation.point:g}; asked for is every "
                f"{interval} epochs, the first after epoch 1 to {interval}"
            )
            yield run.remark("cadence-resnet", message, evaluation.event)
            return


def _check_samples(result: Result, run: Run) -> Iterator[Finding]:
    """Compare intervals with the rule; a point may be rounded up to a full batch."""
    batch = run.global_batch_size
    interval = result.profile.bert.evaluation_interval_samples
    if not interval:
        interval = compute_bert_interval_samples(batch) if batch else 0
    if not batch or interval <= 0:
        return
    evaluations = run.evaluations_by_point
    count, last = len(evaluations), evaluations[-1]
    if last.point < batch:
        message = (
            f"the last evaluation is at {last.point:g}: numbered by epochs or passes, "
            "not by training samples"
        )
        yield run.remark("cadence-bert", message, last.event)
        return
    mean = last.point / count
    if abs(last.point - count * interval) > max(0.01 * count * interval, batch):
        message = f"evaluated every {mean:.0f} samples on average, {interval} are asked for"
        yield run.remark("cadence-bert", message, last.event)
        return
    before = 0.0
    for evaluation in evaluations:
        distance = evaluation.point - before
        if abs(distance - interval) > 0.03 * interval + 2 * batch:
            message = f"{distance:.0f} samples to this evaluation, {interval} are asked for"
            yield run.remark("cadence-bert", message, evaluation.event)
            return
        before = evaluation.point


def check_status(result: Result) -> Iterator[Finding]:
    """Report a status that contradicts the accuracies, and evaluating on after the pass."""
    target = TARGETS[result.benchmark]
    for run in result.runs:
        passed = run.first_pass
        if run.ends_below_target:
            last = run.evaluations_by_time[-1]
            message = f"status success, but the last accuracy is {last.accuracy!r}, target {target}"
            yield run.remark("success-below-target", message, last.event)
        if passed and run.stop and run.status != "success":
            message = f"the target was reached, but the status is {quote(run.status)}"
            yield run.remark("target-reached-not-success", message, run.stop)
        later = [e for e in run.evaluations if passed and e.point > passed.point]
        if passed and later:
            message = f"evaluated on after the pass in line {passed.event.line}"
            yield run.remark("evals-after-pass", message, later[0].event)


def check_granularity(result: Result) -> Iterator[Finding]:
    """Report a ResNet accuracy that is no whole number of evaluation images."""
    if result.benchmark != "resnet":
        return
    for run in result.runs:
        images = result.profile.resnet.eval_samples
        logged = run.get_value("eval_samples")
        # Some pipelines drop the last image; both counts appear in published results.
        counts = {images, images - 1}
        if is_number(logged) and logged > 0:
            counts.add(int(logged))
        odd = min(
            ([e for e in run.evaluations if _is_odd(e.accuracy, count)] for count in counts),
            key=len,
        )
        if odd:
            accuracy = odd[0].accuracy
            message = f"accuracy {accuracy!r} is no whole number of {images} images"
            yield run.remark("accuracy-granularity", message, odd[0].event)


def _is_odd(accuracy: float, count: int) -> bool:
    images = accuracy * count
    return abs(images - round(images)) > GRANULARITY


def check_train_samples(result: Result) -> Iterator[Finding]:
    """Report BERT train_samples that is not the last evaluation point."""
    if result.benchmark != "bert":
        return
    for run in result.runs:
        event = run.get_last("train_samples")
        points = run.evaluations_by_point
        if event and points and event.value != points[-1].point:
            message = (
                f"train_samples is {quote(event.value)}, the last evaluation was at "
                f"{points[-1].point:g}: the stock option that reads train_samples would differ"
            )
            yield run.remark("train-samples-vs-eval", message, event)
