"""The exported folder: transformers loads every weight of it and computes what we compute."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bert.checkpoint import load_model, main
from bert.checkpoint_evaluation import drop_padding, read_examples
from bert.model_config import read_bert_config
from bert.tensorflow_checkpoint import TensorflowCheckpoint
from harness.commands import InputError
from tests.bert.checkpoint_files import TINY, Bundle, describe_config, make_variables

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "bert"
CHECKPOINT = GOLDEN / "tf1_checkpoint"
PREFIX, CONFIG = CHECKPOINT / "model.ckpt-28252", CHECKPOINT / "bert_config.json"
needs_golden = pytest.mark.skipif(
    not CHECKPOINT.is_dir(), reason=f"the reference's checkpoint is not at {CHECKPOINT}"
)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "##s", "cat", "."]


def export(checkpoint: Path, config: Path, folder: Path, *more: str | Path) -> None:
    arguments = ["--checkpoint", checkpoint, "--config", config, "--hf", folder, *more]
    assert main(["export", *map(str, arguments)]) == 0


def load(folder: Path) -> Any:
    """transformers' model of a folder, every weight of it having come from there."""
    transformers = pytest.importorskip("transformers")
    model, info = transformers.BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[problem], problem
    assert model.dtype == torch.float32
    return model.eval()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exported") / "bert"
    export(PREFIX, CONFIG, folder)
    return load(folder)


@needs_golden
def test_transformers_computes_what_the_reference_computed(theirs: Any) -> None:
    with np.load(CHECKPOINT / "golden.npz", allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    features = {name[3:]: torch.from_numpy(v).long() for name, v in golden.items() if "in/" in name}
    with torch.no_grad():
        output = theirs(
            input_ids=features["input_ids"],
            attention_mask=features["input_mask"],
            token_type_ids=features["segment_ids"],
        )
    places = features["masked_lm_positions"][:, :, None].expand(-1, -1, 1000)
    scores = output.prediction_logits.gather(1, places)
    counted = features["masked_lm_weights"] > 0
    truth = features["masked_lm_ids"]
    losses = torch.nn.functional.cross_entropy(scores.transpose(1, 2), truth, reduction="none")
    masked_lm_loss = losses[counted].double().sum().item() / (counted.sum().item() + 1e-5)
    answers = output.seq_relationship_logits.log_softmax(1)
    labels = features["next_sentence_labels"]
    next_sentence_loss = -answers.gather(1, labels).mean().item()
    predictions = scores.argmax(2)
    accuracy = (predictions == truth)[counted].float().mean().item()
    assert masked_lm_loss == pytest.approx(float(golden["out/masked_lm_loss"]), rel=1e-5)
    assert next_sentence_loss == pytest.approx(float(golden["out/next_sentence_loss"]), rel=1e-5)
    loss = masked_lm_loss + next_sentence_loss
    assert loss == pytest.approx(float(golden["out/loss"]), rel=1e-5)
    assert accuracy == pytest.approx(float(golden["out/masked_lm_accuracy"]), rel=1e-4)
    wanted = golden["out/masked_lm_predictions"]
    np.testing.assert_array_equal(predictions[counted].numpy(), wanted[counted.numpy()])
    np.testing.assert_allclose(answers.numpy(), golden["out/next_sentence_log_probs"], rtol=1e-4)


@needs_golden
def test_logits_are_ours(theirs: Any) -> None:
    config = read_bert_config(CONFIG)
    features = read_examples(CHECKPOINT / "golden.npz", config)
    tensors = {name: torch.from_numpy(values) for name, values in features.items()}
    with torch.no_grad():
        ours = load_model(PREFIX, config)(drop_padding(features))
        output = theirs(
            input_ids=tensors["input_ids"],
            attention_mask=tensors["input_mask"],
            token_type_ids=tensors["segment_ids"],
        )
    rows, columns = np.nonzero(features["masked_lm_weights"] > 0)
    positions = features["masked_lm_positions"][rows, columns]
    for our_logits, their_logits in (
        (ours.masked_lm_logits, output.prediction_logits[rows, positions]),
        (ours.next_sentence_logits, output.seq_relationship_logits),
    ):
        assert (our_logits - their_logits).norm() < 1e-5 * their_logits.norm()


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint of as many words as PIECES, and its bert_config.json."""
    config = dataclasses.replace(TINY, vocabulary_size=len(PIECES))
    (tmp_path / "bert_config.json").write_text(json.dumps(describe_config(config)))
    return Bundle(tmp_path).write(make_variables(config)), tmp_path / "bert_config.json"


def test_export_of_a_converted_and_of_an_exported_checkpoint(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    prefix, config = tiny
    converted = tmp_path / "bert.safetensors"
    arguments = ["--checkpoint", prefix, "--config", config, "--output", converted]
    assert main(["convert", *map(str, arguments)]) == 0
    export(prefix, config, tmp_path / "one")
    export(converted, config, tmp_path / "two")
    export(tmp_path / "two", config, tmp_path / "three")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["config.json", "model.safetensors"]
    for folder in ("two", "three"):
        for name in files:
            one, other = tmp_path / "one" / name, tmp_path / folder / name
            assert one.read_bytes() == other.read_bytes()
    load(tmp_path / "three")


def test_what_transformers_saves_is_read_again(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    prefix, path = tiny
    export(prefix, path, tmp_path / "bert")
    load(tmp_path / "bert").save_pretrained(tmp_path / "saved")
    config = read_bert_config(path)
    ours, saved = load_model(prefix, config), load_model(tmp_path / "saved", config)
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, saved.get_parameter(name)), name


def test_the_tokenizer_of_the_vocabulary(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(PIECES) + "\n")
    export(*tiny, tmp_path / "bert", "--vocab", vocabulary)
    assert (tmp_path / "bert" / "vocab.txt").read_bytes() == vocabulary.read_bytes()
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path / "bert")
    assert len(tokenizer) == len(PIECES) and tokenizer.model_max_length == 12
    assert tokenizer("The cats. ")["input_ids"] == [2, 5, 8, 7, 9, 3]
    special = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id]
    assert special == [0, 1, 4]
    load(tmp_path / "bert")


def test_what_is_refused_leaves_nothing(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    prefix, config = tiny
    vocabulary = tmp_path / "vocab.txt"
    before = {*tmp_path.iterdir(), vocabulary}
    for pieces, reason in (
        (PIECES[:-1], "has 9 word pieces, the model 10: give the vocab.txt that belongs"),
        (["x", *PIECES[1:]], r"has no line \[PAD\]"),
    ):
        vocabulary.write_text("\n".join(pieces))
        with pytest.raises(InputError, match=reason):
            export(prefix, config, tmp_path / "bert", "--vocab", vocabulary)
        assert {*tmp_path.iterdir()} == before
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    content = data.read_bytes()
    # Of the last variable that is taken over: others were written before.
    place = TensorflowCheckpoint(prefix).variables["cls/seq_relationship/output_bias"].offset
    data.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(InputError, match="does not match its checksum"):
        export(prefix, config, tmp_path / "bert")
    assert {*tmp_path.iterdir()} == before
    data.write_bytes(content)
    with pytest.raises(FileNotFoundError) as caught:
        export(prefix, config, tmp_path / "none" / "bert")
    assert caught.value.filename == str(tmp_path / "none" / "bert")
    for name in ("folder", "link"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        with pytest.raises(InputError, match="is there already: name a new folder"):
            export(prefix, config, tmp_path / name)
        (tmp_path / "link").unlink()
    assert not list((tmp_path / "folder").iterdir())


def test_export_needs_no_transformers(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    prefix, config = tiny
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from bert.checkpoint import main; raise SystemExit(main(sys.argv[1:]))"
    )
    arguments = ["--checkpoint", prefix, "--config", config, "--hf", tmp_path / "bert"]
    command = [sys.executable, "-c", program, "export", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bert" / "model.safetensors").is_file()
