"""Train BERT-large to 0.720 masked-LM accuracy: the run that is timed, and the probe that is not.

`python -m bert.train run --system systems/NAME.toml --log FILE` on every rank;
`python -m bert.train probe --config FILE --steps N [--json]` on one, or `--system FILE` on all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bert.checkpoint import read_checkpoint
from bert.config import (
    TARGET_ACCURACY,
    Config,
    check_evaluation_interval,
    list_evaluation_updates,
)
from bert.data import EvaluationInput, TrainingInput
from bert.evaluate import evaluate
from bert.probe import make_synthetic_batches, probe
from bert.shards import Manifest, read_manifest
from bert.static_batch import StaticBatch
from bert.step import TrainingStep
from harness.commands import GOOD, NOT_GOOD, InputError
from harness.config import load_config, logged_values
from harness.process_group import join, select_device, synchronize
from harness.provenance import log_provenance
from harness.ranks import Ranks, find_ranks
from harness.run_progress import RunProgress
from harness.runclock import RunClock
from harness.schedules import bert_learning_rate
from harness.seeds import derive_seed, draw_seed
from harness.systems import load_system
from harness.trainer import (
    bind_to_cores,
    clear_node_caches,
    look_before,
    parse_trainer_arguments,
    run_trainer,
)

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
    evaluation: EvaluationInput
    evaluation_set: Manifest
    evaluation_updates: list[int]

    def fetch(self, static_batches: Sequence[StaticBatch]) -> StaticBatch:
        """The next micro-batch, copied into a batch that a graph reads where there are any."""
        if static_batches:
            return self.training.next_into(static_batches)
        return self.training.next()


def train(run: Run) -> bool:
    """The timed run, from the start of the clock to its end: True if the target was reached."""
    config, clock, progress, step = run.config, run.clock, run.progress, run.step
    update = samples = 0
    clock.start_run()
    progress.start()
    clock.start_epoch(0)
    clock.start_block(1, 1)
    run.training.open()  # the first touch of the data
    for evaluation_update in run.evaluation_updates:
        while update < evaluation_update:
            step.run(run.fetch)
            update += 1
            progress.samples += config.batch.global_batch_size
        # Of applied updates alone: one whose gradient is not finite trains on nothing.
        samples = step.count_updates() * config.batch.global_batch_size
        clock.log("tracked_stats", {"throughput": progress.lap_rate()}, {"step": samples})
        progress.start_lap()
        clock.start_evaluation(samples)
        accuracy = evaluate(step, run.evaluation, run.evaluation_set, run.ranks.world_size)
        reached = clock.stop_evaluation(samples, accuracy)
        progress.note = f"({samples:,}: {accuracy:.4f})"
        if reached:
            break
    clock.stop_block(1)
    clock.stop_epoch(samples)
    clock.log("train_samples", samples)
    clock.log("skipped_updates", int(step.optimizer.overflows))  # whose gradient was not finite
    return clock.stop_run()


def learning_rate(config: Config, update: int) -> float:
    """The learning rate of update number `update`, counted from 0."""
    optimizer = config.optimizer
    return bert_learning_rate(
        update,
        optimizer.base_learning_rate,
        optimizer.training_steps,
        optimizer.warmup_steps,
        optimizer.start_warmup_step,
    )


def prepare(options: argparse.Namespace) -> Run:
    """Do all that the rules leave untimed: ranks, checks by metadata, caches, model, warm-up."""
    system = load_system(options.system)
    config = load_config(ROOT / system.benchmarks.bert.config, Config)
    check_evaluation_interval(system, config)
    updates = list_evaluation_updates(system, config)
    ranks = find_ranks(system.nodes)
    binding = bind_to_cores(system, ranks)
    ranks.agree(config.batch.check_world_size(ranks.world_size))
    device = look_before(ranks, lambda: select_device(system, ranks))
    data = ROOT / system.benchmarks.bert.data
    training = look_before(ranks, lambda: read_fitting_manifest(data / "train", config))
    evaluation = look_before(ranks, lambda: read_fitting_manifest(data / "eval", config))
    caches = clear_node_caches(system, ranks, [*list_files(training), *list_files(evaluation)])
    join(system, ranks, device)
    clock = RunClock(ranks, options.log, TARGET_ACCURACY, lambda: synchronize(device))
    if system.campaign.profile == "demo":
        clock.log("demonstration", True)
    log_provenance(clock, "bert", system, options.system, ranks, binding)
    clock.log_cache_clear(caches)
    clock.start_init()
    clock.log_submission("bert", system.submission)
    seed = draw_seed(ranks)
    clock.log("seed", seed)
    log_configuration(clock, config)
    clock.log("eval_samples", evaluation.examples)
    checkpoint = ROOT / system.benchmarks.bert.initial_checkpoint
    step = build_step(config, clock, ranks, device, checkpoint, seed)
    return connect_data(config, ranks, clock, step, training, evaluation, updates, seed)


def read_fitting_manifest(folder: Path, config: Config) -> Manifest:
    """Read a data folder's manifest and compare it with the configuration. Raises InputError."""
    manifest = read_manifest(folder)
    pairs = [
        ("max_seq_length", manifest.max_seq_length, config.input.max_sequence_length),
        (
            "max_predictions_per_seq",
            manifest.max_predictions_per_seq,
            config.input.max_predictions_per_sequence,
        ),
        ("vocabulary size", manifest.vocabulary_size, config.model.vocabulary_size),
    ]
    for name, found, wanted in pairs:
        if found != wanted:
            raise InputError(
                f"{folder} was prepared with {name} {found}, the configuration says {wanted}: "
                f"prepare the data again or change the configuration"
            )
    return manifest


def list_files(manifest: Manifest) -> list[Path]:
    """The paths of a data set's shards."""
    return [manifest.folder / shard.name for shard in manifest.shards]


def log_configuration(clock: RunClock, config: Config) -> None:
    """Write every hyperparameter under its MLPerf key (some have two)."""
    for key, value in logged_values(config).items():
        clock.log(key, value)
    clock.log("opt_name", "lamb")
    clock.log("opt_epsilon", config.optimizer.epsilon)
    clock.log("num_warmup_steps", config.optimizer.warmup_steps)


def build_step(
    config: Config,
    clock: RunClock,
    ranks: Ranks,
    device: torch.device,
    checkpoint: Path,
    seed: int,
) -> TrainingStep:
    """Load the initial checkpoint into the model, and seed dropout."""
    state = look_before(ranks, lambda: read_checkpoint(checkpoint, config.model))
    rates = [learning_rate(config, update) for update in range(config.optimizer.training_steps)]
    step = TrainingStep(config, device, ranks.rank, ranks.world_size, state, rates)
    if config.evaluation.log_weights:
        for name, _ in step.model.named_parameters():
            clock.log("weights_initialization", None, {"tensor": name})
    # Dropout differs between ranks, as the replicas' does in the reference.
    torch.manual_seed(derive_seed(seed, "dropout", ranks.rank))
    return step


def connect_data(
    config: Config,
    ranks: Ranks,
    clock: RunClock,
    step: TrainingStep,
    training: Manifest,
    evaluation: Manifest,
    updates: list[int],
    seed: int,
) -> Run:
    """Make the inputs, which open nothing yet, and warm up on synthetic batches of their shapes."""
    batch, place = config.batch, (ranks.rank, ranks.world_size)
    order_seed = derive_seed(seed, "order")
    prefetch = config.input.prefetch_batches
    inputs = TrainingInput(
        training, *place, batch.local_batch_size, order_seed, prefetch, step.device
    )
    local_batch = config.evaluation.local_batch_size
    evaluation_input = EvaluationInput(evaluation, *place, local_batch, step.device)
    step.prepare(
        make_synthetic_batches(config, inputs.budgets, step.device),
        make_synthetic_batches(config, evaluation_input.budgets, step.device),
    )
    total_samples = updates[-1] * batch.global_batch_size
    progress = RunProgress(ranks, total_samples, "sequences", interval_seconds=0.5)
    return Run(config, ranks, clock, progress, step, inputs, evaluation_input, evaluation, updates)


def main(arguments: Sequence[str]) -> int:
    """Run or probe. Status 0: the target was reached, or the probe is done; 1: it was missed."""
    options = parse_trainer_arguments("bert", __doc__, arguments)
    if options.command == "probe":
        return probe(options)
    run = prepare(options)
    reached = train(run)
    run.progress.stop()
    run.training.close()
    return GOOD if reached else NOT_GOOD


if __name__ == "__main__":
    run_trainer(main)
