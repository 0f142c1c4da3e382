"""Runs of both trainers on four ranks: what they log, and how they end when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.commands import InputError
from harness.results import hash_file
from tests.conftest import ROOT, Kit, is_in_memory

RESNET_ORDER = (
    "submission_benchmark", "submission_org", "submission_division", "submission_status",
    "submission_platform", "demonstration", "number_of_nodes", "source_sha256", "cache_clear",
    "init_start", "seed",
    "global_batch_size", "gradient_accumulation_steps", "model_bn_span",
    "lars_opt_base_learning_rate", "lars_opt_end_learning_rate",
    "lars_opt_learning_rate_decay_poly_power", "lars_opt_learning_rate_warmup_epochs",
    "lars_opt_momentum", "lars_opt_weight_decay", "lars_epsilon", "opt_name",
    "lars_opt_learning_rate_decay_steps", "init_stop", "run_start", "train_samples",
    "eval_samples", "block_start", "epoch_start", "epoch_stop", "tracked_stats", "epoch_start",
    "epoch_stop", "tracked_stats", "eval_start", "eval_stop", "eval_accuracy", "block_stop",
    "run_stop",
)  # fmt: skip
BERT_ORDER = (
    "demonstration", "number_of_nodes", "source_sha256", "cache_clear", "init_start",
    "submission_benchmark", "submission_org",
    "submission_division", "submission_status", "submission_platform", "seed",
    "max_sequence_length", "max_predictions_per_seq", "global_batch_size", "d_batch_size",
    "gradient_accumulation_steps", "opt_base_learning_rate", "opt_learning_rate_training_steps",
    "opt_learning_rate_warmup_steps", "start_warmup_step",
    "opt_lamb_learning_rate_decay_poly_power", "opt_lamb_beta_1", "opt_lamb_beta_2",
    "opt_lamb_epsilon", "opt_lamb_weight_decay_rate", "opt_gradient_clip_norm", "gradient_clip",
    "opt_name",
    "opt_epsilon", "num_warmup_steps", "eval_samples", "init_stop", "run_start", "epoch_start",
    "block_start", "tracked_stats", "eval_start", "eval_stop", "eval_accuracy", "tracked_stats",
    "eval_start", "eval_stop", "eval_accuracy", "block_stop", "epoch_stop", "train_samples",
    "skipped_updates", "run_stop",
)  # fmt: skip


def read_events(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text().splitlines()
    assert all(line.startswith(":::MLLOG ") for line in lines)
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def check_compliance(log: Path, tmp_path: Path) -> bool:
    """Ask the official checker, in a folder of its own since it leaves a file behind."""
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker"]
    command += ["--ruleset", "4.0.0", str(log)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ("SUCCESS" in done.stdout + done.stderr) == (done.returncode == 0)
    return done.returncode == 0


@pytest.mark.parametrize(("benchmark", "order"), [("resnet", RESNET_ORDER), ("bert", BERT_ORDER)])
def test_a_run_that_misses_its_target(kit: Kit, benchmark: str, order: tuple[str, ...]) -> None:
    status, output, log = kit.launch(benchmark)
    assert status == 1, output
    events = read_events(log)
    keys = [event["key"] for event in events]
    weights = [e["metadata"]["tensor"] for e in events if e["key"] == "weights_initialization"]
    assert tuple(key for key in keys if key != "weights_initialization") == order
    assert len(weights) == len(set(weights)) > 40
    assert events[-1]["metadata"]["status"] == "aborted"
    by_key = {event["key"]: event for event in events}
    config = {"resnet": kit.resnet_config, "bert": kit.bert_config}[benchmark]
    assert by_key["source_sha256"]["metadata"]["settings"] == {
        kit.system.name: hash_file(kit.system), str(config): hash_file(config)
    }  # fmt: skip
    (record,) = by_key["cache_clear"]["metadata"]["hosts"].values()
    assert record["method"] == "fadvise"
    assert record["resident_bytes"] == 0 or is_in_memory(kit.folder)
    assert by_key["eval_accuracy"]["value"] < 0.72
    for event in events:
        source = (ROOT / event["metadata"]["file"]).read_text().splitlines()
        assert "clock." in source[event["metadata"]["lineno"] - 1]
    assert not check_compliance(log, kit.folder)
    if benchmark == "resnet":
        assert by_key["train_samples"]["value"] == 96
        assert by_key["eval_accuracy"]["value"] * 42 == pytest.approx(
            round(by_key["eval_accuracy"]["value"] * 42), abs=1e-9
        )
    else:
        assert by_key["train_samples"]["value"] == 512
        points = [e["metadata"]["epoch_num"] for e in events if e["key"] == "eval_accuracy"]
        assert points == [256, 512]


def test_ranks_that_are_not_the_system_files(kit: Kit) -> None:
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable]
    command += ["-m", "bert.train", "run", "--system", str(kit.system), "--log"]
    log = kit.folder / "log"
    done = subprocess.run(
        [*command, str(log)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("error: 3 rank(s) were started, the system file says 4") == 1
    assert "Traceback" not in done.stderr and not log.exists()


def test_batch_sizes_that_do_not_fit(kit: Kit) -> None:
    kit.change(kit.bert_config, ("local_batch_size = 16", "local_batch_size = 8"))
    status, output, log = kit.launch("bert")
    assert status == 2
    assert "8 x gradient_accumulation_steps 1 x 4 ranks = 32, but global_batch_size is 64" in output
    assert not log.exists()


def test_unknown_key(kit: Kit) -> None:
    kit.change(kit.resnet_config, ("momentum = 0.9", "momentum = 0.9\nnesterov = true"))
    status, output, log = kit.launch("resnet")
    assert status == 2
    assert output.count("error:") == 1 and "[optimizer] unknown key 'nesterov'" in output
    assert str(kit.resnet_config) in output and not log.exists()


def test_missing_and_truncated_shards_are_found_before_the_clock(kit: Kit) -> None:
    shard = next(iter(sorted(kit.resnet_data.glob("train-*.rec"))))
    shard.write_bytes(shard.read_bytes()[:-4])
    status, output, log = kit.launch("resnet")
    assert status == 2
    assert shard.name in output and output.count("error:") == 1
    assert not log.exists()
    (shard,) = (kit.bert_data / "train").glob("*.shard")
    shard.unlink()
    status, output, log = kit.launch("bert")
    assert status == 2
    assert shard.name in output and output.count("error:") == 1
    assert not log.exists()


def test_a_corrupt_training_image_ends_the_run(kit: Kit) -> None:
    shard = next(iter(sorted(kit.resnet_data.glob("train-*.rec"))))
    content = bytearray(shard.read_bytes())
    place = content.find(b"\xff\xd8\xff", len(content) // 2)
    content[place : place + 400] = bytes(400)
    shard.write_bytes(content)
    status, output, log = kit.launch("resnet")
    assert status not in (0, 1)
    assert "cannot be decoded" in output and "resnet.prepare_data verify" in output
    assert "Traceback" not in output
    assert "run_stop" not in log.read_text()


def test_a_checkpoint_of_another_model(kit: Kit) -> None:
    kit.change(kit.bert_config, ("layers = 2", "layers = 1"))
    status, output, log = kit.launch("bert")
    assert status == 2 and output.count("error:") == 1
    assert "initial.safetensors" in output and "the model has no" in output
    assert "run_start" not in log.read_text()


def test_data_prepared_for_another_length(kit: Kit) -> None:
    kit.change(kit.bert_config, ("max_sequence_length = 64", "max_sequence_length = 32"))
    status, output, _ = kit.launch("bert")
    assert status == 2 and output.count("error:") == 1
    assert "max_seq_length 64, the configuration says 32" in output


def test_another_interval_than_the_rules_only_in_the_demonstration(kit: Kit) -> None:
    from bert.config import Config, check_evaluation_interval
    from harness.config import load_config
    from harness.systems import load_system

    config = load_config(kit.bert_config, Config)
    check_evaluation_interval(load_system(kit.system), config)
    kit.change(
        kit.system,
        ('profile = "demo"', 'profile = "lp2bm"'),
        ("one_machine = true", "one_machine = false"),
    )
    with pytest.raises(InputError, match="interval_samples is 256, the rule asks for 150000"):
        check_evaluation_interval(load_system(kit.system), config)


def test_gradient_accumulation_gives_the_same_steps(kit: Kit) -> None:
    """Half the local batch, two micro-batches a step: the same samples, counts and points."""
    kit.change(
        kit.bert_config,
        ("local_batch_size = 16", "local_batch_size = 8"),
        ("gradient_accumulation_steps = 1", "gradient_accumulation_steps = 2"),
    )
    status, output, log = kit.launch("bert")
    assert status == 1, output
    events = read_events(log)
    assert {"gradient_accumulation_steps": 2, "global_batch_size": 64}.items() <= {
        event["key"]: event["value"] for event in events
    }.items()
    assert events[-3]["key"] == "train_samples" and events[-3]["value"] == 512
    assert events[-2]["key"] == "skipped_updates" and events[-2]["value"] == 0


@pytest.mark.parametrize("format_and_scale", [("bf16", 1.0), ("fp16", 128.0)])
def test_sixteen_bit_formats_run(kit: Kit, format_and_scale: tuple[str, float]) -> None:
    name, scale = format_and_scale
    for config in (kit.bert_config, kit.resnet_config):
        kit.change(
            config,
            ('format = "fp32"', f'format = "{name}"'),
            ("loss_scale = 1.0", f"loss_scale = {scale}"),
        )
    status, output, log = kit.launch("bert")
    assert status == 1, output
    values = [e["value"] for e in read_events(log) if e["key"] == "eval_accuracy"]
    assert all(0.0 < value < 1.0 for value in values)


GOLDEN = ROOT.parent / "shared" / "golden" / "bert"


@pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the golden data does not stand beside the checkout"
)
def test_the_trainer_takes_steps_on_real_wikipedia_text(kit: Kit) -> None:
    """Real text and vocabulary, prepared as Wikipedia is, at the real lengths; a small model."""
    from bert import prepare_data
    from bert.config import Config
    from demo.initial_checkpoint import make_initial_checkpoint
    from harness.config import load_config

    data = kit.folder / "wikipedia"
    data.mkdir()
    shape = ["--vocab", str(GOLDEN / "vocab.txt")]
    text = str(GOLDEN / "sample_text.txt")
    assert prepare_data.main(["create", *shape, "--output", str(data / "train"), text]) == 0
    arguments = ["pick", str(data / "train"), str(data / "eval"), "--samples", "50"]
    assert prepare_data.main(arguments) == 0
    kit.change(
        kit.bert_config,
        ("vocabulary_size = 161", "vocabulary_size = 30522"),
        ("positions = 64", "positions = 512"),
        ("max_sequence_length = 64", "max_sequence_length = 512"),
        ("max_predictions_per_sequence = 10", "max_predictions_per_sequence = 76"),
        ("global_batch_size = 64", "global_batch_size = 16"),
        ("local_batch_size = 16", "local_batch_size = 4"),
        ("interval_samples = 256", "interval_samples = 32"),
        ("training_steps = 8", "training_steps = 4"),
    )
    kit.change(kit.system, (f'"{kit.bert_data}"', f'"{data}"'))
    kit.change(kit.system, (f"{kit.bert_data}/initial", f"{data}/initial"))
    config = load_config(kit.bert_config, Config)
    make_initial_checkpoint(config, data / "train", data / "initial.safetensors", 1, updates=1)
    status, output, log = kit.launch("bert")
    assert status == 1, output
    events = read_events(log)
    points = [e["metadata"]["epoch_num"] for e in events if e["key"] == "eval_accuracy"]
    assert points == [32, 64]
    assert all(0 <= e["value"] < 0.72 for e in events if e["key"] == "eval_accuracy")
    assert [e["value"] for e in events if e["key"] == "eval_samples"] == [50]
