"""Strict configuration: what is wrong is named with file, section and key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from harness.commands import InputError
from harness.config import check, load_config, logged, logged_values


@dataclass(frozen=True)
class Inner:
    rate: float = logged("opt_rate")
    count: int
    kind: Literal["a", "b"]

    def __post_init__(self) -> None:
        check(self.count > 0, "'count' must be positive")


@dataclass(frozen=True)
class Outer:
    name: str
    sizes: tuple[int, ...]
    inner: Inner
    table: dict[str, str]
    flag: bool


GOOD = """
name = "x"
sizes = [1, 2]
flag = true
[inner]
rate = 1
count = 3
kind = "a"
[table]
key = "value"
"""


def load(tmp_path: Path, text: str) -> Outer:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return load_config(file, Outer)


def test_loads_and_logs(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config == Outer("x", (1, 2), Inner(1.0, 3, "a"), {"key": "value"}, True)
    assert isinstance(config.inner.rate, float)
    assert logged_values(config) == {"opt_rate": 1.0}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("count = 3", "count = 3\nsurplus = 1", ["[inner]", "unknown key 'surplus'", "c.toml"]),
        ("count = 3", "", ["[inner]", "'count' is missing", "whole number"]),
        ("count = 3", "count = 3.0", ["inner.count", "whole number", "3.0"]),
        ("count = 3", "count = true", ["inner.count", "whole number"]),
        ("count = 3", "count = 0", ["[inner]", "'count' must be positive"]),
        ("rate = 1", "rate = nan", ["inner.rate", "finite"]),
        ('kind = "a"', 'kind = "c"', ["inner.kind", "one of 'a', 'b'"]),
        ("sizes = [1, 2]", 'sizes = [1, "2"]', ["sizes[1]", "whole number"]),
        ("[table]", "[tables]", ["unknown key 'tables'"]),
        ('key = "value"', "key = 3", ["table.key", "a text"]),
        ("flag = true", "flag = true =", ["not valid TOML", "line"]),
    ],
)
def test_names_what_is_wrong(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    for word in [*words, str(tmp_path)]:
        assert word in str(caught.value)


def test_section_where_a_value_stands(tmp_path: Path) -> None:
    text = GOOD.replace('[inner]\nrate = 1\ncount = 3\nkind = "a"\n', "")
    with pytest.raises(InputError, match="must be a section"):
        load(tmp_path, f"inner = 3\n{text}")


def test_missing_file_and_huge_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such configuration file"):
        load_config(tmp_path / "none.toml", Outer)
    (tmp_path / "big.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="1 MiB"):
        load_config(tmp_path / "big.toml", Outer)
