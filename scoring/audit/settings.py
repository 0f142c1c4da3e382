"""Checks of what was set: batch size, hyperparameters, seeds, data sizes, software, logging."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from scoring.findings import Finding, quote
from scoring.log import Event
from scoring.rules import (
    HYPERPARAMETER_KEYS,
    HYPERPARAMETER_PREFIXES,
    LARS_FREE_MOMENTUM_BATCH,
    is_close,
    is_count,
    is_multiple_of,
    is_number,
    is_power_of_two_of,
)
from scoring.run import Run, read_seed
from scoring.submission import Result

# What this kit logs of a run's software and settings: beside the sources' hash, in its metadata.
SOURCES_KEY = "source_sha256"
SOFTWARE = ("torch", "python", "image_manifest_sha256", "settings")


def _normalize(value: Any) -> str:
    """Make values comparable: 0 and 0.0 are one value, text and number are two."""
    if not is_number(value):
        return json.dumps(value)
    return repr(int(value) if value == int(value) else value)


def _get_setting(run: Run, key: str) -> tuple[str, ...]:
    return tuple(sorted({_normalize(event.value) for event in run.get_events(key)}))


def _find_differences(result: Result, key: str, rule: str) -> Iterator[Finding]:
    """Report runs whose values of a key are not those of most runs."""
    # A run that broke off may not have come to its settings; what it did log must agree.
    settings = [
        (run, _get_setting(run, key))
        for run in result.runs
        if run.get_events(key) or (run.start and run.stop)
    ]
    if len({setting for _, setting in settings}) < 2:
        return
    usual = Counter(setting for _, setting in settings).most_common(1)[0][0]
    example = next(run for run, setting in settings if setting == usual)
    for run, setting in settings:
        if setting != usual:
            here, there = " and ".join(setting) or "missing", " and ".join(usual) or "missing"
            message = f"{key} is {here:.80} here, {there:.80} in {example.name}"
            yield run.remark(rule, message, run.get_last(key))


def check_batch_size(result: Result) -> Iterator[Finding]:
    """Refuse different batch sizes; report one that the accelerators cannot share evenly."""
    yield from _find_differences(result, "global_batch_size", "gbs-differs")
    count = result.accelerator_count
    for run in result.runs:
        batch = run.global_batch_size
        if count and batch and batch % count:
            message = f"global batch size {batch} is no multiple of {count} accelerators"
            yield run.remark("gbs-not-divisible", message, run.get_last("global_batch_size"))


def check_hyperparameters_same(result: Result) -> Iterator[Finding]:
    """Refuse hyperparameters that are not the same in all runs."""
    logged = {event.key for run in result.runs for event in run.log.events}
    others = sorted(key for key in logged if key.startswith(HYPERPARAMETER_PREFIXES))
    for key in dict.fromkeys([*HYPERPARAMETER_KEYS[result.benchmark], *others]):
        yield from _find_differences(result, key, "hp-differs")


def check_hyperparameter_table(result: Result) -> Iterator[Finding]:
    """Refuse hyperparameters outside the table of the rules (BERT: LAMB, all else is free)."""
    for run in result.runs:
        if result.benchmark == "bert":
            # The stock rules do not ask for the name; the published logs that give it write LAMB.
            named = run.get_events("opt_name")
            event = next((e for e in named if str(e.value).lower() != "lamb"), None)
            if event:
                message = f"opt_name is {quote(event.value)}; the rules ask for lamb"
                yield run.remark("hp-table", message, event)
            continue
        optimizer = run.get_value("opt_name")
        if optimizer is not None and optimizer not in ("lars", "sgd"):
            message = f"opt_name is {quote(optimizer)}, not lars or sgd"
            yield run.remark("hp-table", message, run.get_last("opt_name"))
        for key, wanted, is_good in _get_table(run, optimizer):
            event = next((e for e in run.get_events(key) if not is_good(e.value)), None)
            if event:
                message = f"{key} is {quote(event.value)}; the rules ask for {wanted}"
                yield run.remark("hp-table", message, event)


def _get_table(run: Run, optimizer: Any) -> Iterator[tuple[str, str, Any]]:
    """Give key, the constraint in words, and its test, for the run's optimizer."""
    batch = run.global_batch_size or 0
    if optimizer == "lars":
        if batch < LARS_FREE_MOMENTUM_BATCH:
            wanted = f"0.9 below a batch of {LARS_FREE_MOMENTUM_BATCH}"
            yield "lars_opt_momentum", wanted, lambda value: is_close(value, 0.9)
        yield "lars_epsilon", "0", lambda value: is_close(value, 0)
        prefix = "lars_opt"
    elif optimizer == "sgd":
        yield "sgd_opt_momentum", "0.9", lambda value: is_close(value, 0.9)
        base = "sgd_opt_base_learning_rate"
        yield base, "a multiple of 0.001", lambda value: is_multiple_of(value, 0.001)
        yield "opt_learning_rate_warmup_epochs", "a whole number from 0 on", is_count
        yield "sgd_opt_learning_rate_decay_steps", "a whole number from 0 on", is_count
        prefix = "sgd_opt"
    else:
        return
    decay = f"{prefix}_weight_decay"
    yield decay, "0.0001 times a power of 2", lambda value: is_power_of_two_of(value, 0.0001)
    yield f"{prefix}_end_learning_rate", "0.0001", lambda value: is_close(value, 0.0001)
    power = f"{prefix}_learning_rate_decay_poly_power"
    yield power, "2", lambda value: is_close(value, 2)


def check_seeds(result: Result) -> Iterator[Finding]:
    """Refuse a run without seed or with one that is none, and one seed in two runs."""
    owners: dict[int, tuple[Run, Event]] = {}
    for run in result.runs:
        lines = run.get_events("seed")
        if run.start and not lines:
            yield run.remark("no-seed", "the run logs no seed", run.start)
        wrong = next((event for event in lines if read_seed(event.value) is None), None)
        if wrong:
            message = f"the seed is {quote(wrong.value)}, no whole number"
            yield run.remark("no-seed", message, wrong)
        for seed, event in run.seeds.items():
            other, line = owners.setdefault(seed, (run, event))
            if other is not run:
                message = f"seed {quote(seed)} is that of {other.name}, line {line.line}"
                yield run.remark("same-seed", message, event)


def check_data_sizes(result: Result) -> Iterator[Finding]:
    """Report a data set of another size than the benchmark's."""
    sizes = result.profile.get_sizes(result.benchmark)
    for run in result.runs:
        for key, wanted in (
            ("train_samples", sizes.train_samples),
            ("eval_samples", sizes.eval_samples),
        ):
            event = run.get_last(key)
            if event and wanted and not (is_number(event.value) and event.value == wanted):
                message = f"{key} is {quote(event.value)}, the data set has {wanted}"
                yield run.remark("dataset-size", message, event)


def check_software_same(result: Result) -> Iterator[Finding]:
    """Refuse a run made with other sources, libraries, image or settings than the others'."""
    events = [(run, run.get_last(SOURCES_KEY)) for run in result.runs]
    known = [(run, event, _get_software(event)) for run, event in events if event]
    if len({software for _, _, software in known}) < 2:
        return
    usual = Counter(software for _, _, software in known).most_common(1)[0][0]
    example = next(run for run, _, software in known if software == usual)
    for run, event, software in known:
        if software != usual:
            pairs = zip((SOURCES_KEY, *SOFTWARE), software, usual, strict=True)
            name, here, there = next(pair for pair in pairs if pair[1] != pair[2])
            message = f"{name} is {here:.80} here, {there:.80} in {example.name}"
            yield run.remark("software-differs", message, event)


def _get_software(event: Event) -> tuple[str, ...]:
    stated = [event.value, *(event.metadata.get(name) for name in SOFTWARE)]
    return tuple(_normalize(value) for value in stated)


def check_logging_code(result: Result) -> Iterator[Finding]:
    """Report keys that were logged from other source lines in other runs."""
    tables = [(run, _get_sources(run)) for run in result.runs]
    usual: dict[str, frozenset[tuple[str, Any]]] = {}
    for key in {key for _, table in tables for key in table}:
        having = [frozenset(table[key]) for _, table in tables if key in table]
        usual[key] = Counter(having).most_common(1)[0][0]
    for run, table in tables:
        other = sorted(
            key
            for key, sources in table.items()
            if not sources <= usual[key] and not usual[key] <= sources
        )
        if other:
            names = ", ".join(quote(key, 40) for key in other[:8])
            message = f"logged from other source lines than in other runs: {names}"
            yield run.remark("code-line-differs", message, run.get_events(other[0])[0])


def _get_sources(run: Run) -> dict[str, set[tuple[str, Any]]]:
    table: dict[str, set[tuple[str, Any]]] = {}
    for event in run.log.events:
        # An aborted run stops the clock elsewhere in the code than one that succeeds.
        if event.key != "run_stop" or event.metadata.get("status") == "success":
            table.setdefault(event.key, set()).add(event.source)
    return table
