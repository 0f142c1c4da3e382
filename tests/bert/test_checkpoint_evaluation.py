"""Padded examples: what is dropped, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bert.checkpoint_evaluation import drop_padding, read_examples
from bert.model_config import ModelConfig
from harness.commands import InputError

TINY = ModelConfig(30, 8, 1, 2, 16, 12, 2, 0.1, 0.1)


def make_features() -> dict[str, np.ndarray]:
    features = {
        "input_ids": np.zeros((2, 8), np.int32),
        "input_mask": np.zeros((2, 8), np.int32),
        "segment_ids": np.zeros((2, 8), np.int32),
        "masked_lm_positions": np.asarray([[1, 3, 0], [2, 0, 0]], np.int32),
        "masked_lm_ids": np.asarray([[7, 8, 0], [9, 0, 0]], np.int32),
        "masked_lm_weights": np.asarray([[1, 1, 0], [1, 0, 0]], np.float32),
        "next_sentence_labels": np.asarray([[1], [0]], np.int32),
    }
    for row, length in enumerate((5, 7)):
        features["input_ids"][row, :length] = np.arange(length) + 10 * (row + 1)
        features["input_mask"][row, :length] = 1
        features["segment_ids"][row, 3:length] = 1
    return features


def save(folder: Path, features: dict[str, np.ndarray]) -> Path:
    path = folder / "examples.npz"
    np.savez(path, **features)
    return path


def test_padding_is_dropped(tmp_path: Path) -> None:
    batch = drop_padding(read_examples(save(tmp_path, make_features()), TINY))
    assert batch.input_ids.tolist() == [*range(10, 15), *range(20, 27)]
    assert batch.segment_ids.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    assert batch.position_ids.tolist() == [*range(5), *range(7)]
    assert batch.cu_seqlens.tolist() == [0, 5, 12] and batch.longest_sequence == 7
    assert batch.masked_positions.tolist() == [1, 3, 7]
    assert batch.masked_ids.tolist() == [7, 8, 9]
    assert batch.next_sentence_labels.tolist() == [1, 0]


def test_tokens_keep_their_position_behind_a_hole(tmp_path: Path) -> None:
    features = make_features()
    features["input_mask"][0, 2] = 0
    batch = drop_padding(read_examples(save(tmp_path, features), TINY))
    assert batch.position_ids.tolist() == [0, 1, 3, 4, *range(7)]
    assert batch.masked_positions.tolist() == [1, 2, 6]


def test_names_may_say_that_they_are_inputs(tmp_path: Path) -> None:
    features = {f"in/{name}": values for name, values in make_features().items()}
    path = save(tmp_path, {**features, "out/loss": np.zeros(())})
    assert read_examples(path, TINY)["input_ids"].shape == (2, 8)


@pytest.mark.parametrize(
    ("name", "place", "value", "reason"),
    [
        ("input_ids", (0, 1), 30, "input_ids holds a number that is not from 0 to 29"),
        ("input_ids", (0, 1), -1, "input_ids holds a number"),
        ("input_mask", (0, 1), 2, "input_mask holds a number"),
        ("input_mask", (1, 0), 0, "leaves out the first token"),
        ("segment_ids", (0, 0), 2, "from 0 to 1"),
        ("masked_lm_positions", (0, 0), 8, "from 0 to 7"),
        ("masked_lm_positions", (0, 0), 5, "points at padding"),
        ("masked_lm_ids", (0, 0), 30, "from 0 to 29"),
        ("masked_lm_weights", (0, 0), 0.5, "not whole"),
        ("masked_lm_weights", (0, 0), np.nan, "not whole"),
        ("masked_lm_weights", slice(None), 0, "counts no token"),
        ("next_sentence_labels", (0, 0), 2, "from 0 to 1"),
    ],
)
def test_impossible_numbers(
    tmp_path: Path, name: str, place: tuple[int, int], value: float, reason: str
) -> None:
    features = make_features()
    features[name][place] = value
    with pytest.raises(InputError, match=reason):
        read_examples(save(tmp_path, features), TINY)


def test_files_and_shapes_that_do_not_fit(tmp_path: Path) -> None:
    features = make_features()
    for name, values, reason in (
        ("input_ids", np.zeros((2, 13), np.int32), "longer than the model's 12"),
        ("segment_ids", np.zeros((2, 7), np.int32), "segment_ids has the shape"),
        ("next_sentence_labels", np.zeros(2, np.int32), "not a table"),
        ("input_ids", np.zeros((0, 8), np.int32), "not a table"),
        ("input_ids", np.asarray([["a"]]), "not a table"),
        ("input_ids", np.asarray([[{}]], object), "not a table"),
        ("input_ids", np.zeros((2, 0), np.int32), "not a table"),
    ):
        with pytest.raises(InputError, match=reason):
            read_examples(save(tmp_path, {**features, name: values}), TINY)
    del features["segment_ids"]
    with pytest.raises(InputError, match="lacks segment_ids"):
        read_examples(save(tmp_path, features), TINY)
    path = tmp_path / "examples.npz"
    for content in (b"", b"text", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not a sound \.npz file"):
            read_examples(path, TINY)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="not a sound"):
        read_examples(tmp_path / "one.npy", TINY)
