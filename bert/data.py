"""BERT's input: batches of fixed shapes and balanced tokens, made ahead of the step by a thread.

Nothing of the data is opened before `open`, which the trainer calls after the clock has started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bert.balance import share_out
from bert.batch_ring import BatchRing, Made
from bert.budget import NOT_LISTED, Budget, plan_budgets, plan_one_budget
from bert.order import SampleOrder
from bert.sample_reader import SampleReader
from bert.shards import FlatBatch, Manifest, ShardSet
from bert.static_batch import StaticBatch, check_static_batches, make_static_batch
from harness.commands import InputError


def check_masked(manifest: Manifest, flat: FlatBatch, budget: Budget) -> None:
    """Raise InputError where more tokens are masked than the data set's settings allow."""
    if len(flat.masked_ids) > budget.masked:
        raise InputError(
            f"{manifest.folder}: {len(flat.masked_ids)} of {len(flat.input_ids)} tokens of a batch "
            f"are masked, more than the masked_lm_prob {manifest.settings.masked_lm_prob} of its "
            "manifest allows: make the data anew with python -m bert.prepare_data create"
        )


class TrainingInput:
    """This rank's share of every global batch, in an order that is random over all samples.

    Micro-batch m of the run consists of positions m * world_size * local_batch and the following
    ones of the order. The ranks share its samples out, local_batch to each, so that they have
    nearly equal numbers of tokens; together they take each sample once a pass. All ranks fill their
    batches up to the same budget.
    """

    def __init__(
        self,
        manifest: Manifest,
        rank: int,
        world_size: int,
        local_batch: int,
        seed: int,
        prefetch_batches: int,
        device: torch.device,
    ) -> None:
        self.manifest, self.device = manifest, device
        self.order = SampleOrder(manifest.examples, seed)
        mean = manifest.tokens / manifest.examples
        self.budgets = plan_budgets(local_batch, world_size, mean, manifest.settings)
        self._rank, self._world_size = rank, world_size
        self._global = world_size * local_batch
        self._ring = BatchRing(prefetch_batches + 1, self.budgets, device)

    def open(self) -> None:
        """Open the shards and begin to make batches: the first touch of the data."""
        self._ring.start(self._make_batches)

    def next(self) -> StaticBatch:
        """The next micro-batch; its tensors are valid until the next call of this or `next_into`.

        See `BatchRing.next` for streams. Raises whatever stopped the making of batches.
        """
        return self._ring.next()

    def next_into(self, targets: Sequence[StaticBatch]) -> StaticBatch:
        """Copy the next micro-batch into the target of its budget, and return that target.

        targets: one batch for each of `budgets.listed`, in order, such as graphs were captured
        with; the answer's `budget` is its number. A batch of no listed budget is returned itself,
        with `budget` NOT_LISTED, valid until the next call. Raises as `next`, ValueError where the
        targets are others.
        """
        check_static_batches(targets, self.budgets)
        batch = self._ring.next()
        if batch.budget == NOT_LISTED:
            return batch
        batch.copy_into(targets[batch.budget])
        return targets[batch.budget]

    def close(self) -> None:
        """Stop the thread; batches made ahead are forgotten."""
        self._ring.close()

    def _make_batches(self) -> Iterator[Made]:
        shards = ShardSet.open(self.manifest)
        reader = SampleReader(shards, self.order)
        position = 0
        while True:
            numbers, entries = reader.look_up(position, self._global)
            lengths = entries["tokens"].astype(np.int64)
            shares = share_out(lengths, self._world_size)
            tokens = [int(lengths[share].sum()) for share in shares]
            number, budget = self.budgets.choose(max(tokens), min(tokens))
            mine = shares[self._rank]
            flat = shards.gather(numbers[mine], entries[mine])
            check_masked(self.manifest, flat, budget)
            yield flat, number, budget
            position += self._global


class EvaluationInput:
    """This rank's share of the evaluation set: each sample on exactly one rank.

    All batches of all ranks have nearly equal numbers of tokens and are filled up to one budget,
    known before the data is read; ranks differ by one sample at most. The batches stay on the
    device after the first evaluation, so later ones read nothing.
    """

    def __init__(
        self,
        manifest: Manifest,
        rank: int,
        world_size: int,
        local_batch: int,
        device: torch.device,
    ) -> None:
        self.manifest, self.device = manifest, device
        self._rank, self._world_size = rank, world_size
        of_each_rank = -(-manifest.examples // world_size)
        self._shares = world_size * -(-of_each_rank // local_batch)
        self.budgets = plan_one_budget(
            -(-manifest.examples // self._shares), self._shares, manifest.tokens, manifest.settings
        )
        self._batches: list[StaticBatch] | None = None

    def epoch(self) -> Iterator[StaticBatch]:
        """All batches of this rank, the same tensors every time; the first call opens the shards.

        Their `budget` is 0, or NOT_LISTED where a set is too small to be shared out evenly.
        """
        if self._batches is None:
            self._batches = list(self._read())
        yield from self._batches

    def _read(self) -> Iterator[StaticBatch]:
        with ShardSet.open(self.manifest) as shards:
            shards.read_index_ahead(0, len(shards))
            entries = shards.read_entries(0, len(shards))
            shares = share_out(entries["tokens"].astype(np.int64), self._shares)
            mine = [share for share in shares[self._rank :: self._world_size] if len(share)]
            shards.read_records_ahead(0, entries)
            for share in mine:
                flat = shards.gather(share, entries[share])
                tokens = len(flat.input_ids)
                number, budget = self.budgets.choose(tokens, tokens)
                check_masked(self.manifest, flat, budget)
                yield make_static_batch(flat, number, budget, self.device)
