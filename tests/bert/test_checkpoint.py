"""The starting checkpoint: the reference's losses, outputs and gradients; conversion."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bert.checkpoint import (
    load_model,
    main,
    read_checkpoint,
    write_state,
)
from bert.checkpoint_evaluation import FEATURES, drop_padding, evaluate_examples, read_examples
from bert.checkpoint_names import name_in_tensorflow
from bert.checkpoint_weights import build_shapes, list_shapes, plain_operations
from bert.model import pretraining_loss
from bert.model_config import read_bert_config
from bert.tensorflow_checkpoint import TensorflowCheckpoint
from harness.commands import InputError
from tests.bert.checkpoint_files import (
    LARGE,
    TINY,
    Bundle,
    describe_config,
    make_variables,
    write_full_size,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "bert" / "tf1_checkpoint"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference's checkpoint is not at {GOLDEN}"
)
PREFIX, CONFIG = GOLDEN / "model.ckpt-28252", GOLDEN / "bert_config.json"


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


@needs_golden
@pytest.mark.parametrize("form", ["tensorflow", "converted", "exported"])
def test_losses_of_the_reference(
    tmp_path: Path,
    golden: dict[str, np.ndarray],
    form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = PREFIX
    if form == "converted":
        checkpoint = tmp_path / "bert.safetensors"
        convert(checkpoint)
    elif form == "exported":
        checkpoint = tmp_path / "bert"
        arguments = ["--checkpoint", PREFIX, "--config", CONFIG, "--hf", checkpoint]
        assert main(["export", *map(str, arguments)]) == 0
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
def test_outputs_of_the_reference_on_real_tokens(golden: dict[str, np.ndarray]) -> None:
    config = read_bert_config(CONFIG)
    model = load_model(PREFIX, config)
    seen: dict[str, torch.Tensor] = {}
    inputs: list[tuple[object, ...]] = []
    last = model.encoder[-1]
    kept = last.register_forward_pre_hook(lambda _m, given: inputs.append(given))
    model.pooler.register_forward_hook(lambda _m, _i, output: seen.update({"pooled": output}))
    with torch.no_grad():
        model(drop_padding(read_examples(GOLDEN / "golden.npz", config)))
        kept.remove()
        # The model computes the last layer for the rows that its heads read: here for all.
        seen["sequence"], _ = last(*inputs[0][:3])
    real = golden["in/input_mask"] > 0
    assert 0.1 < real.mean() < 0.9  # padding there is, and it was left out
    sequence = golden["out/sequence_output"][real]
    assert relative(seen["sequence"].numpy(), sequence) < 1e-5
    assert relative(seen["pooled"].tanh().numpy(), golden["out/pooled_output"]) < 1e-5


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The difference's norm by the norm of what it should be, in double precision."""
    assert ours.shape == theirs.shape
    difference = np.linalg.norm(ours.astype(float) - theirs.astype(float))
    return float(difference / np.linalg.norm(theirs.astype(float)))


@needs_golden
def test_gradients_of_the_reference(golden: dict[str, np.ndarray]) -> None:
    """Every variable's gradient norm, and the whole gradient of those that were kept."""
    config = read_bert_config(CONFIG)
    model = load_model(PREFIX, config)
    batch = drop_padding(read_examples(GOLDEN / "golden.npz", config))
    output = model(batch)
    labels = batch.next_sentence_labels
    pretraining_loss(output, batch.masked_ids, labels, plain_operations())[0].backward()
    norms, whole = {}, {}
    for name, parameter in model.named_parameters():
        source, transposed = name_in_tensorflow(name)
        assert parameter.grad is not None
        gradient = parameter.grad.numpy()
        norms[source] = np.linalg.norm(gradient.astype(float))
        whole[source] = gradient.T if transposed else gradient
    wanted = {name[10:]: float(golden[name]) for name in golden if name.startswith("grad_norm/")}
    assert len(wanted) == 46
    assert norms.keys() == wanted.keys()
    # A key's bias shifts all scores of a query alike: its gradient is zero but for rounding.
    for name in sorted(wanted):
        if name.endswith("/key/bias"):
            assert max(norms[name], wanted[name]) < 1e-6 * max(wanted.values())
        else:
            assert norms[name] == pytest.approx(wanted[name], rel=1e-4), name
    kept = [name[5:] for name in golden if name.startswith("grad/")]
    assert len(kept) == 12
    for name in kept:
        assert relative(whole[name], golden[f"grad/{name}"]) < 1e-4, name


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
    state, checkpoint = load_file(path), TensorflowCheckpoint(PREFIX)
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


def test_all_of_bert_larges_variables_in_small(tmp_path: Path) -> None:
    """398 variables, two slots for each, beta powers and step: each of the 398 finds its place."""
    config = dataclasses.replace(TINY, layers=24)
    for slots in (("adam_m", "adam_v"), ("LAMB", "LAMB_1")):
        variables = make_variables(config, slots)
        assert len(variables) == 3 * 398 + 3
        prefix = Bundle(tmp_path).write(variables)
        state = read_checkpoint(prefix, config)
        assert list(state) == list(list_shapes(config)) and len(state) == 398
        for name, tensor in state.items():
            source, transposed = name_in_tensorflow(name)
            values = variables[source]
            np.testing.assert_array_equal(tensor.numpy(), values.T if transposed else values)
    (tmp_path / "bert_config.json").write_text(json.dumps(describe_config(config)))
    arguments = ["--checkpoint", prefix, "--config", tmp_path / "bert_config.json"]
    arguments += ["--output", tmp_path / "bert.safetensors"]
    assert main(["convert", *map(str, arguments)]) == 0
    converted = load_file(tmp_path / "bert.safetensors")
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)


def test_the_checkpoint_to_measure_with_is_a_checkpoint(tmp_path: Path) -> None:
    prefix = write_full_size(tmp_path, TINY)
    state = read_checkpoint(prefix, read_bert_config(tmp_path / "bert_config.json"))
    numbers = sum(tensor.numel() for tensor in state.values())
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    assert data.stat().st_size == 12 * numbers + 16  # as the real one's, of 336,226,108 numbers


def test_state_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    state = {name: torch.full(shape, 0.5) for name, shape in list_shapes(TINY).items()}
    state["pooler.weight"] = torch.arange(64.0).reshape(8, 8).T  # not contiguous
    write_state(path, state, {"made_by": "a test"})
    read = read_checkpoint(path, TINY)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a is torch\.float16"):
        write_state(path, {"a": state["pooler.bias"].half()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_losses_that_are_not_finite_are_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has no word for them; weights may be finite and overflow all the same."""
    state = {name: torch.full(shape, 3e38) for name, shape in list_shapes(TINY).items()}
    write_state(tmp_path / "bert.safetensors", state)
    (tmp_path / "bert_config.json").write_text(json.dumps(describe_config(TINY)))
    ones = {name: np.ones((1, 2), int) for name in FEATURES}
    ones["next_sentence_labels"] = np.ones((1, 1), int)
    np.savez(tmp_path / "examples.npz", **ones)
    arguments = ["--checkpoint", tmp_path / "bert.safetensors"]
    arguments += ["--config", tmp_path / "bert_config.json"]
    arguments += ["--examples", tmp_path / "examples.npz", "--json"]
    with pytest.raises(InputError, match=r"bert\.safetensors: the losses on .* are not finite"):
        main(["evaluate", *map(str, arguments)])
    assert not capsys.readouterr().out


def test_wrong_use(tmp_path: Path) -> None:
    config = tmp_path / "bert_config.json"
    config.write_text("{}")
    common = ["--checkpoint", str(tmp_path / "none"), "--config", str(config)]
    with pytest.raises(InputError, match="'vocab_size' is missing"):
        main(["convert", *common, "--output", "x.safetensors"])
    with pytest.raises(SystemExit, match="2"):
        main(["convert"])
    config.write_text(json.dumps(describe_config(TINY)))
    with pytest.raises(InputError, match=r"must end in \.safetensors, but x\.pt does not"):
        main(["convert", *common, "--output", "x.pt"])
    command = [sys.executable, "-m", "bert.checkpoint", "evaluate", *common]
    done = subprocess.run(
        [*command, "--examples", str(tmp_path / "none.npz")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
