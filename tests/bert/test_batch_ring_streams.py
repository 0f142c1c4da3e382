"""The ring's order on a GPU: what streams, events and the host know of each other's work.

No GPU runs here. Stand-ins for streams and events keep vector clocks: how much of every stream's
work is known to be done wherever an event was waited for. Copies run at once, on the CPU.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from bert import batch_ring
from bert.batch_ring import BatchRing, Slot
from bert.budget import NOT_LISTED, Budgets
from tests.bert.test_batch_ring import BUDGETS, make

Clock = dict[str, int]
GPU = torch.device("cuda", 0)


def learn(clock: Clock, other: Clock) -> None:
    for name, done in other.items():
        clock[name] = max(clock.get(name, 0), done)


class Stream:
    def __init__(self, name: str) -> None:
        self.name, self.clock = name, {name: 0}

    def run(self) -> int:
        """Put one piece of work on the stream; returns its number."""
        self.clock[self.name] += 1
        return self.clock[self.name]

    def wait_event(self, event: Event) -> None:
        learn(self.clock, event.clock)


class Event:
    def __init__(self, device: Device, blocking: bool) -> None:
        self.device, self.clock, self.blocking = device, Clock(), blocking

    def record(self, stream: Stream) -> None:
        self.clock = dict(stream.clock)

    def synchronize(self) -> None:
        self.device.expect(self.blocking, "the host waits and keeps a core busy")
        learn(self.device.host, self.clock)


class Device:
    """What `torch.cuda` has of it, as far as the ring asks."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.step, self.copies = Stream("step"), Stream("copies")
        self.host = Clock()  # what the ring's thread knows
        self.current = threading.local()
        self.found: list[str] = []
        patch.setattr("torch.cuda.Stream", lambda device: self.copies)
        patch.setattr("torch.cuda.Event", lambda blocking=False: Event(self, blocking))
        patch.setattr("torch.cuda.set_device", lambda device: None)
        patch.setattr("torch.cuda.current_stream", lambda device=None: self.find_current())
        patch.setattr("torch.cuda.stream", self.use)

    def find_current(self) -> Stream:
        stream: Stream = getattr(self.current, "stream", self.step)
        return stream

    @contextmanager
    def use(self, stream: Stream) -> Iterator[None]:
        before, self.current.stream = self.find_current(), stream
        yield
        self.current.stream = before

    def expect(self, right: bool, fault: str) -> None:
        if not right:
            self.found.append(fault)


def watch(device: Device, patch: pytest.MonkeyPatch) -> None:
    """Hold every touch of a slot's memory against the clocks."""

    class WatchedSlot(Slot):
        used = copied_as = 0  # the last work of the step and of the ring that touched it

        def _allocate(self, size_bytes: int) -> None:
            self.staging = torch.empty(size_bytes, dtype=torch.uint8)
            self.storage = torch.empty(size_bytes, dtype=torch.uint8)
            self.owner = device.find_current().name
            if self.copied_as:  # not when the ring is made, before anything runs
                device.expect(device.host.get("step", 0) >= self.used, "freed under the step")
                device.expect(self.owner == "copies", "taken from the step's memory")

        def fill(self, made: Any) -> None:
            device.expect(device.host.get("copies", 0) >= self.copied_as, "written under a copy")
            super().fill(made)

        def copy(self, stream: Any) -> None:
            device.expect(device.find_current() is stream, "copied on another stream")
            super().copy(stream)
            device.expect(stream.clock.get("step", 0) >= self.used, "copied under the step")

    # A copy is work of the ring's stream, to be counted before the event behind it is recorded.
    record = Event.record

    def record_copy(event: Event, stream: Any) -> None:
        if stream is device.copies:
            stream.run()
        record(event, stream)

    patch.setattr(Event, "record", record_copy)
    patch.setattr(batch_ring, "Slot", WatchedSlot)


def take(device: Device, ring: BatchRing) -> Any:
    """The next batch, used by one piece of work of the step."""
    batch = ring.next()
    slot: Any = ring._taken
    slot.copied_as = slot.copied.clock["copies"]
    device.expect(device.step.clock.get("copies", 0) >= slot.copied_as, "used before it came")
    slot.used = device.step.run()
    return batch


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_nothing_is_touched_before_what_comes_before_is_done(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch)
    watch(device, monkeypatch)
    ring = BatchRing(slots, BUDGETS, GPU)
    sizes = [60 + 7 * number % 90 for number in range(20)]
    ring.start(lambda: map(make, sizes))
    for size in sizes:
        batch, (flat, _, _) = take(device, ring), make(size)
        assert torch.equal(batch.input_ids[:size], torch.from_numpy(flat.input_ids))
    ring.close()
    assert device.found == []


def test_memory_for_a_large_batch_is_taken_on_the_rings_own_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch)
    watch(device, monkeypatch)
    few = Budgets(4, BUDGETS.fillers, BUDGETS.spacing, BUDGETS.settings, BUDGETS.listed[:2])

    def make_large() -> Iterator[Any]:
        for tokens in itertools.cycle((few.listed[0].tokens, 192, 256)):
            number, budget = few.choose(tokens, tokens)
            yield make(tokens)[0], number, budget

    ring = BatchRing(2, few, GPU)
    ring.start(make_large)
    assert [take(device, ring).budget for _ in range(6)] == 2 * [0, NOT_LISTED, NOT_LISTED]
    ring.close()
    assert device.found == []


@pytest.mark.parametrize("missing", ["wait_event", "synchronize"])
def test_a_wait_left_out_is_found(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    watch(device, monkeypatch)
    owner = Stream if missing == "wait_event" else Event
    monkeypatch.setattr(owner, missing, lambda self, *event: None)
    ring = BatchRing(2, BUDGETS, GPU)
    ring.start(lambda: map(make, [100] * 6))
    for _ in range(6):
        take(device, ring)
    ring.close()
    assert set(device.found) == (
        {"used before it came", "copied under the step"}
        if missing == "wait_event"
        else {"written under a copy"}
    )


def test_a_device_that_does_not_get_on_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(event: Any) -> None:
        raise RuntimeError("Timed out waiting 3000ms for the device")

    watch(Device(monkeypatch), monkeypatch)
    monkeypatch.setattr(batch_ring, "wait_for", give_up)
    ring = BatchRing(1, BUDGETS, GPU)
    ring.start(lambda: map(make, [60, 60]))
    with pytest.raises(RuntimeError, match="Timed out waiting 3000ms"):
        ring.next()
    ring.close()
