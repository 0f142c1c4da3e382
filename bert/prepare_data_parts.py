"""Texts to shards, one process a text, so that every text begins with the seed and none waits.

An interrupted call is continued by the same call: a shard that is there, undamaged and made of the
same text with the same settings is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bert.examples import ExampleSettings, create_examples, read_documents
from bert.shard_file import hash_content, order_examples, read_description, write_shard
from bert.shards import MANIFEST_NAME, Manifest, Shard, name_shard, write_manifest
from bert.tokenization import Tokenizer
from bert.vocabulary import Vocabulary, read_vocabulary
from harness.commands import InputError, describe_os_error
from harness.progress import Progress

READ_BYTES = 1 << 20
# Share of a text's work that lies before the first example: reading and cutting into word pieces.
READING_SHARE = 0.2


@dataclass(frozen=True)
class Part:
    """One text and the shard that it becomes; bytes: the size of the text."""

    text: Path
    shard: Path
    bytes: int


def describe_origin(
    text: Path, vocabulary: Vocabulary, settings: ExampleSettings
) -> dict[str, Any]:
    """Say of a shard what it is made of; two equal answers mean two equal shards."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with open(text, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return {
        "settings": asdict(settings),
        "vocabulary": {"size": len(vocabulary), "md5": vocabulary.md5},
        "text": {"bytes": size, "md5": digest.hexdigest()},
    }


def describe_shard(path: Path, description: dict[str, Any]) -> Shard:
    """Make the manifest's entry of a shard from its description."""
    return Shard(
        path.name,
        description["examples"],
        description["tokens"],
        description["masked_tokens"],
        path.stat().st_size,
        description["sha256"],
    )


def reuse_shard(path: Path, origin: dict[str, Any]) -> Shard | None:
    """Return the entry of a finished shard of the same origin, None where it must be made."""
    try:
        description, start = read_description(path)
    except (InputError, FileNotFoundError):
        return None
    if any(description.get(key) != value for key, value in origin.items()):
        return None
    if hash_content(path, start) != description["sha256"]:
        return None
    return describe_shard(path, description)


def make_part(
    part: Part,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    settings: ExampleSettings,
    report: Callable[[float], None],
) -> Shard:
    """Make the shard of one text, or keep it; report gets the share that is done, 0 to 1."""
    origin = describe_origin(part.text, vocabulary, settings)
    kept = reuse_shard(part.shard, origin)
    if kept is not None:
        return kept
    documents = read_documents(part.text, tokenizer)
    report(READING_SHARE)
    examples = create_examples(
        documents,
        vocabulary,
        settings,
        lambda share: report(READING_SHARE + share * (1 - READING_SHARE)),
    )
    index, records = order_examples(examples)
    return describe_shard(part.shard, write_shard(part.shard, index, records, origin))


def _run_part(part: Part, vocab: Path, settings: ExampleSettings, answers: Connection) -> None:
    """The process of one text: sends shares (float), then the Shard, or a sentence (str)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once and in silence
    parent = os.getppid()

    def report(share: float) -> None:
        if os.getppid() != parent:  # nobody waits for this shard any more
            os._exit(1)
        answers.send(share)

    try:
        vocabulary = read_vocabulary(vocab)
        answers.send(make_part(part, Tokenizer(vocabulary), vocabulary, settings, report))
    except BrokenPipeError:
        os._exit(1)
    except InputError as error:
        answers.send(str(error))
    except OSError as error:
        answers.send(describe_os_error(error))


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder alone as long as the block runs. Raises InputError where another call does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"{folder} is being written by another call: wait for it or name another folder"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def plan_parts(texts: list[Path], folder: Path) -> list[Part]:
    """Name the shard of each text; clear what an interrupted call left half-written.

    Raises InputError where the folder holds shards that these texts do not make.
    """
    parts = []
    for number, text in enumerate(texts):
        size = text.stat().st_size
        if not text.is_file():
            raise InputError(f"{text} is not a file: name the texts one by one")
        parts.append(Part(text, folder / name_shard(number, text.name), size))
    wanted = {part.shard.name for part in parts}
    for path in sorted(folder.glob("*.shard")):
        if path.name not in wanted:
            raise InputError(f"{path} is of other data: name an empty folder for the output")
    for leftover in (".*.shard.*.part", f".{MANIFEST_NAME}.*.part"):
        for path in folder.glob(leftover):
            path.unlink()
    return parts


def create_data(
    texts: list[Path], vocab: Path, folder: Path, settings: ExampleSettings, workers: int
) -> Manifest:
    """Make the data set of these texts in a folder: a shard for each, and the manifest at last.

    Raises InputError with the file, line and mend where a text or the vocabulary cannot be used;
    shards finished by then stay for the next call. OSError where a file cannot be written.
    """
    vocabulary = read_vocabulary(vocab)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        parts = plan_parts(texts, folder)
        # A manifest stands only beside shards that are all there and all as it says.
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        if workers == 1 or len(parts) == 1:
            shards = _make_here(parts, vocabulary, settings)
        else:
            shards = Pool(parts, vocab, settings, workers).run()
        manifest = Manifest(folder, settings, len(vocabulary), vocabulary.md5, tuple(shards))
        write_manifest(manifest)
    return manifest


def _count_kilobytes(parts: list[Part]) -> int:
    return max(1, sum(part.bytes for part in parts) // 1000)


def _make_here(parts: list[Part], vocabulary: Vocabulary, settings: ExampleSettings) -> list[Shard]:
    progress = Progress("create", _count_kilobytes(parts), "kB")
    tokenizer = Tokenizer(vocabulary)
    shards: list[Shard] = []
    before = 0
    for part in parts:

        def report(share: float, part: Part = part, before: int = before) -> None:
            progress.update(int(before + share * part.bytes) // 1000)

        shards.append(make_part(part, tokenizer, vocabulary, settings, report))
        before += part.bytes
    progress.finish(progress.total, f"in {len(parts)} shards")
    return shards


class Pool:
    """Processes that make one shard each, at most `workers` of them at a time."""

    def __init__(
        self, parts: list[Part], vocab: Path, settings: ExampleSettings, workers: int
    ) -> None:
        self.parts, self.vocab, self.settings, self.workers = parts, vocab, settings, workers
        self.context = multiprocessing.get_context("spawn")
        self.shares = [0.0] * len(parts)
        self.shards: list[Shard | None] = [None] * len(parts)
        self.running: dict[Connection, tuple[int, Any]] = {}
        self.progress = Progress("create", _count_kilobytes(parts), "kB")

    def run(self) -> list[Shard]:
        """Make all shards; on the first failure end the others and raise it."""
        waiting = list(range(len(self.parts)))[::-1]
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.workers:
                    self.start(waiting.pop())
                for answers in wait(list(self.running)):
                    self._receive(answers)  # type: ignore[arg-type]
                self._show()
        finally:
            for _, process in self.running.values():
                process.terminate()
                process.join()
        self.progress.finish(self.progress.total, f"in {len(self.parts)} shards")
        return [shard for shard in self.shards if shard is not None]

    def start(self, number: int) -> None:
        """Start the process of part `number`."""
        answers, answer = self.context.Pipe(duplex=False)
        process = self.context.Process(
            target=_run_part,
            args=(self.parts[number], self.vocab, self.settings, answer),
            daemon=True,
        )
        process.start()
        answer.close()
        self.running[answers] = number, process

    def _receive(self, answers: Connection) -> None:
        number, process = self.running[answers]
        try:
            answer = answers.recv()
        except EOFError:
            process.join()
            del self.running[answers]
            if self.shards[number] is None:
                raise InputError(
                    f"{self.parts[number].text}: the process that read it ended with status "
                    f"{process.exitcode}: give fewer --workers if memory ran out"
                ) from None
            return
        if isinstance(answer, str):
            raise InputError(answer)
        if isinstance(answer, Shard):
            self.shards[number] = answer
            self.shares[number] = 1.0
        else:
            self.shares[number] = answer

    def _show(self) -> None:
        done = sum(share * part.bytes for share, part in zip(self.shares, self.parts, strict=True))
        finished = sum(shard is not None for shard in self.shards)
        self.progress.update(int(done) // 1000, f"{finished}/{len(self.parts)} shards")
