"""The knobs: what the rules leave free, what cannot change convergence, and what can be measured.

Everything that `python -m harness.tune` may change stands in RULES; [operations] joins by itself
once an operation of harness/ops has a second provider. LEFT_ALONE says what is not searched, and
why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.commands import InputError
from harness.ops.table import FLOAT8_PROVIDERS, TABLE

Key = tuple[str, str]  # section, key
Value = bool | int | str
Values = tuple[Value, ...]
Kind = Literal["step", "exchange", "input"]


@dataclass(frozen=True)
class Place:
    """Where the search runs: cores that it may use, and the ranks' device."""

    cores: int
    device: Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Rule:
    """One line of the table of knobs.

    kind: what measures it: the training step of this machine's ranks, each alone; the step of all
    ranks of the system with its exchange; or the input pipeline. propose: other values of the keys,
    from the present ones and the place. why: why it cannot change convergence.
    """

    name: str
    benchmark: Literal["resnet", "bert", "both"]
    kind: Kind
    keys: tuple[Key, ...]
    propose: Callable[[tuple[int, ...], Place], list[tuple[int, ...]]]
    why: str


@dataclass(frozen=True)
class Knob:
    """A rule applied to one configuration: its present values, and those to try."""

    name: str
    benchmark: str
    kind: Kind
    keys: tuple[Key, ...]
    present: Values
    candidates: tuple[Values, ...]
    why: str

    def describe(self, values: Values) -> str:
        """Write values as settings: local_batch_size 48, gradient_accumulation_steps 2."""
        pairs = zip(self.keys, values, strict=True)
        return ", ".join(f"{key} {write_value(value)}" for (_, key), value in pairs)


def write_value(value: Value) -> str:
    """A value as it stands in a configuration, texts without their quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def split_batch(present: tuple[int, ...], place: Place) -> list[tuple[int, ...]]:
    """The two next smaller and larger micro-batches that divide a rank's share of the batch."""
    share = present[0] * present[1]
    fitting = [size for size in range(1, share + 1) if share % size == 0]
    at = fitting.index(present[0])
    near = [*fitting[max(0, at - 2) : at], *fitting[at + 1 : at + 3]]
    return [(size, share // size) for size in sorted(near, reverse=True)]


def propose_threads(present: tuple[int, ...], place: Place) -> list[tuple[int, ...]]:
    """Half, two thirds, four thirds and twice as many, and never more than there are cores."""
    (threads,) = present
    values = {threads // 2, threads * 2 // 3, -(-threads * 4 // 3), threads * 2} - {threads}
    return [(value,) for value in sorted(values) if 1 <= value <= place.cores]


def propose_prefetch(present: tuple[int, ...], place: Place) -> list[tuple[int, ...]]:
    """One batch fewer, one more, and twice as many."""
    (batches,) = present
    values = {batches - 1, batches + 1, batches * 2} - {batches}
    return [(value,) for value in sorted(values) if value >= 1]


def propose_buckets(present: tuple[int, ...], place: Place) -> list[tuple[int, ...]]:
    """A quarter, half, twice and four times as many megabytes."""
    (megabytes,) = present
    values = {megabytes // 4, megabytes // 2, megabytes * 2, megabytes * 4} - {megabytes}
    return [(value,) for value in sorted(values) if value >= 1]


def switch(present: tuple[int, ...], place: Place) -> list[tuple[int, ...]]:
    """The other of on and off."""
    return [(not present[0],)]


def switch_graph(present: tuple[int, ...], place: Place) -> list[tuple[int, ...]]:
    """The other of on and off; a CPU has no graphs."""
    return [] if place.device == "cpu" else switch(present, place)


RULES = (
    Rule(
        "batch split", "bert", "step",
        (("batch", "local_batch_size"), ("batch", "gradient_accumulation_steps")),
        split_batch,
        "the same sequences enter the same update, in smaller or larger portions: the global "
        "batch stays, and a portion's mean weighs its masked tokens as a rank's does",
    ),
    Rule(
        "graph of the step", "both", "step", (("graphs", "step"),), switch_graph,
        "the same kernels in the same order, launched by the device or by the host",
    ),
    Rule(
        "input threads", "resnet", "input", (("input", "threads"),), propose_threads,
        "threads decode the same images in the same order",
    ),
    Rule(
        "input prefetch", "resnet", "input", (("input", "prefetch_batches"),), propose_prefetch,
        "the same batches are made earlier or later",
    ),
    Rule(
        "bucket size", "both", "exchange", (("communication", "bucket_megabytes"),),
        propose_buckets,
        "the same gradients are summed over the same ranks, in other portions",
    ),
    Rule(
        "sharded optimizer", "bert", "exchange", (("communication", "sharded_optimizer"),), switch,
        "every weight gets the same update, on one rank or on all",
    ),
)  # fmt: skip

# (benchmark, key, why it is not searched)
LEFT_ALONE = (
    ("resnet", "batch.local_batch_size", "the span of batch normalisation: it moves convergence"),
    ("resnet", "input.shuffle_buffer_images", "it changes the order of the images"),
    (
        "resnet",
        "input.decoded_cache_megabytes",
        "the memory that the step leaves and the rank's images decide it",
    ),
    ("resnet", "input.validation_cache_megabytes", "no probe measures evaluation alone"),
    ("resnet", "input.memory_mapped", "the kind of file system decides it"),
    ("bert", "input.prefetch_batches", "no probe measures BERT's input alone"),
    ("bert", "evaluation.local_batch_size", "no probe measures evaluation alone"),
    ("both", "graphs.evaluation", "no probe measures evaluation alone"),
    ("both", "precision.format", "it changes numerics beyond the order of rounding"),
    (
        "both",
        "nodes.threads_per_rank",
        "of the system file and both benchmarks: on a GPU torch computes nothing on the host, on "
        "a CPU the ranks share all cores already",
    ),
)


def list_knobs(file: Path, benchmark: str, table: Mapping[str, Any], place: Place) -> list[Knob]:
    """Apply the rules to a configuration, in the order of the search; knobs without choice too.

    Raises InputError naming file and key where a key is missing or neither a count nor a switch.
    """
    found = []
    for rule in RULES:
        if rule.benchmark in (benchmark, "both"):
            present = tuple(_take_value(file, table, key) for key in rule.keys)
            candidates = tuple(rule.propose(present, place))
            found.append(
                Knob(rule.name, benchmark, rule.kind, rule.keys, present, candidates, rule.why)
            )
    return [*found, *_list_operations(file, benchmark, table, place)]


def _list_operations(
    file: Path, benchmark: str, table: Mapping[str, Any], place: Place
) -> list[Knob]:
    """Knobs of the operations with a second provider; on a CPU the definition alone computes.

    FP8 is a format, which stays the user's choice as precision.format does: beside a provider in
    FP8 the others in FP8 are tried, beside any other those that are not.
    """
    knobs = []
    stated = _take_section(file, table, "operations")
    for operation, provider in stated.items() if place.device == "cuda" else ():
        float8 = FLOAT8_PROVIDERS.get(operation, ())
        others = tuple(
            (name,)
            for name in TABLE.get(operation, ())
            if name != provider and (name in float8) == (provider in float8)
        )
        if others:
            knobs.append(
                Knob(
                    operation, benchmark, "step", (("operations", operation),), (provider,),
                    others, "every provider is tested against the definition",
                )
            )  # fmt: skip
    return knobs


def _take_section(file: Path, table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = table.get(name)
    if not isinstance(section, dict):
        raise InputError(f"{file}: section [{name}] is missing: add it, as in the shipped files")
    return section


def _take_value(file: Path, table: Mapping[str, Any], key: Key) -> int:
    value = _take_section(file, table, key[0]).get(key[1])
    return value if isinstance(value, bool) else take_count(file, table, key)


def take_count(file: Path, table: Mapping[str, Any], key: Key) -> int:
    value = _take_section(file, table, key[0]).get(key[1])
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1_000_000:
        return value
    raise InputError(
        f"{file}: [{key[0]}] '{key[1]}' must be a whole number from 1 on, is {value!r}"
    )
