"""Explanations: what each finding means, where it comes from, how to mend it; a data file."""

from __future__ import annotations

import difflib
import sys
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.findings import SEVERITIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("explanations.toml")
_OPTIONAL = {"published"}


@dataclass(frozen=True)
class Explanation:
    """What a finding means; `published` says how many published results show it, if counted."""

    slug: str
    severity: str
    meaning: str
    source: str
    mend: str
    innocent: str
    published: str | None = None

    def describe(self) -> dict[str, Any]:
        """Give the explanation as data."""
        return asdict(self)


def read_explanations(path: Path = FILE) -> dict[str, Explanation]:
    """Read explanations by slug, in the order of the file.

    Raises InputError where the file is no TOML, explains a slug that there is not, leaves one out,
    or lacks or adds a key.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    wanted = {field.name for field in fields(Explanation)} - {"slug", "severity"}
    for slug, texts in table.items():
        if slug not in SEVERITIES:
            raise InputError(f"{path}: explains {slug}, which no check reports")
        if not isinstance(texts, dict):
            raise InputError(f"{path}: {slug} must be a section")
        for key in sorted(set(texts) ^ wanted):
            if key in texts or key not in _OPTIONAL:
                state = "unknown" if key in texts else "missing"
                raise InputError(f"{path}: key {slug}.{key} is {state}")
        for key, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{path}: {slug}.{key} must be a text")
    return {
        slug: Explanation(
            slug, SEVERITIES[slug], **{key: " ".join(text.split()) for key, text in texts.items()}
        )
        for slug, texts in table.items()
    }


@cache
def load_explanations() -> dict[str, Explanation]:
    """Read the kit's own explanations, once."""
    return read_explanations()


def find_explanation(slug: str) -> Explanation:
    """Find the explanation of a slug; raises InputError, with the nearest names, without one."""
    table = load_explanations()
    if slug in table:
        return table[slug]
    near = difflib.get_close_matches(slug.lower(), table, n=3, cutoff=0.5)
    near += [name for name in table if slug and slug.lower() in name and name not in near][:3]
    advice = f"do you mean {' or '.join(near)}?" if near else "without SLUG all are listed"
    raise InputError(f"no finding is called {slug[:60]!a}: {advice}")
