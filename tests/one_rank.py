"""One CPU rank with data and configuration of its own, on which a trainer runs in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.trainer import parse_trainer_arguments
from tests.conftest import ROOT


def change_value(text: str, section: str, key: str, value: str) -> str:
    """Give a key of a section another value, as a user would by hand."""
    head, found, rest = text.partition(f"[{section}]\n")
    lines = rest.splitlines(keepends=True)
    numbers = [n for n, line in enumerate(lines) if line.startswith(f"{key} = ")]
    assert found and numbers, f"[{section}] {key} is not in the file"
    lines[numbers[0]] = f"{key} = {value}\n"
    return head + found + "".join(lines)


class OneRank:
    """A system file of one rank, a copy of the data, and the demonstration's configuration changed.

    settings: (section, key, value) of the configuration.
    """

    def __init__(
        self, benchmark: str, folder: Path, data: Path, settings: Iterable[tuple[str, str, object]]
    ) -> None:
        self.benchmark = benchmark
        self.system, self.config = folder / "one.toml", folder / f"{benchmark}.toml"
        self.data, self.log = folder / "data", folder / "log.txt"
        shutil.copytree(data, self.data)
        text = (ROOT / "systems" / "demo.toml").read_text()
        for old, new in (
            ('name = "demo"', 'name = "one"'),
            ("count = 4", "count = 1"),
            ('launcher = "mpirun"', 'launcher = "local"'),
            (f'"{benchmark}/configs/demo.toml"', f'"{self.config}"'),
            (f'"data/demo/{benchmark}"', f'"{self.data}"'),
        ):
            assert old in text
            text = text.replace(old, new, 1)
        checkpoint = f'"data/demo/{benchmark}/initial.safetensors"'
        self.system.write_text(text.replace(checkpoint, f'"{self.data}/initial.safetensors"'))
        self.config.write_text((ROOT / benchmark / "configs" / "demo.toml").read_text())
        for section, key, value in settings:
            self.set(section, key, value)

    def set(self, section: str, key: str, value: object) -> None:
        """Change a value of the configuration."""
        self.config.write_text(change_value(self.config.read_text(), section, key, str(value)))

    def parse(self) -> Any:
        """The trainer's arguments for a run on this machine."""
        arguments = ["run", "--system", str(self.system), "--log", str(self.log)]
        return parse_trainer_arguments(self.benchmark, None, arguments)

    def events(self) -> list[dict[str, Any]]:
        """The events of the run's log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
