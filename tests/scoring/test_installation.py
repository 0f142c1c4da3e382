"""`pip install .[scoring]` in a bare environment is enough to score, without torch."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scoring.profile import load_profile
from scoring.score import score_folder

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "scoring"
# What the extra names, and what mlperf-logging brings along.
DECLARED = {"mlperf_logging", "matplotlib", "tomli", "yaml", "numpy", "scipy", "pandas"}
PIP = ("-m", "pip", "--disable-pip-version-check")
# Whether there is an index is asked once; from one that is there a lost connection is made again.
ONCE, AGAIN = ("--timeout", "20", "--retries", "0"), ("--timeout", "60", "--retries", "9")


def run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Give the Python of a bare environment with the kit's scoring installed from a copy."""
    place = tmp_path_factory.mktemp("installation")
    # A build writes into the folder it builds from.
    copy = place / "copy"
    shutil.copytree(SOURCE, copy / "scoring", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    made = run(sys.executable, "-m", "venv", place / "venv", cwd=place)
    assert made.returncode == 0, made.stderr
    python = place / "venv" / "bin" / "python"
    download = [*PIP, *ONCE, "download", "--no-deps", "-d", place, "mlperf-logging"]
    probe = run(python, *download, cwd=place)
    if probe.returncode != 0:
        pytest.skip(f"pip reaches no index here: {probe.stderr.strip().splitlines()[-1]}")
    install = [*PIP, *AGAIN, "install", "--quiet", "--no-compile", f"{copy}[scoring]"]
    done = run(python, *install, cwd=place)
    assert done.returncode == 0, done.stderr
    return python


def test_the_extra_alone_scores_and_reports(installed, campaign, tmp_path):
    folder = campaign.write(tmp_path)
    absent = "from importlib.util import find_spec; print(find_spec('torch'), find_spec('harness'))"
    assert run(installed, "-c", absent, cwd=tmp_path).stdout == "None None\n"
    done = run(installed, "-m", "scoring", "score", folder, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    here = score_folder(folder, "4.0.0", load_profile("mlperf"), False)
    assert json.loads(done.stdout) == json.loads(json.dumps(here.describe()))
    script = installed.parent / "lp-scoring"
    page = tmp_path / "report.html"
    done = run(script, "report", folder, "--rfp", "lp2bm", "--output", page, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Content-Security-Policy" in page.read_text()


def test_every_data_file_is_installed(installed, tmp_path):
    where = "import scoring, pathlib; print(pathlib.Path(scoring.__file__).parent)"
    site = Path(run(installed, "-c", where, cwd=tmp_path).stdout.strip())
    assert not site.is_relative_to(ROOT)
    wanted = list_files(SOURCE)
    assert {"profiles/lp2bm.toml", "report/style.css", "stock_process.py"} <= wanted
    assert wanted <= list_files(site)


def list_files(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md") and not path.name.startswith(".")
    }


def test_every_import_is_declared():
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name in find_imports(path)
        if name not in sys.stdlib_module_names and name not in DECLARED | {"scoring", "tomllib"}
    }
    assert not undeclared


def find_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
