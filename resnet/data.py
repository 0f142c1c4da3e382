"""ResNet's input as the trainer sees it: an unbroken training stream, exact evaluation passes.

Also measures the input alone: `python -m resnet.data throughput --data DIR` and
`python -m resnet.data evaluate-images DIR --npz FILE`. DALI is imported when an input is
constructed, so that reading a configuration does not pay for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.commands import GOOD, InputError, run_command
from resnet.data_command import build_parser, choose_settings, choose_sizes, count_cores
from resnet.input_options import InputOptions
from resnet.shards import Manifest, read_manifest

if TYPE_CHECKING:
    import torch

    from resnet.handover import Batch, KeptBatches
    from resnet.pipelines import Floats

# Images read again to find the one that cannot be decoded; beyond, the report names no file.
SEARCH_LIMIT_IMAGES = 50_000
VERIFY = "python -m resnet.prepare_data verify"


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
        from resnet.handover import Handover
        from resnet.pipelines import Records

        # With more ranks than images, the last ranks have none and the reader knows of fewer.
        self.parts = min(world_size, manifest.split(split).images)
        self.records = Records.of_split(manifest, split, min(rank, self.parts - 1), self.parts)
        self._handover = Handover(device, options.prefetch_batches)
        self._pipeline: Any = None

    def _place(self) -> Any:
        import torch

        from resnet.pipelines import Place

        device = torch.device(self.device)
        if device.type == "cpu":
            return Place(None)
        return Place(torch.cuda.current_device() if device.index is None else device.index)

    def _choose_floats(self, dtype: torch.dtype | None) -> Floats:
        """What DALI writes for a run in `dtype`: half the bytes where that is float16."""
        import torch

        return "fp16" if dtype == torch.float16 else "fp32"

    def _run(self) -> Batch:
        """Take the next batch in DALI's own buffers: images (B, C, H, W), labels (B,)."""
        if self._pipeline is None:
            raise RuntimeError("the input is not open")
        try:
            return self._handover.take(self._pipeline)
        except RuntimeError as error:
            self._pipeline = None
            raise self._explain_gpu(error) or self._explain(error) from None

    def _explain_gpu(self, error: RuntimeError) -> InputError | None:
        """Say that the GPU failed, where it did: no image is to blame then, and none is looked for.

        A fault of the step's kernels can show first in a call of DALI's.
        """
        from resnet.pipeline_failures import find_gpu_fault

        fault = find_gpu_fault(error)
        if fault is None:
            return None
        return InputError(
            f"the GPU of rank {self.rank} failed while {self.split} images were made ({fault}): if "
            f"it had no memory left, lower decoded_cache_megabytes and validation_cache_megabytes"
        )

    def _explain(self, error: RuntimeError) -> InputError:
        from resnet.pipeline_failures import describe_failure

        return InputError(
            f"{self.manifest.folder}: reading {self.split} images on rank {self.rank} failed "
            f"({describe_failure(error)}): check them with `{VERIFY} {self.manifest.folder} "
            f"--decode`"
        )

    def close(self) -> None:
        """Let the pipeline, its threads and its files go; tensors handed out stay valid."""
        self._handover.lent.release()
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

    def prepare(self, dtype: torch.dtype | None = None) -> None:
        """Build the pipeline, its threads, buffers and cache; nothing of the data is opened.

        dtype: of the tensors that batches are written into; float32 where it is not given. Raises
        InputError for a cache of decoded images that there is no memory for.
        """
        import torch

        from resnet.pipelines import build_training, check_free_memory, fit_decoded_cache

        place, floats = self._place(), self._choose_floats(dtype)
        if place.gpu is not None:
            fitted = fit_decoded_cache(self.options, self.records)
            check_free_memory(fitted, torch.cuda.mem_get_info(place.gpu)[0])
        self._pipeline = build_training(
            self.records, self.options, self.local_batch, self.seed, place, floats
        )

    def open(self) -> None:
        """Build the pipeline if `prepare` has not. No data is read before the first `next()`."""
        if self._pipeline is None:
            self.prepare()

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next batch.

        images: float32, or float16 if `prepare` was given it, (local_batch, C, H, W) in
        channels_last memory, normalised; labels: int64 (local_batch,). Both are the caller's to
        keep. Raises InputError naming the image that cannot be decoded.
        """
        return self._handover.keep(self._advance())

    def next_into(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Write the next batch into tensors of the caller's, cast to their types.

        images: (local_batch, C, H, W) in channels_last memory; labels: int64 (local_batch,). On a
        GPU the copy is in the order of torch's current stream and the host does not wait for it.
        """
        self._handover.copy(self._advance(), images, labels)

    def _advance(self) -> Batch:
        batch = self._run()
        self.batches += 1
        return batch

    def _explain(self, error: RuntimeError) -> InputError:
        from resnet.pipeline_failures import find_undecodable

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
        self._kept: KeptBatches | None = None

    def prepare(self, dtype: torch.dtype | None = None) -> None:
        """Build the pipeline, its threads and buffers; nothing of the data is opened.

        dtype: of the tensors that batches are written into, in which `validation_cache_megabytes`
        keeps images too; float32 where it is not given. Raises InputError where they do not fit.
        """
        from resnet.pipelines import build_evaluation

        self._position = 0
        if self.options.validation_cache_megabytes and self.images:
            self._kept = self._make_room(dtype)
        self._pipeline = build_evaluation(
            self.records,
            self.options,
            self.local_batch,
            self._place(),
            self._choose_floats(dtype),
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
        for batch, count in self._batches():
            yield *self._handover.keep(batch), count

    def epoch_into(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[int]:
        """Give one pass as `epoch` does, each batch written as `next_into`; yields its count.

        With `validation_cache_megabytes` the first whole pass fills the memory that `prepare` took,
        and every later one reads, decodes and preprocesses nothing.
        """
        kept = self._kept
        if kept is not None and kept.complete:
            for number in range(len(kept)):
                kept.load(number, images, labels)
                yield min(self.local_batch, self.images - number * self.local_batch)
            return
        for number, (batch, count) in enumerate(self._batches()):
            self._handover.copy(batch, images, labels)
            if kept is not None:
                kept.store(number, images, labels)
            yield count
        if kept is not None:
            kept.complete = True

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """One pass in DALI's own buffers, each batch with the number of its real images."""
        while self._position:
            self._advance()
        seen = 0
        for number in range(self.padded_batches if self.images else 0):
            count = min(self.local_batch, self.images - number * self.local_batch)
            batch = self._advance()
            # A shorter part pads with a batch that has nothing real in it.
            if count > 0:
                seen += count
                yield batch, count
        if seen != self.images:
            raise RuntimeError(f"rank {self.rank} evaluated {seen} images of {self.images}")

    def _make_room(self, dtype: torch.dtype | None) -> KeptBatches:
        import torch

        from resnet.handover import KeptBatches

        options, batches = self.options, -(-self.images // self.local_batch)
        shape = (self.local_batch, options.channels, options.crop_size, options.crop_size)
        megabytes = options.validation_cache_megabytes
        return KeptBatches(batches, shape, dtype or torch.float32, self.device, megabytes)

    def _advance(self) -> Batch:
        batch = self._run()
        self._position = (self._position + 1) % self.padded_batches
        return batch


def mix_seed(seed: int, rank: int) -> int:
    """Derive a rank's seed, 31 bits, from the run's: different for every pair."""
    import numpy as np

    return int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint32)[0] >> 1)


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    options = build_parser().parse_args(arguments)
    if options.command == "evaluate-images":
        from resnet.measurements import evaluate_images

        sizes = choose_sizes(options)
        count = evaluate_images(options.folder, options.npz, *sizes, count_cores())
        print(f"{options.npz}: {count:,} images")
        return GOOD
    from resnet.measurements import measure_throughput

    manifest = read_manifest(options.data)
    place = (options.rank, options.ranks)
    result = measure_throughput(
        manifest, options.split, choose_settings(options), place, options.gpu, options.seconds
    )
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['images_per_second']:,.1f} images/s ({options.split}, {result['device']})")
    return GOOD


if __name__ == "__main__":
    run_command(main)
