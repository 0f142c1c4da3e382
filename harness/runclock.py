"""The run's clock: every MLLOG line, in the only order the rules allow, with one way to end.

The log lines carry the caller's file and line, so that a reviewer who reads a log opens the
trainer at the right place. A call out of order raises: a wrong log cannot be written.
Rules: "Run Results", "Quality measure" (training_rules.adoc); keys: compliance rules 4.0.0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from harness.ranks import Ranks
from harness.systems import Submission

ROOT = Path(__file__).resolve().parent.parent


class Phase(Enum):
    """Where a run is; a method names the phases it may be called in."""

    BEFORE = "before init_start"
    INIT = "between init_start and run_start"
    RUN = "in the run, outside a block"
    BLOCK = "in a block"
    EVALUATION = "in an evaluation"
    STOPPED = "after run_stop"


class ClockError(RuntimeError):
    """A call out of order: a defect of the trainer, never of its input."""


class _StrictFileHandler(logging.FileHandler):
    """Writes log lines and lets a full disk stop the run instead of losing lines."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704  the error that logging caught, while it is being handled


def _open_logger(path: Path) -> Any:
    from mlperf_logging.mllog.mllog import MLLogger

    logger = logging.Logger(f"mlperf {path}", logging.INFO)
    logger.addHandler(_StrictFileHandler(path, mode="x", encoding="utf-8"))
    # Offset 3: the line belongs to who called the clock, past _event and the clock's method.
    return MLLogger(logger, default_stack_offset=3, root_dir=str(ROOT))


class RunClock:
    """Writes the log of one run on rank 0; on the other ranks it only keeps order and barriers.

    path: the log file, created here, never overwritten (FileExistsError).
    target: the quality that ends the run with success (0.759 or 0.720), compared unrounded.
    synchronize: waits until every rank and device has finished its work; called around the
        start of the clock. Before its stop the evaluation's all-reduce has waited already.
    """

    def __init__(
        self, ranks: Ranks, path: Path, target: float, synchronize: Callable[[], None]
    ) -> None:
        # Imported here, since a trainer's probe writes no log and has to do without the library.
        from mlperf_logging.mllog import constants

        self._keys = constants
        self._logger = _open_logger(path) if ranks.first else None
        self._target, self._synchronize = target, synchronize
        self._phase = Phase.BEFORE
        self._submitted: set[str] = set()
        self.reached = False

    # -- before the run ---------------------------------------------------------------------

    def log_submission(self, benchmark: str, submission: Submission) -> None:
        """Write the five submission_* lines; allowed before and during initialisation."""
        self._expect("log_submission", Phase.BEFORE, Phase.INIT)
        self._event(self._keys.SUBMISSION_BENCHMARK, benchmark)
        self._event(self._keys.SUBMISSION_ORG, submission.organization)
        self._event(self._keys.SUBMISSION_DIVISION, self._keys.CLOSED)
        self._event(self._keys.SUBMISSION_STATUS, submission.status)
        self._event(self._keys.SUBMISSION_PLATFORM, submission.platform)
        self._submitted.add("submission")

    def log_cache_clear(self, record: dict[str, Any]) -> None:
        """Write cache_clear with what was really done on each host as its metadata."""
        self._expect("log_cache_clear", Phase.BEFORE)
        self._event(self._keys.CACHE_CLEAR, True, record)
        self._submitted.add("cache_clear")

    def start_init(self) -> None:
        """Write init_start: from here at most 30 minutes to run_start (closed division)."""
        self._expect("start_init", Phase.BEFORE)
        if "cache_clear" not in self._submitted:
            raise ClockError("start_init before log_cache_clear")
        self._phase = Phase.INIT
        self._interval_start(self._keys.INIT_START)

    def log(self, key: str, value: Any, metadata: dict[str, Any] | None = None) -> None:
        """Write one point in time with a key that has no method of its own."""
        if self._phase is Phase.STOPPED:
            raise ClockError(f"log('{key}') after run_stop")
        self._event(key, value, metadata)

    def start_run(self) -> None:
        """Wait for every rank and device, then write init_stop and run_start back to back.

        No rank goes on before the line is written: none can touch the data too early.
        """
        self._expect("start_run", Phase.INIT)
        if "submission" not in self._submitted:
            raise ClockError("start_run before log_submission")
        self._synchronize()
        self._phase = Phase.RUN
        self._interval_end(self._keys.INIT_STOP)
        self._interval_start(self._keys.RUN_START)
        self._synchronize()

    # -- in the run -------------------------------------------------------------------------

    def start_block(self, first_epoch: int, epochs: int) -> None:
        """Write block_start for `epochs` epochs from `first_epoch` (counted from 1)."""
        self._expect("start_block", Phase.RUN)
        self._phase = Phase.BLOCK
        metadata = {"first_epoch_num": first_epoch, "epoch_count": epochs}
        self._interval_start(self._keys.BLOCK_START, metadata=metadata)

    def stop_block(self, first_epoch: int) -> None:
        """Write block_stop of the block that started at `first_epoch`."""
        self._expect("stop_block", Phase.BLOCK)
        self._phase = Phase.RUN
        self._interval_end(self._keys.BLOCK_STOP, metadata={"first_epoch_num": first_epoch})

    def start_epoch(self, epoch: int) -> None:
        """Write epoch_start; BERT counts samples and wraps its block in epoch 0."""
        self._expect("start_epoch", Phase.RUN, Phase.BLOCK)
        self._interval_start(self._keys.EPOCH_START, metadata={"epoch_num": epoch})

    def stop_epoch(self, epoch: int) -> None:
        """Write epoch_stop."""
        self._expect("stop_epoch", Phase.RUN, Phase.BLOCK)
        self._interval_end(self._keys.EPOCH_STOP, metadata={"epoch_num": epoch})

    def start_evaluation(self, epoch: int) -> None:
        """Write eval_start; epoch: epochs done, or samples for BERT."""
        self._expect("start_evaluation", Phase.BLOCK)
        self._phase = Phase.EVALUATION
        self._interval_start(self._keys.EVAL_START, metadata={"epoch_num": epoch})

    def stop_evaluation(self, epoch: int, accuracy: float) -> bool:
        """Write eval_stop and eval_accuracy (a fraction); say whether the target is reached."""
        self._expect("stop_evaluation", Phase.EVALUATION)
        if not 0.0 <= accuracy <= 1.0:
            raise ClockError(f"accuracy {accuracy} is no fraction")
        self._phase = Phase.BLOCK
        self._interval_end(self._keys.EVAL_STOP, metadata={"epoch_num": epoch})
        self._event(self._keys.EVAL_ACCURACY, accuracy, {"epoch_num": epoch})
        # The compliance rules want a value below 1.
        self.reached = self._target <= accuracy < 1.0
        return self.reached

    def stop_run(self) -> bool:
        """Write run_stop: success if the last evaluation reached the target, else aborted."""
        self._expect("stop_run", Phase.RUN)
        self._phase = Phase.STOPPED
        status = self._keys.SUCCESS if self.reached else self._keys.ABORTED
        self._interval_end(self._keys.RUN_STOP, metadata={"status": status})
        self.close()
        return self.reached

    def close(self) -> None:
        """Close the log file; a run that was not stopped stays without run_stop."""
        if self._logger is not None:
            for handler in self._logger.logger.handlers:
                handler.close()

    # -- writing ----------------------------------------------------------------------------

    def _expect(self, method: str, *phases: Phase) -> None:
        if self._phase not in phases:
            wanted = " or ".join(phase.value for phase in phases)
            raise ClockError(f"{method} belongs {wanted}, but the run is {self._phase.value}")

    def _event(self, key: str, value: Any, metadata: dict[str, Any] | None = None) -> None:
        if self._logger is not None:
            self._logger.event(key, value, metadata=metadata)

    def _interval_start(self, key: str, metadata: dict[str, Any] | None = None) -> None:
        if self._logger is not None:
            self._logger.start(key, metadata=metadata)

    def _interval_end(self, key: str, metadata: dict[str, Any] | None = None) -> None:
        if self._logger is not None:
            self._logger.end(key, metadata=metadata)
