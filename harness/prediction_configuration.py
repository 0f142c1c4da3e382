"""What a prediction reads of a benchmark's configuration: a few keys, each by its name."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.batch import LAST_PART
from harness.commands import InputError
from harness.prediction_convergence import Grid
from harness.prediction_published import Hyperparameters
from harness.prediction_time import Job
from harness.systems import System

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SIZE_LIMIT_BYTES = 1 << 20
PROFILES = ROOT / "scoring" / "profiles"
# Images of an ImageNet epoch and samples of an evaluation; those of a demonstration stand in its
# profile.
TRAIN_IMAGES = 1_281_167
EVALUATION_SAMPLES = {"resnet": 50_000, "bert": 10_000}
RESNET_PERIOD_EPOCHS = 4
# harness/gradients.py sums gradients in the format of the model's matrices, nearly all there is.
GRADIENT_BYTES_PER_PARAMETER = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Settings:
    """A benchmark's configuration, as far as time depends on it.

    gradient_format: fp32, bf16 or fp16.
    local_samples: samples of one rank in an update, accumulation included. hyperparameters: BERT's.
    """

    file: str
    job: Job
    local_samples: int
    hyperparameters: Hyperparameters | None
    gradient_format: str


class _Table:
    """A table whose values are taken one by one, with file and key in each error."""

    def __init__(self, file: Path, table: Any, section: str = "") -> None:
        self.where = f"{file}: [{section}]" if section else f"{file}:"
        self.file, self.table = file, table

    def section(self, name: str) -> _Table:
        value = self.table.get(name)
        if not isinstance(value, dict):
            raise InputError(f"{self.where} section '{name}' is missing")
        return _Table(self.file, value, name)

    def number(self, key: str) -> float:
        value = self.table.get(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 < value < 1e12:
            raise InputError(f"{self.where} '{key}' must be a positive number, is {value!r}")
        return float(value)

    def figure(self, key: str) -> float:
        value = self.table.get(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not abs(value) < 1e12:
            raise InputError(f"{self.where} '{key}' must be a number, is {value!r}")
        return float(value)

    def count(self, key: str) -> int:
        value = self.number(key)
        if value != int(value):
            raise InputError(f"{self.where} '{key}' must be a whole number, is {value}")
        return int(value)

    def choice(self, key: str, known: Collection[str]) -> str:
        value = self.table.get(key)
        if value not in known:
            raise InputError(f"{self.where} '{key}' must be {' or '.join(known)}, is {value!r}")
        return str(value)

    def counts(self, key: str) -> list[int]:
        values = self.table.get(key)
        if not isinstance(values, list) or not values:
            raise InputError(f"{self.where} '{key}' must be a list of whole numbers")
        return [_Table(self.file, {key: value}).count(key) for value in values]


def read_settings(system: System, benchmark: str) -> Settings:
    """Read the configuration that a system file names for a benchmark.

    That the ranks can use it was checked before (harness/config_command.py). Raises InputError for
    a value that no prediction can be made with.
    """
    stated = system.benchmarks.named(benchmark)
    path = resolve(stated.config)
    table = _read_table(path)
    batch, evaluation = table.section("batch"), table.section("evaluation")
    global_batch = batch.count("global_batch_size")
    local = batch.count("local_batch_size") * batch.count("gradient_accumulation_steps")
    optimizer = table.section("optimizer")
    images, evaluation_samples = count_samples(system, benchmark)
    if benchmark == "resnet":
        last = optimizer.count("decay_epochs")
        grid = _list_epochs(evaluation.count("first_epoch"), last)
        parameters = count_resnet_parameters(table.section("model"))
    else:
        last = optimizer.count("training_steps") * global_batch
        interval = evaluation.count("interval_samples")
        grid = tuple(float(n * interval) for n in range(1, last // interval + 1))
        parameters = count_bert_parameters(table.section("model"))
    form = table.section("precision").choice("format", GRADIENT_BYTES_PER_PARAMETER)
    size = float(parameters * GRADIENT_BYTES_PER_PARAMETER[form])
    job = Job(
        benchmark=benchmark,
        nodes=system.nodes.count,
        ranks_per_node=system.nodes.ranks_per_node,
        global_batch_size=global_batch,
        samples_per_point=float(images) if benchmark == "resnet" else 1.0,
        evaluation_samples=evaluation_samples,
        gradient_bytes=size,
        grid=Grid(grid),
        **_find_shares(benchmark, table, size, form),
    )
    group = _read_hyperparameters(optimizer, global_batch) if benchmark == "bert" else None
    return Settings(stated.config, job, local, group, form)


def _find_shares(benchmark: str, table: _Table, size_bytes: float, form: str) -> dict[str, float]:
    """What of the exchange no pass can hide, and what of it travels during the forward pass.

    The last gradients are sent when the backward pass has ended: a small part of a bucket's size,
    for BERT the embedding tables; all where gradients are clipped before. With a sharded optimizer
    half of what an all-reduce moves brings updated weights back, and the forward pass needs the
    same bucket to begin.
    """
    communication = table.section("communication")
    edge = communication.number("bucket_megabytes") * (1 << 20) / LAST_PART
    if benchmark == "bert":
        model = table.section("model")
        rows = model.count("vocabulary_size") + model.count("positions") + model.count("segments")
        tables = rows * model.count("hidden_size") * GRADIENT_BYTES_PER_PARAMETER[form]
        edge = max(edge, float(tables))
    share = min(1.0, edge / size_bytes)
    clipped_before = table.section("optimizer").table.get("gradient_clip") == "before_reduce"
    sharded = communication.table.get("sharded_optimizer") is True
    return {
        "last_bucket_share": 1.0 if clipped_before else share,
        "gathered_share": 0.5 if sharded else 0.0,
        "first_bucket_share": share if sharded else 0.0,
    }


def _read_hyperparameters(optimizer: _Table, global_batch: int) -> Hyperparameters:
    return Hyperparameters(
        global_batch_size=global_batch,
        learning_rate=optimizer.number("base_learning_rate"),
        training_steps=optimizer.count("training_steps"),
        warmup_steps=int(optimizer.figure("warmup_steps")),
        start_warmup_step=int(optimizer.figure("start_warmup_step")),
        weight_decay=optimizer.figure("weight_decay"),
        beta_1=optimizer.number("beta_1"),
        beta_2=optimizer.number("beta_2"),
    )


def resolve(path: str) -> Path:
    """A path of a system file, from the repository's root as the launcher takes it."""
    return ROOT / path


def _list_epochs(first: int, decay_epochs: int) -> tuple[float, ...]:
    epochs = [float(first)]
    while epochs[-1] < decay_epochs:
        epochs.append(epochs[-1] + RESNET_PERIOD_EPOCHS)
    return tuple(epochs)


def count_samples(system: System, benchmark: str) -> tuple[int, int]:
    """Training images of an epoch (0 for BERT, which counts samples) and samples of an evaluation.

    A demonstration's are those that its profile holds its runs to. Raises InputError without it.
    """
    profile = system.campaign.profile
    if profile != "demo":
        return TRAIN_IMAGES * (benchmark == "resnet"), EVALUATION_SAMPLES[benchmark]
    sizes = _read_table(PROFILES / f"{profile}.toml").section(benchmark)
    images = sizes.count("train_samples") if benchmark == "resnet" else 0
    return images, sizes.count("eval_samples")


def _read_table(path: Path) -> _Table:
    try:
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise InputError(f"{path}: larger than 1 MiB, which no configuration is")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise InputError(f"{path}: its top must be a table")
    return _Table(path, table)


def count_resnet_parameters(model: _Table) -> int:
    """Weights of a ResNet v1.5 of bottleneck blocks: 25,557,032 for ResNet-50 of three channels.

    Raises InputError for missing keys.
    """
    widths, depths = model.counts("widths"), model.counts("depths")
    stem = model.count("stem_width")
    total = 49 * model.count("input_channels") * stem + 2 * stem
    entering = stem
    for width, depth in zip(widths, depths, strict=False):
        leaving = 4 * width
        for block in range(depth):
            total += entering * width + 9 * width * width + width * leaving
            total += 2 * (width + width + leaving)
            if block == 0:
                total += entering * leaving + 2 * leaving
            entering = leaving
    return total + (entering + 1) * model.count("classes")


def count_bert_parameters(model: _Table) -> int:
    """Weights of BERT with both heads, the decoder tied: 336,226,108 for BERT-large.

    Raises InputError for missing keys.
    """
    hidden, inner = model.count("hidden_size"), model.count("intermediate_size")
    vocabulary = model.count("vocabulary_size")
    tables = vocabulary + model.count("positions") + model.count("segments")
    layer = 4 * (hidden + 1) * hidden + (hidden + 1) * inner + (inner + 1) * hidden + 4 * hidden
    heads = 2 * (hidden + 1) * hidden + 2 * hidden + vocabulary + 2 * hidden + 2
    return tables * hidden + 2 * hidden + model.count("layers") * layer + heads
