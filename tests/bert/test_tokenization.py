"""The compiled tokenizer: case by case, and against the oracle on every character and odd text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert.documents import read_documents
from bert.tokenization import Tokenizer
from bert.vocabulary import read_vocabulary
from perf import bert_oracle as oracle
from tests.bert.sample_vocabulary import LATER, SPECIAL, make_oracle, make_vocabulary

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "bert"
PIECES = [*SPECIAL, "[unused1]", "un", "##aff", "##able", "##a", "cafe", "caf", "##e", "foobar"]
PIECES += ["foo", "bar", "[", "]", "mask", ".", "#", "##s", "中", "国", "a", "b", "σ", "##ς"]
PIECES += ["##σ", "ο", "x" * 200, "x" * 201, "`", ";", "-", "«", "»", "##", "", "## ", "two words"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(make_vocabulary(PIECES))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        (" \t\u3000\u2028 ", []),
        ("unaffable", ["un", "##aff", "##able"]),
        ("unaffably", ["[UNK]"]),  # one failure makes the whole word unknown
        ("Caf\u00e9 CAFE\u0301", ["cafe", "cafe"]),
        ("foo\x00bar foo\u200bbar foo\ufffdbar", ["foobar"] * 3),
        ("foo\x0bbar foo\x1cbar foo\x85bar", ["foobar"] * 3),  # controls, not spaces
        ("foo\u2028bar\u2029foo\u00a0bar\tfoo", ["foo", "bar", "foo", "bar", "foo"]),
        ("[MASK]", ["[", "mask", "]"]),
        ("[unused1]", ["[", "[UNK]", "]"]),
        ("##s", ["#", "#", "[UNK]"]),
        ("中国a", ["中", "国", "a"]),
        ("«foo».bar--", ["«", "foo", "»", ".", "bar", "-", "-"]),
        ("ΟΣ ΟΣ. ΟΣa", ["ο", "##ς", "ο", "##ς", ".", "ο", "##σ", "##a"]),  # final sigma
        ("\u1fef\u037e", ["`", ";"]),  # punctuation by decomposition alone
        ("x" * 200, ["x" * 200]),
        ("x" * 201, ["[UNK]"]),
        ("X" * 201 + "." + "x" * 200, ["[UNK]", ".", "x" * 200]),
        ("e\u0301" * 200 + "a", ["[UNK]"]),  # characters are counted without accents
        ("foo\u2e52bar", ["[UNK]"]),  # punctuation since Unicode 14
        ("foo\u0898", ["[UNK]"]),  # a mark since 14, not deleted here
    ],
)
def test_cases(tokenizer: Tokenizer, text: str, pieces: list[str]) -> None:
    assert [PIECES[number] for number in tokenizer.encode(text)] == pieces
    assert make_oracle(PIECES).tokenize(text) == pieces


def test_every_character_alone_and_between_letters() -> None:
    """All 1,112,064 of them through the compiled loop.

    Those that Unicode 15.1 has left unassigned, and private ones, are no pieces of this vocabulary;
    for them the table itself says that they join their neighbours.
    """
    known = [*range(0xD800), *range(0xE000, 0x323B0), *range(0xE0000, 0xE01F0)]
    others = [*range(0x323B0, 0xE0000), *range(0xE01F0, 0x110000)]
    assert len(known) + len(others) == 1_112_064
    characters = list(map(chr, known))
    pieces = list(dict.fromkeys([*SPECIAL, *characters, *(f"##{c}" for c in characters)]))
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer, slow = Tokenizer(make_vocabulary(pieces)), make_oracle(pieces)
    for first in range(0, len(characters), 500):
        batch = characters[first : first + 500]
        line = " ".join([*batch, *(f"a{character}b" for character in batch)])
        want = [numbers[piece] for piece in slow.tokenize(line)]
        assert tokenizer.encode(line) == want, f"from {known[first]:x}"
    assert tokenizer.undecided_lines < 15
    for first in range(0, len(others), 5000):
        line = " ".join(map(chr, others[first : first + 5000]))
        want = [numbers[piece] for piece in slow.tokenize(line)]
        assert tokenizer.encode(line) == want, f"from {others[first]:x}"
    assert tokenizer.table.plan[others].tolist() == others


# Letters of many kinds, marks that stack and change places, what divides, what falls away, and any
# character at all.
ODD = "Σσς\u0301\u0327\u302e\u302f\u1b44\U0001d165\U0001d15e각\u1100\u1161İıǅßﬁÅΆ\u0345"
ODD += "\u2028\u200b\xad\x00\ufffd\x85\x1c\r\u3000中豈.«#[]\u2e52\ua7ba\u1abf\u0898"
words = st.text(
    st.one_of(
        st.sampled_from("aabbeefoxxx "),
        st.sampled_from(ODD),
        st.sampled_from(sorted(LATER)),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)
texts = st.one_of(
    words,
    st.lists(words, max_size=5).map("\n".join),
    st.tuples(words, st.integers(150, 260)).map(lambda pair: pair[0] + "x" * pair[1]),
)


@settings(max_examples=400, deadline=None)
@given(text=texts)
@example(text="a\u302e\u0301\u1b44 \u1b44\u302e")
@example(text="ΑΣ\u2e52 \u0898Σ Σ'Σ")
@example(text="a" * 199 + "\u0301" * 50 + "b")
def test_same_as_the_oracle(text: str) -> None:
    pieces = [*PIECES, *sorted({*ODD, *"abefox"} - set(PIECES))]
    pieces += [f"##{character}" for character in sorted({*ODD, *"abefox"} - {"a", "e", "σ", "ς"})]
    tokenizer, slow = Tokenizer(make_vocabulary(pieces)), make_oracle(pieces)
    got = [pieces[number] for number in tokenizer.encode(text)]
    assert got == [piece for line in text.split("\n") for piece in slow.tokenize(line)]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the sample text is not at {GOLDEN}")
def test_sample_text_is_the_oracles_and_hardly_ever_leaves_the_compiled_loop() -> None:
    vocabulary = read_vocabulary(GOLDEN / "vocab.txt")
    tokenizer = Tokenizer(vocabulary)
    documents = read_documents(GOLDEN / "sample_text.txt", tokenizer)
    content = (GOLDEN / "sample_text.txt").read_bytes()
    slow = oracle.read_documents(content, make_oracle(list(vocabulary.ids)))
    sentences = [sentence for document in slow for sentence in document]
    pieces = list(vocabulary.ids)
    assert [pieces[number] for number in documents.tokens] == oracle.join(sentences)
    assert tokenizer.undecided_lines <= 5  # of 2,518


def test_lines_that_the_table_leaves_open_are_counted(tokenizer: Tokenizer) -> None:
    before = tokenizer.undecided_lines
    tokenizer.encode("foo\nΣ\nbar\n\u302e\nσ")
    assert tokenizer.undecided_lines == before + 2
