"""The published figures that stand in the kit."""

from __future__ import annotations

import re

from bert.examples import ExampleSettings
from bert.manifest import Origin, Text
from bert.published_data import PublishedSet, read_published_data

DATA = read_published_data()


def make_origin(item: PublishedSet) -> Origin:
    """The origin of a data set that is made of exactly these texts."""
    texts = [Text(1, "0" * 32)] * item.text_count
    for place, file in item.texts:
        texts[place] = Text(file.bytes, file.md5)
    return Origin(tuple(texts), item.operations)


def test_figures_have_their_shape_and_their_source() -> None:
    known = {name for name in DATA.sources if DATA.sources[name]}
    for file in DATA.files:
        assert re.fullmatch("[0-9a-f]{32}", file.md5) and file.bytes > 0 and file.source in known
    assert len({file.path for file in DATA.files}) == len(DATA.files)
    for item in DATA.sets:
        assert item.counts or item.digests
        for entry in (*item.counts, *item.digests):
            assert entry.source in known
        for digest in item.digests:
            assert re.fullmatch("[0-9a-f]{32}", digest.input_ids_md5) and digest.examples > 0
        assert all(place < item.text_count for place, _ in item.texts)


def test_shares_of_lengths_are_of_the_whole() -> None:
    assert abs(sum(row.sequences_percent for row in DATA.lengths) - 100) < 0.2
    assert abs(sum(row.tokens_percent for row in DATA.lengths) - 100) < 0.2
    edges = [(row.first, row.last) for row in DATA.lengths]
    assert [first for first, _ in edges[1:]] == [last + 1 for _, last in edges[:-1]]
    assert edges[-1] == (512, ExampleSettings().max_seq_length)


def test_each_set_is_recognised_and_no_other() -> None:
    vocabulary = DATA.find_file("vocab.txt")
    assert vocabulary is not None
    for item in DATA.sets:
        origin = make_origin(item)
        assert DATA.find_set(origin, ExampleSettings(), vocabulary.md5) is item
        assert DATA.find_set(origin, ExampleSettings(seed=1), vocabulary.md5) is None
        assert DATA.find_set(origin, ExampleSettings(), "0" * 32) is None
        assert DATA.find_set(origin.add("pick 3"), ExampleSettings(), vocabulary.md5) is None
        more = Origin((*origin.texts, Text(1, "0" * 32)), origin.operations)
        assert DATA.find_set(more, ExampleSettings(), vocabulary.md5) is None
        place = item.texts[0][0]
        texts = list(origin.texts)
        texts[place] = Text(texts[place].bytes, "0" * 32)
        changed = Origin(tuple(texts), item.operations)
        assert DATA.find_set(changed, ExampleSettings(), vocabulary.md5) is None


def test_the_evaluation_set_is_the_rules() -> None:
    (item,) = (item for item in DATA.sets if item.operations == ("pick 10000",))
    assert list(item.list_counts("examples")) == [10_000]
    assert list(item.list_counts("masked_tokens")) == [428_235]
    assert item.texts[0][1].name == "eval.txt"
