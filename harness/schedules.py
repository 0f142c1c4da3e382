"""When the learning rate is what, and when to evaluate, in both benchmarks: plain arithmetic.

A learning rate belongs to an update, counted from 0, and is the value applied in that update.
Rates are Python floats; counts are exact.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PolynomialWarmup:
    """Learning rate of image classification: linear warm-up, then polynomial decay of power 2.

    base is reached at step warmup_steps; end at step total_steps + 1, and kept from there on.
    Steps are updates, not epochs. Raises ValueError for counts that make no schedule.
    Source: mlcommons/training resnet-tf2 lars_util.py PolynomialDecayWithWarmup.
    """

    base: float
    end: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must lie between 0 and total_steps "
                f"({self.total_steps})"
            )

    @property
    def decay_steps(self) -> int:
        """Steps from base to end, which the run log calls the decay steps."""
        return self.total_steps - self.warmup_steps + 1

    def __call__(self, step: int) -> float:
        """Rate of update `step`, 0 for the first (whose rate is 0 where there is a warm-up)."""
        if step < 0:
            raise ValueError(f"step must not be negative, but is {step}")
        if step < self.warmup_steps:
            return self.base * step / self.warmup_steps
        left = 1.0 - min(step - self.warmup_steps, self.decay_steps) / self.decay_steps
        return self.end + (self.base - self.end) * left**2


def bert_learning_rate(
    step: int, base: float, training_steps: int, warmup_steps: int, start_warmup_step: int
) -> float:
    """Learning rate of language modelling: linear warm-up, then linear decay to 0.

    step: 0 for the first update. Warm-up runs from start_warmup_step (below 0: it begins above
    rate 0) to start_warmup_step + warmup_steps; warmup_steps 0 means none, whatever the start. The
    decay counts from step 0 through the warm-up, so the rate drops at its end, and is 0 from step
    training_steps on. Raises ValueError for counts that make no schedule.
    Source: mlcommons/training bert optimization.py create_optimizer.
    """
    if step < 0 or warmup_steps < 0 or training_steps < 1:
        raise ValueError(
            f"step ({step}) and warmup_steps ({warmup_steps}) must not be negative, and "
            f"training_steps ({training_steps}) must be positive"
        )
    if warmup_steps > 0 and step - start_warmup_step < warmup_steps:
        return base * (step - start_warmup_step) / warmup_steps
    return base * (1.0 - min(step, training_steps) / training_steps)


def evaluation_interval_samples(global_batch_size: int) -> int:
    """Training samples between two evaluations of the language model.

    FLOOR(0.05 (230.23 global_batch_size + 3,000,000), 25,000), in whole numbers, so that no
    rounding moves a boundary. Source: mlcommons/training_policies training_rules.adoc,
    Benchmark Specific Rules/Bert.
    """
    if global_batch_size < 1:
        raise ValueError(f"global_batch_size must be positive, not {global_batch_size}")
    # 0.05 (230.23 g + 3e6) = (23023 g + 3e8) / 2000
    return (23_023 * global_batch_size + 300_000_000) // (2_000 * 25_000) * 25_000


def evaluation_updates(
    interval_samples: int, global_batch_size: int, last_update: int
) -> list[int]:
    """Numbers of the updates (1 for the first) that an evaluation follows, up to last_update.

    The k-th evaluation comes after update ceil(k interval_samples / global_batch_size), each point
    rounded up by itself; the initial weights are not evaluated, and an interval shorter than a
    batch evaluates once an update. Source: as evaluation_interval_samples.
    """
    if interval_samples < 1 or global_batch_size < 1:
        raise ValueError(
            f"interval_samples ({interval_samples}) and global_batch_size ({global_batch_size}) "
            "must be positive"
        )
    evaluations = last_update * global_batch_size // interval_samples
    updates = (-(-k * interval_samples // global_batch_size) for k in range(1, evaluations + 1))
    return list(dict.fromkeys(updates))


def resnet_evaluation_epochs(first_epoch: int, period_epochs: int, decay_epochs: int) -> list[int]:
    """Epochs (1 for the first) that an evaluation of the image classifier follows.

    first_epoch: 1 to period_epochs; the last is the first of the grid at which the learning rate
    has decayed, decay_epochs or later: a run that misses its target there ends.
    Source: training_rules.adoc, evaluation every 4 epochs with offset 0 to 3; mlcommons/training
    resnet-tf2 common.py get_num_train_iterations rounds the training up to an evaluation.
    """
    if not 1 <= first_epoch <= period_epochs or decay_epochs < 1:
        raise ValueError(
            f"the first evaluation must follow epoch 1 to {period_epochs}, not {first_epoch}, and "
            f"decay_epochs ({decay_epochs}) must be positive"
        )
    periods = max(0, -(-(decay_epochs - first_epoch) // period_epochs))
    return [first_epoch + period * period_epochs for period in range(periods + 1)]
