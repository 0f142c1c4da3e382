"""Runs mlperf-logging's own checkers; a process of its own, started by `scoring.compliance`.

Reads a job as JSON from stdin and answers with one JSON document on stdout:
{"ruleset", "logs": [path, ...], "groups": {benchmark: folder}} ->
{"version", "compliance": {path: {"passed", "messages": [[index, text], ...]}},
 "convergence": {benchmark: {"passed", "message", "factor"}}}.
`index` counts log lines of the file from 0. This file is run by its path, in isolated mode, so
that neither the current folder nor the examined one can bring modules of their own.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import json
import logging
import os
import re
import resource
import sys
from typing import Any, TextIO

MEMORY_LIMIT_BYTES = 8 << 30
PROCESSOR_LIMIT_SECONDS = 300
FILE_LIMIT_BYTES = 64 << 20
MESSAGE_LIMIT = 40


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


def check_compliance(path: str, ruleset: str) -> dict[str, Any]:
    """Run the compliance checker on one log."""
    from mlperf_logging.compliance_checker import mlp_compliance

    # A file that raised leaves its rule files in this module-level queue.
    mlp_compliance.enqueued_configs.clear()
    mlp_compliance.yaml = Rules
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
    importlib.import_module("mlperf_logging.compliance_checker.mlp_compliance")
    importlib.import_module("mlperf_logging.rcp_checker.rcp_checker")
    json.dump(answer_job(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
