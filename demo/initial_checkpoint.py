"""The demonstration's initial checkpoint: a short first phase of BERT, made once and untimed.

The real benchmark starts from a checkpoint that Google trained (phase 1); the demonstration's
comes from the same trainer's step, on the same kind of text, on one process.
"""

from __future__ import annotations

from pathlib import Path

import torch
from bert.checkpoint import write_state

from bert.config import Config
from bert.data import TrainingInput
from bert.shards import read_manifest
from bert.step import TrainingStep
from harness.progress import Progress

FIRST_PHASE_LEARNING_RATE = 0.01
LOCAL_BATCH = 64


def make_initial_checkpoint(
    config: Config, data: Path, file: Path, seed: int, updates: int
) -> None:
    """Train `updates` steps from random weights on prepared data and write the weights."""
    device = torch.device("cpu")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    step = TrainingStep(config, device, world_size=1, initial_state=None)
    training = TrainingInput(read_manifest(data), 0, 1, LOCAL_BATCH, seed, 2, device)
    training.open()
    progress = Progress("initial checkpoint", updates, "updates")
    for update in range(updates):
        for _ in range(config.batch.gradient_accumulation_steps):
            step.accumulate(training.next())
        step.update(FIRST_PHASE_LEARNING_RATE * min(1.0, (update + 1) / 10))
        progress.update(update + 1)
    training.close()
    progress.finish(updates)
    state = {name: parameter.detach() for name, parameter in step.model.named_parameters()}
    write_state(file, state)
