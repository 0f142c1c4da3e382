"""Texts to shards: every text begins with the seed, whichever process makes its shard.

An interrupted call is continued by the same call: a shard that is there, undamaged and made of the
same text with the same settings is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert.examples import ExampleSettings
from bert.shards import MANIFEST_NAME, Manifest, Shard, name_shard, write_manifest
from bert.vocabulary import Vocabulary, read_vocabulary
from harness.commands import InputError, describe_os_error
from harness.progress import Progress

if TYPE_CHECKING:
    from bert.shard_maker import ShardMaker


REPORT_SECONDS = 0.1  # between what a worker says of its progress


@dataclass(frozen=True)
class Part:
    """One text and the shard that it becomes; bytes: the size of the text."""

    text: Path
    shard: Path
    bytes: int


@dataclass(frozen=True)
class Finished:
    """A shard that is there; kept: an earlier call made it."""

    shard: Shard
    kept: bool


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


def _serve(vocab: Path, settings: ExampleSettings, pipe: Connection) -> None:
    """The process of a worker: gets Parts; sends shares (float), then Finished, or a sentence."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once and in silence
    parent, sent_seconds = os.getppid(), 0.0

    def report(share: float) -> None:
        nonlocal sent_seconds
        if os.getppid() != parent:  # nobody waits for this shard any more
            os._exit(1)
        if time.monotonic() - sent_seconds > REPORT_SECONDS:
            sent_seconds = time.monotonic()
            pipe.send(share)

    try:
        maker = load_shard_maker(read_vocabulary(vocab), settings)
        while True:
            part: Part = pipe.recv()
            pipe.send(make_part(part, maker, report))
    except EOFError:  # no more parts
        return
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)
    except InputError as error:
        pipe.send(str(error))
    except OSError as error:
        pipe.send(describe_os_error(error))


def load_shard_maker(vocabulary: Vocabulary, settings: ExampleSettings) -> ShardMaker:
    """Make a ShardMaker; the compiled loops are loaded here, and by no other command."""
    from bert.shard_maker import ShardMaker

    return ShardMaker(vocabulary, settings)


def make_part(part: Part, maker: ShardMaker, report: Callable[[float], None]) -> Finished:
    """Make the shard of a part, or keep it; report gets the share that is done, 0 to 1."""
    description, kept = maker.make(part.text, part.shard, report)
    return Finished(describe_shard(part.shard, description), kept)


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
        maker = load_shard_maker(vocabulary, settings)
        maker.compile(_say)
        if workers == 1 or len(parts) == 1:
            shards = _make_here(parts, maker)
        else:
            shards = Pool(parts, vocab, settings, workers).run()
        manifest = Manifest(folder, settings, len(vocabulary), vocabulary.md5, tuple(shards))
        write_manifest(manifest)
    return manifest


def _say(sentence: str) -> None:
    print(f"create: {sentence}", file=sys.stderr, flush=True)


class Work:
    """What is done of all parts, and the progress of it; a shard that was there is no work."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.shares = [0.0] * len(parts)
        self.finished: list[Finished | None] = [None] * len(parts)
        self.progress = Progress("create", 0, "kB")

    def take(self, number: int, answer: float | Finished) -> None:
        """Take the share that is done of part `number`, or its shard."""
        if isinstance(answer, Finished):
            self.finished[number], self.shares[number] = answer, 1.0
        else:
            self.shares[number] = answer

    def show(self) -> None:
        """Show how much of the texts without a kept shard is done."""
        ready = sum(finished is not None for finished in self.finished)
        self.progress.update(self._measure(), f"{ready}/{len(self.parts)} shards")

    def finish(self) -> list[Shard]:
        """Say what was made and what was there; return all shards."""
        finished = [item for item in self.finished if item is not None]
        kept = sum(item.kept for item in finished)
        shards = f"{len(self.parts)} shards"
        note = f"({kept} of {shards} were there)" if kept else f"in {shards}"
        self.progress.finish(self._measure(), note)
        return [item.shard for item in finished]

    def _measure(self) -> int:
        """Return the kB that are done, and tell the progress how many there are in all."""
        done = total = 0.0
        for part, share, finished in zip(self.parts, self.shares, self.finished, strict=True):
            if finished is None or not finished.kept:
                total += part.bytes
                done += share * part.bytes
        self.progress.total = int(total) // 1000
        return int(done) // 1000


def _make_here(parts: list[Part], maker: ShardMaker) -> list[Shard]:
    work = Work(parts)
    for number, part in enumerate(parts):

        def report(share: float, number: int = number) -> None:
            work.take(number, share)
            work.show()

        work.take(number, make_part(part, maker, report))
    return work.finish()


class Pool:
    """Processes that make shards, at most `workers` of them; each takes one part after another."""

    def __init__(
        self, parts: list[Part], vocab: Path, settings: ExampleSettings, workers: int
    ) -> None:
        self.parts, self.vocab, self.settings, self.workers = parts, vocab, settings, workers
        self.context = multiprocessing.get_context("spawn")
        self.work = Work(parts)
        self.running: dict[Connection, tuple[int, Any]] = {}
        self.idle: list[tuple[Connection, Any]] = []

    def run(self) -> list[Shard]:
        """Make all shards; on the first failure end the others and raise it."""
        waiting = list(range(len(self.parts)))[::-1]
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.workers:
                    self.start(waiting.pop())
                for pipe in wait(list(self.running)):
                    self._receive(pipe)  # type: ignore[arg-type]
                self.work.show()
        finally:
            for pipe, process in self.idle:
                pipe.close()
                process.join()
            for _, process in self.running.values():
                process.terminate()
                process.join()
        return self.work.finish()

    def start(self, number: int) -> None:
        """Give part `number` to an idle process, or to a new one."""
        pipe, process = self.idle.pop() if self.idle else self._start_process()
        self.running[pipe] = number, process
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _receive says so
            pipe.send(self.parts[number])

    def _start_process(self) -> tuple[Connection, Any]:
        pipe, other_end = self.context.Pipe()
        process = self.context.Process(
            target=_serve, args=(self.vocab, self.settings, other_end), daemon=True
        )
        process.start()
        other_end.close()
        return pipe, process

    def _receive(self, pipe: Connection) -> None:
        number, process = self.running[pipe]
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            del self.running[pipe]
            raise InputError(
                f"{self.parts[number].text}: the process that read it ended with status "
                f"{process.exitcode}: give fewer --workers if memory ran out"
            ) from None
        if isinstance(answer, str):
            raise InputError(answer)
        self.work.take(number, answer)
        if isinstance(answer, Finished):
            del self.running[pipe]
            self.idle.append((pipe, process))
