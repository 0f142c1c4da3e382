"""What a data set holds: counts, and how many sequences are how long, as text and as a picture."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bert.manifest import MANIFEST_NAME, Manifest, Shard
from bert.prepare_data_threads import run_tasks
from bert.published_data import PublishedLength
from bert.shard_file import find_layout, read_description, read_index
from harness.commands import InputError
from harness.files import check_writable, write_atomically
from harness.progress import Progress

BINS = 16
BAR_CHARACTERS = 40
READ_EXAMPLES = 1 << 20
PICTURE_SUFFIXES = (".svg", ".png")


def count_lengths(manifest: Manifest, workers: int = 1) -> tuple[npt.NDArray[np.int64], int]:
    """Count the sequences of each length 0 ... max_seq_length, and those with a random second half.

    Reads the indices alone, 16 bytes an example, of as many shards at a time as there are workers
    (threads, some 30 MB each). Raises InputError where a shard is damaged.
    """
    counts = np.zeros(manifest.max_seq_length + 1, dtype=np.int64)
    random_next = done = 0
    progress = Progress("info", manifest.examples, "examples")
    tasks = [partial(count_shard, manifest, shard) for shard in manifest.shards]
    for finished, (number, (found, found_random)) in enumerate(run_tasks(tasks, workers), 1):
        counts += found
        random_next += found_random
        done += manifest.shards[number].examples
        progress.update(done, f"{finished}/{len(tasks)} shards")
    progress.end()
    return counts, random_next


def count_shard(manifest: Manifest, shard: Shard) -> tuple[npt.NDArray[np.int64], int]:
    """Count as count_lengths does, in one shard."""
    path = manifest.folder / shard.name
    layout = find_layout(path, *read_description(path))
    if (layout.examples, layout.tokens) != (shard.examples, shard.tokens):
        raise InputError(
            f"{path} is not the shard that {MANIFEST_NAME} names: delete it and run the same "
            "create again"
        )
    counts = np.zeros(manifest.max_seq_length + 1, dtype=np.int64)
    random_next = 0
    for first in range(0, layout.examples, READ_EXAMPLES):
        index = read_index(layout, first, min(first + READ_EXAMPLES, layout.examples))
        if index["tokens"].max() > manifest.max_seq_length:
            raise InputError(
                f"{path} is damaged: run python -m bert.prepare_data verify {manifest.folder}"
            )
        counts += np.bincount(index["tokens"], minlength=len(counts))
        random_next += int(np.count_nonzero(index["next_sentence_label"]))
    return counts, random_next


def describe_data(
    manifest: Manifest, published: tuple[PublishedLength, ...] = (), workers: int = 1
) -> dict[str, Any]:
    """Count a data set: examples, tokens, masks, and how many sequences are how long.

    length_histogram: [first length, last length, examples] for each of 16 equal stretches;
    length_shares: the data set's shares beside published ones, where sequences are as long.
    """
    longest = manifest.max_seq_length
    counts, random_next = count_lengths(manifest, workers)
    edges = np.linspace(0, longest, BINS + 1).astype(int)
    return {
        "shards": len(manifest.shards),
        "examples": manifest.examples,
        "tokens": manifest.tokens,
        "masked_tokens": manifest.masked_tokens,
        "random_next_examples": random_next,
        "mean_tokens": manifest.tokens / manifest.examples,
        "padding_share": 1 - manifest.tokens / (manifest.examples * longest),
        "bytes": manifest.bytes,
        "bytes_per_example": manifest.bytes / manifest.examples,
        "vocabulary_size": manifest.vocabulary_size,
        "vocabulary_md5": manifest.vocabulary_md5,
        "max_seq_length": longest,
        "max_predictions_per_seq": manifest.max_predictions_per_seq,
        "length_histogram": [
            [int(low) + 1, int(high), int(counts[low + 1 : high + 1].sum())]
            for low, high in itertools.pairwise(edges)
            if high > low
        ],
        "length_shares": compare_lengths(counts, published),
    }


def compare_lengths(
    counts: npt.NDArray[np.int64], published: tuple[PublishedLength, ...]
) -> list[dict[str, float]]:
    """Return the shares of sequences and tokens by length, ours and published, in per cent.

    Nothing where the longest published sequence is not as long as the longest possible here.
    """
    if not published or published[-1].last != len(counts) - 1:
        return []
    tokens = counts * np.arange(len(counts))
    return [
        {
            "first": item.first,
            "last": item.last,
            "sequences_percent": 100 * float(counts[item.first : item.last + 1].sum())
            / float(counts.sum()),
            "tokens_percent": 100 * float(tokens[item.first : item.last + 1].sum())
            / float(tokens.sum()),
            "published_sequences_percent": item.sequences_percent,
            "published_tokens_percent": item.tokens_percent,
        }
        for item in published
    ]  # fmt: skip


def print_description(description: dict[str, Any]) -> None:
    """Print counts, the histogram and the comparison as text."""
    for key, value in description.items():
        if key not in ("length_histogram", "length_shares"):
            shown = f"{value:,}" if isinstance(value, int) else value
            print(f"{key:24} {f'{value:.4f}' if isinstance(value, float) else shown}")
    highest = max(count for _, _, count in description["length_histogram"])
    for low, high, count in description["length_histogram"]:
        bar = "#" * round(BAR_CHARACTERS * count / max(highest, 1))
        print(f"{low:5} to {high:5} tokens {count:12,} {bar}".rstrip())
    if description["length_shares"]:
        print("per cent of           sequences  (Wikipedia)      tokens  (Wikipedia)")
    for row in description["length_shares"]:
        print(
            f"{row['first']:5} to {row['last']:5} tokens"
            f"{row['sequences_percent']:11.1f}{row['published_sequences_percent']:13.1f}"
            f"{row['tokens_percent']:12.1f}{row['published_tokens_percent']:13.1f}"
        )


def check_picture(path: Path) -> None:
    """Raise InputError for a picture that cannot be written, before anything is counted for it."""
    if path.suffix not in PICTURE_SUFFIXES:
        raise InputError(f"{path}: a picture ends in {' or '.join(PICTURE_SUFFIXES)}")
    check_writable(path.parent, str(path))


def draw_lengths(description: dict[str, Any], path: Path) -> None:
    """Draw how long sequences are into an .svg or .png file, whole or not at all.

    Raises OSError where the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shares = description["length_shares"]
    figure = Figure(figsize=(8, 7 if shares else 4), layout="constrained")
    axes = figure.subplots(2 if shares else 1, 1, squeeze=False)[:, 0]
    rows = description["length_histogram"]
    axes[0].bar(
        [(low + high) / 2 for low, high, _ in rows],
        [100 * count / description["examples"] for _, _, count in rows],
        [0.9 * (high - low + 1) for low, high, _ in rows],
    )
    axes[0].set_xlabel("tokens in a sequence")
    axes[0].set_ylabel("sequences, per cent")
    axes[0].set_title(
        f"{description['examples']:,} sequences, {description['mean_tokens']:.1f} tokens on "
        f"average, {100 * description['padding_share']:.1f} % would be padding"
    )
    if shares:
        places = np.arange(len(shares))
        ours = [row["sequences_percent"] for row in shares]
        theirs = [row["published_sequences_percent"] for row in shares]
        axes[1].bar(places - 0.2, ours, 0.4, label="this data set")
        axes[1].bar(places + 0.2, theirs, 0.4, label="Wikipedia passed over once, published")
        labels = [
            f"{row['first']}\u2013{row['last']}" if row["first"] < row["last"] else row["last"]
            for row in shares
        ]
        axes[1].set_xticks(places, labels)
        axes[1].set_xlabel("tokens in a sequence")
        axes[1].set_ylabel("sequences, per cent")
        axes[1].legend()
    # The same data make the same file.
    svg = path.suffix == ".svg"
    with matplotlib.rc_context({"svg.hashsalt": "lengths"}), write_atomically(path, "wb") as file:
        figure.savefig(file, format=path.suffix[1:], metadata={"Date": None} if svg else None)
