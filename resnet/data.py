"""ResNet's input as the trainer sees it: an unbroken training stream, exact evaluation passes.

Also measures the input alone: `python -m resnet.data throughput --data DIR` and
`python -m resnet.data evaluate-images DIR --npz FILE`. DALI is imported when an input is
constructed, so that reading a configuration does not pay for it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands import GOOD, InputError, Parser, run_command
from resnet.shards import Manifest, read_manifest

if TYPE_CHECKING:
    import torch

# Images read again to find the one that cannot be decoded; beyond, the report names no file.
SEARCH_LIMIT_IMAGES = 50_000
VERIFY = "python -m resnet.prepare_data verify"


@dataclass(frozen=True)
class InputOptions:
    """How images are read and shaped, the same on every rank.

    crop_size: side of the square the model sees, pixels. resize_shorter: the evaluation image's
    shorter side before its centre is cropped, pixels. threads: decoding threads a rank.
    prefetch_batches: batches made ahead. shuffle_buffer_images: encoded images of which the next
    is drawn. channels: 3 for RGB, 4 with a channel of zeros. Raises ValueError.
    """

    crop_size: int
    resize_shorter: int
    threads: int
    prefetch_batches: int
    shuffle_buffer_images: int
    channels: int

    def __post_init__(self) -> None:
        for name in ("crop_size", "threads", "prefetch_batches", "shuffle_buffer_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' must be at least 1, is {getattr(self, name)}")
        if self.resize_shorter < self.crop_size:
            raise ValueError(
                f"'resize_shorter' is {self.resize_shorter}, less than 'crop_size' {self.crop_size}"
            )
        if self.channels not in (3, 4):
            raise ValueError(f"'channels' must be 3 or 4, is {self.channels}")


class _Input:
    """What both inputs share: one part of one split, a pipeline between open() and close()."""

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        options: InputOptions,
        rank: int,
        world_size: int,
        local_batch: int,
        device: torch.device | str,
    ) -> None:
        if not 0 <= rank < world_size or local_batch < 1:
            raise ValueError(f"rank {rank} of {world_size}, local batch of {local_batch}")
        self.manifest, self.split, self.options = manifest, split, options
        self.rank, self.world_size, self.local_batch = rank, world_size, local_batch
        self.device = device
        # Loads DALI here, ahead of open(): the clock is not running yet.
        from resnet.pipelines import Records

        # With more ranks than images, the last ranks have none and the reader knows of fewer.
        self.parts = min(world_size, manifest.split(split).images)
        self.records = Records.of_split(manifest, split, min(rank, self.parts - 1), self.parts)
        self._pipeline: Any = None

    def _place(self) -> Any:
        import torch

        from resnet.pipelines import Place

        device = torch.device(self.device)
        if device.type == "cpu":
            return Place(None)
        return Place(torch.cuda.current_device() if device.index is None else device.index)

    def _run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the next batch: images (B, C, H, W), labels (B,), made from DALI's own buffers."""
        import torch

        if self._pipeline is None:
            raise RuntimeError("the input is not open")
        try:
            images, labels = self._pipeline.run()
        except RuntimeError as error:
            self._pipeline = None
            raise self._explain(error) from None
        images_NHWC = torch.from_dlpack(images.as_tensor())
        return images_NHWC.permute(0, 3, 1, 2), torch.from_dlpack(labels.as_tensor()).view(-1)

    def _explain(self, error: RuntimeError) -> InputError:
        from resnet.pipelines import describe_failure

        return InputError(
            f"{self.manifest.folder}: reading {self.split} images on rank {self.rank} failed "
            f"({describe_failure(error)}): check them with `{VERIFY} {self.manifest.folder} "
            f"--decode`"
        )

    def close(self) -> None:
        """Let the pipeline, its threads and its files go; tensors handed out stay valid."""
        self._pipeline = None


class TrainingInput(_Input):
    """The training images of one rank: an unbroken, reshuffled stream of full batches.

    A rank reads its own part of the records, in a new order each pass; batches go across the ends
    of passes, so none is short and no image is dropped. Every image of the set has been seen k
    times at least after k * ceil(N / global batch size) steps (MLPerf training rules, partial
    batches). The order depends on seed and rank.
    """

    def __init__(
        self,
        manifest: Manifest,
        options: InputOptions,
        rank: int,
        world_size: int,
        local_batch: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        super().__init__(manifest, "train", options, rank, world_size, local_batch, device)
        if world_size > manifest.train.images:
            raise InputError(
                f"{manifest.folder} has {manifest.train.images} training images, too few for "
                f"{world_size} ranks: use fewer ranks or more images"
            )
        self.seed = mix_seed(seed, rank)
        self.batches = 0

    def prepare(self) -> None:
        """Build the pipeline, its threads and buffers; nothing of the data is opened."""
        from resnet.pipelines import build_training

        self._pipeline = build_training(
            self.records, self.options, self.local_batch, self.seed, self._place()
        )

    def open(self) -> None:
        """Build the pipeline if `prepare` has not. No data is read before the first `next()`."""
        if self._pipeline is None:
            self.prepare()

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next batch.

        images: float32 (local_batch, C, H, W) in channels_last memory, normalised; labels: int64
        (local_batch,). Both are the caller's to keep. Raises InputError naming the image that
        cannot be decoded.
        """
        batch = self._run()
        self.batches += 1
        return batch

    def next_into(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Write the next batch into tensors of the caller's, cast to their types.

        images: (local_batch, C, H, W) in channels_last memory; labels: int64 (local_batch,).
        """
        made, made_labels = self.next()
        images.copy_(made, non_blocking=True)
        labels.copy_(made_labels, non_blocking=True)

    def _explain(self, error: RuntimeError) -> InputError:
        from resnet.pipelines import find_undecodable

        if self.batches * self.local_batch > SEARCH_LIMIT_IMAGES:
            return super()._explain(error)  # the others would wait too long for the search
        try:
            found = find_undecodable(
                self.records, self.options, self.local_batch, self.seed, self.batches
            )
        except RuntimeError:  # the files themselves cannot be read: the first report says why
            found = None
        if found is None:
            return super()._explain(error)
        path, offset = found
        name = self.manifest.find_name("train", path, offset)
        return InputError(
            f"{path}: the image at byte {offset}{f' ({name})' if name else ''} cannot be decoded: "
            f"list all such images with `{VERIFY} {self.manifest.folder} --decode`, put the "
            f"originals back and pack again"
        )


class EvaluationInput(_Input):
    """The validation images of one rank: passes that give every image exactly once over all ranks.

    Parts differ by one image at most, so ranks can have different numbers of batches.
    """

    def __init__(
        self,
        manifest: Manifest,
        options: InputOptions,
        rank: int,
        world_size: int,
        local_batch: int,
        device: torch.device | str,
    ) -> None:
        super().__init__(manifest, "val", options, rank, world_size, local_batch, device)
        self.images = self.records.count if rank < self.parts else 0
        longest = -(-manifest.val.images // self.parts)
        self.padded_batches = -(-longest // local_batch)
        self._position = 0

    def prepare(self) -> None:
        """Build the pipeline, its threads and buffers; nothing of the data is opened."""
        from resnet.pipelines import build_evaluation

        self._position = 0
        self._pipeline = build_evaluation(
            self.records, self.options, self.local_batch, self._place()
        )

    def open(self) -> None:
        """Open the data and check that index and manifest count the same images.

        Builds the pipeline if `prepare` has not. Raises InputError where the counts differ.
        """
        from resnet.pipelines import READER

        if self.images == 0:
            return
        if self._pipeline is None:
            self.prepare()
        try:
            found = self._pipeline.reader_meta(READER)["epoch_size"]
        except RuntimeError as error:
            raise self._explain(error) from None
        if found != self.manifest.val.images:
            raise InputError(
                f"{self.manifest.folder}: the index has {found:,} validation images, the manifest "
                f"{self.manifest.val.images:,}: check them with `{VERIFY} {self.manifest.folder}`"
            )

    def epoch(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Give one pass over the rank's validation images.

        Yields (images, labels, count) as `TrainingInput.next`; the first `count` of the
        local_batch images are real, the rest repeat one to keep the shape. A pass left early is
        finished unseen before the next begins. Raises InputError for an image that cannot be
        decoded, RuntimeError if a pass does not add up.
        """
        while self._position:
            self._advance()
        seen = 0
        for number in range(self.padded_batches if self.images else 0):
            count = min(self.local_batch, self.images - number * self.local_batch)
            images, labels = self._advance()
            # A shorter part pads with a batch that has nothing real in it.
            if count > 0:
                seen += count
                yield images, labels, count
        if seen != self.images:
            raise RuntimeError(f"rank {self.rank} evaluated {seen} images of {self.images}")

    def epoch_into(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[int]:
        """Give one pass as `epoch` does, each batch written as `next_into`; yields its count."""
        for made, made_labels, count in self.epoch():
            images.copy_(made, non_blocking=True)
            labels.copy_(made_labels, non_blocking=True)
            yield count

    def _advance(self) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self._run()
        self._position = (self._position + 1) % self.padded_batches
        return batch


def mix_seed(seed: int, rank: int) -> int:
    """Derive a rank's seed, 31 bits, from the run's: different for every pair."""
    import numpy as np

    return int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint32)[0] >> 1)


def _count_cores() -> int:
    return len(os.sched_getaffinity(0))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a duration above 0")
    return value


_positive.__name__, _seconds.__name__ = "count", "duration"


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(prog="python -m resnet.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rate = commands.add_parser("throughput", help="images per second of the input alone")
    rate.add_argument("--data", type=Path, required=True, help="folder that pack made")
    rate.add_argument("--split", choices=("train", "val"), default="train")
    rate.add_argument("--seconds", type=_seconds, default=10.0)
    rate.add_argument("--batch-size", type=_positive, default=100)
    rate.add_argument("--threads", type=_positive, default=_count_cores())
    rate.add_argument("--prefetch-batches", type=_positive, default=3)
    rate.add_argument("--shuffle-buffer-images", type=_positive, default=1024)
    rate.add_argument("--channels", type=int, choices=(3, 4), default=4)
    rate.add_argument("--gpu", type=int, help="number of the GPU to decode on (default: the CPU)")
    rate.add_argument("--json", action="store_true")
    images = commands.add_parser("evaluate-images", help="evaluation preprocessing of JPEG files")
    images.add_argument("folder", type=Path)
    images.add_argument("--npz", type=Path, required=True, help="file to write")
    for command in (rate, images):
        command.add_argument("--crop-size", type=_positive, default=224)
        command.add_argument("--resize-shorter", type=_positive, default=256)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    options = build_parser().parse_args(arguments)
    if options.resize_shorter < options.crop_size:
        raise InputError("--resize-shorter is less than --crop-size: give a larger one")
    if options.command == "evaluate-images":
        from resnet.measurements import evaluate_images

        sizes = (options.crop_size, options.resize_shorter)
        count = evaluate_images(options.folder, options.npz, *sizes, _count_cores())
        print(f"{options.npz}: {count:,} images")
        return GOOD
    from resnet.measurements import measure_throughput

    manifest = read_manifest(options.data)
    shape = InputOptions(
        options.crop_size,
        options.resize_shorter,
        options.threads,
        options.prefetch_batches,
        options.shuffle_buffer_images,
        options.channels,
    )
    result = measure_throughput(
        manifest, options.split, shape, options.batch_size, options.gpu, options.seconds
    )
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['images_per_second']:,.1f} images/s ({options.split}, {result['device']})")
    return GOOD


if __name__ == "__main__":
    run_command(main)
