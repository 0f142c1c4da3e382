"""Runs mlperf-logging's own checkers; a process of its own, started by `scoring.compliance`.

Reads a job as JSON from stdin and answers with one JSON document on stdout:
{"ruleset", "logs": [path, ...], "groups": {benchmark: folder}} ->
{"version", "compliance": {path: {"passed", "messages": [[index, text], ...]}},
 "convergence": {benchmark: {"passed", "message", "factor"}}}.
`index` counts log lines of the file from 0. This file is run by its path, in isolated mode, so
that neither the current folder nor the examined one can bring modules of their own.

The checkers' verdicts are theirs; what they call for it is replaced where it is slow: their rules
are parsed once for all logs, a pattern that takes quadratic time on a long line is searched from
the line's end, and of scipy, which imports for most of a second, they get the one test they use.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import re
import resource
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

MEMORY_LIMIT_BYTES = 8 << 30
PROCESSOR_LIMIT_SECONDS = 300
FILE_LIMIT_BYTES = 64 << 20
MESSAGE_LIMIT = 40
TOKEN = ":::MLLOG "


@functools.lru_cache(maxsize=64)
def parse_rules(text: str) -> Any:
    """Parse a rule file once for all logs: it takes longer than checking one."""
    import yaml

    return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes texts, lists, tables only


class Rules:
    """Stands in for the yaml module in the stock checker, which parses its rules for every log."""

    BaseLoader = None

    @staticmethod
    def load(file: TextIO, Loader: None) -> Any:
        """Parse an open rule file."""
        return parse_rules(file.read())


class Search:
    """Stands in for the re module in the stock readers, which cut every line before the token."""

    @staticmethod
    def sub(pattern: str, replacement: str, text: str) -> str:
        """Replace as re.sub does; ".*" and the token, greedy, reach to the token's last place."""
        if pattern != f".*{TOKEN}" or "\n" in text[:-1]:
            return re.sub(pattern, replacement, text)
        _, token, rest = text.rpartition(TOKEN)
        return replacement + rest if token else text

    def __getattr__(self, name: str) -> Any:
        return getattr(re, name)


@functools.cache
def load_distribution() -> Any:
    """Load Student's distribution from the file beside this one: isolated mode has no packages."""
    path = Path(__file__).with_name("student.py")
    spec = importlib.util.spec_from_file_location("student", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compute_distribution


def ttest_ind_from_stats(
    mean1: float,
    std1: float,
    nobs1: int,
    mean2: float,
    std2: float,
    nobs2: int,
    equal_var: bool = True,
) -> tuple[float, float]:
    """Compute t and two-sided p of the pooled t-test, as scipy.stats does, from two summaries.

    std1, std2: with n - 1. Source: Student's test of two means with one common variance.
    """
    if not equal_var:
        raise ValueError("the checkers take one variance for both")
    degrees = nobs1 + nobs2 - 2
    variance = ((nobs1 - 1) * std1**2 + (nobs2 - 1) * std2**2) / degrees
    t = (mean1 - mean2) / math.sqrt(variance * (1 / nobs1 + 1 / nobs2))
    return t, 2 * (1 - load_distribution()(abs(t), degrees))


def replace_scipy() -> None:
    """Give the checkers a scipy.stats that holds the one test they call, and nothing else."""
    package, stats = ModuleType("scipy"), ModuleType("scipy.stats")
    stats.ttest_ind_from_stats = ttest_ind_from_stats  # type: ignore[attr-defined]
    package.stats = stats  # type: ignore[attr-defined]
    sys.modules["scipy"], sys.modules["scipy.stats"] = package, stats


def import_checkers() -> None:
    """Import the checkers, with what stands in for what is slow in them."""
    replace_scipy()
    names = ["mlp_compliance", "mlp_parser"]
    compliance, parsers = (
        importlib.import_module(f"mlperf_logging.compliance_checker.{name}") for name in names
    )
    compliance.yaml = Rules  # type: ignore[attr-defined]
    convergence = importlib.import_module("mlperf_logging.rcp_checker.rcp_checker")
    readers = [module for name, module in vars(parsers).items() if name.startswith("ruleset_")]
    for module in (convergence, *readers):
        module.re = Search()


def check_compliance(path: str, ruleset: str) -> dict[str, Any]:
    """Run the compliance checker on one log."""
    from mlperf_logging.compliance_checker import mlp_compliance

    # A file that raised leaves its rule files in this module-level queue.
    mlp_compliance.enqueued_configs.clear()
    checker = mlp_compliance.make_checker("training", ruleset, False, False)
    try:
        passed, *_ = mlp_compliance.main(path, f"training_{ruleset}/common.yaml", checker)
    except Exception as error:  # noqa: BLE001 - a rule on a hostile value may raise anything
        message = f"the checker stopped with {type(error).__name__}: {error}"
        return {"passed": False, "messages": [[None, message[:300]]]}
    texts = [*checker.overwritable.values(), *checker.not_overwritable]
    return {"passed": passed, "messages": [shorten(text) for text in texts[:MESSAGE_LIMIT]]}


def shorten(text: str) -> list[Any]:
    """Cut a message of the checker to what failed, without the dump of its state."""
    lines = text.split("\n")
    index = re.search(r"in line (\d+):", lines[0])
    failed = next((line for line in lines if line.startswith("failed test:")), "")
    head = re.sub(r" in line \d+:", "", lines[0])
    return [int(index.group(1)) if index else None, f"{head} {failed}".strip()[:300]]


def check_convergence(folder: str, ruleset: str) -> dict[str, Any]:
    """Run the convergence check (RCP) on the logs of one folder."""
    from mlperf_logging.rcp_checker import rcp_checker

    try:
        # set_scaling: with False it would try to delete /scaling.json instead of the folder's.
        passed, message, factor = rcp_checker.check_directory(
            folder, "training", ruleset, False, False, rcp_pass="pruned_rcps", set_scaling=True
        )
    except Exception as error:  # noqa: BLE001 - see above
        text = f"the checker stopped with {type(error).__name__}: {error}"
        return {"passed": None, "message": text[:300], "factor": None}
    return {"passed": bool(passed), "message": message, "factor": float(factor)}


def answer_job(job: dict[str, Any]) -> dict[str, Any]:
    """Run the checkers that a job asks for."""
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return {
            "version": importlib.metadata.version("mlperf-logging"),
            "compliance": {path: check_compliance(path, job["ruleset"]) for path in job["logs"]},
            "convergence": {
                benchmark: check_convergence(folder, job["ruleset"])
                for benchmark, folder in job["groups"].items()
            },
        }


def main() -> None:
    """Answer the job on stdin, within limits on memory, processor time and file size."""
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CPU, PROCESSOR_LIMIT_SECONDS),
        (resource.RLIMIT_FSIZE, FILE_LIMIT_BYTES),
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard < 0 else min(value, hard), hard))
    # Imported before the job is there: its sender reads logs in the meantime.
    import_checkers()
    json.dump(answer_job(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
