"""Turns a matplotlib figure into SVG that a page with a strict content policy may hold.

Such a page forbids style attributes, so they become presentation attributes; ids get a prefix,
because several pictures share one page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SIZE_INCHES = (4.7, 2.9)
FONT = "system-ui, sans-serif"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scoring",
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#667",
    "axes.labelcolor": "#334",
    "xtick.color": "#667",
    "ytick.color": "#667",
    "xtick.labelcolor": "#334",
    "ytick.labelcolor": "#334",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_FONT_SIZE = re.compile(r"(?:^|\s)(\d+(?:\.\d+)?)px")


def make_figure(height_inches: float = SIZE_INCHES[1]) -> Figure:
    """Make an empty figure in the size of the page's columns."""
    figure = Figure(figsize=(SIZE_INCHES[0], height_inches), layout="constrained")
    FigureCanvasSVG(figure)
    figure.add_subplot()
    return figure


def render_picture(draw: Callable[[], Figure], name: str, label: str) -> str:
    """Draw a figure as an <svg> element; `name` is unique in the page, `label` read aloud."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        draw().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r'style="([^"]*)"', _write_attributes, text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    attributes = f'role="img" aria-label="{escape(label)}" stroke-linejoin="round"'
    return text.replace("<svg", f"<svg {attributes}", 1).strip()


def _write_attributes(match: re.Match[str]) -> str:
    """Write `name: value; ...` as attributes; the shorthand `font` as size and family."""
    attributes = []
    for declaration in match.group(1).split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in ("font", "font-size"):
            size = _FONT_SIZE.search(value)
            if size:
                attributes.append(f'font-size="{size.group(1)}"')
        if name in ("font", "font-family"):
            attributes.append(f'font-family="{FONT}"')
        elif name and name != "font-size":
            attributes.append(f'{name}="{value}"')
    return " ".join(dict.fromkeys(attributes))
