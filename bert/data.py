"""BERT's input: batches of un-padded samples, made ahead of the step by a thread.

Nothing of the data is opened before `open`, which the trainer calls after the clock has started.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np
import torch

from bert.model import Batch
from bert.order import SampleOrder
from bert.shards import FlatBatch, Manifest, ShardSet


def make_batch(flat: FlatBatch, device: torch.device) -> Batch:
    """Turn flat numpy arrays into the model's batch on a device (asynchronously on a GPU)."""
    lengths = np.diff(flat.cu_seqlens)
    arrays = {
        "input_ids": flat.input_ids.astype(np.int64, copy=False),
        "segment_ids": flat.segment_ids.astype(np.int64, copy=False),
        "position_ids": flat.position_ids.astype(np.int64, copy=False),
        "cu_seqlens": flat.cu_seqlens.astype(np.int32, copy=False),
        "masked_positions": flat.masked_positions.astype(np.int64, copy=False),
        "masked_ids": flat.masked_ids.astype(np.int64, copy=False),
        "next_sentence_labels": flat.next_sentence_labels.astype(np.int64, copy=False),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if device.type == "cuda":
        tensors = {
            name: tensor.pin_memory().to(device, non_blocking=True)
            for name, tensor in tensors.items()
        }
    return Batch(longest_sequence=int(lengths.max(initial=0)), **tensors)


class TrainingInput:
    """This rank's share of every global batch, in an order that is random over all samples.

    Micro-batch m of the run consists of positions m * world_size * local_batch + rank *
    local_batch and the following ones of the order, so that together the ranks take each sample
    once a pass, whatever the world size.
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
        self._first, self._count = rank * local_batch, local_batch
        self._stride = world_size * local_batch
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(prefetch_batches)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the shards and begin to make batches: the first touch of the data."""
        self._thread = threading.Thread(target=self._make_batches, daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next micro-batch. Raises whatever stopped the making of batches."""
        batch = self._ready.get()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def close(self) -> None:
        """Stop the thread; batches made ahead are forgotten."""
        self._stopped.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def indices(self, micro_batch: int) -> np.ndarray:
        """The samples of this rank's micro-batch number `micro_batch`, (local_batch,) int64."""
        first = micro_batch * self._stride + self._first
        return self.order(first, self._count)

    def _make_batches(self) -> None:
        try:
            shards = ShardSet.open(self.manifest)
            micro_batch = 0
            while not self._stopped.is_set():
                flat = shards.gather(self.indices(micro_batch))
                self._ready.put(make_batch(flat, self.device))
                micro_batch += 1
        except BaseException as error:  # noqa: BLE001  handed to the trainer, which raises it
            self._ready.put(error)


class EvaluationInput:
    """This rank's share of the evaluation set: each sample on exactly one rank, ragged at the end.

    The batches stay on the device after the first evaluation, so later ones read nothing.
    """

    def __init__(
        self,
        manifest: Manifest,
        rank: int,
        world_size: int,
        local_batch: int,
        device: torch.device,
    ) -> None:
        self.manifest, self.device, self._local_batch = manifest, device, local_batch
        samples = manifest.examples
        # The first samples % world_size ranks take one more.
        base, more = divmod(samples, world_size)
        self.first = rank * base + min(rank, more)
        self.last = self.first + base + (1 if rank < more else 0)
        self._batches: list[Batch] | None = None

    def epoch(self) -> Iterator[Batch]:
        """All batches of this rank; the first call opens the shards."""
        if self._batches is None:
            self._batches = list(self._read())
        yield from self._batches

    def _read(self) -> Iterator[Batch]:
        shards = ShardSet.open(self.manifest)
        for start in range(self.first, self.last, self._local_batch):
            stop = min(start + self._local_batch, self.last)
            yield make_batch(shards.gather(np.arange(start, stop)), self.device)
