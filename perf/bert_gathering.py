"""Gain of bringing updated weights back behind the next forward pass, not behind the update.

`python -m perf.bert_gathering` takes steps of a small BERT on four ranks of this machine, its
optimizer sharded over them, in turns: as it is, and with every weight gathered before the step
ends. Loopback hides what a network costs: run it where loopback is slow, as root

    unshare --net sh -c 'ip link set lo up; tc qdisc add dev lo root tbf rate 1gbit burst 1mb \\
      latency 100ms; python -m perf.bert_gathering'

What carries over to GPUs is that the exchange hides, not how long it takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from bert.config import Config
from bert.model import ModelConfig
from bert.probe import make_synthetic_batch
from bert.step import TrainingStep
from harness.commands import GOOD, InputError, Parser, run_command
from harness.config import load_config
from harness.rank_probe import leave_out_exchange
from perf.comparison import Comparison, add_common_options, check_positive

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bert" / "configs" / "demo.toml"
RANKS = 4
LIMIT = timedelta(minutes=5)
MODEL = ModelConfig(
    vocabulary_size=2000,
    hidden_size=256,
    layers=6,
    heads=4,
    intermediate_size=1024,
    positions=64,
    segments=2,
    dropout=0.1,
    attention_dropout=0.1,
)
Turn = dict[str, float]


def make_step(rank: int, world_size: int) -> TrainingStep:
    """The demonstration's step with a larger model in buckets of 2 MiB, sharded over the ranks."""
    config = load_config(CONFIG, Config)
    shares = dataclasses.replace(config.communication, bucket_megabytes=2, sharded_optimizer=True)
    config = dataclasses.replace(config, model=MODEL, communication=shares)
    torch.manual_seed(0)
    return TrainingStep(config, torch.device("cpu"), rank, world_size, None, [1e-3] * 10_000)


def gather_at_the_end(step: TrainingStep, run: Callable[[], None]) -> None:
    """Take a step that begins with nothing sent and ends with all weights on all ranks."""
    gathering = step.gathering
    begin = gathering.begin
    gathering.begin = lambda: None  # type: ignore[method-assign]
    try:
        run()
    finally:
        gathering.begin = begin  # type: ignore[method-assign]
    gathering.gather()


def measure_rank(rank: int, store: str, options: argparse.Namespace, results: Connection) -> None:
    """Take `options.rounds` turns on one rank; rank 0 sends their seconds, the slowest rank's."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", None, LIMIT, RANKS, rank, dist.FileStore(store, RANKS))
    step = make_step(rank, RANKS)
    batch = make_synthetic_batch(step.config, options.sequences, torch.device("cpu"))

    def run() -> None:
        step.run(lambda _: batch)

    def run_alone() -> None:
        with leave_out_exchange():
            run()

    calls = {"ours": run, "peer": lambda: gather_at_the_end(step, run), "alone": run_alone}
    turns: list[Turn] = []
    for _ in range(options.rounds + 1):
        seconds = {}
        for name, call in calls.items():
            dist.barrier()
            start = time.monotonic()
            call()
            dist.barrier()
            seconds[name] = time.monotonic() - start
        turns.append(seconds)
    if rank == 0:
        results.send(turns[1:])
    dist.destroy_process_group()


def measure(options: argparse.Namespace) -> list[Turn]:
    """Start the ranks and wait for them. Raises RuntimeError where one fails."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        receiving, sending = context.Pipe(duplex=False)
        store = str(Path(folder) / "store")
        ranks = [
            context.Process(target=measure_rank, args=(rank, store, options, sending))
            for rank in range(RANKS)
        ]
        for process in ranks:
            process.start()
        sending.close()
        try:
            turns: list[Turn] = receiving.recv()
        except EOFError:
            raise RuntimeError("a rank ended before it had measured") from None
        finally:
            for process in ranks:
                process.join()
    return turns


def compare(options: argparse.Namespace) -> Comparison:
    """Measure both steps, and the same with nothing exchanged."""
    turns = measure(options)
    ratios = [turn["peer"] / turn["ours"] for turn in turns]
    median = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    waited = {name: median[name] - median["alone"] for name in ("ours", "peer")}
    return Comparison(
        what="bert step, weights gathered behind the next forward pass",
        unit="seconds/step",
        ours=median["ours"],
        peer_name="weights gathered behind the update",
        peer=median["peer"],
        ratio=statistics.median(ratios),
        ratios=(min(ratios), max(ratios)),
        how=f"wall time, {options.rounds} turns of {options.sequences} sequences on each of "
        f"{RANKS} ranks; with nothing exchanged {median['alone']:.3g} seconds/step, so that "
        f"{waited['ours']:.3g} and {waited['peer']:.3g} are waited for",
    )


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    description, _, where = str(__doc__).partition("\n\n")
    parser = Parser(
        prog="python -m perf.bert_gathering",
        description=description,
        epilog=where,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sequences", type=int, default=16, help="sequences of a rank's step")
    add_common_options(parser, rounds=7)
    options = parser.parse_args(arguments)
    check_positive(options, "sequences", "rounds")
    try:
        compare(options).show(options.json)
    except RuntimeError as fault:
        raise InputError(f"{fault}: its own words stand above") from None
    return GOOD


if __name__ == "__main__":
    run_command(main)
