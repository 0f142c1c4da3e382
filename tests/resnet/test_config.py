"""ResNet's configuration: what the rules fix is refused otherwise, with file, section and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands import InputError
from harness.config import load_config, logged_values
from resnet.config import Batch, Config
from tests.one_rank import change_value

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "resnet" / "configs" / "demo.toml"


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("batch", "global_batch_size", "0", "'global_batch_size' must be at least 1"),
        ("batch", "local_batch_size", "-1", "'local_batch_size' must be at least 1"),
        ("batch", "batch_norm_span", "24", "'local_batch_size' or a multiple of it"),
        ("batch", "gradient_accumulation_steps", "0", "'gradient_accumulation_steps' must be at"),
        ("optimizer", "base_learning_rate", "-1.0", "'base_learning_rate' must not be negative"),
        ("optimizer", "base_learning_rate", "inf", "'optimizer.base_learning_rate' must be a fin"),
        ("optimizer", "end_learning_rate", "0.0", "'end_learning_rate' is 0.0001 by the rules"),
        ("optimizer", "decay_power", "1", "'decay_power' is 2 by the rules"),
        ("optimizer", "epsilon", "1e-8", "'epsilon' is 0.0 by the rules"),
        ("optimizer", "label_smoothing", "0.05", "'label_smoothing' is 0.0 or 0.1"),
        ("optimizer", "warmup_epochs", "-1", "'warmup_epochs' must end before the decay"),
        ("optimizer", "decay_epochs", "1", "'warmup_epochs' must end before the decay"),
        ("optimizer", "weight_decay", "0.0", "'weight_decay' must be positive"),
        ("optimizer", "weight_decay", "0.0003", "'weight_decay' is 0.0001 times a power of two"),
        ("optimizer", "momentum", "0.94", "momentum is 0.9 by the rules below a global batch"),
        ("evaluation", "first_epoch", "0", "'first_epoch' is 1, 2, 3 or 4 by the rules"),
        ("evaluation", "first_epoch", "5", "'first_epoch' is 1, 2, 3 or 4 by the rules"),
        ("communication", "bucket_megabytes", "0", "'bucket_megabytes' must be at least 1"),
        ("input", "channels", "3", "model.input_channels and input.channels must be equal"),
        ("input", "resize_shorter", "32", "'resize_shorter' is 32, less than 'crop_size'"),
        ("model", "depths", "[1, 1, 1]", "four positive whole numbers"),
        ("model", "classes", "0", "classes must be a positive whole number"),
        ("precision", "loss_scale", "128.0", "'loss_scale' must be 1 unless format is fp16"),
    ],
)
def test_refusals(tmp_path: Path, section: str, key: str, value: str, words: str) -> None:
    file = tmp_path / "resnet.toml"
    file.write_text(change_value(DEMO.read_text(), section, key, value))
    with pytest.raises(InputError) as caught:
        load_config(file, Config)
    sentence = str(caught.value)
    assert sentence.startswith(str(file)) and words in sentence and "\n" not in sentence


@pytest.mark.parametrize("value", ["0.0002", "0.0001", "0.00005", "0.0000125"])
def test_powers_of_two_as_weight_decay(tmp_path: Path, value: str) -> None:
    file = tmp_path / "resnet.toml"
    file.write_text(change_value(DEMO.read_text(), "optimizer", "weight_decay", value))
    assert load_config(file, Config).optimizer.weight_decay == float(value)


def test_the_momentum_is_free_from_a_global_batch_of_32000(tmp_path: Path) -> None:
    file = tmp_path / "resnet.toml"
    text = change_value(DEMO.read_text(), "optimizer", "momentum", "0.94")
    file.write_text(change_value(text, "batch", "global_batch_size", "32000"))
    assert load_config(file, Config).optimizer.momentum == 0.94
    file.write_text(change_value(text, "batch", "global_batch_size", "31999"))
    with pytest.raises(InputError, match=r"momentum is 0\.9"):
        load_config(file, Config)


def test_batches_must_fit_the_world_size() -> None:
    assert Batch(3264, 102, 2, 102).check_world_size(16) is None
    assert Batch(3264, 102, 2, 204).check_world_size(16) is None
    sentence = Batch(3264, 102, 2, 510).check_world_size(16)
    assert sentence is not None and "5 ranks, which do not divide 16" in sentence
    sentence = Batch(3264, 102, 2, 102).check_world_size(32)
    assert sentence is not None
    assert "102 x gradient_accumulation_steps 2 x 32 ranks = 6528" in sentence
    assert "global_batch_size is 3264" in sentence


def test_the_log_says_what_the_file_says() -> None:
    config = load_config(DEMO, Config)
    optimizer = config.optimizer
    assert logged_values(config) == {
        "global_batch_size": config.batch.global_batch_size,
        "model_bn_span": config.batch.batch_norm_span,
        "gradient_accumulation_steps": config.batch.gradient_accumulation_steps,
        "lars_opt_base_learning_rate": optimizer.base_learning_rate,
        "lars_opt_end_learning_rate": optimizer.end_learning_rate,
        "lars_opt_learning_rate_decay_poly_power": optimizer.decay_power,
        "lars_opt_learning_rate_warmup_epochs": optimizer.warmup_epochs,
        "lars_opt_momentum": optimizer.momentum,
        "lars_opt_weight_decay": optimizer.weight_decay,
        "lars_epsilon": optimizer.epsilon,
    }
