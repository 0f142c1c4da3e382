"""Lists the calls in Python files that may write log lines; a process of its own.

Run by its path in isolated mode with the files' paths as arguments; the files are parsed, never
imported. Answers on stdout with one JSON document: {path: [[first line, last line, method, first
argument where it is a text, else null], ...], or the reason in words}. A parser that is brought to
its end by a hostile file ends this process alone.
"""

import ast
import json
import resource
import sys
import warnings

MEMORY_LIMIT_BYTES = 1 << 30
PROCESSOR_LIMIT_SECONDS = 30
FILE_LIMIT_BYTES = 1 << 20
SPAN_LIMIT_LINES = 40


def list_calls(path: str) -> list[list[object]] | str:
    """List the method calls of one file, or say why it cannot be parsed."""
    with open(path, "rb") as file:
        source = file.read(FILE_LIMIT_BYTES + 1)
    if len(source) > FILE_LIMIT_BYTES:
        return f"is larger than {FILE_LIMIT_BYTES >> 20} MiB"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"cannot be parsed ({type(error).__name__})"
    calls: list[list[object]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            last = min(node.end_lineno or node.lineno, node.lineno + SPAN_LIMIT_LINES)
            first = node.args[0] if node.args else None
            text = first.value if isinstance(first, ast.Constant) else None
            key = text if isinstance(text, str) else None
            calls.append([node.lineno, last, node.func.attr, key])
    return calls


def lower_limit(kind: int, limit: int) -> None:
    """Lower a limit of this process; one that is lower already stays, for none may be raised."""
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def main() -> None:
    """Answer for all files."""
    lower_limit(resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)
    lower_limit(resource.RLIMIT_CPU, PROCESSOR_LIMIT_SECONDS)
    lower_limit(resource.RLIMIT_CORE, 0)
    json.dump({path: list_calls(path) for path in sys.argv[1:]}, sys.stdout)


if __name__ == "__main__":
    main()
