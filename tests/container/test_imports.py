"""What an image must be able to import: the kit's libraries and its configurations' providers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from container import imports
from container.find_apex import read_pin
from container.imports import (
    KIT,
    check_apex,
    check_imports,
    check_providers,
    find_mpi,
    list_providers,
)
from harness.ops.table import FLOAT8_PROVIDERS


def test_every_operation_of_the_real_configurations_is_listed() -> None:
    found = list_providers(KIT)
    files = {file for file, _, _ in found}
    assert {"resnet/configs/h200_4x8.toml", "bert/configs/h200_4x8.toml"} <= files
    assert not any("demo" in file for file in files)
    assert len(found) == len(set(found)) > 20
    # An FP8 configuration's libraries are asked for like any other's.
    float8 = {
        ("bert/configs/h200_4x8_fp8.toml", "linear", one) for one in FLOAT8_PROVIDERS["linear"]
    }
    assert float8 & set(found)


def test_this_environment_has_what_a_cpu_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_imports("cpu") == []
    (line,) = re.findall("^MPI in use: (.*)$", capsys.readouterr().out, re.M)
    assert Path(line).parent.samefile(Path(sys.prefix) / "lib")


def test_two_libraries_of_mpi_are_both_named() -> None:
    lines = "7f-8f r-xp 0 00:00 1  /opt/e/lib/libmpi.so.40\n8f-9f r-xp 0 /hpcx/libmpi.so.40.1\n"
    assert find_mpi(2 * lines + "9f-af r-xp 0 00:00 3 /lib/libmpicxx.so\n") == [
        "/hpcx/libmpi.so.40.1",
        "/opt/e/lib/libmpi.so.40",
    ]


def test_a_provider_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "resnet" / "configs"
    folder.mkdir(parents=True)
    (folder / "h200_4x8.toml").write_text(
        '[operations]\nbatch_norm = "cudnn"\nlayer_norm = "torch"\n'
    )
    (fault,) = check_providers(tmp_path)
    assert fault.startswith("resnet/configs/h200_4x8.toml: operation batch_norm: 'cudnn'")


@pytest.mark.parametrize(
    ("operation", "provider", "library"),
    [
        ("linear", "te", "transformer_engine"),
        ("varlen_attention", "te", "transformer_engine"),
        ("varlen_attention", "flash_attn", "flash_attn"),
    ],
)
def test_a_library_is_asked_for_where_a_configuration_names_it(
    operation: str, provider: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    folder = tmp_path / "bert" / "configs"
    folder.mkdir(parents=True)
    (folder / "h200_4x8_fp8.toml").write_text(f'[operations]\n{operation} = "{provider}"\n')
    (fault,) = check_providers(tmp_path)
    assert fault.startswith("bert/configs/h200_4x8_fp8.toml: operation") and library in fault


def test_a_library_that_breaks_on_import_is_a_sentence_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise OSError('undefined symbol: x')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fault = imports.check_provider("varlen_attention", "flash_attn")
    assert fault == ("operation varlen_attention: provider 'flash_attn' fails: undefined symbol: x")


class Extension(ModuleType):
    """An extension of apex as apex.toml describes it."""

    def __init__(self, name: str, functions: dict[str, int]) -> None:
        super().__init__(name)
        for function, count in functions.items():
            self.add(function, count)

    def add(self, name: str, count: int) -> None:
        def function(*arguments: Any) -> None:
            raise AssertionError("only its signature is read")

        given = ", ".join(f"arg{i}: torch.Tensor" for i in range(count))
        function.__doc__ = f"{name}({given}) -> None\n\n{name}\n"
        setattr(self, name, function)


def test_apex_is_asked_for_what_the_operations_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = "contrib/xentropy/softmax_xentropy.py"
    for part in ("__init__.py", "contrib/__init__.py", "optimizers/__init__.py", loss):
        (tmp_path / "apex" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "apex" / part).write_text("SoftmaxCrossEntropyLoss = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ours = [name for name in sys.modules if re.match(r"apex\b|harness\.ops\..*_apex$", name)]
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    made = {n: Extension(n, row.functions) for n, row in read_pin().extensions.items()}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    try:
        assert check_apex() == []
        said = capsys.readouterr().out
        assert (
            said
            == "apex unknown with amp_C, fused_dense_cuda, bnp, xentropy_cuda, fast_layer_norm\n"
        )
        made["bnp"].add("bn_fwd_nhwc", 19)
        assert check_apex() == ["apex: bnp.bn_fwd_nhwc takes 19 arguments, 20 are given"]
        monkeypatch.setitem(sys.modules, "amp_C", None)
        assert any(fault.startswith("apex: amp_C cannot be imported") for fault in check_apex())
    finally:
        for name in list(sys.modules):
            if re.match(r"apex\b|harness\.ops\..*_apex$", name):
                del sys.modules[name]
