"""One self-contained HTML page: text, tables, and plots as inline SVG, readable without a network."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.rcParams.update(
    {
        "svg.hashsalt": "predictive-scheduling",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)
GREY, BLUE, RED, GREEN = "#8a8f98", "#2563eb", "#c2410c", "#15803d"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; color: #1c2024; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }}
h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e4e7eb; }}
th:first-child, td:first-child {{ text-align: left; }}
figure {{ margin: 1rem 0; }}
svg {{ max-width: 100%; height: auto; }}
figcaption, .note {{ color: #5a6270; font-size: .9rem; }}
.big {{ font-size: 1.25rem; }}
.right {{ color: #15803d; }}
.wrong {{ color: #b91c1c; }}
</style></head><body>
{body}
</body></html>
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return the page; ``parts`` are HTML."""
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells are HTML."""
    cells = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def figure(drawing: Figure, caption: str) -> str:
    """Return a plot with its caption, which is also what a screen reader says."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    text = html.escape(caption, quote=True)
    return f'<figure role="img" aria-label="{text}">{svg[svg.index("<svg") :]}<figcaption>{text}</figcaption></figure>'
