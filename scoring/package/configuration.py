"""The step of the settings: what each run logged against the delivered configuration file.

The table below stands apart from the trainers, which declare the same keys in their
configurations: an auditor does not take its measure from what it audits. A test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from scoring.findings import Finding, quote
from scoring.package.examination import Check, Material, conclude, skip
from scoring.package.records import compare_setting
from scoring.rules import is_number
from scoring.run import Run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# By log key, the section and key of the configuration file whose value it is.
SETTINGS = {
    "resnet": {
        "global_batch_size": "batch.global_batch_size",
        "model_bn_span": "batch.batch_norm_span",
        "gradient_accumulation_steps": "batch.gradient_accumulation_steps",
        "lars_opt_base_learning_rate": "optimizer.base_learning_rate",
        "lars_opt_end_learning_rate": "optimizer.end_learning_rate",
        "lars_opt_learning_rate_decay_poly_power": "optimizer.decay_power",
        "lars_opt_learning_rate_warmup_epochs": "optimizer.warmup_epochs",
        "lars_opt_momentum": "optimizer.momentum",
        "lars_opt_weight_decay": "optimizer.weight_decay",
        "lars_epsilon": "optimizer.epsilon",
    },
    "bert": {
        "max_sequence_length": "input.max_sequence_length",
        "max_predictions_per_seq": "input.max_predictions_per_sequence",
        "global_batch_size": "batch.global_batch_size",
        "d_batch_size": "batch.local_batch_size",
        "gradient_accumulation_steps": "batch.gradient_accumulation_steps",
        "opt_base_learning_rate": "optimizer.base_learning_rate",
        "opt_learning_rate_training_steps": "optimizer.training_steps",
        "opt_learning_rate_warmup_steps": "optimizer.warmup_steps",
        "num_warmup_steps": "optimizer.warmup_steps",
        "start_warmup_step": "optimizer.start_warmup_step",
        "opt_lamb_learning_rate_decay_poly_power": "optimizer.decay_power",
        "opt_lamb_beta_1": "optimizer.beta_1",
        "opt_lamb_beta_2": "optimizer.beta_2",
        "opt_lamb_epsilon": "optimizer.epsilon",
        "opt_epsilon": "optimizer.epsilon",
        "opt_lamb_weight_decay_rate": "optimizer.weight_decay",
        "opt_gradient_clip_norm": "optimizer.max_gradient_norm",
        "gradient_clip": "optimizer.gradient_clip",
    },
}
OPTIMIZERS = {"resnet": "lars", "bert": "lamb"}


def get_logged_keys(benchmark: str) -> frozenset[str]:
    """Give the keys whose values are a benchmark's configuration."""
    return frozenset(SETTINGS[benchmark])


def parse_configuration(content: bytes) -> dict[str, Any]:
    """Read a configuration file. Raises ValueError or RecursionError where it is no TOML."""
    return tomllib.loads(content.decode("utf-8"))


def check_configurations(material: Material) -> Check:
    """Compare the hyperparameters of every run with the delivered configurations."""
    findings: list[Finding] = []
    count = 0
    if not material.all_runs:
        return skip("configuration", "there are no logs to compare with the configurations")
    for benchmark, runs in material.runs.items():
        part = material.configurations[benchmark]
        if part.value is None:
            findings.append(Finding("configuration-differs", part.problem, benchmark))
            continue
        for run in runs:
            wanted = _list_wanted(run, part.value)
            count += len(wanted)
            for key, value, place in wanted:
                findings.extend(_compare(run, key, value, place))
            if material.system_file.value is not None:
                path = material.system_file.value.configurations[benchmark]
                findings.extend(compare_setting(material, run, path, "configuration-differs"))
    good = (
        f"{count} hyperparameters of all runs are those of the delivered configurations, whose "
        "hashes the logs carry"
    )
    return conclude("configuration", findings, good)


def _list_wanted(run: Run, table: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """Give each key with the value it must have in a run, and where that stands."""
    places = SETTINGS[run.benchmark]
    wanted = [(key, _find(table, place), place) for key, place in places.items()]
    wanted.append(("opt_name", OPTIMIZERS[run.benchmark], "the trainer"))
    if run.benchmark == "resnet":
        steps = _compute_decay_steps(run, table)
        wanted.append(("lars_opt_learning_rate_decay_steps", steps, "optimizer.decay_epochs"))
    return wanted


def _find(table: Any, place: str) -> Any:
    for name in place.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    return table


def _compute_decay_steps(run: Run, table: dict[str, Any]) -> int | None:
    """Give the steps from the warm-up's end to the schedule's (harness/schedules.py)."""
    epochs = (_find(table, "optimizer.decay_epochs"), _find(table, "optimizer.warmup_epochs"))
    samples, batch = run.get_value("train_samples"), _find(table, "batch.global_batch_size")
    if not all(type(value) is int and 0 <= value < 10**9 for value in (*epochs, samples, batch)):
        return None
    if batch == 0:
        return None
    steps_per_epoch = -(-samples // batch)
    return int((epochs[0] - epochs[1]) * steps_per_epoch + 1)


def _compare(run: Run, key: str, wanted: Any, place: str) -> Iterator[Finding]:
    if wanted is None:
        message = f"the delivered configuration gives no {place}, which {key} must be"
        yield run.remark("configuration-differs", message)
        return
    events = run.get_events(key)
    if not events and run.start:
        message = f"{key} is not logged; {place} is {quote(wanted)}"
        yield run.remark("configuration-differs", message)
    for event in events:
        if not _is_same(event.value, wanted):
            message = f"{key} is {quote(event.value)}, in the delivered configuration "
            yield run.remark("configuration-differs", f"{message}({place}) {quote(wanted)}", event)


def _is_same(logged: Any, wanted: Any) -> bool:
    if is_number(logged) and is_number(wanted):
        return logged == wanted
    return type(logged) is type(wanted) and bool(logged == wanted)
