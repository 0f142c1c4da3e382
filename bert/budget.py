"""Token budgets: the few shapes that batches are filled up to, so that a CUDA graph serves each.

A batch of un-padded sequences has another number of tokens every step. It is filled with tokens
that count nowhere to the smallest budget that holds it; all arrays of a batch are as long as its
budget says, whatever is in them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from bert.examples import ExampleSettings

NOT_LISTED = -1
# Standard deviation of the sequences' lengths, in means: 182.7 of 255.8 tokens in Wikipedia
# (graphcore/examples, packedBERT/histograms.py). It decides how many budgets there are, no result.
LENGTH_SPREAD = 0.714
# Budgets lie this close, in means of a batch: what is filled up is half of it on average.
FINEST_SPACING = 0.011
SMALLEST_SPACING_TOKENS = 16
MOST_BUDGETS = 18
MASKED_MULTIPLE = 16  # matrix products like their rows in sixteens


@dataclass(frozen=True)
class Budget:
    """How long the arrays of a batch are.

    tokens: T; masked: M; sequences: B, those that fill up included; longest_sequence: no sequence
    is longer, and kernels size their grid by it.
    """

    tokens: int
    masked: int
    sequences: int
    longest_sequence: int


@dataclass(frozen=True)
class Budgets:
    """The budgets that batches of `sequences` real sequences are filled up to.

    listed: in rising order, the shapes that are expected; spacing: every budget, listed or not, is
    a multiple of it in tokens; fillers: sequences that fill up, at most (the others are empty).
    """

    sequences: int
    fillers: int
    spacing: int
    settings: ExampleSettings
    listed: tuple[Budget, ...]

    def choose(self, most_tokens: int, fewest_tokens: int) -> tuple[int, Budget]:
        """The number of the smallest listed budget for batches of so many tokens, and itself.

        Where none is large enough, or all are too large to be filled up by the fillers, the number
        is NOT_LISTED, and the budget a shape that no list foresees.
        """
        number = bisect_left([budget.tokens for budget in self.listed], most_tokens)
        if number < len(self.listed) and self._can_fill(self.listed[number], fewest_tokens):
            return number, self.listed[number]
        budget = self.make(-(-most_tokens // self.spacing) * self.spacing, self.fillers)
        if self._can_fill(budget, fewest_tokens):
            return NOT_LISTED, budget
        fillers = -(-(budget.tokens - fewest_tokens) // self.settings.max_seq_length)
        return NOT_LISTED, self.make(budget.tokens, fillers)

    def make(self, tokens: int, fillers: int) -> Budget:
        """The budget of so many tokens.

        Of L tokens at most max(1, L * masked_lm_prob rounded) are masked (the reference's
        create_pretraining_data.py), which bounds how many there can be in all.
        """
        settings = self.settings
        masked = math.ceil(tokens * settings.masked_lm_prob) + self.sequences
        masked = min(masked, self.sequences * settings.max_predictions_per_seq)
        masked = -(-masked // MASKED_MULTIPLE) * MASKED_MULTIPLE
        return Budget(tokens, masked, self.sequences + fillers, settings.max_seq_length)

    def _can_fill(self, budget: Budget, tokens: int) -> bool:
        fillers = budget.sequences - self.sequences
        return budget.tokens - tokens <= fillers * budget.longest_sequence


def choose_spacing(mean_tokens: float) -> int:
    """The distance of budgets around a mean: a power of two of about one percent, at least 16."""
    finest = max(SMALLEST_SPACING_TOKENS, int(mean_tokens * FINEST_SPACING))
    return int(2 ** math.floor(math.log2(finest)))


def plan_budgets(
    sequences: int, world_size: int, tokens_per_sequence: float, settings: ExampleSettings
) -> Budgets:
    """List budgets for ranks that share out sequences * world_size sequences a micro-batch.

    tokens_per_sequence: the data set's mean, which its manifest knows. With balanced ranks the
    tokens of a rank vary as the mean of all ranks' sequences does. Budgets lie close together
    within three standard deviations of that, which leaves out 1 step in 400, and one at six.
    """
    longest = settings.max_seq_length
    mean = sequences * tokens_per_sequence
    deviation = LENGTH_SPREAD * tokens_per_sequence * math.sqrt(sequences / world_size)
    spacing = choose_spacing(mean)
    while 6 * deviation / spacing + 2 > MOST_BUDGETS:
        spacing *= 2
    most = -(-sequences * longest // spacing)
    low = max(1, min(most, math.ceil((mean - 3 * deviation) / spacing)))
    high = max(low, min(most, math.ceil((mean + 3 * deviation) / spacing)))
    top = min(most, math.ceil((mean + 6 * deviation) / spacing))
    counts = [*range(low, high + 1), *([top] if top > high else [])]
    fillers = -(-max(spacing, (counts[-1] - high) * spacing) // longest)
    plan = Budgets(sequences, fillers, spacing, settings, ())
    listed = tuple(plan.make(count * spacing, fillers) for count in counts)
    return Budgets(sequences, fillers, spacing, settings, listed)


def plan_one_budget(
    sequences: int, batches: int, total_tokens: int, settings: ExampleSettings
) -> Budgets:
    """List the one budget of `batches` batches that share out a known set of sequences evenly.

    sequences: of a batch, at most; total_tokens: of the whole set, which its manifest knows. Even
    shares lie within a thousandth of the mean (`bert/balance.py:share_out`).
    """
    mean = total_tokens / batches
    spacing = choose_spacing(mean)
    most = -(-sequences * settings.max_seq_length // spacing)
    count = max(1, min(most, math.ceil(1.001 * mean / spacing)))
    fillers = -(-spacing // settings.max_seq_length) + 1
    plan = Budgets(sequences, fillers, spacing, settings, ())
    return Budgets(sequences, fillers, spacing, settings, (plan.make(count * spacing, fillers),))
