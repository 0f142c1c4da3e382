"""From DALI's buffers into the step's tensors: held as long as read, kept as long as wanted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.commands import InputError
from resnet.handover import Handover, KeptBatches, LentBatches


class Event:
    """A device's event, passed when told; waiting passes it and everything before it."""

    def __init__(self) -> None:
        self.passed = self.waited = False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = self.waited = True


def make_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((2, 4, 3, 3), float(number)), torch.full((2,), number)


def test_a_batch_is_held_until_its_copy_is_done():
    """Released as soon as the event has passed, at the next batch, and never by waiting."""
    lent, events = LentBatches(limit=4), [Event() for _ in range(4)]
    for number, event in enumerate(events[:3]):
        lent.hold(make_batch(number), event)
    assert len(lent) == 3
    events[0].passed = events[1].passed = True
    lent.hold(make_batch(3), events[3])
    assert len(lent) == 2 and not any(event.waited for event in events)


def test_the_host_waits_only_when_it_is_far_ahead():
    """One more than the limit waits for the oldest alone; the end waits for all."""
    lent, events = LentBatches(limit=2), [Event() for _ in range(3)]
    for number, event in enumerate(events):
        lent.hold(make_batch(number), event)
    assert [event.waited for event in events] == [True, False, False] and len(lent) == 2
    lent.release()
    assert len(lent) == 0 and events[2].waited


class Pipeline:
    """A pipeline of one batch, which notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def schedule_run(self) -> None:
        self.calls.append("schedule")

    def release_outputs(self) -> None:
        self.calls.append("release")

    def share_outputs(self, stream: object) -> tuple[Any, Any]:
        self.calls.append(stream)
        images = np.arange(2 * 3 * 3 * 4, dtype=np.float32).reshape(2, 3, 3, 4)
        return List(images), List(np.array([[5], [6]]))


class List:
    """A list of DALI's tensors."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def as_tensor(self) -> np.ndarray:
        return self.array


def test_on_a_gpu_dali_gets_torchs_stream_and_the_batch_is_held(monkeypatch: pytest.MonkeyPatch):
    """Stream to DALI, copy, event on the same stream, hold: in this order."""
    stream, seen = object(), []

    class Recorded(Event):
        def __init__(self, blocking: bool) -> None:
            super().__init__()
            assert blocking  # a wait must not spin

        def record(self, where: object) -> None:
            seen.append((where, images.clone()))

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Recorded)
    handover, pipeline = Handover("cuda:0", limit=3), Pipeline()
    images = torch.zeros(2, 4, 3, 3, dtype=torch.bfloat16)
    labels = torch.zeros(2, dtype=torch.int64)
    batch = handover.take(pipeline)
    assert pipeline.calls == ["schedule", stream, "release", "schedule"]
    assert batch[0].shape == (2, 4, 3, 3)
    handover.copy(batch, images, labels)
    assert len(handover.lent) == 1 and labels.tolist() == [5, 6]
    # The event stands behind the copy: what it saw is what the batch holds.
    assert seen[0][0] is stream and torch.equal(seen[0][1], batch[0].bfloat16())
    own = handover.keep(batch)
    assert own[0].data_ptr() != batch[0].data_ptr() and torch.equal(own[0], batch[0])
    assert own[0].is_contiguous(memory_format=torch.channels_last) and len(handover.lent) == 2


def test_torch_and_dali_agree_on_streams() -> None:
    """Torch's default stream, which is number 0, is one to DALI, and DALI's GPU one to torch.

    Were it not so, both would be right and the host would wait for every batch.
    """
    backend = pytest.importorskip("nvidia.dali.backend_impl")
    types = pytest.importorskip("nvidia.dali.types")
    for stream in (
        SimpleNamespace(cuda_stream=0),
        SimpleNamespace(__cuda_stream__=lambda: (0, 0)),
    ):
        assert types._raw_cuda_stream_ptr(stream) is not None
    assert types._raw_cuda_stream_ptr(None) is None
    assert backend.DLDeviceType.kDLCUDA in (torch.utils.dlpack.DLDeviceType.kDLCUDA,)
    assert backend.DLDeviceType.kDLCPU not in (torch.utils.dlpack.DLDeviceType.kDLCUDA,)


def test_on_a_cpu_the_batch_is_dalis_own_buffer():
    """No stream, no copy, nothing held."""
    handover, pipeline = Handover("cpu", limit=3), Pipeline()
    batch = handover.take(pipeline)
    assert pipeline.calls == ["schedule", None, "release", "schedule"]
    assert handover.keep(batch)[0].data_ptr() == batch[0].data_ptr()
    handover.copy(batch, *(torch.zeros_like(tensor) for tensor in batch))
    assert len(handover.lent) == 0


def test_every_batch_taken_is_asked_for_again_at_once():
    """So that as many as are prefetched are in work while the device computes."""
    handover, first, second = Handover("cpu", limit=3), Pipeline(), Pipeline()
    for pipeline in (first, second):  # an input that is prepared again has another pipeline
        for number in range(1, 5):
            handover.take(pipeline)
            assert pipeline.calls.count("schedule") == number + 1
            assert pipeline.calls[-1] == "schedule"


def test_kept_batches_need_room():
    """3 batches of 2 images of 4 x 512 x 512 halves and their labels: 12 MiB and 48 bytes."""
    shape = (2, 4, 512, 512)
    with pytest.raises(InputError, match="take 13 MiB: set it to 13 or more"):
        KeptBatches(3, shape, torch.bfloat16, "cpu", 12)
    kept = KeptBatches(3, shape, torch.bfloat16, "cpu", 13)
    assert len(kept) == 3
    assert kept.images[1].is_contiguous(memory_format=torch.channels_last)
