"""Both ways of feeding give the same batches; the command prints both rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perf import bert_input
from perf.bert_shards import make_shards


def test_the_source_gives_what_the_thread_gives(tmp_path: Path) -> None:
    manifest = make_shards(tmp_path, 7000, 2)
    source, training = bert_input.Source(manifest), bert_input.make_input(manifest)
    training.open()
    for _ in range(3):
        batch, storage = training.next(), source(None)
        tokens = 8 * batch.shape.tokens  # bytes of the first array
        assert np.array_equal(batch.storage.numpy()[:tokens], storage[:tokens])
        assert len(batch.storage) == len(storage)
    training.close()


def test_the_command_prints_both_rates(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--examples", "7000", "--batches", "3", "--rounds", "1", "--json"]
    assert bert_input.main(options) == 0
    ours, dali = json.loads(capsys.readouterr().out)
    assert ours["batches_per_second"] > 0 < ours["cpu_milliseconds"]
    assert dali["batches_per_second"] > 0 and "DALI" in dali["name"]
