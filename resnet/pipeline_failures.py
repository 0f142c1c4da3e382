"""What stopped an image pipeline: which image could not be decoded, and DALI's reason in a line."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from harness.commands import InputError
from harness.progress import end_progress
from resnet.pipelines import Place, Records, make_pipeline, read_shuffled

if TYPE_CHECKING:
    from resnet.input_options import InputOptions


# How DALI begins to tell of a failed call of CUDA and of memory that a GPU has not got
# (include/dali/core/cuda_error.h), and torch of the first.
GPU_FAULT = re.compile(
    r"CUDA ((driver|runtime) API error|allocation failed|error)|Can't allocate \d+ bytes on device"
)


def find_undecodable(
    records: Records, options: InputOptions, batch: int, seed: int, batches_done: int
) -> tuple[str, int] | None:
    """Find the image that stopped a training pipeline: (shard path, byte offset), or None.

    DALI does not say which image it could not decode. The same reader with the same seed gives
    the same order, so it is run again without decoding up to the batches that were in work, and
    their images are decoded one by one.
    """
    pipeline = make_pipeline(batch, options, seed, Place(None))
    with pipeline:
        encoded, _ = read_shuffled(records, options, seed)
        pipeline.set_outputs(encoded, fn.get_property(encoded, key="source_info"))
    pipeline.build()
    for _ in range(batches_done):
        pipeline.run()
    for _ in range(options.prefetch_batches + 1):
        images, places = pipeline.run()
        for position in range(batch):
            if not _can_decode(images[position]):
                return _parse_place(bytes(memoryview(places[position])).decode())
    return None


def _can_decode(image: Any) -> bool:
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        encoded = fn.external_source(source=lambda: [image])
        pipeline.set_outputs(fn.decoders.image(encoded))
    pipeline.build()
    try:
        pipeline.run()
    except RuntimeError:
        return False
    return True


def _parse_place(text: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(.*) at index (\d+)", text)
    return (str(Path(found[1])), int(found[2])) if found else None


def describe_failure(error: Exception) -> str:
    """Reduce DALI's report, which has a traceback of its own in it, to its reason on one line."""
    text = str(error).split("encountered:")[-1].split("Current pipeline object")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Critical error", "Error in "))]
    return lines[0][:200].rstrip(" :.") if lines else "DALI gives no reason"


def find_gpu_fault(error: Exception) -> str | None:
    """The reason in a line where a GPU or its memory stopped a pipeline; None for any other."""
    reason = describe_failure(error)
    return reason if GPU_FAULT.match(reason) else None


@contextmanager
def hold_messages() -> Iterator[TextIO]:
    """Hold back what libraries write to the process's stderr; drop it where an InputError says it.

    Of an image that it cannot decode, DALI's decoder writes lines of its own before we have the
    reason for our sentence. Yields the stream that is still shown at once, for our own progress.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, os.fdopen(os.dup(2), "w", encoding="utf-8") as screen:
        os.dup2(held.fileno(), 2)
        try:
            yield screen
        except InputError:
            end_progress()  # it writes to the stream that is closed here
            held.truncate(0)
            raise
        finally:
            os.dup2(screen.fileno(), 2)
            held.seek(0)
            shutil.copyfileobj(held, screen.buffer)
