"""`python -m demo` makes the demonstration's data under data/demo, once; --force makes it anew."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from harness.commands import GOOD, InputError, Parser, run_command

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bert" / "configs" / "demo.toml"

SEED = 20_240_221
CLASSES, TRAIN_IMAGES, VAL_IMAGES = 12, 1440, 480
TEXT_PARTS, DOCUMENTS_PER_PART, EVALUATION_DOCUMENTS = 4, 250, 60
EVALUATION_SAMPLES = 512
FIRST_PHASE_UPDATES = 112

# What a run expects of packed images: data in another form is made anew.
FORMAT = ROOT / "resnet" / "shards.py"
STAMP = "made_by"
RUN_PARTS = ("resnet", "bert")


def main(arguments: Sequence[str]) -> int:
    """Make the data unless it is there and made by these very sources."""
    parser = Parser(prog="python -m demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "demo")
    parser.add_argument("--force", action="store_true", help="make it anew")
    options = parser.parse_args(arguments)
    output = Path(os.path.realpath(options.output))
    output.parent.mkdir(parents=True, exist_ok=True)
    with hold(output.parent):
        make(output, options.output, options.force)
    return GOOD


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Let one call at a time make data in a folder; the others wait, and mostly find it made."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another call is making data in {folder}: waiting for it", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make(output: Path, shown: Path, force: bool) -> None:
    """Make the data unless it is there. shown: how the user named the folder."""
    check_replaceable(output)
    version = hash_sources()
    if not force and read_stamp(output) == describe(output, version):
        print(f"{shown} is there and up to date", file=sys.stderr)
        return
    unfinished = output.with_name(f".{output.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with tell_as(unfinished, shown):
        make_resnet_data(unfinished)
        make_bert_data(unfinished)
    (unfinished / STAMP).write_text(describe(unfinished, version), encoding="utf-8")
    replace_folder(output, unfinished)


def check_replaceable(output: Path) -> None:
    """Raise InputError rather than replace a folder that this command has not made."""
    ours = (output / STAMP).is_file()
    empty = not os.path.lexists(output) or (output.is_dir() and not any(output.iterdir()))
    if not ours and not empty:
        raise InputError(
            f"{output} is there and was not made by python -m demo: name another folder "
            f"with --output, or move it away"
        )


class Renaming:
    """A stream that writes one text in place of another; all else is the stream's own."""

    def __init__(self, stream: TextIO, old: str, new: str) -> None:
        self.stream, self.old, self.new = stream, old, new

    def write(self, text: str) -> int:
        """Write text, which holds the other one whole or not at all."""
        self.stream.write(text.replace(self.old, self.new))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def tell_as(unfinished: Path, output: Path) -> Iterator[None]:
    """Let progress, results and errors name the folder that the user will find."""
    old, new = str(unfinished), str(output)
    try:
        with (
            contextlib.redirect_stdout(Renaming(sys.stdout, old, new)),
            contextlib.redirect_stderr(Renaming(sys.stderr, old, new)),
        ):
            yield
    except InputError as error:
        raise InputError(str(error).replace(old, new)) from error
    except OSError as error:
        if error.filename is not None:
            error.filename = str(error.filename).replace(old, new)
        raise


def replace_folder(output: Path, finished: Path) -> None:
    """Give finished data its name; what had it is removed only then, so nothing half-gone stays."""
    earlier = output.with_name(f".{output.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if output.exists():
        os.rename(output, earlier)
    os.rename(finished, output)
    shutil.rmtree(earlier, ignore_errors=True)


def read_stamp(output: Path) -> str | None:
    """What was written when the data was finished; None without it."""
    stamp = output / STAMP
    return stamp.read_text(encoding="utf-8", errors="replace") if stamp.is_file() else None


def describe(folder: Path, version: str) -> str:
    """The sources' hash and the size of every file that a run reads: what the stamp says."""
    found = (file for part in RUN_PARTS for file in (folder / part).rglob("*") if file.is_file())
    sizes = [f"{file.stat().st_size} {file.relative_to(folder)}" for file in sorted(found)]
    return "\n".join([version, *sizes, ""])


def hash_sources() -> str:
    """Hash what decides the data: the demonstration's sources, BERT's configuration, the format."""
    digest = hashlib.sha256()
    for file in sorted([*(ROOT / "demo").glob("*.py"), CONFIG, FORMAT]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def make_resnet_data(folder: Path) -> None:
    """Make JPEG files by class and pack them like ImageNet."""
    from demo.images import make_images
    from resnet import prepare_data

    originals = folder / "jpeg"
    make_images(originals, SEED, TRAIN_IMAGES, VAL_IMAGES, CLASSES)
    run(
        prepare_data.main,
        "pack", "--train", originals / "train", "--val", originals / "val",
        "--output", folder / "resnet", "--shards", 4, "--seed", SEED,
    )  # fmt: skip


def make_bert_data(folder: Path) -> None:
    """Make text, prepare it like Wikipedia, and train the initial checkpoint."""
    from bert import prepare_data
    from bert.config import Config
    from demo.initial_checkpoint import make_initial_checkpoint
    from demo.text import make_text, make_vocabulary
    from harness.config import load_config

    config = load_config(CONFIG, Config)
    text, bert = folder / "text", folder / "bert"
    text.mkdir()
    bert.mkdir()
    size = make_vocabulary(text / "vocab.txt")
    if size != config.model.vocabulary_size:
        raise InputError(f"{CONFIG}: model.vocabulary_size must be {size}, the text's vocabulary")
    parts = [text / f"part-{part:05d}-of-{TEXT_PARTS:05d}" for part in range(TEXT_PARTS)]
    for part, file in enumerate(parts):
        make_text(file, SEED + 1 + part, DOCUMENTS_PER_PART)
    make_text(text / "eval.txt", SEED, EVALUATION_DOCUMENTS)
    shape = [
        "--vocab", text / "vocab.txt", "--workers", 2,
        "--max-seq-length", config.input.max_sequence_length,
        "--max-predictions-per-seq", config.input.max_predictions_per_sequence,
    ]  # fmt: skip
    run(prepare_data.main, "create", *shape, "--output", bert / "train", *parts)
    run(prepare_data.main, "create", *shape, "--output", bert / "eval_all", text / "eval.txt")
    run(
        prepare_data.main,
        "pick", bert / "eval_all", bert / "eval", "--samples", EVALUATION_SAMPLES,
    )  # fmt: skip
    shutil.rmtree(bert / "eval_all")
    file = bert / "initial.safetensors"
    make_initial_checkpoint(config, bert / "train", file, SEED, FIRST_PHASE_UPDATES)


def run(command: Callable[[Sequence[str]], int], *arguments: object) -> None:
    """Run one of the kit's own commands; its failure is ours."""
    if command([str(argument) for argument in arguments]) != GOOD:
        raise InputError(f"making the demonstration's data failed at: {arguments[0]}")


if __name__ == "__main__":
    run_command(main)
