"""A ring of buffers that a thread fills with batches while the step takes them.

All memory is taken when the ring is made. On a GPU each buffer is pinned, with one of the same size
on the device; the thread copies on a stream of its own, the step's stream waits for an event, and
neither thread waits for the device on the step's account. The thread's own wait has the limit of a
collective: where another rank hangs inside a graph, it is what ends this one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bert.budget import NOT_LISTED, Budget, Budgets
from bert.shards import FlatBatch
from bert.static_batch import (
    Arrays,
    StaticBatch,
    count_bytes,
    fill_arrays,
    view_arrays,
    view_batch,
)
from harness.process_group import wait_for

# What the thread is given: sequences, the number of their budget, the budget.
Made = tuple[FlatBatch, int, Budget]


class Slot:
    """One place of the ring: memory for the largest listed budget, and who may touch it when."""

    def __init__(self, capacity_bytes: int, device: torch.device) -> None:
        self.device = device
        self._allocate(capacity_bytes)
        self._views: dict[Budget, tuple[Arrays, StaticBatch]] = {}
        self.batch: StaticBatch | None = None
        if device.type == "cuda":
            # Blocking: where no process group limits the wait, it would else keep a core busy.
            self.copied = torch.cuda.Event(blocking=True)
            self.released = torch.cuda.Event(blocking=True)

    def _allocate(self, size_bytes: int) -> None:
        on_gpu = self.device.type == "cuda"
        self.staging: Tensor = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=on_gpu)
        self.storage = (
            torch.empty_like(self.staging, device=self.device) if on_gpu else self.staging
        )

    def fill(self, made: Made) -> None:
        """Write a batch into the memory that the processor reaches."""
        flat, number, budget = made
        if count_bytes(budget) > len(self.staging):
            # A shape that nobody expected, larger than all listed: once in very many steps.
            if self.device.type == "cuda":
                wait_for(self.released)
            self._allocate(count_bytes(budget))
            self._views = {}
        views = self._views.get(budget)
        if views is None:
            views = (
                view_arrays(self.staging, budget),
                view_batch(self.storage, number, budget),
            )
            if number != NOT_LISTED:
                self._views[budget] = views
        arrays, self.batch = views
        fill_arrays(flat, budget, arrays)

    def copy(self, stream: torch.cuda.Stream) -> None:
        """Send it to the device on the current stream, when the step has done with what is there.

        stream: the current one.
        """
        assert self.batch is not None
        size = len(self.batch.storage)
        stream.wait_event(self.released)
        self.storage[:size].copy_(self.staging[:size], non_blocking=True)
        self.copied.record(stream)


class BatchRing:
    """Batches in order, made by a thread, `slots` at a time: one in use, the others ahead."""

    def __init__(self, slots: int, budgets: Budgets, device: torch.device) -> None:
        largest = max(count_bytes(budget) for budget in budgets.listed)
        self.device = device
        self._free: queue.Queue[Slot | None] = queue.Queue()
        for _ in range(slots):
            self._free.put(Slot(largest, device))
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: queue.Queue[Slot | BaseException] = queue.Queue()
        self._taken: Slot | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self, make: Callable[[], Iterator[Made]]) -> None:
        """Begin to make batches in a thread, which calls `make` and iterates over its answer."""
        self._thread = threading.Thread(
            target=self._fill, args=(make,), name="bert input", daemon=True
        )
        self._thread.start()

    def next(self) -> StaticBatch:
        """The next batch, valid until the next call. Raises whatever stopped the making.

        On a GPU the current stream waits for its arrival; whoever uses it on another stream waits
        for the current one. The next call lets its memory be written again as soon as what is then
        on the current stream is done.
        """
        self._release()
        slot = self._ready.get()
        if isinstance(slot, BaseException):
            self._ready.put(slot)
            raise slot
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.copied)
        self._taken = slot
        assert slot.batch is not None
        return slot.batch

    def close(self) -> None:
        """Stop the thread; batches made ahead are forgotten."""
        self._stopped.set()
        self._free.put(None)  # it may be waiting for a slot
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def _release(self) -> None:
        slot, self._taken = self._taken, None
        if slot is not None:
            if self._stream is not None:
                slot.released.record(torch.cuda.current_stream(self.device))
            self._free.put(slot)

    def _fill(self, make: Callable[[], Iterator[Made]]) -> None:
        try:
            if self._stream is None:
                self._fill_slots(make())
                return
            torch.cuda.set_device(self.device)
            # For memory that a slot takes later on, too: torch gives out what the current stream
            # has done with, and on the step's own stream kernels may still be using it.
            with torch.cuda.stream(self._stream):
                self._fill_slots(make())
        except BaseException as error:  # noqa: BLE001  handed to the trainer, which raises it
            self._ready.put(error)

    def _fill_slots(self, batches: Iterator[Made]) -> None:
        while (slot := self._free.get()) is not None and not self._stopped.is_set():
            made = next(batches)
            if self._stream is not None:
                wait_for(slot.copied)  # the last copy out of this memory
            slot.fill(made)
            if self._stream is not None:
                slot.copy(self._stream)
            self._ready.put(slot)
