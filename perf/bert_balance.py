"""How evenly ranks share a step's tokens, and what filling up to budgets costs: a simulation.

`python -m perf.bert_balance` draws global batches of sequences with Wikipedia's lengths and shares
them out as the trainer does, as they come (the peer), and in serpentine order of length. Counts
alone: what they mean in time depends on the machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from bert.balance import share_out
from bert.budget import NOT_LISTED, plan_budgets
from bert.examples import ExampleSettings
from bert.probe import draw_lengths
from harness.commands import GOOD, Parser, run_command
from perf.comparison import check_positive, read_cpu_seconds

Array = npt.NDArray[np.int64]
# Time of a sequence of L tokens, in units of a token's linear layers: L + L^2 / QUADRATIC_TOKENS.
# A prediction from a roofline of BERT-large on one H200: 749 us of linear layers, heads and
# pointwise work at a mean of 254.4 tokens, 112 us of attention at a mean square of 98,826.
QUADRATIC_TOKENS = 2600
SETTINGS = ExampleSettings()
# Ranks and sequences a rank: the published batches of 768 and 3072, and what lies between.
CASES = ((8, 96), (16, 48), (16, 96), (32, 48), (32, 96))


@dataclass(frozen=True)
class Balance:
    """Largest over mean, in percent above 1, means over the steps (the largest in *_worst)."""

    ranks: int
    sequences: int
    steps: int
    in_order_tokens: float
    serpentine_tokens: float
    tokens: float
    tokens_worst: float
    cost: float
    masked: float
    budgets: int
    filled_up: float
    not_listed: float
    in_order_weight: float
    weight: float
    milliseconds: float


def share_in_order(lengths: Array, ranks: int) -> Array:
    """Consecutive stretches of the order, (ranks, sequences a rank)."""
    return np.arange(len(lengths)).reshape(ranks, -1)


def share_serpentine(lengths: Array, ranks: int) -> Array:
    """Sorted by length and dealt forwards and backwards in turn, (ranks, sequences a rank)."""
    table = np.argsort(-lengths, kind="stable").reshape(-1, ranks)
    table[1::2] = table[1::2, ::-1]
    return table.T


def exceed(values: Array) -> float:
    """How far the largest lies above the mean, in percent."""
    return 100 * (float(values.max()) / float(values.mean()) - 1)


def measure_weights(masked: Array, shares: Array) -> float:
    """How far a masked token's weight varies over ranks: standard deviation, in percent.

    Each rank takes the mean over its own M masked tokens, so one of them weighs 1 / M.
    """
    weights = 1 / masked[shares].sum(axis=1)
    return 100 * float(weights.std() / weights.mean())


def simulate(ranks: int, sequences: int, steps: int) -> Balance:
    """Share out `steps` global batches of ranks * sequences sequences."""
    mean_tokens = float(draw_lengths(200_000, SETTINGS.max_seq_length, seed=99).mean())
    budgets = plan_budgets(sequences, ranks, mean_tokens, SETTINGS)
    rows, seconds = [], 0.0
    for step in range(steps):
        lengths = draw_lengths(ranks * sequences, SETTINGS.max_seq_length, seed=step)
        masked = np.clip(np.round(lengths * SETTINGS.masked_lm_prob), 1, 76).astype(np.int64)
        cost = lengths * QUADRATIC_TOKENS + lengths**2
        start = read_cpu_seconds()
        ours = np.stack(share_out(lengths, ranks))
        seconds += read_cpu_seconds() - start
        in_order = share_in_order(lengths, ranks)
        tokens = lengths[ours].sum(axis=1)
        number, budget = budgets.choose(int(tokens.max()), int(tokens.min()))
        rows.append(
            (
                exceed(lengths[in_order].sum(axis=1)),
                exceed(lengths[share_serpentine(lengths, ranks)].sum(axis=1)),
                exceed(tokens),
                exceed(cost[ours].sum(axis=1)),
                exceed(masked[ours].sum(axis=1)),
                100 * (budget.tokens / float(tokens.mean()) - 1),
                100.0 * (number == NOT_LISTED),
                measure_weights(masked, in_order),
                measure_weights(masked, ours),
            )
        )
    table = np.array(rows)
    means = [float(value) for value in table.mean(axis=0)]
    return Balance(
        ranks, sequences, steps, means[0], means[1], means[2], float(table[:, 2].max()),
        *means[3:5], len(budgets.listed), *means[5:], 1000 * seconds / steps,
    )  # fmt: skip


def show(results: list[Balance]) -> None:
    """Print a table."""
    titles: list[tuple[str, Callable[[Balance], str]]] = [
        ("ranks x sequences", lambda b: f"{b.ranks} x {b.sequences}"),
        ("in order", lambda b: f"+{b.in_order_tokens:.1f} %"),
        ("serpentine", lambda b: f"+{b.serpentine_tokens:.3f} %"),
        ("ours", lambda b: f"+{b.tokens:.4f} %"),
        ("worst step", lambda b: f"+{b.tokens_worst:.4f} %"),
        ("modelled cost", lambda b: f"+{b.cost:.4f} %"),
        ("masked", lambda b: f"+{b.masked:.3f} %"),
        ("budgets", lambda b: str(b.budgets)),
        ("filled up", lambda b: f"{b.filled_up:.2f} %"),
        ("not listed", lambda b: f"{b.not_listed:.2f} %"),
        ("CPU time", lambda b: f"{b.milliseconds:.2f} ms"),
    ]
    lines = [[title for title, _ in titles]]
    lines += [[form(result) for _, form in titles] for result in results]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    print(
        "Tokens of the fullest rank above the mean; filled up: tokens that count nowhere, of the "
        f"real ones; modelled cost: L + L^2 / {QUADRATIC_TOKENS} for a sequence of L tokens."
    )
    for result in results:
        print(
            f"{result.ranks} x {result.sequences}: a masked token's weight varies over ranks by "
            f"{result.in_order_weight:.2f} % in order, {result.weight:.3f} % ours (deviation)"
        )


def main(arguments: Sequence[str]) -> int:
    """Simulate and print."""
    parser = Parser(prog="python -m perf.bert_balance", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="global batches a case")
    parser.add_argument("--json", action="store_true")
    options: argparse.Namespace = parser.parse_args(arguments)
    check_positive(options, "steps")
    results = [simulate(ranks, sequences, options.steps) for ranks, sequences in CASES]
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        show(results)
    return GOOD


if __name__ == "__main__":
    run_command(main)
