"""What apex.toml asks of apex, held against what our operations call."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from container.find_apex import check_functions, find_faults, find_stranger, read_pin
from tests.harness.ops.test_batch_norm_apex import Extension

ROOT = Path(__file__).resolve().parents[2]
PIN = read_pin()


def test_a_whole_commit_is_pinned() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", PIN.commit)
    assert PIN.repository.endswith("/NVIDIA/apex.git")
    assert all(row.variable.startswith("APEX_") for row in PIN.extensions.values())


def test_every_extension_that_an_operation_imports_is_asked_for() -> None:
    known = {*sys.stdlib_module_names, "torch", "apex", "harness", "triton"}
    found = set()
    for file in (ROOT / "harness" / "ops").glob("*_apex.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names} - known
    assert "bnp" in found and found <= PIN.extensions.keys()


def test_batch_normalisation_is_tested_with_as_many_arguments() -> None:
    functions = PIN.extensions["bnp"].functions
    signatures = {name: inspect.signature(getattr(Extension("bnp"), name)) for name in functions}
    assert {name: len(found.parameters) for name, found in signatures.items()} == functions


def test_arguments_are_counted_in_pybinds_docstrings() -> None:
    def forward() -> None:
        """forward(arg0: torch.Tensor, arg1: typing.SupportsFloat | typing.SupportsIndex, arg2: \
collections.abc.Sequence[collections.abc.Sequence[torch.Tensor]], arg3: bool) -> list[torch.Tensor]

        Softmax cross entropy, arg9: not an argument
        """

    module = SimpleNamespace(__name__="xentropy_cuda", forward=forward)
    assert check_functions(module, {"forward": 4}) == []
    assert check_functions(module, {"forward": 5, "backward": 5}) == [
        "xentropy_cuda.forward takes 4 arguments, 5 are given",
        "xentropy_cuda.backward is not there",
    ]


def test_a_package_of_the_same_name_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "apex", raising=False)
    (fault,) = find_faults(PIN)
    assert "which is unrelated: remove it from the base image (pip uninstall apex)" in fault
    for part in ("contrib", "optimizers"):
        (tmp_path / "apex" / part).mkdir()
        (tmp_path / "apex" / part / "__init__.py").write_text("")
    assert find_stranger(tmp_path / "apex") is None
