"""Every configuration and system in the repository: it loads, keeps the rules, fits, dry-runs."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bert.config import Config as BertConfig
from bert.model import BertForPretraining
from bert.model import Operations as BertOperations
from harness.campaign import main as run_campaign
from harness.config import load_config
from harness.launch import BENCHMARKS
from harness.ops.table import resolve_operations
from harness.prediction_convergence import find_group
from harness.prediction_published import Hyperparameters
from harness.schedules import (
    PolynomialWarmup,
    bert_learning_rate,
    evaluation_interval_samples,
    evaluation_updates,
    resnet_evaluation_epochs,
)
from harness.systems import System, load_system
from resnet.config import EVALUATION_PERIOD_EPOCHS
from resnet.config import Config as ResNetConfig
from resnet.model import Operations as ResNetOperations
from resnet.model import ResNet

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = sorted((ROOT / "systems").glob("*.toml"))
RESNET = sorted((ROOT / "resnet" / "configs").glob("*.toml"))
BERT = sorted((ROOT / "bert" / "configs").glob("*.toml"))
RESNET_FULL = [file for file in RESNET if file.stem != "demo"]
BERT_FULL = [file for file in BERT if file.stem != "demo"]
IMAGENET_TRAIN_IMAGES = 1_281_167
SHIPPED = {"demo", "a100_4x4", "a100_4x8", "h100_4x4", "h100_4x8", "h200_4x8", "h200_1x1"}

# Reference convergence points at the batch sizes we ship: mlcommons/logging
# rcp_checker/training_4.0.0. For BERT the pruned set's linear interpolation between 448 and 4608.
RESNET_RCP_MEAN_EPOCHS = {3200: 35.148, 3264: 35.154}
BERT_RCP_MEAN_SAMPLES = {768: 2_443_934, 1536: 2_514_763, 3072: 2_656_421}


def named(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=[file.stem for file in files])


@named([file for file in BERT if file.stem.endswith("_fp8")])
def test_in_fp8_only_the_encoders_products_differ(file: Path):
    float8, short = (
        load_config(file, BertConfig),
        load_config(file.with_stem(file.stem.removesuffix("_fp8")), BertConfig),
    )
    products = {"linear", "query_key_value", "feed_forward"}
    changed = {name for name, one in float8.operations.items() if one != short.operations[name]}
    assert changed == products and {float8.operations[name] for name in products} == {"delayed"}
    assert replace(float8, operations=short.operations) == short


def test_what_the_request_needs_is_there():
    assert {file.stem for file in RESNET} >= SHIPPED
    assert {file.stem for file in BERT} >= SHIPPED
    assert "demo" in {file.stem for file in SYSTEMS}
    assert len(SYSTEMS) >= 3


# -- systems --------------------------------------------------------------------------------


@named(SYSTEMS)
def test_system_loads_and_its_batches_fit_its_world_size(file: Path):
    system = load_system(file)
    resnet = load_config(ROOT / system.benchmarks.resnet.config, ResNetConfig)
    bert = load_config(ROOT / system.benchmarks.bert.config, BertConfig)
    for config in (resnet, bert):
        assert config.batch.check_world_size(system.nodes.world_size) is None
        assert config.batch.check_world_size(system.nodes.world_size + 1) is not None


@named(SYSTEMS)
def test_system_runs_what_the_request_asks_for(file: Path):
    system = load_system(file)
    assert system.nodes.count == 4
    assert system.benchmarks.resnet.runs == 5
    assert system.benchmarks.bert.runs == 10
    assert system.benchmarks.bert.initial_checkpoint
    demonstration = file.stem == "demo"
    assert system.campaign.profile == ("demo" if demonstration else "lp2bm")
    assert system.nodes.one_machine == demonstration
    assert bool(system.campaign.make_data) == demonstration


@named(SYSTEMS)
def test_system_sets_few_variables_and_says_why(file: Path):
    for name, variable in load_system(file).environment.items():
        assert len(variable.reason.split()) >= 5, f"{file.name}: {name}"
        forced = re.fullmatch(r"NCCL_(ALGO|PROTO|TOPO.*|DEBUG.*|IB_HCA|MIN_.*|MAX_.*)", name)
        assert not forced, f"{file.name}: {name} overrides NCCL's own search"


@named([file for file in SYSTEMS if file.stem.startswith("example-")])
def test_example_keeps_nccl_from_registering_what_a_graph_sends(file: Path):
    """NVIDIA/nccl issue 2389, open up to 2.31: sharded LAMB's all-gathers could hang."""
    assert load_system(file).environment["NCCL_GRAPH_REGISTER"].value == "0"


@named([file for file in SYSTEMS if file.stem.startswith("example-")])
def test_example_says_what_to_replace(file: Path):
    text = file.read_text(encoding="utf-8")
    submission = load_system(file).submission
    assert submission.organization.startswith("replace-me")
    assert submission.platform.startswith(f"{load_system(file).nodes.count}xreplace-me")
    for line in text.splitlines():
        if "replace-me" in line and not line.startswith("#"):
            assert "# REPLACE" in line, line


@named(SYSTEMS)
def test_dry_run_prints_a_command_for_every_run(file: Path, capsys: pytest.CaptureFixture[str]):
    system = load_system(file)
    assert run_campaign(["--system", file.stem, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == system.benchmarks.resnet.runs + system.benchmarks.bert.runs
    logs = []
    for line in lines:
        words = shlex.split(line)
        check_command(system, words)
        logs.append(words[words.index("--log") + 1])
    assert len(set(logs)) == len(logs)


def check_command(system: System, words: list[str]) -> None:
    assert Path(words[0]).name == system.launch.launcher
    module = words[words.index("-m") + 1]
    assert module in {f"{benchmark}.train" for benchmark in BENCHMARKS}
    for name, variable in system.environment.items():
        assert f"{name}={variable.value}" in words
    if system.launch.launcher == "mpirun":
        assert words[words.index("-n") + 1] == str(system.nodes.world_size)
    else:
        assert f"--nodes={system.nodes.count}" in words
        assert f"--ntasks-per-node={system.nodes.ranks_per_node}" in words
    assert ("singularity" in words) == (system.container.runtime == "singularity")


def test_dry_run_through_the_command_itself():
    command = [sys.executable, "-m", "harness.campaign", "--dry-run", "--runs", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == len(BENCHMARKS)


# -- ResNet ---------------------------------------------------------------------------------


@named(RESNET)
def test_resnet_hyperparameters_are_in_the_rules_table(file: Path):
    config = load_config(file, ResNetConfig)
    optimizer = config.optimizer
    assert optimizer.end_learning_rate == 0.0001
    assert optimizer.decay_power == 2
    assert optimizer.momentum == 0.9  # the rule below a batch of 32,000
    assert config.batch.global_batch_size < 32_000
    assert optimizer.epsilon == 0.0
    assert math.log2(optimizer.weight_decay / 0.0001).is_integer()
    assert optimizer.label_smoothing in (0.0, 0.1)
    assert 1 <= config.evaluation.first_epoch <= EVALUATION_PERIOD_EPOCHS


@named(RESNET_FULL)
def test_resnet_is_the_model_and_input_of_the_rules(file: Path):
    config = load_config(file, ResNetConfig)
    assert (config.input.crop_size, config.input.resize_shorter) == (224, 256)
    assert config.model.classes == 1000
    with torch.device("meta"):
        model = ResNet(config.model, resolve_operations(ResNetOperations, config.operations))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    fourth_channel = model.conv0.weight[:, 3:].numel()  # fixed at zero, no parameter of the model
    assert parameters - fourth_channel == 25_557_032
    assert len(list(model.parameters())) == 161


@named(RESNET_FULL)
def test_resnet_sees_every_image_in_every_epoch_and_few_twice(file: Path):
    """Every rank's steps of an epoch cover its share; what is beyond comes from the next pass."""
    batch = load_config(file, ResNetConfig).batch
    steps = -(-IMAGENET_TRAIN_IMAGES // batch.global_batch_size)
    beyond = steps * batch.global_batch_size - IMAGENET_TRAIN_IMAGES
    assert beyond == {3264: 1_585, 3200: 2_033}[batch.global_batch_size]
    images = batch.local_batch_size * batch.gradient_accumulation_steps
    ranks = batch.global_batch_size // images
    for rank in range(ranks):
        first, last = (IMAGENET_TRAIN_IMAGES * end // ranks for end in (rank, rank + 1))
        assert last - first <= steps * images


@named(RESNET_FULL)
def test_resnet_evaluates_soon_after_the_reference_converges(file: Path):
    config = load_config(file, ResNetConfig)
    mean = RESNET_RCP_MEAN_EPOCHS[config.batch.global_batch_size]
    first, decay = config.evaluation.first_epoch, config.optimizer.decay_epochs
    epochs = resnet_evaluation_epochs(first, EVALUATION_PERIOD_EPOCHS, decay)
    assert 35 in epochs  # 34 fails the checker's statistics at 3264, 36 costs an epoch
    assert epochs[-1] > mean


@named(RESNET_FULL)
def test_resnet_schedule_is_the_published_one(file: Path):
    config = load_config(file, ResNetConfig)
    optimizer = config.optimizer
    steps = -(-IMAGENET_TRAIN_IMAGES // config.batch.global_batch_size)
    schedule = PolynomialWarmup(
        optimizer.base_learning_rate,
        optimizer.end_learning_rate,
        warmup_steps=optimizer.warmup_epochs * steps,
        total_steps=optimizer.decay_epochs * steps,
    )
    # lars_util.py's formula at its steps 1, spe, W, W + 1, 10 spe, 20 spe, 35 spe - 1, S - 1.
    decay_steps, expected = {
        393: (13_756, {
            1: 0.013358779, 393: 5.25, 786: 10.5, 787: 10.498473463, 3930: 6.248881100,
            7860: 2.477600616, 13_754: 0.034555080, 14_540: 0.000100222,
        }),
        401: (14_036, {
            1: 0.013715711, 401: 5.5, 802: 11.0, 803: 10.998432672, 4010: 6.546439313,
            8020: 2.595569990, 14_034: 0.036192263, 14_836: 0.000100223,
        }),
    }[steps]  # fmt: skip
    assert schedule.decay_steps == decay_steps
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-8, abs=1e-9)


# -- BERT -----------------------------------------------------------------------------------


@named(BERT_FULL)
def test_bert_is_the_model_and_input_of_the_rules(file: Path):
    config = load_config(file, BertConfig)
    assert config.input.max_sequence_length == 512
    assert config.input.max_predictions_per_sequence == 76
    assert config.model.dropout == config.model.attention_dropout == 0.1
    with torch.device("meta"):
        operations = resolve_operations(BertOperations, config.operations)
        model = BertForPretraining(config.model, operations)
    assert sum(parameter.numel() for parameter in model.parameters()) == 336_226_108
    assert len(list(model.parameters())) == 398
    assert (len(model.adapted_parameters()), len(model.skipped_parameters())) == (150, 248)


@named(BERT)
def test_bert_evaluates_at_the_interval_of_the_rule(file: Path):
    config = load_config(file, BertConfig)
    rule = evaluation_interval_samples(config.batch.global_batch_size)
    demonstration = file.stem == "demo"
    assert (config.evaluation.interval_samples == rule) == (not demonstration)


def test_the_rules_interval_by_hand():
    # FLOOR(0.05 (230.23 x 768 + 3,000,000), 25,000): 158,840 and 185,363 before the floor.
    assert evaluation_interval_samples(768) == 150_000
    assert evaluation_interval_samples(3072) == 175_000


@named(BERT_FULL)
def test_bert_trains_past_the_reference_convergence_point(file: Path):
    config = load_config(file, BertConfig)
    batch = config.batch.global_batch_size
    updates = evaluation_updates(
        config.evaluation.interval_samples, batch, config.optimizer.training_steps
    )
    beyond = [u for u in updates if u * batch > BERT_RCP_MEAN_SAMPLES[batch]]
    assert len(beyond) >= 1
    last = beyond[-1]
    optimizer = config.optimizer
    rate = bert_learning_rate(
        last - 1,
        optimizer.base_learning_rate,
        optimizer.training_steps,
        optimizer.warmup_steps,
        optimizer.start_warmup_step,
    )
    assert rate > 0.0


@named(BERT_FULL)
def test_bert_evaluation_batches_leave_no_small_rest(file: Path):
    config = load_config(file, BertConfig)
    batch = config.batch
    per_rank = batch.local_batch_size * batch.gradient_accumulation_steps
    ranks = batch.global_batch_size // per_rank
    samples = -(-10_000 // ranks)
    batches = -(-samples // config.evaluation.local_batch_size)
    assert batches * config.evaluation.local_batch_size - samples < batches


@named(RESNET_FULL + BERT_FULL)
def test_hyperparameters_name_their_source(file: Path):
    """A reader finds beside the numbers which convergence point or published result they are."""
    text = file.read_text(encoding="utf-8")
    assert re.search(r"rcps_(resnet|bert)\.json", text)
    assert "training_results_v" in text


@named(BERT_FULL)
def test_bert_states_the_published_runs_of_its_own_hyperparameters(file: Path):
    """Not those of all runs at the batch: decay and steps alone move the mean by 15 %."""
    config = load_config(file, BertConfig)
    stated = config.optimizer
    group = find_group(
        Hyperparameters(
            config.batch.global_batch_size,
            stated.base_learning_rate,
            stated.training_steps,
            stated.warmup_steps,
            stated.start_warmup_step,
            stated.weight_decay,
            stated.beta_1,
            stated.beta_2,
        )
    )
    assert group is not None
    head = file.read_text(encoding="utf-8").split("\n[")[0].replace("\n# ", " ")
    figures = f"{group.converged_runs} published runs converged at a mean of "
    figures += f"{group.mean_samples:,.0f} samples, {group.failed_runs} failed"
    assert figures in head
