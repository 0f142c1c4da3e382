"""BERT's data set: downloaded, made from text, shuffled, picked from, checked, compared, exported.

python -m bert.prepare_data COMMAND: download, create, shuffle, pick, verify, info, digest, export.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bert.examples import ExampleSettings
from bert.manifest import MANIFEST_NAME, load_manifest, read_manifest
from bert.published_data import read_published_data
from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command

MOST_WORKERS = 1024


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
    add_download(commands)
    add_shuffle(commands)
    pick = add_data(commands, "pick", "pick the evaluation set, evenly spread")
    pick.add_argument("output", type=Path, metavar="PICKED", help="folder to write")
    pick.add_argument("--samples", type=int, default=10_000, help="examples to pick")
    add_verify(commands)
    info = add_data(commands, "info", "count examples and show how long they are")
    info.add_argument("--picture", type=Path, metavar="FILE", help=".svg or .png to draw")
    digest = add_data(commands, "digest", "print the MD5 digests of each shard")
    for command in (digest, info):
        command.add_argument("--workers", type=int, default=1, help="shards read at a time")
        command.add_argument("--json", action="store_true", help="print one JSON document")
    export = add_data(commands, "export", "write the reference's seven padded features")
    export.add_argument("--npz", type=Path, required=True, help="file to write")
    export.add_argument("--workers", type=int, default=1, help="threads that read and compress")
    return parser


def add_data(commands: Any, name: str, purpose: str) -> Any:
    """Add a command that reads a data set."""
    command = commands.add_parser(name, help=purpose)
    command.add_argument("data", type=Path, metavar="OUT", help="folder of the data set")
    return command


def add_shuffle(commands: Any) -> None:
    """Describe the command line of the global shuffle."""
    shuffle = add_data(commands, "shuffle", "write all examples in one random order")
    shuffle.add_argument("output", type=Path, metavar="SHUFFLED", help="folder to write")
    shuffle.add_argument("--seed", type=int, default=24, help="of random.Random (default 24)")
    shuffle.add_argument(
        "--shards", type=int, help="files to write (default: as many as there are)"
    )
    shuffle.add_argument("--workers", type=int, default=1, help="threads, at most 1 GiB each")


def add_verify(commands: Any) -> None:
    """Describe the command line of the checks."""
    verify = add_data(commands, "verify", "check every byte against the manifest")
    verify.add_argument("--workers", type=int, default=1, help="shards read at a time")
    verify.add_argument(
        "--against", type=Path, metavar="MANIFEST", help="a manifest.json that it must equal"
    )
    verify.add_argument(
        "--published", action="store_true", help="compare with published digests and counts"
    )


def add_download(commands: Any) -> None:
    """Describe the command line of the download."""
    download = commands.add_parser(
        "download", help="print (or run) MLCommons' download commands; check what is there"
    )
    download.add_argument("folder", type=Path, metavar="DIR", help="folder of the files")
    download.add_argument("--run", action="store_true", help="run the commands, too")
    download.add_argument("--workers", type=int, default=2, help="files read at a time")
    download.add_argument("--json", action="store_true", help="print one JSON document")


def check_workers(arguments: Any) -> None:
    """Raise InputError for a number of workers that cannot be."""
    if not 1 <= arguments.workers <= MOST_WORKERS:
        raise InputError(f"--workers must be from 1 to {MOST_WORKERS}, not {arguments.workers}")


def run_download(arguments: Any) -> int:
    """Print or run the download commands, then check what is there."""
    from bert.prepare_data_download import (
        GOOD_STATES,
        check_files,
        download_files,
        list_commands,
    )

    published = read_published_data()
    commands = list_commands(published, arguments.folder)
    if not arguments.json:
        print("\n".join(commands), flush=True)
    if arguments.run:
        download_files(published, arguments.folder)
    states = check_files(published, arguments.folder, arguments.workers)
    complete = all(state.state in GOOD_STATES for state in states)
    if arguments.json:
        files = [asdict(state) for state in states]
        print(json.dumps({"commands": commands, "files": files, "complete": complete}))
    else:
        for state in states:
            print(state.describe())
        good = sum(state.state in GOOD_STATES for state in states)
        print(
            f"{'complete' if complete else 'not complete'}: {good} of {len(states)} files are good"
        )
    return GOOD if complete else NOT_GOOD


def run_create(arguments: Any) -> int:
    """Make a data set from the command line's arguments."""
    from bert.prepare_data_parts import create_data

    settings = ExampleSettings(
        **{name: getattr(arguments, name) for name in ExampleSettings.__dataclass_fields__}
    )
    manifest = create_data(
        arguments.texts, arguments.vocab, arguments.output, settings, arguments.workers
    )
    print(f"{manifest.examples} examples in {arguments.output}", file=sys.stderr)
    return GOOD


def run_shuffle(arguments: Any) -> int:
    """Shuffle a data set."""
    from bert.prepare_data_shuffle import shuffle_data

    manifest = read_manifest(arguments.data)
    if not 0 <= arguments.seed < 1 << 63:
        raise InputError(f"--seed must be from 0 to 2^63 - 1, not {arguments.seed}")
    result = shuffle_data(
        manifest, arguments.output, arguments.seed, arguments.shards, arguments.workers
    )
    print(f"{result.examples} examples in {arguments.output}", file=sys.stderr)
    return GOOD


def run_pick(arguments: Any) -> int:
    """Pick the evaluation set."""
    from bert.prepare_data_picks import pick_evaluation_examples

    manifest = read_manifest(arguments.data)
    picked = pick_evaluation_examples(manifest, arguments.output, arguments.samples)
    print(f"{picked.examples} examples in {arguments.output}", file=sys.stderr)
    return GOOD


def run_verify(arguments: Any) -> int:
    """Check a data set; a sentence on stderr for each fault."""
    from bert.prepare_data_verification import (
        DIFFERS,
        compare_manifests,
        compare_published,
        verify_data,
    )

    manifest, stored, faults = read_manifest(arguments.data), None, []
    if arguments.against is not None:
        path = arguments.against
        stored = load_manifest(path / MANIFEST_NAME if path.is_dir() else path)
        faults += compare_manifests(manifest, stored)
    faults += verify_data(manifest, arguments.workers)
    if arguments.published and not faults:
        for finding in compare_published(manifest, read_published_data()):
            if finding.result == DIFFERS:
                faults.append(f"{manifest.folder}: {finding.sentence}")
            else:
                print(f"{finding.result}: {finding.sentence}")
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        return NOT_GOOD
    shards = len(manifest.shards)
    print(f"{manifest.folder}: {manifest.examples:,} examples in {shards:,} shards: no faults")
    return GOOD


def run_info(arguments: Any) -> int:
    """Count a data set, and draw it where that is asked for."""
    from bert.prepare_data_information import (
        check_picture,
        describe_data,
        draw_lengths,
        print_description,
    )

    if arguments.picture is not None:
        check_picture(arguments.picture)
    manifest = read_manifest(arguments.data)
    description = describe_data(manifest, read_published_data().lengths, arguments.workers)
    if arguments.picture is not None:
        draw_lengths(description, arguments.picture)
    if arguments.json:
        print(json.dumps(description))
    else:
        print_description(description)
    return GOOD


def run_digest(arguments: Any) -> int:
    """Print the digests of every shard."""
    from bert.prepare_data_digests import digest_data

    digests = digest_data(read_manifest(arguments.data), arguments.workers)
    if arguments.json:
        print(json.dumps(digests))
    else:
        for row in digests["shards"]:
            print(row["shard"], row["examples"], row["input_ids_md5"], row["features_md5"])
    return GOOD


def run_export(arguments: Any) -> int:
    """Write the padded features."""
    from bert.prepare_data_export import export_data

    export_data(read_manifest(arguments.data), arguments.npz, arguments.workers)
    return GOOD


# Each imports what it needs when it runs, so that --help and the small commands start at once.
COMMANDS: dict[str, Callable[[Any], int]] = {
    "download": run_download,
    "create": run_create,
    "shuffle": run_shuffle,
    "pick": run_pick,
    "verify": run_verify,
    "info": run_info,
    "digest": run_digest,
    "export": run_export,
}


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    options = make_parser().parse_args(arguments)
    if hasattr(options, "workers"):
        check_workers(options)
    return COMMANDS[options.command](options)


if __name__ == "__main__":
    run_command(main)
