"""Train ResNet-50 v1.5 to 75.90 % top-1: the run that is timed, and the probe that is not.

`python -m resnet.train run --system systems/NAME.toml --log FILE` on every rank;
`python -m resnet.train probe --config FILE --steps N [--json]` on one, or `--system FILE` on all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from harness.affinity import Binding
from harness.commands import GOOD, NOT_GOOD
from harness.config import load_config, logged_values
from harness.process_group import join, select_device, synchronize
from harness.provenance import log_provenance
from harness.ranks import Ranks, find_ranks
from harness.run_progress import RunProgress
from harness.runclock import RunClock
from harness.schedules import PolynomialWarmup, resnet_evaluation_epochs
from harness.seeds import derive_seed, draw_seed
from harness.systems import System, load_system
from harness.trainer import (
    bind_to_cores,
    clear_node_caches,
    look_before,
    parse_trainer_arguments,
    run_trainer,
)
from resnet.config import EVALUATION_PERIOD_EPOCHS, TARGET_ACCURACY, Config
from resnet.data import EvaluationInput, TrainingInput
from resnet.evaluate import evaluate
from resnet.probe import fill_with_noise, probe
from resnet.shards import Manifest, read_manifest
from resnet.step import TrainingStep

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Run:
    """Everything a run needs, ready before the clock starts."""

    config: Config
    ranks: Ranks
    clock: RunClock
    progress: RunProgress
    step: TrainingStep
    training: TrainingInput
    validation: EvaluationInput
    manifest: Manifest
    steps_per_epoch: int
    evaluation_epochs: list[int]


def train(run: Run) -> bool:
    """The timed run, from the start of the clock to its end: True if the target was reached."""
    config, clock, progress, step = run.config, run.clock, run.progress, run.step
    epoch = 0
    clock.start_run()
    progress.start()
    clock.log("train_samples", run.manifest.train.images)
    clock.log("eval_samples", run.manifest.val.images)
    run.training.open()  # the first touch of the data
    run.validation.open()
    for evaluation_epoch in run.evaluation_epochs:
        first_epoch = epoch + 1
        clock.start_block(first_epoch, evaluation_epoch - epoch)
        while epoch < evaluation_epoch:
            epoch += 1
            clock.start_epoch(epoch)
            progress.start_lap()
            for _ in range(run.steps_per_epoch):
                step.run(run.training.next_into)
                progress.samples += config.batch.global_batch_size
            clock.stop_epoch(epoch)
            rate = run.manifest.train.images / progress.lap_seconds()
            clock.log("tracked_stats", {"throughput": rate}, {"step": epoch})
        clock.start_evaluation(epoch)
        images = run.manifest.val.images
        accuracy = evaluate(step, run.validation, images, run.ranks.world_size)
        reached = clock.stop_evaluation(epoch, accuracy)
        clock.stop_block(first_epoch)
        progress.note = f"(epoch {epoch}: {accuracy:.4f})"
        if reached:
            break
    return clock.stop_run()


def prepare(options: argparse.Namespace) -> Run:
    """Do all that the rules leave untimed: ranks, checks by metadata, caches, model, warm-up."""
    system = load_system(options.system)
    config = load_config(ROOT / system.benchmarks.resnet.config, Config)
    ranks = find_ranks(system.nodes)
    binding = bind_to_cores(system, ranks)
    ranks.agree(config.batch.check_world_size(ranks.world_size))
    device = look_before(ranks, lambda: select_device(system, ranks))
    manifest = look_before(ranks, lambda: read_manifest(ROOT / system.benchmarks.resnet.data))
    caches = clear_node_caches(system, ranks, manifest.files())
    join(system, ranks, device)
    return build(options, system, config, ranks, binding, device, manifest, caches)


def build(
    options: argparse.Namespace,
    system: System,
    config: Config,
    ranks: Ranks,
    binding: Binding,
    device: torch.device,
    manifest: Manifest,
    caches: dict[str, object],
) -> Run:
    """Open the log, build model and input, warm up on synthetic data with the state restored."""
    clock = RunClock(ranks, options.log, TARGET_ACCURACY, lambda: synchronize(device))
    clock.log_submission("resnet", system.submission)
    if system.campaign.profile == "demo":
        clock.log("demonstration", True)
    log_provenance(clock, "resnet", system, options.system, ranks, binding)
    clock.log_cache_clear(caches)
    clock.start_init()
    seed = draw_seed(ranks)
    clock.log("seed", seed)
    batch, optimizer = config.batch, config.optimizer
    steps_per_epoch = -(-manifest.train.images // batch.global_batch_size)
    schedule = PolynomialWarmup(
        optimizer.base_learning_rate,
        optimizer.end_learning_rate,
        warmup_steps=optimizer.warmup_epochs * steps_per_epoch,
        total_steps=optimizer.decay_epochs * steps_per_epoch,
    )
    log_configuration(clock, config, schedule)
    torch.manual_seed(derive_seed(seed, "weights"))
    epochs = resnet_evaluation_epochs(
        config.evaluation.first_epoch, EVALUATION_PERIOD_EPOCHS, optimizer.decay_epochs
    )
    updates = epochs[-1] * steps_per_epoch
    learning_rates = [schedule(update) for update in range(updates)]
    step = TrainingStep(config, device, ranks.rank, ranks.world_size, learning_rates)
    if config.evaluation.log_weights:
        for name in step.model.weight_names():
            clock.log("weights_initialization", None, {"tensor": name})
    step.prepare(partial(fill_with_noise, config))
    place = (ranks.rank, ranks.world_size, batch.local_batch_size)
    data_seed = derive_seed(seed, "data", ranks.rank)
    training = TrainingInput(manifest, config.input, *place, seed=data_seed, device=device)
    validation = EvaluationInput(manifest, config.input, *place, device=device)
    training.prepare(step.images.dtype)
    validation.prepare(step.images.dtype)
    total_samples = updates * batch.global_batch_size
    progress = RunProgress(ranks, total_samples, "images", interval_seconds=0.5)
    return Run(
        config, ranks, clock, progress, step, training, validation, manifest,
        steps_per_epoch, epochs,
    )  # fmt: skip


def log_configuration(clock: RunClock, config: Config, schedule: PolynomialWarmup) -> None:
    """Write every hyperparameter under its MLPerf key."""
    for key, value in logged_values(config).items():
        clock.log(key, value)
    clock.log("opt_name", "lars")
    clock.log("lars_opt_learning_rate_decay_steps", schedule.decay_steps)


def main(arguments: Sequence[str]) -> int:
    """Run or probe. Status 0: the target was reached, or the probe is done; 1: it was missed."""
    options = parse_trainer_arguments("resnet", __doc__, arguments)
    if options.command == "probe":
        return probe(options)
    run = prepare(options)
    reached = train(run)
    run.progress.stop()
    run.training.close()
    run.validation.close()
    return GOOD if reached else NOT_GOOD


if __name__ == "__main__":
    run_trainer(main)
