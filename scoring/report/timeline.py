"""Where the time of a run went: initialisation, first epoch or interval, training, evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from scoring.run import Run


@dataclass(frozen=True)
class Timeline:
    """Seconds of one run's parts; initialisation lies before the clock, the others on it.

    `first_interval` is ResNet's first epoch where its end is logged, else the time to the first
    evaluation. `evaluation` is None where the log has no eval_start and eval_stop: it is then in
    `training`.
    """

    initialisation: float
    first_interval: float
    training: float
    evaluation: float | None


def measure_timeline(run: Run) -> Timeline | None:
    """Measure the parts of a run; None where it did not start, stop and evaluate in order."""
    if run.start is None or run.stop is None or run.minutes is None or not run.evaluations:
        return None
    start, stop = run.start.time_ms, run.stop.time_ms
    first = _find_first_end(run, start, stop)
    evaluation = _sum_evaluations(run, start, stop)
    total, first_interval = (stop - start) / 1000, (first - start) / 1000
    training = total - first_interval - (evaluation or 0.0)
    if first_interval < 0 or training < 0:
        return None
    launch = run.initialisation
    initialisation = max(0.0, (start - launch.time_ms) / 1000) if launch else 0.0
    return Timeline(initialisation, first_interval, training, evaluation)


def _find_first_end(run: Run, start: float, stop: float) -> float:
    """Give the time in ms at which the first epoch or interval ends."""
    if run.benchmark == "resnet":
        epochs = [e for e in run.get_events("epoch_stop") if e.metadata.get("epoch_num") == 1]
        ends = [event.time_ms for event in epochs if start <= event.time_ms <= stop]
        if ends:
            return max(ends)
    begun = [event for event in run.get_events("eval_start") if start <= event.time_ms <= stop]
    return min((event.time_ms for event in begun), default=run.evaluations_by_time[0].time_ms)


def _sum_evaluations(run: Run, start: float, stop: float) -> float | None:
    """Add up the evaluations inside the run, in seconds; None where they are not logged."""
    ends = {str(e.metadata.get("epoch_num")): e.time_ms for e in run.get_events("eval_stop")}
    begins = {str(e.metadata.get("epoch_num")): e.time_ms for e in run.get_events("eval_start")}
    lengths = [
        ends[point] - begin
        for point, begin in begins.items()
        if point in ends and start <= begin <= ends[point] <= stop
    ]
    return sum(lengths) / 1000 if lengths else None
