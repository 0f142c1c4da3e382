"""Evaluation of BERT: a micro-average over masked tokens, exact counts, no dropout, no trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bert.config import Config
from bert.data import EvaluationInput
from bert.evaluate import evaluate
from bert.model import Batch, BertForPretraining, Operations, Output
from bert.shards import ShardSet, read_manifest
from bert.step import TrainingStep
from harness.commands import InputError
from harness.config import load_config
from harness.ops.table import resolve_operations
from tests.harness.test_gradients import flatten, fork_ranks, launch

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE = 3
FULL_STOP = 5  # its number in the demonstration's vocabulary


class Oracle(nn.Module):
    """Scores word `position id` highest at each masked position; notes how it was called."""

    def __init__(self, words: int = 12) -> None:
        super().__init__()
        self.words = words
        self.called: list[tuple[bool, bool]] = []

    def forward(self, batch: Batch) -> Output:
        self.called.append((self.training, torch.is_grad_enabled()))
        chosen = batch.position_ids[batch.masked_positions]
        scores = nn.functional.one_hot(chosen, self.words).float()
        return Output(scores, torch.zeros(len(batch.next_sentence_labels), 2))


def make_batch(lengths: list[int], masked: list[int], truth: list[int]) -> Batch:
    """Sequences of these lengths; `masked` counts over all tokens; `truth` are the hidden words."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.concatenate([np.arange(length) for length in lengths])
    tokens = int(edges[-1])
    return Batch(
        torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens, dtype=torch.int64),
        torch.from_numpy(positions), torch.from_numpy(edges.astype(np.int32)), max(lengths),
        torch.tensor(masked), torch.tensor(truth), torch.zeros(len(lengths), dtype=torch.int64),
    )  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """What a manifest says of a set."""

    examples: int
    masked_tokens: int


class Given:
    """An evaluation input of given batches."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def epoch(self) -> Iterator[Batch]:
        yield from self.batches


def make_oracle_step() -> TrainingStep:
    step = make_step()
    step.model = Oracle()  # type: ignore[assignment]
    return step


# Positions restart with each sequence, so the oracle answers 2 | 1, 3, 0 | 4.
FIRST = make_batch([5], masked=[2], truth=[2])  # 1 of 1
SECOND = make_batch([4, 2], masked=[1, 3, 4], truth=[1, 7, 8])  # 1 of 3
THIRD = make_batch([6], masked=[4], truth=[5])  # 0 of 1


def test_the_accuracy_is_over_positions_and_not_over_batches_or_sequences() -> None:
    step = make_oracle_step()
    assert evaluate(step, Given(FIRST, SECOND, THIRD), Whole(4, 5), 1) == 2 / 5
    assert evaluate(step, Given(FIRST, SECOND), Whole(3, 4), 1) == 2 / 4
    assert evaluate(step, Given(FIRST), Whole(1, 1), 1) == 1.0
    assert evaluate(step, Given(THIRD), Whole(1, 1), 1) == 0.0


def test_what_fills_a_batch_up_is_not_counted() -> None:
    """Even where the model would predict the label of nothing."""
    filled = replace(
        SECOND,
        masked_positions=torch.cat([SECOND.masked_positions, torch.tensor([2, 5])]),
        masked_ids=torch.cat([SECOND.masked_ids, torch.tensor([-1, -1])]),
        next_sentence_labels=torch.tensor([0, 1, -1, -1]),
    )
    assert evaluate(make_oracle_step(), Given(FIRST, filled, THIRD), Whole(4, 5), 1) == 2 / 5


def test_the_model_is_asked_without_dropout_or_gradients_and_trains_on() -> None:
    step = make_oracle_step()
    assert step.model.training
    evaluate(step, Given(FIRST, SECOND), Whole(3, 4), 1)
    assert step.model.called == [(False, False)] * 2
    assert step.model.training and torch.is_grad_enabled()


@pytest.mark.parametrize("whole", [Whole(2, 4), Whole(4, 4), Whole(10_000, 428_235), Whole(3, 5)])
def test_other_samples_or_masked_tokens_are_no_evaluation(whole: Whole) -> None:
    said = f"saw 3 samples of {whole.examples}, 4 masked tokens of {whole.masked_tokens}"
    with pytest.raises(RuntimeError, match=said):
        evaluate(make_oracle_step(), Given(FIRST, SECOND), whole, 1)


def test_a_model_that_has_diverged_is_not_evaluated() -> None:
    step = make_oracle_step()
    step.parameters.pools[0].master[7] = torch.nan
    with pytest.raises(InputError, match="no longer finite"):
        evaluate(step, Given(FIRST), Whole(1, 1), 1)
    assert step.model.called == []


def make_step(rank: int = 0, world_size: int = 1) -> TrainingStep:
    """The demonstration's model with clear answers, some of them right: full stops."""
    config: Config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
    torch.manual_seed(6)
    model = BertForPretraining(config.model, resolve_operations(Operations, config.operations))
    with torch.no_grad():
        for parameter in model.adapted_parameters():
            parameter.mul_(8.0)
        model.masked_lm.output_bias[FULL_STOP] = 5.0
    return TrainingStep(config, CPU, rank, world_size, model.state_dict(), [0.1])


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """Evaluate this rank's part twice."""
    manifest = read_manifest(sys.argv[2])
    step = make_step(rank, WORLD_SIZE)
    evaluation = EvaluationInput(manifest, rank, WORLD_SIZE, 4, CPU)
    values = [evaluate(step, evaluation, manifest, WORLD_SIZE) for _ in range(2)]
    part = sum(int((batch.next_sentence_labels >= 0).sum()) for batch in evaluation.epoch())
    return {"values": np.array(values), "part": np.array(part)}


def test_ranks_with_ragged_parts_count_every_sample_once(small_data: Path, tmp_path: Path) -> None:
    folder = small_data / "bert" / "eval"
    manifest = read_manifest(folder)
    seen = launch("tests.bert.test_evaluate", tmp_path, folder)
    assert sum(int(found["part"]) for found in seen) == manifest.examples
    step = make_step()
    whole = evaluate(step, EvaluationInput(manifest, 0, 1, 16, CPU), manifest, 1)
    assert 0.02 < whole < 0.5
    for found in seen:
        assert found["values"].tolist() == [whole, whole]

    # By hand: every sample alone.
    correct = positions = 0
    step.model.eval()
    with ShardSet.open(manifest) as shards, torch.no_grad():
        for number in range(manifest.examples):
            sample = shards.sample(number)
            length = len(sample.input_ids)
            batch = replace(
                make_batch(
                    [length], sample.masked_lm_positions.tolist(), sample.masked_lm_ids.tolist()
                ),
                input_ids=torch.from_numpy(sample.input_ids.astype(np.int64)),
                segment_ids=torch.from_numpy(sample.segment_ids.astype(np.int64)),
            )
            predicted = step.model(batch).masked_lm_logits.argmax(1)
            correct += int((predicted == batch.masked_ids).sum())
            positions += len(batch.masked_ids)
    assert positions == manifest.masked_tokens
    assert whole == correct / positions


def test_an_evaluation_changes_nothing(small_data: Path) -> None:
    manifest = read_manifest(small_data / "bert" / "eval")
    step = make_step()
    weights, random = flatten(list(step.model.parameters())), torch.get_rng_state()
    evaluate(step, EvaluationInput(manifest, 0, 1, 16, CPU), manifest, 1)
    assert np.array_equal(weights, flatten(list(step.model.parameters())))
    assert torch.equal(random, torch.get_rng_state())


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
