"""The frame of the harness's HTML pages: one look, that of the campaign's report, and no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape

# The colours, widths and classes of scoring's report, which cannot be imported here: a test
# compares the two.
STYLE = """
:root { --ink: #1d2939; --soft: #475467; --line: #d5dae1; --paper: #fff; --good: #1e6b42;
  --bad: #b42318; --warn: #92560a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .4rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.demonstration { margin: 0 0 1rem; padding: .8rem 1rem; border: 4px solid var(--bad);
  color: var(--bad); font-size: 1.7rem; font-weight: 800; line-height: 1.2; text-align: center; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .8rem; margin: .8rem 0; }
.figures div { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; }
.figures b { display: block; font-size: 1.55rem; font-variant-numeric: tabular-nums;
  line-height: 1.2; white-space: nowrap; }
.figures span { display: block; font-size: .85rem; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  gap: 1.2rem; margin: 1rem 0; }
figure { margin: 0; break-inside: avoid; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: .88rem; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
td.number, th.number { text-align: right; padding-right: 1rem; white-space: nowrap; }
@media (max-width: 40rem) { body { padding: .8rem; } .demonstration { font-size: 1.3rem; } }
@media print { @page { margin: 15mm; } body { padding: 0; max-width: none; }
  .demonstration { print-color-adjust: exact; } tr { break-inside: avoid; } }
"""
DEMONSTRATION = (
    '<p class="demonstration">DEMONSTRATION: small models, made data, a CPU. The figures mean '
    "nothing.</p>"
)


def write_document(title: str, parts: Iterable[str]) -> str:
    """Write a page with a content policy that forbids all but its own style.

    title: plain text; parts: clean HTML.
    """
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{write_words(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def write_words(text: str) -> str:
    """Text for a page: escaped, and only what can be printed."""
    return escape("".join(c if c.isprintable() else " " for c in text))


def write_figure(value: str, label: str, below: str = "") -> str:
    """One of the large figures at the top of a page, inside a div of class "figures"."""
    more = f"<br>{write_words(below)}" if below else ""
    return f"<div><b>{write_words(value)}</b><span>{write_words(label)}{more}</span></div>"


def write_chart(svg: str, caption: str) -> str:
    """A picture with what it shows below it, inside a div of class "charts"."""
    return f"<figure>{svg}<figcaption>{write_words(caption)}</figcaption></figure>"


def write_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int] = frozenset()
) -> Iterator[str]:
    """A table of plain texts; numbers: columns to set flush right."""

    def mark(column: int) -> str:
        return ' class="number"' if column in numbers else ""

    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f"<th{mark(n)}>{write_words(text)}</th>" for n, text in enumerate(head))
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = (f"<td{mark(n)}>{write_words(text)}</td>" for n, text in enumerate(row))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
