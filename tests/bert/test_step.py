"""BERT's step: each rank's own means, averaged with equal weight over ranks and micro-batches."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bert.config import Config
from bert.model import Batch, BertForPretraining
from bert.probe import make_synthetic_batch
from bert.step import TrainingStep
from harness.config import load_config
from harness.gradients import list_gradients
from harness.precision import Precision
from tests.harness.test_gradients import flatten, fork_ranks, launch

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE = 2


def make_config(accumulation: int = 1, precision: Precision | None = None) -> Config:
    """The demonstration's small model without dropout, so that gradients can be compared."""
    config: Config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
    model = replace(config.model, dropout=0.0, attention_dropout=0.0)
    batch = replace(config.batch, gradient_accumulation_steps=accumulation)
    return replace(config, model=model, batch=batch, precision=precision or config.precision)


def make_batch(config: Config, number: int) -> Batch:
    """Micro-batches of different sizes, words and counts of masked tokens."""
    batch = make_synthetic_batch(config, 3 + 2 * number, CPU)
    ids = (batch.input_ids + 17 * number) % config.model.vocabulary_size
    return replace(batch, input_ids=ids, masked_ids=(batch.masked_ids + number) % 100)


def make_step(config: Config, world_size: int = 1, seed: int = 3) -> TrainingStep:
    torch.manual_seed(seed)
    return TrainingStep(config, CPU, world_size, initial_state=None)


def find_gradient(step: TrainingStep) -> np.ndarray:
    return flatten([parameter.grad for parameter in step.model.parameters()])


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """Two micro-batches a step on every rank, two steps."""
    config = make_config(accumulation=2)
    step = make_step(config, WORLD_SIZE, seed=3 + rank)  # rank 0's weights are taken
    found = {}
    for number in range(2):
        for micro_batch in range(2):
            step.accumulate(make_batch(config, 4 * number + 2 * micro_batch + rank))
        found[f"gradient {number}"] = find_gradient(step)
        step.update(0.02)
        found[f"weights {number}"] = flatten(list(step.model.parameters()))
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    return launch("tests.bert.test_step", tmp_path_factory.mktemp("ranks"))


def test_ranks_and_micro_batches_count_alike(seen: list[dict[str, np.ndarray]]) -> None:
    """Two ranks with two micro-batches are one process with the same four."""
    config = make_config(accumulation=4)
    step = make_step(config)
    for number in range(2):
        for micro_batch in range(4):
            step.accumulate(make_batch(config, 4 * number + micro_batch))
        gradient = find_gradient(step)
        step.update(0.02)
        weights = flatten(list(step.model.parameters()))
        assert len(seen) == WORLD_SIZE
        for found in seen:
            error = np.linalg.norm(found[f"gradient {number}"] - gradient)
            assert error < 1e-4 * np.linalg.norm(gradient)
            assert np.abs(found[f"weights {number}"] - weights).max() < 1e-3
            assert np.array_equal(found[f"weights {number}"], seen[0][f"weights {number}"])


def reference_loss(model: BertForPretraining, batch: Batch) -> torch.Tensor:
    """The mean over the batch's masked tokens plus the mean over its sequences."""
    output = model(batch)
    log_words = output.masked_lm_logits.double().log_softmax(1)
    masked = -log_words[torch.arange(len(batch.masked_ids)), batch.masked_ids].sum()
    log_next = output.next_sentence_logits.double().log_softmax(1)
    labels = batch.next_sentence_labels
    following = -log_next[torch.arange(len(labels)), labels].mean()
    return masked / (len(batch.masked_ids) + 1e-5) + following


def test_accumulation_is_the_mean_of_micro_gradients() -> None:
    """Each micro-batch takes its own means; none counts more for having more masked tokens."""
    config = make_config(accumulation=3)
    step, model = make_step(config), make_step(config).model
    wanted = 0.0
    for number in range(3):
        batch = make_batch(config, number)
        step.accumulate(batch)
        model.zero_grad()
        reference_loss(model, batch).backward()
        wanted = wanted + flatten([p.grad for p in model.parameters()]) / 3
    gradient = find_gradient(step)
    assert np.linalg.norm(gradient - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_update_forgets_the_gradients_and_starts_the_next_step() -> None:
    config = make_config(accumulation=2)
    step, again = make_step(config), make_step(config)
    for _ in range(2):
        for number in range(2):
            step.accumulate(make_batch(config, number))
        step.update(0.0)
        assert all(gradient.abs().max() == 0 for gradient in list_gradients(step.optimizer))
    for number in range(2):
        step.accumulate(make_batch(config, number))
        again.accumulate(make_batch(config, number))
    # Rate 0 has changed no weight, so the third step's gradient is the first's.
    assert np.array_equal(find_gradient(step), find_gradient(again))


def test_lamb_has_the_configurations_values_in_both_groups() -> None:
    config = make_config()
    step = make_step(config)
    step.accumulate(make_batch(config, 0))
    step.update(0.125)
    adapted, skipped = step.optimizer.param_groups
    assert (adapted["adapt"], skipped["adapt"]) == (True, False)
    assert len(adapted["params"]) + len(skipped["params"]) == len(list(step.model.parameters()))
    for group in (adapted, skipped):
        assert group["lr"] == 0.125 and group["step"] == 1
        assert group["betas"] == (config.optimizer.beta_1, config.optimizer.beta_2)
        assert group["eps"] == config.optimizer.epsilon
        assert group["weight_decay"] == config.optimizer.weight_decay
        assert group["max_grad_norm"] == config.optimizer.max_gradient_norm


def test_an_initial_state_is_taken_whole_or_refused() -> None:
    config = make_config()
    state = {
        name: p.detach().clone() for name, p in make_step(config, seed=8).model.state_dict().items()
    }
    step = TrainingStep(config, CPU, 1, state)
    for name, parameter in step.model.named_parameters():
        assert torch.equal(parameter, state[name])
    state.pop("pooler.bias")
    with pytest.raises(RuntimeError, match=r"pooler\.bias"):
        TrainingStep(config, CPU, 1, state)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision("bf16", 1.0), 0.05), (Precision("fp16", 256.0), 0.01)]
)
def test_sixteen_bit_steps_are_near_those_of_fp32(precision: Precision, tolerance: float) -> None:
    """The optimizer gets unscaled fp32 gradients near the exact ones; the weights stay fp32."""
    gradients = []
    for chosen in (Precision("fp32", 1.0), precision):
        config = make_config(precision=chosen)
        step = make_step(config)
        given: list[np.ndarray] = []
        step.optimizer.register_step_pre_hook(
            lambda *_, s=step, g=given: g.append(find_gradient(s))
        )
        step.accumulate(make_batch(config, 1))
        step.update(0.01)
        gradients += given
        assert all(p.dtype == torch.float32 for p in step.model.parameters())
    exact, near = gradients
    assert near.dtype == np.float32 and not np.array_equal(exact, near)
    assert np.linalg.norm(near - exact) < tolerance * np.linalg.norm(exact)


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
