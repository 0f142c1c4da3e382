"""Documentation that fails: what README and docs name must be there and must run."""

from __future__ import annotations

import ast
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("harness", "resnet", "bert", "scoring", "demo", "perf")
WITH_DOCUMENTS = (*PACKAGES, "systems", "container", "tests")
# Folders that hold no sources of ours.
NOT_OURS = {".git", ".venv", "data", "results", "__pycache__", ".ruff_cache", ".mypy_cache"}
NOT_OURS |= {".pytest_cache", ".hypothesis"}

SUFFIXES = (".py", ".md", ".toml", ".sh", ".lock", ".in", ".def")
COMMAND = re.compile(r"python -m ([A-Za-z_][\w.]*)((?:[ ]+[^\s`|;#&\\]+)*)")
SCRIPT = re.compile(r"(?<![\w./])\./([\w./-]*\w)((?:[ ]+[^\s`|;#&\\]+)*)")
REFERENCE = re.compile(r"`([\w./-]+\.py)(::?)(\w+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
HEADING_LINK = re.compile(r"\]\(([^)#\s:]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def list_documents() -> list[Path]:
    places = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    places += [path for folder in WITH_DOCUMENTS for path in (ROOT / folder).rglob("*.md")]
    return sorted(path for path in places if path.is_file())


def list_sources() -> list[Path]:
    """Every file of the tree that is not made: tracked by git, or all where there is no git."""
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = [name for name in done.stdout.split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        found += [Path(folder) / name for name in files]
    return found


DOCUMENTS = list_documents()
SOURCES = list_sources()
TOP_LEVEL = {path.relative_to(ROOT).parts[0] for path in SOURCES}
NAMES = {path.name for path in SOURCES}
FOLDERS = {parent for path in SOURCES for parent in path.parents}


def each_document() -> pytest.MarkDecorator:
    names = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
    return pytest.mark.parametrize("document", DOCUMENTS, ids=names)


# -- what a document names --------------------------------------------------------------------


def is_there(path: Path) -> bool:
    """True for a file or folder of the sources: one that was only made here does not count."""
    path = Path(os.path.normpath(path))
    return path in FOLDERS or path in set(SOURCES)


def find_missing_paths(text: str, folder: Path) -> list[str]:
    """Backticked paths and links of a document that stand neither beside it nor at the root."""
    missing = []
    for token in re.findall(r"`([^`\n]+)`", text):
        name = token.removeprefix("./").rstrip("/")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name):
            continue
        if "/" in name:
            ours = name.split("/")[0] in TOP_LEVEL
        else:
            ours = name.endswith(SUFFIXES)
        found = is_there(ROOT / name) or is_there(folder / name)
        if ours and not found and ("/" in name or name not in NAMES):
            missing.append(token)
    for target in LINK.findall(text):
        if not re.match(r"[a-z]+:", target) and not is_there(folder / target):
            missing.append(target)
    return missing


def find_missing_headings(text: str, document: Path) -> list[str]:
    """Links to a heading, of this document or of another, that is not there."""
    missing = []
    for target, anchor in HEADING_LINK.findall(text):
        path = document.parent / target if target else document
        there = text if path == document else ""
        if not there and path.is_file():
            there = path.read_text(encoding="utf-8")
        if anchor not in {make_anchor(heading) for heading in HEADING.findall(there)}:
            missing.append(f"{target}#{anchor}")
    return missing


def make_anchor(heading: str) -> str:
    """What a heading is linked by, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def find_missing_references(text: str) -> list[str]:
    """`file.py:function` and `file.py::test` that do not exist."""
    missing = []
    for file, colons, name in REFERENCE.findall(text):
        path = ROOT / file
        if not path.is_file() or name not in list_names(path):
            missing.append(f"{file}{colons}{name}")
    return missing


def list_names(path: Path) -> set[str]:
    """Functions and classes of a module, and the names it assigns at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names |= {t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)}
    return names


def list_commands(text: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """Commands of ours that a document names: (module, subcommand or "", options)."""
    text = text.replace("\\\n", " ")
    commands = set()
    for module, rest in COMMAND.findall(text):
        if module.split(".")[0] in PACKAGES:
            commands.add((module, *split_arguments(rest)))
    for script, rest in SCRIPT.findall(text):
        if script == "run_and_time.sh":
            commands.add(("harness.campaign", "", split_arguments(rest)[1]))
    return commands


def split_arguments(rest: str) -> tuple[str, tuple[str, ...]]:
    words = rest.replace("[", " ").replace("]", " ").replace("...", " ").split()
    is_subcommand = bool(words) and re.fullmatch(r"[a-z][a-z-]+", words[0])
    options = (word.split("=")[0] for word in words if re.match(r"--[a-z]", word))
    return (words[0] if is_subcommand else "", tuple(sorted(set(options))))


@each_document()
def test_every_path_named_is_there(document: Path):
    missing = find_missing_paths(document.read_text(encoding="utf-8"), document.parent)
    assert not missing


@each_document()
def test_every_heading_linked_is_there(document: Path):
    assert not find_missing_headings(document.read_text(encoding="utf-8"), document)


@each_document()
def test_every_function_and_test_named_is_there(document: Path):
    missing = find_missing_references(document.read_text(encoding="utf-8"))
    assert not missing


@each_document()
def test_every_script_named_is_there_and_can_be_started(document: Path):
    for script, _ in SCRIPT.findall(document.read_text(encoding="utf-8")):
        path = ROOT / script
        assert path.is_file(), script
        assert os.access(path, os.X_OK), f"{script} is not executable"


def has_main(module: str) -> str | None:
    """The module that holds the command's main, or None where there is no such command."""
    for name in (module, f"{module}.__main__"):
        path = ROOT / (name.replace(".", "/") + ".py")
        if path.is_file() and "main" in list_names(path):
            return name
    return None


def read_help(module: str, subcommand: str) -> str:
    """What a command prints for --help, in this process: starting each would cost seconds."""
    name = has_main(module)
    assert name is not None, f"python -m {module} has no main"
    main = importlib.import_module(name).main
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        main([*([subcommand] if subcommand else []), "--help"])
    assert ended.value.code == 0, f"python -m {module} {subcommand} --help"
    return printed.getvalue()


@each_document()
def test_every_command_named_helps_and_knows_its_options(document: Path):
    for module, subcommand, options in sorted(list_commands(document.read_text("utf-8"))):
        text = read_help(module, subcommand)
        for option in options:
            known = re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
            assert known, f"python -m {module} {subcommand} does not know {option}"


def test_help_works_as_a_process_too():
    """One command as a user starts it, so that the calls above are what a user gets."""
    command = [sys.executable, "-m", "harness.campaign", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in done.stdout


def test_the_documents_that_must_be_there():
    """rules.md stands; the README is the reader's way in."""
    assert (ROOT / "docs" / "rules.md") in DOCUMENTS
    if not (ROOT / "README.md").is_file():
        pytest.skip("README.md is not written yet")
    assert list_commands((ROOT / "README.md").read_text(encoding="utf-8"))


# -- the tree ---------------------------------------------------------------------------------

# Written in parts, so that this file passes its own test.
PLACES = "|".join(["wo" + "rk", "ro" + "ot", "tmp/bash_" + "jobs"])
WORKPLACE = re.compile(rf"(?<![\w.\-~*/}}$])/(?:{PLACES})(?![\w-])")


def test_no_path_of_a_workplace_in_the_tree():
    found = []
    for path in SOURCES:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT)
        found += [f"{name}:{n}" for n, line in enumerate(lines, 1) if WORKPLACE.search(line)]
    assert not found


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("see /" + "work/main", True),
        ("cd /" + "root", True),
        ("log in '/tmp/bash_" + "jobs.0/x'", True),
        ("FROM image WORKDIR /" + "workspace/kit", False),
        ("a/" + "work/b", False),
        ("https://host/" + "rooted", False),
        ("/" + "root-cause", False),
    ],
)
def test_the_search_for_workplaces(line: str, refused: bool):
    assert bool(WORKPLACE.search(line)) == refused


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_names_its_files(package: str):
    """A folder's README has a word for every module in it."""
    readme = ROOT / package / "README.md"
    if not readme.is_file():
        pytest.skip(f"{package}/README.md is not written yet")
    text = readme.read_text(encoding="utf-8")
    modules = [path for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")]
    folders = {path.parent for path in (ROOT / package).glob("*/*.py")}
    unnamed = [path.name for path in modules if not re.search(rf"\b{path.stem}\b", text)]
    unnamed += [f"{path.name}/" for path in folders if not re.search(rf"\b{path.name}\b", text)]
    assert not unnamed
    for table in text.split("\n## "):  # one a folder
        rows = re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE)
        assert len(rows) == len(set(rows))
    configs = [path.name for path in (ROOT / package / "configs").glob("*.toml")]
    assert not [name for name in configs if f"`{name}`" not in text]


def test_every_module_opens_with_what_it_is_for():
    empty = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None:
                empty.append(str(path.relative_to(ROOT)))
    assert not empty


# -- the searches themselves: each finds what is wrong ----------------------------------------


def test_a_missing_path_is_found():
    text = "`harness/nothing.py`, `docs/rules.md`, `nothing.toml`, `mlcommons/training`, [x](no.md)"
    assert find_missing_paths(text, ROOT) == ["harness/nothing.py", "nothing.toml", "no.md"]


def test_a_missing_heading_is_found():
    text = "## `One`, two\n[a](#one-two) [b](#three) [c](README.md#two-commands) [d](no.md#x)"
    found = find_missing_headings(text, ROOT / "other.md")
    assert found == ["#three", "no.md#x"]


def test_a_missing_reference_is_found():
    text = "`harness/seeds.py:draw_seed` `harness/seeds.py:draw_nothing` `tests/nothing.py::test_x`"
    assert find_missing_references(text) == [
        "harness/seeds.py:draw_nothing",
        "tests/nothing.py::test_x",
    ]


def test_commands_are_read_with_their_options():
    text = (
        "`python -m resnet.data throughput --data DIR [--json]` and\n./run_and_time.sh --runs 2\n"
    )
    text += "python -m pytest -q\npython -m demo"
    assert list_commands(text) == {
        ("resnet.data", "throughput", ("--data", "--json")),
        ("harness.campaign", "", ("--runs",)),
        ("demo", "", ()),
    }


def test_an_unknown_command_is_found():
    with pytest.raises(AssertionError, match="has no main"):
        read_help("harness.seeds", "")
    with pytest.raises(AssertionError):
        read_help("resnet.data", "nothing")
