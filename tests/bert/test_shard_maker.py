"""Shards byte for byte: against the oracle, and against those that were made before."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert.documents import read_documents
from bert.example_maker import create_examples
from bert.examples import ExampleSettings
from bert.prepare_data_parts import create_data
from bert.shard_file import ALIGNMENT_BYTES, align, order_examples, read_description
from bert.shard_maker import ShardMaker
from bert.vocabulary import read_vocabulary
from harness.commands import InputError
from perf import bert_oracle as oracle
from tests.bert.sample_vocabulary import SPECIAL, make_oracle, make_vocabulary

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "bert"
PIECES = [*SPECIAL, "a", "b", "##a", "##b", "σ", "##ς", ".", *(f"w{i}" for i in range(30))]
SMALL = ExampleSettings(32, 5, 2)
# Of the shard that the pure-Python version of this package made of the golden sample text.
SAMPLE_SHARD_SHA256 = "969e84966aaf4b3af187f583c396d44293a4c1a853744225405a771dc0b549f3"


def make_text(seed: int, lines: int) -> bytes:
    rng = random.Random(seed)
    words = ["a", "b", "ab", "ba", "A\u0301", "ΑΣ", ".", "\u200b", "\r", *PIECES[-30:]]
    return "\n".join(
        " ".join(rng.choices(words, k=rng.choice([0, 1, 5, 9, 30]))) for _ in range(lines)
    ).encode()


@pytest.mark.parametrize("wide", [False, True], ids=["2 bytes", "4 bytes"])
@pytest.mark.parametrize("length", [32, 128, 512])
def test_index_and_records_are_the_oracles(tmp_path: Path, length: int, wide: bool) -> None:
    pieces = [*PIECES, *(f"x{i}" for i in range(66_000))] if wide else PIECES
    chosen = ExampleSettings(length, 20, 3, seed=length)
    content = make_text(length, 400)
    (tmp_path / "text").write_bytes(content)
    shares: list[float] = []
    maker = ShardMaker(make_vocabulary(pieces), chosen)
    description, kept = maker.make(tmp_path / "text", tmp_path / "shard", shares.append)
    assert not kept
    documents = oracle.read_documents(content, make_oracle(pieces))
    rows = oracle.ExampleMaker(documents, pieces, chosen).rows
    index, records = oracle.encode_rows(rows, wide)
    found, start = read_description(tmp_path / "shard")
    assert found == description and start % ALIGNMENT_BYTES == 0
    content = (tmp_path / "shard").read_bytes()[start:]
    assert content[: len(index)] == index
    assert content[align(len(index)) :] == records
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] <= 1.0


# Any line of any characters, among them those that divide, join, fall away or are word pieces.
ODD = "Σσ\u0301\u302e\u1b44각İßﬁ\u2028\u200b\xad\x00\ufffd\x85\x1c\r\u3000中.«\u2e52"
unicode_lines = st.text(
    st.one_of(
        st.sampled_from("aabb .  "),
        st.sampled_from(ODD),
        st.characters(exclude_categories=["Cs"], exclude_characters="\n"),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lines=st.lists(st.one_of(st.just(""), unicode_lines, unicode_lines), max_size=40),
    length=st.sampled_from([32, 128, 512]),
    repetitions=st.integers(1, 10),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_unicode_text_is_the_oracles(
    tmp_path: Path, lines: list[str], length: int, repetitions: int, seed: int
) -> None:
    """From bytes to index and records, through every stage."""
    pieces = [*PIECES, *sorted(set(ODD.lower()) - set(PIECES))]
    content, chosen = "\n".join(lines).encode(), ExampleSettings(length, 76, repetitions, seed=seed)
    (tmp_path / "text").write_bytes(content)
    maker = ShardMaker(make_vocabulary(pieces), chosen)
    documents = oracle.read_documents(content, make_oracle(pieces))
    if not documents:
        with pytest.raises(InputError, match="holds no sentence"):
            maker.make(tmp_path / "text", tmp_path / "shard", lambda share: None)
        return
    made = create_examples(
        read_documents(tmp_path / "text", maker.tokenizer), maker.vocabulary, chosen
    )
    index, records = order_examples(made)
    rows = oracle.ExampleMaker(documents, pieces, chosen).rows
    encoded = oracle.encode_rows(rows, wide=False)
    assert (index.tobytes(), b"".join(record.tobytes() for record in records)) == encoded


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the sample text is not at {GOLDEN}")
def test_a_data_set_made_before_is_the_same_today(tmp_path: Path) -> None:
    text, vocab = GOLDEN / "sample_text.txt", GOLDEN / "vocab.txt"
    manifest = create_data([text], vocab, tmp_path / "out", ExampleSettings(), 1)
    shard = tmp_path / "out" / manifest.shards[0].name
    assert hashlib.sha256(shard.read_bytes()).hexdigest() == SAMPLE_SHARD_SHA256


def test_workers_take_one_part_after_another(tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("".join(f"{piece}\n" for piece in PIECES), "utf-8")
    texts = [tmp_path / f"text-{number}" for number in range(3)]
    for number, text in enumerate(texts):
        text.write_bytes(make_text(number, 60))
    alone = create_data(texts, vocab, tmp_path / "alone", SMALL, 1)
    together = create_data(texts, vocab, tmp_path / "together", SMALL, 2)
    assert alone.shards == together.shards
    assert read_vocabulary(vocab).md5 == together.vocabulary_md5


def test_a_text_too_large_for_the_memory_is_named(tmp_path: Path) -> None:
    """In a process that may not have more than a little: one sentence, no shard."""
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), "utf-8")
    (tmp_path / "text").write_bytes(b"a b a b\n" * 8_000_000)
    code = (
        "import resource, sys; from bert.prepare_data import main; "
        "from harness.commands import run_command; import bert.shard_maker; "
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        "resource.setrlimit(resource.RLIMIT_AS, (now + 400_000_000, now + 400_000_000)); "
        "run_command(main)"
    )
    arguments = ["create", "--vocab", tmp_path / "vocab.txt", "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), str(tmp_path / "text")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "text: its 64,000,000 bytes are too many for the memory" in done.stderr
    assert not list((tmp_path / "out").glob("*.shard"))


def test_read_only_sources_say_where_the_loops_are_kept(tmp_path: Path) -> None:
    """As in a container: the loops are compiled into the temporary folder, once."""
    for package in ("bert", "harness"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "bert" / "__pycache__").write_text("no folder")  # stops root too
    (tmp_path / "temporary").mkdir()
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), "utf-8")
    (tmp_path / "text").write_bytes(make_text(1, 30))
    command = [sys.executable, "-m", "bert.prepare_data", "create", "--vocab", "vocab.txt"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": ""}
    environment.pop("NUMBA_CACHE_DIR", None)
    kept = []
    for output in ("first", "second"):
        done = subprocess.run(
            [*command, "--output", output, "text"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "create: compiled loops are kept in " in done.stderr
        kept.append({path.name for path in (tmp_path / "temporary").rglob("*.nbc")})
    assert kept[0] and kept[0] == kept[1]
    first, second = (
        next((tmp_path / output).glob("*.shard")).read_bytes() for output in ("first", "second")
    )
    assert first == second
