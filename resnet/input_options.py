"""How ResNet's images are read and shaped: the [input] section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputOptions:
    """How images are read and shaped, the same on every rank.

    crop_size: side of the square the model sees, pixels. resize_shorter: the evaluation image's
    shorter side before its centre is cropped, pixels. threads: decoding threads a rank.
    prefetch_batches: batches made ahead. shuffle_buffer_images: encoded images of which the next
    is drawn. channels: 3 for RGB, 4 with a channel of zeros. decoded_cache_megabytes: most GPU
    memory in which a rank keeps decoded training images, MiB; 0 for none.
    validation_cache_megabytes: most memory in which a rank keeps its preprocessed validation images
    from the first evaluation on, MiB; 0 keeps none. memory_mapped: map the shards into memory, as
    is right on a local disk; false reads them, as network file systems want it. Raises ValueError.
    """

    crop_size: int
    resize_shorter: int
    threads: int
    prefetch_batches: int
    shuffle_buffer_images: int
    channels: int
    decoded_cache_megabytes: int
    validation_cache_megabytes: int
    memory_mapped: bool

    def __post_init__(self) -> None:
        for name in ("crop_size", "threads", "prefetch_batches", "shuffle_buffer_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' must be at least 1, is {getattr(self, name)}")
        for name in ("decoded_cache_megabytes", "validation_cache_megabytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"'{name}' must not be negative, is {getattr(self, name)}")
        if self.resize_shorter < self.crop_size:
            raise ValueError(
                f"'resize_shorter' is {self.resize_shorter}, less than 'crop_size' {self.crop_size}"
            )
        if self.channels not in (3, 4):
            raise ValueError(f"'channels' must be 3 or 4, is {self.channels}")
