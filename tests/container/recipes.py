"""Reads the two image recipes as far as a comparison needs: base, files, steps, labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

KIT = "/opt/lp-mlperf-kit"


def read_dockerfile(path: Path) -> dict[str, Any]:
    """Read what Dockerfile sets; RUN, ENV and LABEL lines are joined over their line ends."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    found = [(word.upper(), re.sub(r"\s+", " ", rest).strip()) for word, rest in lines]
    arguments = dict(rest.split("=", 1) for word, rest in found if word == "ARG" and "=" in rest)
    arguments = {key: value.strip('"') for key, value in arguments.items()}
    pairs = {
        word: dict(re.findall(r'(\S+?)=("[^"]*"|\S+)', rest))
        for word, rest in found
        if word in ("ENV", "LABEL")
    }
    return {
        "arguments": arguments,
        "environment": {key: value.strip('"') for key, value in pairs["ENV"].items()},
        "labels": {key: value.strip('"') for key, value in pairs["LABEL"].items()},
        "steps": re.findall(r"install\.sh (\w+)", " ".join(r for w, r in found if w == "RUN")),
        "copies": [rest for word, rest in found if word == "COPY"],
        "user": [rest for word, rest in found if word == "USER"],
        "command": [json.loads(rest) for word, rest in found if word == "CMD"],
        "from": [rest for word, rest in found if word == "FROM"],
    }


def read_ignored(path: Path) -> list[str]:
    """Read what .dockerignore lets through; everything else stays out."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*" and lines[-1] == "**/__pycache__"
    assert all(line.startswith("!") for line in lines[1:-1])
    return [line[1:] for line in lines[1:-1]]


def read_definition(path: Path) -> dict[str, Any]:
    """Read what Singularity.def sets, section by section."""
    header, *rest = re.split(r"^%(\w+)\n", path.read_text(), flags=re.M)
    sections = {
        name: [line.strip() for line in body.splitlines() if line.strip()]
        for name, body in zip(rest[::2], rest[1::2], strict=True)
    }
    exports = (line.removeprefix("export ") for line in sections["environment"])
    return {
        "header": dict(re.findall(r"^(\w+): (.*)$", header, re.M)),
        "arguments": dict(line.split("=", 1) for line in sections["arguments"]),
        "environment": dict(line.split("=", 1) for line in exports),
        "labels": dict(line.split(" ", 1) for line in sections["labels"]),
        "steps": re.findall(r"install\.sh (\w+)", " ".join(sections["post"])),
        "files": [line.split() for line in sections["files"]],
        "test": sections["test"],
    }
