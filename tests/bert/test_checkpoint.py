"""The starting checkpoint: names and shapes, conversion, and the reference's losses from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from bert.checkpoint import (
    build_shapes,
    load_model,
    main,
    name_in_tensorflow,
    plain_operations,
    read_checkpoint,
    read_state,
    read_tensorflow_state,
    write_state,
)
from bert.checkpoint_evaluation import drop_padding, evaluate_examples, read_examples
from bert.model_config import ModelConfig, read_bert_config
from bert.tensorflow_checkpoint import TensorflowCheckpoint
from harness.commands import InputError

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "bert" / "tf1_checkpoint"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference's checkpoint is not at {GOLDEN}"
)
PREFIX, CONFIG = GOLDEN / "model.ckpt-28252", GOLDEN / "bert_config.json"
LARGE = ModelConfig(30522, 1024, 24, 16, 4096, 512, 2, 0.1, 0.1)
TINY = ModelConfig(30, 8, 1, 2, 16, 12, 2, 0.1, 0.1)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "golden.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def convert(path: Path) -> None:
    arguments = ["--checkpoint", PREFIX, "--config", CONFIG, "--output", path]
    assert main(["convert", *map(str, arguments)]) == 0


def test_names_of_bert_large() -> None:
    names = [name_in_tensorflow(name) for name, _ in build_shapes(LARGE).named_parameters()]
    assert len(names) == len({name for name, _ in names}) == 398
    assert sum(transposed for _, transposed in names) == 24 * 6 + 2
    assert ("bert/encoder/layer_23/attention/self/value/kernel", True) in names
    assert ("cls/seq_relationship/output_weights", False) in names
    assert ("cls/predictions/output_bias", False) in names
    assert ("bert/embeddings/LayerNorm/gamma", False) in names
    with pytest.raises(ValueError, match="no parameter of BERT"):
        name_in_tensorflow("encoder.0.router.weight")


@needs_golden
@pytest.mark.parametrize("converted", [False, True])
def test_losses_of_the_reference(
    tmp_path: Path,
    golden: dict[str, np.ndarray],
    converted: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = PREFIX
    if converted:
        checkpoint = tmp_path / "bert.safetensors"
        convert(checkpoint)
    features = {name[3:]: array for name, array in golden.items() if name.startswith("in/")}
    np.savez(tmp_path / "examples.npz", **features)
    arguments = ["--checkpoint", checkpoint, "--config", CONFIG]
    arguments += ["--examples", tmp_path / "examples.npz", "--json"]
    assert main(["evaluate", *map(str, arguments)]) == 0
    result = json.loads(capsys.readouterr().out)
    for key in ("masked_lm_loss", "next_sentence_loss", "loss", "masked_lm_accuracy"):
        assert result[key] == pytest.approx(float(golden[f"out/{key}"]), rel=2e-6, abs=1e-9)
    assert result["examples"] == 6
    assert result["masked_tokens"] == int(golden["in/masked_lm_weights"].sum())


@needs_golden
def test_predictions_and_probabilities_of_the_reference(golden: dict[str, np.ndarray]) -> None:
    config = read_bert_config(CONFIG)
    features = read_examples(GOLDEN / "golden.npz", config)
    model = load_model(PREFIX, config)
    with torch.no_grad():
        output = model(drop_padding(features))
    counted = features["masked_lm_weights"] > 0
    predictions = output.masked_lm_logits.argmax(1).numpy()
    np.testing.assert_array_equal(predictions, golden["out/masked_lm_predictions"][counted])
    probabilities = output.next_sentence_logits.log_softmax(1).numpy()
    np.testing.assert_allclose(probabilities, golden["out/next_sentence_log_probs"], atol=2e-6)
    # With the truth set to what it says in every third place, that is its accuracy.
    rows, columns = np.nonzero(counted)
    features["masked_lm_ids"][rows[::3], columns[::3]] = predictions[::3]
    result = evaluate_examples(model, plain_operations(), features)
    assert result["masked_lm_accuracy"] == len(rows[::3]) / len(rows)


@needs_golden
def test_examples_taken_some_at_a_time_are_one_batch(
    golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_bert_config(CONFIG)
    features = read_examples(GOLDEN / "golden.npz", config)
    model = load_model(PREFIX, config)
    whole = evaluate_examples(model, plain_operations(), features)
    monkeypatch.setattr("bert.checkpoint_evaluation.SEQUENCES_AT_A_TIME", 4)
    parts = evaluate_examples(model, plain_operations(), features)
    assert parts == pytest.approx(whole, rel=1e-6)


@needs_golden
def test_converted_state_is_the_variables(tmp_path: Path) -> None:
    path = tmp_path / "bert.safetensors"
    convert(path)
    state, checkpoint = read_state(path), TensorflowCheckpoint(PREFIX)
    assert len(state) == 46
    query = checkpoint.read("bert/encoder/layer_1/attention/self/query/kernel")
    np.testing.assert_array_equal(state["encoder.1.attention.query.weight"].numpy(), query.T)
    weights = checkpoint.read("cls/seq_relationship/output_weights")
    np.testing.assert_array_equal(state["next_sentence.weight"].numpy(), weights)
    total = sum(checkpoint.read(n).astype(float).sum() for n in checkpoint.variables if "/" in n)
    assert sum(t.double().sum().item() for t in state.values()) == pytest.approx(total)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "converted_from": "model.ckpt-28252"}
    assert [p.name for p in tmp_path.iterdir()] == ["bert.safetensors"]
    read_checkpoint(path, read_bert_config(CONFIG))


@needs_golden
def test_checkpoint_and_configuration_must_belong_together(tmp_path: Path) -> None:
    content = json.loads(CONFIG.read_text())
    for key, value, reason in (
        ("num_hidden_layers", 1, "has, beside what the model has, .* and 13 more"),
        ("num_hidden_layers", 3, "lacks bert/encoder/layer_2/"),
        ("intermediate_size", 128, "kernel has the shape .64, 256. instead of .64, 128."),
        ("vocab_size", 1001, "word_embeddings has the shape"),
    ):
        config = tmp_path / "bert_config.json"
        config.write_text(json.dumps({**content, key: value}))
        with pytest.raises(InputError, match=reason):
            read_tensorflow_state(PREFIX, read_bert_config(config))


def make_state() -> dict[str, torch.Tensor]:
    return {
        name: torch.full(parameter.shape, 0.5)
        for name, parameter in build_shapes(TINY).named_parameters()
    }


def test_state_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    state = make_state()
    state["pooler.weight"] = torch.arange(64.0).reshape(8, 8).T  # not contiguous
    write_state(path, state, {"made_by": "a test"})
    read = read_checkpoint(path, TINY)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        write_state(path, {"a": state["pooler.bias"], "b": state["pooler.bias"]})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_states_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    good = make_state()
    missing = {name: tensor for name, tensor in good.items() if name != "pooler.bias"}
    for state, reason in (
        (missing, "lacks pooler.bias:"),
        ({**good, "extra": torch.zeros(1)}, "beside what the model has, extra:"),
        ({**good, "pooler.bias": torch.zeros(9)}, "pooler.bias has the shape .9,. instead of .8,."),
        ({**good, "pooler.bias": torch.zeros(8).half()}, "of type torch.float16"),
    ):
        write_state(path, state)
        with pytest.raises(InputError, match=reason):
            read_checkpoint(path, TINY)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"{]", b"text"])
def test_files_that_are_no_state(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_state(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_state(path)


def test_wrong_use(tmp_path: Path) -> None:
    config = tmp_path / "bert_config.json"
    config.write_text("{}")
    common = ["--checkpoint", str(tmp_path / "none"), "--config", str(config)]
    with pytest.raises(InputError, match="'vocab_size' is missing"):
        main(["convert", *common, "--output", "x.safetensors"])
    with pytest.raises(SystemExit, match="2"):
        main(["convert"])
    command = [sys.executable, "-m", "bert.checkpoint", "evaluate", *common]
    done = subprocess.run(
        [*command, "--examples", str(tmp_path / "none.npz")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
