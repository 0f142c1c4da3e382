"""Knobs of the shipped configurations, and values replaced where they stand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bert.config import Config as BertConfig
from harness.commands import InputError
from harness.config import load_config
from harness.ops.table import TABLE
from harness.systems import load_system
from harness.tuning_files import name_tuned, read_text, replace_values, tomllib, write_tuned
from harness.tuning_knobs import LEFT_ALONE, RULES, Key, Place, Value, list_knobs, propose_buckets
from resnet.config import Config as ResnetConfig

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"resnet": ResnetConfig, "bert": BertConfig}
SYSTEMS = sorted((ROOT / "systems").glob("*.toml"))


def list_cases() -> list[Any]:
    return [
        pytest.param(file, name, id=f"{file.stem}-{name}") for file in SYSTEMS for name in KINDS
    ]


def flatten(table: dict[str, Any]) -> dict[Key, Any]:
    return {(s, k): value for s, section in table.items() for k, value in section.items()}


@pytest.mark.parametrize(("system_file", "benchmark"), list_cases())
def test_every_candidate_of_a_shipped_configuration_keeps_the_rules(
    system_file: Path, benchmark: str, tmp_path: Path
):
    """Loaded by the trainer, the same global batch, and every other key as it was."""
    system = load_system(system_file)
    file = ROOT / system.benchmarks.named(benchmark).config
    text, table = read_text(file)
    knobs = list_knobs(file, benchmark, table, Place(96, "cuda"))
    assert any(knob.candidates for knob in knobs)
    for knob in knobs:
        assert knob.present not in knob.candidates
        assert knob.why
        for values in knob.candidates:
            changes = dict(zip(knob.keys, values, strict=True))
            changed = tmp_path / "changed.toml"
            changed.write_text(replace_values(file, text, changes), encoding="utf-8")
            config = load_config(changed, KINDS[benchmark])
            assert config.batch.check_world_size(system.nodes.world_size) is None
            found = flatten(tomllib.loads(changed.read_text("utf-8")))
            expected = {**flatten(table), **changes}
            assert found == expected
            assert changed.read_text("utf-8").count("#") == text.count("#"), "comments are kept"


def test_graphs_are_switched_on_a_gpu_alone():
    file = ROOT / "bert" / "configs" / "h200_4x8.toml"
    text, table = read_text(file)
    knob = {k.name: k for k in list_knobs(file, "bert", table, Place(2, "cuda"))}[
        "graph of the step"
    ]
    assert (knob.present, knob.candidates) == ((True,), ((False,),))
    assert knob.describe((False,)) == "step false"
    assert "\nstep = false\nevaluation = true\n" in replace_values(
        file, text, {("graphs", "step"): False}
    )
    knobs = {k.name: k for k in list_knobs(file, "bert", table, Place(2, "cpu"))}
    assert knobs["graph of the step"].candidates == ()


@pytest.mark.parametrize(
    ("present", "expected"), [(50, [12, 25, 100, 200]), (1, [2, 4]), (2, [1, 4, 8])]
)
def test_buckets_are_tried_smaller_and_larger(present: int, expected: list[int]):
    found = propose_buckets((present,), Place(1, "cpu"))
    assert found == [(value,) for value in expected]


def test_no_knob_is_a_hyperparameter():
    """The one logged pair is BERT's split, whose product stays; the optimizer is out of reach."""
    logged = {
        (section.name, field.name)
        for kind in KINDS.values()
        for section in dataclasses.fields(kind)
        if dataclasses.is_dataclass(section.type) or isinstance(section.type, str)
        for field in _list_logged(kind, section.name)
    }
    assert ("optimizer", "base_learning_rate") in logged
    searched = {key for rule in RULES for key in rule.keys}
    assert searched & logged == {
        ("batch", "local_batch_size"), ("batch", "gradient_accumulation_steps")
    }  # fmt: skip
    assert all(rule.benchmark == "bert" for rule in RULES if "batch" in dict(rule.keys))
    resnet = {key for benchmark, key, _ in LEFT_ALONE if benchmark == "resnet"}
    assert "batch.local_batch_size" in resnet


def _list_logged(kind: type, section: str) -> list[dataclasses.Field[Any]]:
    import typing

    hint = typing.get_type_hints(kind)[section]
    fields = dataclasses.fields(hint) if dataclasses.is_dataclass(hint) else ()
    return [field for field in fields if "mlperf_key" in field.metadata]


def test_an_operation_becomes_a_knob_with_its_second_provider(monkeypatch: pytest.MonkeyPatch):
    file = ROOT / "bert" / "configs" / "demo.toml"
    table = read_text(file)[1]
    monkeypatch.setitem(TABLE, "bias_gelu", {"torch": "x:y", "triton": "x:z", "te": "x:w"})
    monkeypatch.setitem(TABLE, "layer_norm", {"torch": "x:y"})
    assert not {"bias_gelu", "layer_norm"} & {
        knob.name for knob in list_knobs(file, "bert", table, Place(2, "cpu"))
    }
    knobs = {knob.name: knob for knob in list_knobs(file, "bert", table, Place(2, "cuda"))}
    assert "layer_norm" not in knobs
    found = knobs["bias_gelu"]
    assert (found.present, found.candidates) == (("torch",), (("triton",), ("te",)))
    changed = replace_values(file, read_text(file)[0], {found.keys[0]: "triton"})
    assert 'bias_gelu = "triton"\n' in changed


def test_a_search_stays_in_the_format_of_the_products():
    for name, provider, others in (
        ("h200_4x8", "triton", (("torch",), ("apex",))),
        ("h200_4x8_fp8", "delayed", (("te",), ("scaled_mm",))),
    ):
        file = ROOT / "bert" / "configs" / f"{name}.toml"
        knobs = list_knobs(file, "bert", read_text(file)[1], Place(2, "cuda"))
        (found,) = (knob for knob in knobs if knob.name == "feed_forward")
        assert (found.present, found.candidates) == ((provider,), others)


def test_values_are_replaced_and_nothing_else():
    text = (
        'name = "x"\r\n[a]  # threads = 9\nthreads   =  4   # not more\n'
        '[ b.c ]\nthreads = 5\nhow = "torch" # why\n'
    )
    changes: dict[Key, Value] = {("a", "threads"): 6, ("b.c", "how"): 'a "b"'}
    assert replace_values(Path("f"), text, changes) == (
        'name = "x"\r\n[a]  # threads = 9\nthreads   =  6   # not more\n'
        '[ b.c ]\nthreads = 5\nhow = "a \\"b\\"" # why\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        "a = {threads = 4}\n",
        "a.threads = 4\n",
        '[a]\n"threads" = 4\n',
        "[a]\nthreads = [4]\n",
        '[a]\ntext = """\nthreads = 3\n"""\nthreads = 4\n',
        "[a]\n",
    ],
)
def test_a_value_that_cannot_be_replaced_where_it_stands_is_refused(text: str):
    with pytest.raises(InputError, match=r"f: cannot replace threads of \[a\]"):
        replace_values(Path("f"), text, {("a", "threads"): 8})


@pytest.mark.parametrize("system_file", SYSTEMS, ids=lambda file: file.stem)
def test_the_tuned_system_file_loads_and_names_the_tuned_files(system_file: Path, tmp_path: Path):
    system = load_system(system_file)
    tuned: dict[str, tuple[Path, dict[Key, Value]]] = {
        name: (ROOT / system.benchmarks.named(name).config, {}) for name in KINDS
    }
    found = load_system(write_tuned(tmp_path, system_file, tuned))
    assert found.name == f"{system.name}-tuned"
    for name in KINDS:
        config = found.benchmarks.named(name).config
        assert config == f"{name}/configs/{found.name}.toml"
        assert (tmp_path / config).read_bytes() == tuned[name][0].read_bytes()
    named = dataclasses.replace(found, name=system.name, benchmarks=system.benchmarks)
    assert named == system, "nothing else has changed"


def test_a_system_that_is_tuned_again_gets_a_name_of_its_own():
    names = ["mine", "mine-tuned", "mine-tuned-2"]
    assert [name_tuned(name) for name in names] == [*names[1:], "mine-tuned-3"]
    with pytest.raises(InputError, match="too long a name"):
        name_tuned("x" * 60)


def test_a_file_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="no such configuration"):
        read_text(tmp_path / "nowhere.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"x\.toml: not valid TOML"):
        read_text(tmp_path / "x.toml")
