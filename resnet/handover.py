"""How a batch gets from DALI's buffers into tensors of the step's, without the host waiting.

On a GPU, DALI works on streams of its own and takes a buffer back, for its next batches, as soon
as nobody holds the batch any more: in the order of its own stream, not torch's. Three things make
that right. torch's current stream is given to `share_outputs`, so it waits on the device for the
batch (without it, the host would wait). The copy is enqueued on the same stream. And the batch is
held until an event behind the copy has passed, so that DALI cannot write into what is being read.

DALI's own threads make the batches. The first call asks for as many as are prefetched, and every
call asks for one more as soon as it has a batch: that many are in work or waiting while the device
computes, one more than with `Pipeline.run`, which asks for the next when it is called again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from harness.commands import InputError
from harness.process_group import Event, wait_for

Batch = tuple[Tensor, Tensor]


class LentBatches:
    """Batches of DALI's that a stream may still read: held until their events have passed.

    limit: how many at most. The host waits only when it is that many copies ahead of the device,
    which then has work for as many steps, and as long as for other ranks (`wait_for`).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lent: deque[tuple[Event, Batch]] = deque()

    def __len__(self) -> int:
        return len(self._lent)

    def hold(self, batch: Batch, event: Event) -> None:
        """Hold a batch until the event has passed; let go of those whose has."""
        while self._lent and self._lent[0][0].query():
            self._lent.popleft()
        if len(self._lent) == self.limit:
            wait_for(self._lent[0][0])
            self._lent.popleft()
        self._lent.append((event, batch))

    def release(self) -> None:
        """Wait until nothing is read any more, and hold nothing."""
        while self._lent:
            wait_for(self._lent[0][0])
            self._lent.popleft()


class Handover:
    """Takes batches from a pipeline of (images, labels) on one device.

    images: (B, C, H, W) float32 or float16 in channels_last memory; labels: (B,) int64.
    """

    def __init__(self, device: torch.device | str, limit: int) -> None:
        self.device = torch.device(device)
        self.lent = LentBatches(limit)
        self._begun: Any = None

    def take(self, pipeline: Any) -> Batch:
        """The next batch in DALI's own buffers, ready for torch's current stream.

        On a GPU it must go through `copy` or `keep` before it is dropped.
        """
        if self._begun is not pipeline:
            self._begun = pipeline
            pipeline.schedule_run()
        on_cpu = self.device.type == "cpu"
        stream = None if on_cpu else torch.cuda.current_stream(self.device)
        images, labels = pipeline.share_outputs(stream)
        pipeline.release_outputs()  # of the dynamic executor, which leaves them to who holds them
        pipeline.schedule_run()
        images_NHWC = torch.from_dlpack(images.as_tensor())
        return images_NHWC.permute(0, 3, 1, 2), torch.from_dlpack(labels.as_tensor()).view(-1)

    def copy(self, batch: Batch, images: Tensor, labels: Tensor) -> None:
        """Write a batch into tensors of the caller's, cast to their types, on torch's stream."""
        images.copy_(batch[0], non_blocking=True)
        labels.copy_(batch[1], non_blocking=True)
        if self.device.type != "cpu":
            event = torch.cuda.Event(blocking=True)
            event.record(torch.cuda.current_stream(self.device))
            self.lent.hold(batch, event)

    def keep(self, batch: Batch) -> Batch:
        """The batch as the caller's own: on a CPU DALI's buffer itself, on a GPU a copy."""
        if self.device.type == "cpu":
            return batch
        own = torch.empty_like(batch[0]), torch.empty_like(batch[1])
        self.copy(batch, *own)
        return own


class KeptBatches:
    """A rank's preprocessed validation batches, kept on its device from the first pass on.

    They are the same in every pass. The memory is taken here, before the clock, and filled by the
    first whole pass, after it has started. batches of shape (B, C, H, W), dtype as given.
    Raises InputError where `megabytes` (MiB) do not hold them.
    """

    def __init__(
        self,
        batches: int,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        device: torch.device | str,
        megabytes: int,
    ) -> None:
        images, channels, height, width = shape
        values = batches * images * channels * height * width
        needed = -(-(values * dtype.itemsize + batches * images * 8) // (1 << 20))
        if needed > megabytes:
            raise InputError(
                f"validation_cache_megabytes is {megabytes}, but a rank's {batches} validation "
                f"batches take {needed} MiB: set it to {needed} or more, or to 0 to keep none"
            )
        stored = torch.empty((batches, images, height, width, channels), dtype=dtype, device=device)
        self.images = stored.permute(0, 1, 4, 2, 3)
        self.labels = torch.empty((batches, images), dtype=torch.int64, device=device)
        self.complete = False

    def __len__(self) -> int:
        return len(self.images)

    def store(self, number: int, images: Tensor, labels: Tensor) -> None:
        """Keep a batch as number `number`."""
        self.images[number].copy_(images, non_blocking=True)
        self.labels[number].copy_(labels, non_blocking=True)

    def load(self, number: int, images: Tensor, labels: Tensor) -> None:
        """Write batch `number` into tensors of the caller's."""
        images.copy_(self.images[number], non_blocking=True)
        labels.copy_(self.labels[number], non_blocking=True)
