"""Speed of making BERT's examples: compiled loops against the plain Python of the tests' oracle.

`python -m perf.bert_data` makes both read the same text and write the same bytes, which it checks,
and measures two stretches: from tokenized documents to encoded examples, and from text to shard.
Beside each stands a floor, measured in the same run: work that no way of making these bytes can
leave out. The text is made (words by Zipf's law, lengths as in Wikipedia) unless it is given.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert.compilation import compiled
from bert.documents import read_documents
from bert.example_maker import create_examples
from bert.examples import ExampleSettings
from bert.shard_file import order_examples
from bert.shard_maker import ShardMaker
from bert.twister import seed_generator, shuffle_front
from bert.vocabulary import Vocabulary, read_vocabulary
from harness.commands import GOOD, InputError, Parser, run_command
from perf import bert_oracle as oracle
from perf.comparison import (
    Comparison,
    add_common_options,
    check_positive,
    measure_in_turns,
    read_cpu_seconds,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = [first + second for first in "bcdfglmnprst" for second in ("a", "e", "in", "o", "ur")]
WORDS, WHOLE_WORDS = 60_000, 25_000
WORDS_A_SENTENCE, SENTENCES_A_DOCUMENT = 20, 20
BYTES_A_WORD = 10
PEER_NAME = "the oracle in Python"
# Calls of ours a turn, so that its turn lasts as long as the oracle's, about.
REPETITIONS = 50


@dataclass(frozen=True)
class Stretch:
    """One stretch measured: the comparison, its rate in things a CPU-second, and the floor."""

    comparison: Comparison
    unit: str
    rate: float
    peer_rate: float
    floor_name: str
    floor_share: float

    def show(self) -> None:
        """Print it as lines."""
        self.comparison.show(as_json=False)
        print(f"{self.rate:,.4g} {self.unit} a CPU-second against {self.peer_rate:,.4g}")
        print(f"floor: {self.floor_name} takes {100 * self.floor_share:.0f} % of our time\n")


def make_words(generator: np.random.Generator) -> list[str]:
    """Make different words of one to five syllables, the short ones first."""
    words: dict[str, None] = {}
    while len(words) < WORDS:
        syllables = generator.integers(0, len(SYLLABLES), 1 + min(4, len(words) // 300 + 1))
        words["".join(SYLLABLES[number] for number in syllables)] = None
    return list(words)


def write_text(folder: Path, size: int) -> tuple[Path, Path]:
    """Write a text of about so many bytes and its vocabulary; the same ones every time."""
    generator = np.random.default_rng(0)
    words = make_words(generator)
    pieces = [*SPECIAL, ".", ",", *words[:WHOLE_WORDS], *SYLLABLES]
    pieces += [f"##{syllable}" for syllable in SYLLABLES]
    vocab, text = folder / "vocab.txt", folder / "text.txt"
    vocab.write_text("".join(f"{piece}\n" for piece in dict.fromkeys(pieces)))
    chances = 1 / np.arange(10, WORDS + 10)
    drawn = generator.choice(WORDS, max(1, size // BYTES_A_WORD), p=chances / chances.sum())
    lines, place = [], 0
    while place < len(drawn):
        length = 2 + int(generator.poisson(WORDS_A_SENTENCE - 2))
        sentence = [words[number] for number in drawn[place : place + length]]
        sentence[len(sentence) // 2] += ","
        lines.append(" ".join(sentence).capitalize() + " .")
        if generator.random() < 1 / SENTENCES_A_DOCUMENT:
            lines.append("")
        place += length
    text.write_text("\n".join(lines) + "\n")
    return vocab, text


class Ours:
    """The product on one text."""

    def __init__(self, text: Path, vocabulary: Vocabulary, settings: ExampleSettings) -> None:
        self.text, self.vocabulary, self.settings = text, vocabulary, settings
        self.maker = ShardMaker(vocabulary, settings)
        self.documents = read_documents(text, self.maker.tokenizer)

    def encode(self) -> None:
        """From tokens to encoded examples: index and records, as they are handed to the writer."""
        examples = create_examples(self.documents, self.vocabulary, self.settings)
        self.index, self.records = order_examples(examples)

    def write(self, path: Path) -> None:
        """From text to a shard."""
        path.unlink(missing_ok=True)  # or it would be kept
        self.maker.make(self.text, path, lambda share: None)


class Peer:
    """The oracle on the same."""

    def __init__(self, text: Path, vocabulary: Vocabulary, settings: ExampleSettings) -> None:
        self.text, self.pieces, self.settings = text, list(vocabulary.ids), settings
        # Which characters are later than Unicode 11 matters to none of the words made here.
        self.tokenizer = oracle.Tokenizer(self.pieces, frozenset())
        self.documents = self.read()

    def read(self) -> list[oracle.Document]:
        """From text to tokens."""
        return oracle.read_documents(self.text.read_bytes(), self.tokenizer)

    def encode(self) -> None:
        """From tokens to encoded examples: index and records."""
        rows = oracle.ExampleMaker(self.documents, self.pieces, self.settings).rows
        self.encoded = oracle.encode_rows(rows, wide=len(self.pieces) > 1 << 16)

    def write(self, path: Path) -> None:
        """From text to a file with a checksum."""
        self.documents = self.read()
        self.encode()
        content = b"".join(self.encoded)
        path.write_bytes(hashlib.sha256(content).digest() + content)


@compiled
def shuffle_candidates(generator: Any, lengths: Any, masked: Any, candidates: Any) -> None:
    """Draw which positions of sequences of these lengths are masked, and do nothing else."""
    for i in range(lengths.size):
        shuffle_front(generator, candidates[: lengths[i] - 3], masked[i])


def measure_floor(call: Callable[[], None], rounds: int) -> float:
    """Median over rounds of the mean CPU-seconds of a call, after one unmeasured call."""
    call()
    seconds = []
    for _ in range(rounds):
        start = read_cpu_seconds()
        for _ in range(REPETITIONS):
            call()
        seconds.append((read_cpu_seconds() - start) / REPETITIONS)
    return statistics.median(seconds)


def measure_examples(ours: Ours, peer: Peer, rounds: int, how: str) -> Stretch:
    """Measure from tokens to encoded examples."""
    settings = ours.settings
    lengths, masked = (ours.index[name].astype(np.int64) for name in ("tokens", "masked"))
    candidates = np.arange(settings.max_seq_length, dtype=np.uint16)
    turns = measure_in_turns(ours.encode, peer.encode, rounds, REPETITIONS)
    comparison = turns.compare("tokens to examples", PEER_NAME, "example", len(lengths), how)
    floor = measure_floor(
        lambda: shuffle_candidates(seed_generator(settings.seed), lengths, masked, candidates),
        rounds,
    )
    return Stretch(
        comparison=comparison,
        unit="examples",
        rate=1 / comparison.ours,
        peer_rate=1 / comparison.peer,
        floor_name="shuffling the positions of every example, which the format prescribes,",
        floor_share=floor / (comparison.ours * len(lengths)),
    )


def measure_text(ours: Ours, peer: Peer, folder: Path, rounds: int, how: str) -> Stretch:
    """Measure from text to shard."""
    shard, other = folder / "shard", folder / "other"
    turns = measure_in_turns(
        lambda: ours.write(shard), lambda: peer.write(other), rounds, REPETITIONS
    )
    size = ours.text.stat().st_size
    comparison = turns.compare("text to shard", PEER_NAME, "byte of text", size, how)
    content = shard.read_bytes()

    def hash_and_write() -> None:
        other.write_bytes(content)
        hashlib.sha256(content).digest()
        hashlib.md5(ours.text.read_bytes(), usedforsecurity=False).digest()

    return Stretch(
        comparison=comparison,
        unit="MB of text",
        rate=1e-6 / comparison.ours,
        peer_rate=1e-6 / comparison.peer,
        floor_name=f"hashing and writing {len(content):,} bytes",
        floor_share=measure_floor(hash_and_write, rounds) / (comparison.ours * size),
    )


def measure(folder: Path, text: Path, vocab: Path, rounds: int) -> dict[str, Stretch]:
    """Measure both stretches on one text. Raises InputError where the two make other bytes."""
    vocabulary, settings = read_vocabulary(vocab), ExampleSettings()
    ours, peer = Ours(text, vocabulary, settings), Peer(text, vocabulary, settings)
    ours.encode()
    peer.encode()
    count, records = len(ours.index), np.concatenate(ours.records)
    if (ours.index.tobytes(), records.tobytes()) != peer.encoded:
        raise InputError(f"{text}: the oracle makes other examples of it: give plain English text")
    how = f"getrusage, {rounds} turns, {REPETITIONS} calls of ours in each, the same "
    how += f"{text.stat().st_size:,} bytes of text and {count:,} examples, "
    how += f"{records.nbytes:,} bytes of records, byte-equal"
    return {
        "examples": measure_examples(ours, peer, rounds, how),
        "text": measure_text(ours, peer, folder, rounds, how),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m perf.bert_data", description=__doc__)
    parser.add_argument("--kilobytes", type=int, default=1000, help="size of the text made")
    parser.add_argument("--text", type=Path, help="a text instead of the one made")
    parser.add_argument("--vocab", type=Path, help="the vocabulary for --text")
    add_common_options(parser, rounds=3)
    options = parser.parse_args(arguments)
    check_positive(options, "kilobytes", "rounds")
    if (options.text is None) != (options.vocab is None):
        raise InputError("--text and --vocab go together: give both or neither")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, vocab = options.text, options.vocab
        if text is None:
            vocab, text = write_text(folder, 1000 * options.kilobytes)
        stretches = measure(folder, text, vocab, options.rounds)
    if options.json:
        print(json.dumps({key: asdict(stretch) for key, stretch in stretches.items()}, indent=1))
    else:
        for stretch in stretches.values():
            stretch.show()
    return GOOD


if __name__ == "__main__":
    run_command(main)
