"""The architecture, read off the sources: who imports whom, and what nobody does.

resnet -> harness <- bert; the trainers never meet; scoring stands alone, without torch; only the
launch code reads the environment; nothing that can hold code is ever unpickled.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("harness", "resnet", "bert", "scoring", "demo", "perf")

# package -> our packages that it may import
ALLOWED = {
    "harness": {"harness"},
    "resnet": {"resnet", "harness"},
    "bert": {"bert", "harness"},
    "scoring": {"scoring"},
    "demo": {"demo", "resnet", "bert", "harness"},
    "perf": {"perf", "demo", "resnet", "bert", "harness"},
}
NOT_IN_SCORING = {"torch", "nvidia", "mpi4py", "transformers"}
READS_ENVIRONMENT = {
    "harness/ranks.py",
    "harness/launch.py",
    "harness/trainer.py",
    "scoring/compliance.py",  # PATH, for the process that holds mlperf-logging; checked below
}
# What a GPU is measured with on a machine that has nothing of ours: no input, no log, no MPI.
PROBES = (
    "resnet.train", "bert.train", "perf.resnet_convolutions", "perf.resnet_providers",
    "perf.bert_providers", "perf.bert_evaluation", "perf.step_agreement", "perf.gpu_checks",
)  # fmt: skip
NEEDED_BY_PROBES = {"torch", "triton", "numpy", "safetensors", "tomli"}
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
PICKLING_CALLS = {"torch.load", "torch.save", "pandas.read_pickle", "pd.read_pickle"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}


def list_modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def list_imports(tree: ast.Module, package: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """Every module imported, anywhere in a file, with its line; relative ones made absolute."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.append((module, node.lineno))
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and name_of(node.func).endswith(
            ("import_module", "__import__")
        ):
            text = node.args[0] if node.args else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found.append((text.value, node.lineno))
    return found


def name_of(node: ast.expr) -> str:
    """The dotted name that an expression spells, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def list_wrong_imports(tree: ast.Module, package: str) -> list[tuple[str, int]]:
    """Imports that a module of this package of ours must not have."""
    wrong = []
    for name, line in list_imports(tree, (package,)):
        top = name.split(".")[0]
        refused = top in OURS and top not in ALLOWED[package]
        if refused or (package == "scoring" and top in NOT_IN_SCORING):
            wrong.append((name, line))
    return wrong


def list_environment_reads(tree: ast.Module) -> list[int]:
    """Lines that touch the process's environment."""
    lines = []
    for node in ast.walk(tree):
        spelled = name_of(node) if isinstance(node, ast.Attribute) else ""
        if spelled in {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}:
            lines.append(node.lineno)  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            taken = {alias.name for alias in node.names}
            if taken & {"environ", "environb", "getenv", "getenvb", "putenv"}:
                lines.append(node.lineno)
    return lines


def list_first_imports(tree: ast.Module) -> list[str]:
    """Modules that are imported as soon as a file is: not in functions, not for types alone."""
    found: list[str] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [name for name, _ in list_imports(ast.Module([node], []))]
        for_types = isinstance(node, ast.If) and name_of(node.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)
    return found


def list_libraries(modules: Sequence[str]) -> set[str]:
    """The libraries of others, and of Python, that importing these modules of ours imports."""
    seen: set[str] = set()
    libraries: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = ROOT / Path(*name.split("."))
        file = next(
            (f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()), None
        )
        if name.split(".")[0] not in OURS:
            libraries.add(name.split(".")[0])
        elif file is not None and name not in seen:
            seen.add(name)
            waiting += list_first_imports(parse(file))
    return libraries


def list_unpickling(tree: ast.Module) -> list[tuple[str, int]]:
    """Imports and calls that can execute what a data file says."""
    found = [
        (name, line)
        for name, line in list_imports(tree)
        if name.split(".")[0] in PICKLING or name in {"torch.load", "torch.save"}
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if name in PICKLING_CALLS:
            found.append((name, node.lineno))
        loads_arrays = name in {"np.load", "numpy.load"}
        if loads_arrays and not has(node, "allow_pickle", False):
            found.append((f"{name} without allow_pickle=False", node.lineno))
    return found


def has(call: ast.Call, keyword: str, value: bool) -> bool:
    """True where the call says keyword=value in so many words."""
    return any(
        given.arg == keyword
        and isinstance(given.value, ast.Constant)
        and given.value.value is value
        for given in call.keywords
    )


def describe(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


ALL = [file for package in OURS for file in list_modules(package)]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("package", [p for p in OURS if (ROOT / p).is_dir()])
def test_import_directions(package: str):
    wrong = [
        f"{describe(file, line)} imports {name}"
        for file in list_modules(package)
        for name, line in list_wrong_imports(parse(file), package)
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_outside_the_tests_imports_the_tests():
    wrong = [
        f"{describe(file, line)} imports {name}"
        for file in ALL
        for name, line in list_imports(parse(file))
        if name.split(".")[0] in {"tests", "pytest"}
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_launch_code_reads_the_environment():
    found = {
        str(file.relative_to(ROOT)): list_environment_reads(parse(file))
        for file in ALL
        if list_environment_reads(parse(file))
    }
    assert set(found) <= READS_ENVIRONMENT, found
    assert "harness/ranks.py" in found  # the search finds what is there


def test_scoring_asks_the_environment_for_the_path_alone():
    for file in list_modules("scoring"):
        text = file.read_text(encoding="utf-8")
        reads = len(list_environment_reads(parse(file)))
        assert reads == text.count('os.environ.get("PATH"'), file


def test_a_gpu_is_measured_without_what_only_a_run_needs():
    found = list_libraries(PROBES)
    assert {"torch", "safetensors"} <= found  # the search goes through modules of ours
    assert found - set(sys.stdlib_module_names) <= NEEDED_BY_PROBES
    assert "nvidia" in list_libraries(["resnet.pipelines"])


def test_no_pickle_anywhere():
    found = [
        f"{describe(file, line)}: {name}"
        for file in ALL
        for name, line in list_unpickling(parse(file))
    ]
    assert not found, "\n".join(found)


def test_tests_execute_nothing_that_they_load():
    """In tests numpy's and torch's own refusals do: no pickle, weights_only=True said."""
    found = []
    for file in TESTS:
        tree = parse(file)
        found += [
            f"{describe(file, line)}: {name}"
            for name, line in list_imports(tree)
            if name.split(".")[0] in PICKLING
        ]
        found += [
            f"{describe(file, call.lineno)}: {name_of(call.func)}"
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and (has(call, "allow_pickle", True) or loads_more_than_weights(call))
        ]
    assert not found, "\n".join(found)


def loads_more_than_weights(call: ast.Call) -> bool:
    return name_of(call.func) == "torch.load" and not has(call, "weights_only", True)


def test_modules_are_named_after_what_they_are():
    vague = [str(file.relative_to(ROOT)) for file in ALL if file.stem.lower() in VAGUE_NAMES]
    vague += [
        str(file.relative_to(ROOT))
        for file in ALL
        if set(file.relative_to(ROOT).parts) & VAGUE_NAMES
    ]
    assert not vague


# -- the search itself: each of these must be found, or the tests above prove nothing ---------


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("resnet", "import bert.model"),
        ("bert", "def f():\n    from resnet import data"),
        ("harness", "from resnet.config import Config"),
        ("harness", "from scoring.log import read"),
        ("harness", "import demo"),
        ("scoring", "from harness.commands import Parser"),
        ("scoring", "import torch.nn"),
        ("scoring", "import importlib\nimportlib.import_module('torch')"),
        ("bert", "from .. import resnet\nfrom resnet import step"),
        ("demo", "from scoring import rules"),
    ],
)
def test_a_wrong_import_is_found(package: str, source: str):
    assert list_wrong_imports(ast.parse(source), package)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("resnet", "from harness.config import check\nimport torch"),
        ("scoring", "from scoring.log import read\nfrom . import rules\nimport numpy"),
        ("bert", "import harness.ops.table"),
    ],
)
def test_a_right_import_is_left_alone(package: str, source: str):
    assert not list_wrong_imports(ast.parse(source), package)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("try:\n    import a.b\nexcept ImportError:\n    from c import d", ["a.b", "c", "c.d"]),
        ("class A:\n    import a", ["a"]),
        ("def f():\n    import a", []),
        ("from typing import TYPE_CHECKING as T\nif TYPE_CHECKING:\n    import a", ["typing"]),
        ("if T:\n    pass\nelse:\n    import a", ["a"]),
    ],
)
def test_what_is_imported_at_once_is_found(source: str, found: list[str]):
    assert {*list_first_imports(ast.parse(source))} - {"typing.TYPE_CHECKING"} == {*found}


@pytest.mark.parametrize(
    "source",
    [
        "import os\nx = os.environ['A']",
        "import os\nx = os.getenv('A')",
        "from os import environ",
        "import os\nf(os.environ)",
    ],
)
def test_a_read_of_the_environment_is_found(source: str):
    assert list_environment_reads(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import marshal",
    ],
)
def test_unpickling_is_found(source: str):
    assert list_unpickling(ast.parse(source))


def test_a_load_that_refuses_pickle_is_left_alone():
    assert not list_unpickling(ast.parse("import numpy as np\nnp.load('x', allow_pickle=False)"))
