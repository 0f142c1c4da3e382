"""BERT's configuration: every refusal names file, section and key; every logged key is MLPerf's."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert.config import Batch, Config
from harness.commands import InputError
from harness.config import load_config, logged_values
from tests.one_rank import change_value

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "bert" / "configs" / "demo.toml"


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("batch", "global_batch_size", "0", "'global_batch_size' must be at least 1"),
        ("batch", "local_batch_size", "-4", "'local_batch_size' must be at least 1"),
        ("batch", "gradient_accumulation_steps", "0", "'gradient_accumulation_steps' must be at"),
        ("input", "max_sequence_length", "0", "'max_sequence_length' must be at least 1"),
        ("input", "max_sequence_length", "65", "must not exceed model.positions"),
        ("input", "max_predictions_per_sequence", "0", "'max_predictions_per_sequence' must be"),
        ("input", "prefetch_batches", "0", "'prefetch_batches' must be at least 1"),
        ("optimizer", "base_learning_rate", "-0.1", "'base_learning_rate' must not be negative"),
        ("optimizer", "base_learning_rate", "nan", "'optimizer.base_learning_rate' must be a fin"),
        ("optimizer", "training_steps", "0", "'training_steps' must be at least 1"),
        ("optimizer", "training_steps", "8.5", "must be a whole number, is 8.5"),
        ("optimizer", "warmup_steps", "-1", "'warmup_steps' must not be negative"),
        ("optimizer", "decay_power", "2.0", "'decay_power' is 1.0"),
        ("optimizer", "beta_1", "1.0", "betas lie in [0, 1)"),
        ("optimizer", "beta_2", "-0.1", "betas lie in [0, 1)"),
        ("optimizer", "epsilon", "0.0", "'epsilon' must be positive"),
        ("optimizer", "weight_decay", "-0.01", "'weight_decay' must not be negative"),
        ("optimizer", "max_gradient_norm", "2.0", "'max_gradient_norm' is 1.0"),
        ("evaluation", "interval_samples", "0", "'interval_samples' must be at least 1"),
        ("evaluation", "local_batch_size", "0", "'local_batch_size' must be at least 1"),
        ("evaluation", "log_weights", "1", "must be true or false, is 1"),
        ("communication", "bucket_megabytes", "0", "'bucket_megabytes' must be at least 1"),
        ("operations", "layer_norm", "1", "'operations.layer_norm' must be a text"),
    ],
)
def test_refusals(tmp_path: Path, section: str, key: str, value: str, words: str) -> None:
    file = tmp_path / "bert.toml"
    file.write_text(change_value(DEMO.read_text(), section, key, value))
    with pytest.raises(InputError) as caught:
        load_config(file, Config)
    sentence = str(caught.value)
    assert sentence.startswith(str(file)) and words in sentence and "\n" not in sentence


def test_a_start_of_the_warm_up_that_gives_negative_rates(tmp_path: Path) -> None:
    file = tmp_path / "bert.toml"
    text = change_value(DEMO.read_text(), "optimizer", "start_warmup_step", "3")
    file.write_text(text)
    load_config(file, Config)  # without a warm-up the start says nothing
    file.write_text(change_value(text, "optimizer", "warmup_steps", "10"))
    with pytest.raises(InputError, match="'start_warmup_step' must not be positive"):
        load_config(file, Config)
    text = change_value(text, "optimizer", "warmup_steps", "10")
    file.write_text(change_value(text, "optimizer", "start_warmup_step", "-3"))
    assert load_config(file, Config).optimizer.start_warmup_step == -3


def test_batches_must_fit_the_world_size() -> None:
    assert Batch(768, 12, 2).check_world_size(32) is None
    sentence = Batch(768, 12, 2).check_world_size(16)
    assert sentence is not None
    assert "12 x gradient_accumulation_steps 2 x 16 ranks = 384" in sentence
    assert "global_batch_size is 768" in sentence


def test_the_log_says_what_the_file_says() -> None:
    config = load_config(DEMO, Config)
    optimizer = config.optimizer
    assert logged_values(config) == {
        "max_sequence_length": config.input.max_sequence_length,
        "max_predictions_per_seq": config.input.max_predictions_per_sequence,
        "global_batch_size": config.batch.global_batch_size,
        "d_batch_size": config.batch.local_batch_size,
        "gradient_accumulation_steps": config.batch.gradient_accumulation_steps,
        "opt_base_learning_rate": optimizer.base_learning_rate,
        "opt_learning_rate_training_steps": optimizer.training_steps,
        "opt_learning_rate_warmup_steps": optimizer.warmup_steps,
        "start_warmup_step": optimizer.start_warmup_step,
        "opt_lamb_learning_rate_decay_poly_power": optimizer.decay_power,
        "opt_lamb_beta_1": optimizer.beta_1,
        "opt_lamb_beta_2": optimizer.beta_2,
        "opt_lamb_epsilon": optimizer.epsilon,
        "opt_lamb_weight_decay_rate": optimizer.weight_decay,
        "opt_gradient_clip_norm": optimizer.max_gradient_norm,
        "gradient_clip": optimizer.gradient_clip,
    }
