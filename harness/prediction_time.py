"""Where the time of a run goes: one formula for every benchmark, term by term.

Every figure of a machine may also be an array of one value a campaign; so are the seconds then.

run = updates * (per-sample + per-step + waiting for input + exposed all-reduce)
      + evaluations + first epoch from cold storage + start and end.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from harness.prediction_convergence import Grid
from harness.prediction_network import (
    BACKWARD_SHARE,
    Network,
    compute_all_reduce_seconds,
    compute_exposed_seconds,
)
from harness.prediction_step import StepModel

# What a run takes beside steps, evaluations and a cold first epoch. ResNet: what is left of the
# anchors' runs (NVIDIA v4.0, eight nodes, 1.24 s). BERT: how much later the first evaluation ends
# than the later intervals would have it, median over the anchors (its own slowness included).
START_STOP_SECONDS = {"resnet": 1.2, "bert": 1.9}
# Evaluation in the published anchors. The rate of a pass against that of a step's samples alone
# (1 / per-sample seconds), and what a pass costs beside its samples. ResNet: NVIDIA v4.0, one and
# eight nodes of H100. BERT: median of the pairs of HPE v4.0 (H100), HPE v5.0 (H200) and Dell v5.0
# (GB200).
EVALUATION_RATIO = {"resnet": 2.5, "bert": 1.05}
EVALUATION_PASS_SECONDS = {"resnet": 0.06, "bert": 0.08}


@dataclass(frozen=True)
class Job:
    """What is to be trained, on how many ranks.

    samples_per_point: training samples in one unit of the grid (images of an epoch; 1 where the
    grid counts samples). last_bucket_share: of the gradient bytes, what is sent after the backward
    pass; 1 where nothing overlaps. gathered_share: of what an all-reduce moves, what brings updated
    weights to all ranks during the forward pass (a sharded optimizer's half); first_bucket_share:
    of that, what the forward pass needs to begin.
    """

    benchmark: str
    nodes: int
    ranks_per_node: int
    global_batch_size: int
    samples_per_point: float
    evaluation_samples: int
    gradient_bytes: float
    last_bucket_share: float
    grid: Grid
    gathered_share: float = 0.0
    first_bucket_share: float = 0.0

    @property
    def ranks(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def batch(self) -> float:
        """Samples of one rank in one update."""
        return self.global_batch_size / self.ranks


@dataclass(frozen=True)
class Machine:
    """How fast one rank and what joins them are.

    hidden_share: of the part of an all-reduce that could hide behind computation, what does.
    exposed: measured, what of one job's exchange each of its updates waits for; another job's, on
    more nodes or with another batch, is reckoned.
    evaluation_per_second: samples one rank evaluates a second. input_per_second: samples that one
    rank's input pipeline delivers a second; None: never waited for.
    """

    step: StepModel
    network: Network
    evaluation_per_second: float
    evaluation_pass_seconds: float
    first_epoch_extra_seconds: float
    start_stop_seconds: float
    input_per_second: float | None = None
    hidden_share: float = 1.0
    exposed: tuple[Job, float] | None = None


@dataclass(frozen=True)
class Terms:
    """Seconds of a run (or of an update), by what they are spent on."""

    samples: float
    steps: float
    input: float
    all_reduce: float
    evaluation: float
    first_epoch: float
    start_stop: float

    @property
    def total(self) -> float:
        """Seconds of all terms together."""
        total: float = sum(getattr(self, field.name) for field in fields(self))
        return total


TERM_NAMES = {
    "samples": "samples (kernels that scale with the batch)",
    "steps": "fixed cost of each step",
    "input": "waiting for input",
    "all_reduce": "all-reduce that is not hidden",
    "evaluation": "evaluation",
    "first_epoch": "first epoch from cold storage",
    "start_stop": "start and end",
}


def compute_update_seconds(job: Job, machine: Machine) -> Terms:
    """Seconds of one update, all its terms; those of a run are 0."""
    samples = machine.step.per_sample_seconds * job.batch
    steps = machine.step.per_step_seconds
    waiting = 0.0
    if machine.input_per_second is not None:
        waiting = np.maximum(0.0, job.batch / machine.input_per_second - samples - steps)
    all_reduce = compute_all_reduce_seconds(
        job.gradient_bytes, job.nodes, job.ranks_per_node, machine.network
    )
    gathered = job.gathered_share * all_reduce
    backward = BACKWARD_SHARE * (samples + steps)
    forward = samples + steps - backward
    overlapped = compute_exposed_seconds(all_reduce - gathered, job.last_bucket_share, backward)
    overlapped += compute_exposed_seconds(gathered, job.first_bucket_share, forward)
    exposed = overlapped + (1 - machine.hidden_share) * (all_reduce - overlapped)
    if machine.exposed is not None and machine.exposed[0] == job:
        exposed = machine.exposed[1]
    return Terms(samples, steps, waiting, exposed, 0.0, 0.0, 0.0)


def compute_evaluation_seconds(job: Job, machine: Machine) -> float:
    """Seconds of one evaluation."""
    per_rank = job.evaluation_samples / job.ranks
    return machine.evaluation_pass_seconds + per_rank / machine.evaluation_per_second


def compute_run_seconds(job: Job, machine: Machine, point: float) -> Terms:
    """Seconds of a run that converges at `point` (epochs or samples, as the grid counts)."""
    updates = point * job.samples_per_point / job.global_batch_size
    update = compute_update_seconds(job, machine)
    evaluations = sum(1 for at in job.grid.points if at <= point + 1e-9)
    return Terms(
        samples=updates * update.samples,
        steps=updates * update.steps,
        input=updates * update.input,
        all_reduce=updates * update.all_reduce,
        evaluation=evaluations * compute_evaluation_seconds(job, machine),
        first_epoch=machine.first_epoch_extra_seconds,
        start_stop=machine.start_stop_seconds,
    )
