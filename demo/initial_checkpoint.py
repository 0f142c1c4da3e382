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

LEARNING_RATE = 0.02
WARMUP_UPDATES = 10
LOCAL_BATCH = 64
# BERT's initial 0.02 suits 1024 channels; the demonstration's 64 learn nothing for long from it.
INITIAL_SCALE = 4.0


def make_initial_checkpoint(
    config: Config, data: Path, file: Path, seed: int, updates: int
) -> None:
    """Train `updates` steps from random weights on prepared data and write the weights."""
    device = torch.device("cpu")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rates = [LEARNING_RATE * min(1.0, (update + 1) / WARMUP_UPDATES) for update in range(updates)]
    step = TrainingStep(config, device, 0, 1, None, rates)
    with torch.no_grad():
        for parameter in step.model.adapted_parameters():
            parameter.mul_(INITIAL_SCALE)
    training = TrainingInput(read_manifest(data), 0, 1, LOCAL_BATCH, seed, 2, device)
    training.open()
    progress = Progress("initial checkpoint", updates, "updates")
    for update in range(updates):
        step.run(lambda _: training.next())
        progress.update(update + 1)
    training.close()
    progress.finish(updates)
    state = {name: parameter.detach() for name, parameter in step.model.named_parameters()}
    write_state(file, state)
