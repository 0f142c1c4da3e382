"""BERT's data set: made from text, compared, checked, picked from, exported.

python -m bert.prepare_data create|digest|export|pick|verify|info; --help tells each one's options.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert.examples import ExampleSettings
from bert.prepare_data_digests import digest_data
from bert.prepare_data_export import export_data
from bert.prepare_data_faults import find_faults
from bert.prepare_data_parts import create_data
from bert.prepare_data_picks import pick_evaluation_examples
from bert.shard_file import hash_content, read_description
from bert.shards import Manifest, ShardSet, read_manifest
from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from harness.progress import Progress

BINS = 16
BAR_CHARACTERS = 40


def verify_data(manifest: Manifest) -> list[str]:
    """Read every byte of a data set; return what is wrong with it, a sentence each."""
    faults = []
    progress = Progress("verify", sum(shard.bytes for shard in manifest.shards) // 1000, "kB")
    done = 0
    with ShardSet.open(manifest) as shards:
        for number, shard in enumerate(manifest.shards):
            try:
                description, start = read_description(manifest.folder / shard.name)
                if hash_content(manifest.folder / shard.name, start) != description["sha256"]:
                    raise InputError(
                        f"{manifest.folder / shard.name}: the content does not match its checksum: "
                        "delete the file and run the same create again"
                    )
                faults += find_faults(
                    shards.get_file(number).layout,
                    manifest.max_seq_length,
                    manifest.max_predictions_per_seq,
                    manifest.vocabulary_size,
                )
            except InputError as fault:
                faults.append(str(fault))
            done += shard.bytes
            progress.update(done // 1000, f"{number + 1}/{len(manifest.shards)} shards")
    return faults


def describe_data(manifest: Manifest) -> dict[str, Any]:
    """Count a data set: examples, tokens, masks, and how many sequences are how long.

    length_histogram: [first length, last length, examples] for each of 16 equal stretches.
    """
    longest = manifest.max_seq_length
    counts = np.zeros(longest + 1, dtype=np.int64)
    random_next = 0
    with ShardSet.open(manifest) as shards:
        for number in range(len(manifest.shards)):
            index = shards.get_file(number).index
            counts += np.bincount(index["tokens"], minlength=longest + 1)
            random_next += int(index["next_sentence_label"].sum(dtype=np.int64))
    edges = np.linspace(0, longest, BINS + 1).astype(int)
    return {
        "shards": len(manifest.shards),
        "examples": manifest.examples,
        "tokens": manifest.tokens,
        "masked_tokens": manifest.masked_tokens,
        "random_next_examples": random_next,
        "mean_tokens": manifest.tokens / manifest.examples,
        "padding_share": 1 - manifest.tokens / (manifest.examples * longest),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "vocabulary_size": manifest.vocabulary_size,
        "vocabulary_md5": manifest.vocabulary_md5,
        "max_seq_length": longest,
        "max_predictions_per_seq": manifest.max_predictions_per_seq,
        "length_histogram": [
            [int(low) + 1, int(high), int(counts[low + 1 : high + 1].sum())]
            for low, high in itertools.pairwise(edges)
            if high > low
        ],
    }


def print_description(description: dict[str, Any]) -> None:
    """Print counts and the histogram as text."""
    for key, value in description.items():
        if key != "length_histogram":
            shown = f"{value:,}" if isinstance(value, int) else value
            print(f"{key:24} {f'{value:.4f}' if isinstance(value, float) else shown}")
    highest = max(count for _, _, count in description["length_histogram"])
    for low, high, count in description["length_histogram"]:
        bar = "#" * round(BAR_CHARACTERS * count / max(highest, 1))
        print(f"{low:5} to {high:5} tokens {count:12,} {bar}".rstrip())


def make_parser() -> Parser:
    """Describe the command line."""
    parser = Parser("python -m bert.prepare_data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    create = commands.add_parser("create", help="make the examples of texts, a shard for each")
    create.add_argument("--vocab", type=Path, required=True, help="vocab.txt")
    create.add_argument("--output", type=Path, required=True, help="folder of the data set")
    create.add_argument("--workers", type=int, default=1, help="texts worked on at a time")
    settings = ExampleSettings()
    for name in ("max_seq_length", "max_predictions_per_seq", "dupe_factor", "seed"):
        option = f"--{name.replace('_', '-')}"
        create.add_argument(option, type=int, default=getattr(settings, name))
    for name in ("masked_lm_prob", "short_seq_prob"):
        option = f"--{name.replace('_', '-')}"
        create.add_argument(option, type=float, default=getattr(settings, name))
    create.add_argument("texts", type=Path, nargs="+", metavar="TEXT")
    digest = commands.add_parser("digest", help="print the MD5 digests of each shard")
    export = commands.add_parser("export", help="write the reference's seven padded features")
    export.add_argument("--npz", type=Path, required=True, help="file to write")
    pick = commands.add_parser("pick", help="pick the evaluation set, evenly spread")
    verify = commands.add_parser("verify", help="check every byte against the manifest")
    info = commands.add_parser("info", help="count examples and show how long they are")
    for command in (digest, export, pick, verify, info):
        command.add_argument("data", type=Path, metavar="OUT", help="folder of the data set")
    pick.add_argument("output", type=Path, metavar="PICKED", help="folder to write")
    pick.add_argument("--samples", type=int, default=10_000, help="examples to pick")
    for command in (digest, info):
        command.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def run_create(arguments: Any) -> int:
    """Make a data set from the command line's arguments."""
    settings = ExampleSettings(
        **{name: getattr(arguments, name) for name in ExampleSettings.__dataclass_fields__}
    )
    if arguments.workers < 1:
        raise InputError(f"--workers must be at least 1, not {arguments.workers}")
    manifest = create_data(
        arguments.texts, arguments.vocab, arguments.output, settings, arguments.workers
    )
    print(f"{manifest.examples} examples in {arguments.output}", file=sys.stderr)
    return GOOD


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    options = make_parser().parse_args(arguments)
    if options.command == "create":
        return run_create(options)
    manifest = read_manifest(options.data)
    if options.command == "digest":
        digests = digest_data(manifest)
        if options.json:
            print(json.dumps(digests))
        else:
            for row in digests["shards"]:
                print(row["shard"], row["examples"], row["input_ids_md5"], row["features_md5"])
    elif options.command == "export":
        export_data(manifest, options.npz)
    elif options.command == "pick":
        picked = pick_evaluation_examples(manifest, options.output, options.samples)
        print(f"{picked.examples} examples in {options.output}", file=sys.stderr)
    elif options.command == "info":
        description = describe_data(manifest)
        if options.json:
            print(json.dumps(description))
        else:
            print_description(description)
    else:
        faults = verify_data(manifest)
        for fault in faults:
            print(fault, file=sys.stderr)
        return NOT_GOOD if faults else GOOD
    return GOOD


if __name__ == "__main__":
    run_command(main)
