"""The published results and convergence points that the prediction is fitted and checked with."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from harness.commands import InputError

FOLDER = Path(__file__).parent
RESULTS_FILE = FOLDER / "published_results.csv"
CONVERGENCE_FILE = FOLDER / "published_convergence.csv"
SIZE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Hyperparameters:
    """BERT's group of hyperparameters: the batch, the schedule and LAMB's, all that moves when runs
    converge. Within a group published sets differ as runs do by chance (docs/prediction.md)."""

    global_batch_size: int
    learning_rate: float
    training_steps: int
    warmup_steps: int
    start_warmup_step: int
    weight_decay: float
    beta_1: float
    beta_2: float

    def equal(self, other: Hyperparameters) -> bool:
        """True for the same group: every value is the same to within a thousandth."""
        values = zip(astuple(self), astuple(other), strict=True)
        return all(math.isclose(a, b, rel_tol=1e-3) for a, b in values)


@dataclass(frozen=True)
class PublishedResult:
    """One published set of runs; the header of published_results.csv says what each value is."""

    round: str
    submitter: str
    system: str
    benchmark: str
    accelerator: str
    platform: str
    anchor: bool
    nodes: int
    accelerators_per_node: int
    network_gigabits_per_node: int
    global_batch_size: int
    hyperparameters: Hyperparameters | None
    evaluation_grid: int
    minutes: float
    converged_at: float
    converged_runs: int
    converged_mean: float
    failed_runs: int
    evaluation_seconds: float
    first_epoch_extra_seconds: float

    @property
    def accelerators(self) -> int:
        """Accelerators of all nodes."""
        return self.nodes * self.accelerators_per_node

    @property
    def local_batch(self) -> float:
        """Samples an accelerator handles in one update."""
        return self.global_batch_size / self.accelerators

    @property
    def shares_ports(self) -> bool:
        """True where accelerators of a node share network ports of 200 Gbit/s each."""
        return self.nodes > 1 and self.network_gigabits_per_node < 200 * self.accelerators_per_node


@dataclass(frozen=True)
class PublishedConvergence:
    """Samples to the target of BERT-large over all published runs of one hyperparameter group."""

    hyperparameters: Hyperparameters
    evaluation_interval_samples: int
    sets: int
    converged_runs: int
    failed_runs: int
    mean_samples: float
    deviation_samples: float

    def without(self, result: PublishedResult) -> PublishedConvergence | None:
        """The same group without the runs of one result; None where nothing is left."""
        runs = self.converged_runs - result.converged_runs
        if runs < 1:
            return None
        total = self.converged_runs * self.mean_samples
        mean = (total - result.converged_runs * result.converged_mean) / runs
        return PublishedConvergence(
            self.hyperparameters, self.evaluation_interval_samples, self.sets - 1, runs,
            self.failed_runs - result.failed_runs, mean, self.deviation_samples,
        )  # fmt: skip


@functools.cache
def load_published_results(path: Path = RESULTS_FILE) -> tuple[PublishedResult, ...]:
    """Read the table of results. Raises InputError naming file, line and column."""
    return tuple(
        PublishedResult(
            round=row.text("round"),
            submitter=row.text("submitter"),
            system=row.text("system"),
            benchmark=row.choice("benchmark", ("resnet", "bert")),
            accelerator=row.text("accelerator"),
            platform=row.text("platform"),
            anchor=row.choice("anchor", ("yes", "no")) == "yes",
            nodes=row.count("nodes", least=1),
            accelerators_per_node=row.count("accelerators_per_node", least=1),
            network_gigabits_per_node=row.count("network_gigabits_per_node", least=0),
            global_batch_size=row.count("global_batch_size", least=1),
            hyperparameters=(
                _read_hyperparameters(row) if row.text("benchmark") == "bert" else None
            ),
            evaluation_grid=row.count("evaluation_grid", least=1),
            minutes=row.number("minutes", positive=True),
            converged_at=row.number("converged_at", positive=True),
            converged_runs=row.count("converged_runs", least=1),
            converged_mean=row.number("converged_mean", positive=True),
            failed_runs=row.count("failed_runs", least=0),
            evaluation_seconds=row.number("evaluation_seconds"),
            first_epoch_extra_seconds=row.number("first_epoch_extra_seconds"),
        )
        for row in _read_rows(path)
    )


@functools.cache
def load_published_convergence(
    path: Path = CONVERGENCE_FILE,
) -> tuple[PublishedConvergence, ...]:
    """Read the table of convergence points. Raises InputError naming file, line and column."""
    return tuple(
        PublishedConvergence(
            hyperparameters=_read_hyperparameters(row),
            evaluation_interval_samples=row.count("evaluation_interval_samples", least=1),
            sets=row.count("sets", least=1),
            converged_runs=row.count("converged_runs", least=1),
            failed_runs=row.count("failed_runs", least=0),
            mean_samples=row.number("mean_samples", positive=True),
            deviation_samples=row.number("deviation_samples"),
        )
        for row in _read_rows(path)
    )


def _read_hyperparameters(row: _Row) -> Hyperparameters:
    return Hyperparameters(
        global_batch_size=row.count("global_batch_size", least=1),
        learning_rate=row.number("learning_rate", positive=True),
        training_steps=row.count("training_steps", least=1),
        warmup_steps=row.count("warmup_steps", least=0),
        start_warmup_step=-row.count("start_warmup_step", least=0, sign=-1),
        weight_decay=row.number("weight_decay"),
        beta_1=row.number("beta_1", positive=True),
        beta_2=row.number("beta_2", positive=True),
    )


@dataclass(frozen=True)
class _Row:
    where: str
    values: dict[str, str]

    def text(self, column: str) -> str:
        if not self.values.get(column):
            raise InputError(f"{self.where}: column '{column}' is missing or empty")
        return self.values[column]

    def choice(self, column: str, known: tuple[str, ...]) -> str:
        value = self.text(column)
        if value not in known:
            raise InputError(f"{self.where}: '{column}' must be {' or '.join(known)}, is '{value}'")
        return value

    def number(self, column: str, positive: bool = False, sign: int = 1) -> float:
        """A column's number, -1 as sign: of one that must not be above 0."""
        text = self.text(column)
        try:
            value = sign * float(text) + 0.0
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            wanted = "a number, 0 or more" if sign == 1 else "a number, 0 or less"
            wanted = "a positive number" if positive else wanted
            raise InputError(f"{self.where}: '{column}' must be {wanted}, is '{text}'")
        return value

    def count(self, column: str, least: int, sign: int = 1) -> int:
        value = self.number(column, sign=sign)
        if value != int(value) or value < least:
            text = self.values[column]
            wanted = f"a whole number of at least {least}"
            raise InputError(f"{self.where}: '{column}' must be {wanted}, is '{text}'")
        return int(value)


def _read_rows(path: Path) -> Iterator[_Row]:
    try:
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise InputError(f"{path}: larger than 1 MiB, which no table of results is")
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from None
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not numbered:
        raise InputError(f"{path}: holds no table")
    names = next(csv.reader([numbered[0][1]]))
    for number, line in numbered[1:]:
        cells = next(csv.reader([line]))
        if len(cells) != len(names):
            raise InputError(f"{path}:{number}: has {len(cells)} columns, must have {len(names)}")
        yield _Row(f"{path}:{number}", dict(zip(names, cells, strict=True)))
