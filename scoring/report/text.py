"""Makes text of unknown origin fit for the page."""

from __future__ import annotations

from html import escape

from scoring.findings import make_printable


def clean(text: object) -> str:
    """Escape text for the page, control characters shown by their numbers."""
    return escape(make_printable(str(text)))
