"""Both orders read the same samples; the command says what each costs."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from harness.commands import InputError
from perf import bert_order
from perf.bert_shards import make_shards


def test_both_read_the_nodes_share_of_a_step(tmp_path: Path) -> None:
    manifest = make_shards(tmp_path, 4000, 2)
    for read in (bert_order.read_by_windows, bert_order.read_shuffled):
        assert list(islice(read(manifest), 8)) == [96] * 8


def test_the_peer_is_a_permutation() -> None:
    assert np.array_equal(np.sort(bert_order.shuffle_all(1000)), np.arange(1000))


def test_the_command_prints_both(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bert_order, "WIKIPEDIA_SAMPLES", 100_000)
    options = ["--examples", "7000", "--shards", "3", "--steps", "2", "--folder", str(tmp_path)]
    assert bert_order.main([*options, "--json"]) == 0
    readings = json.loads(capsys.readouterr().out)
    assert [reading["samples"] for reading in readings] == [2 * 8 * 96] * 2
    assert all(reading["cpu_microseconds"] > 0 for reading in readings)
    assert bert_order.main(options) == 0
    assert "one shuffle of all" in capsys.readouterr().out
    with pytest.raises(InputError, match="--examples 7000 are not enough for --steps 3"):
        bert_order.main([*options[:4], "--steps", "3"])
