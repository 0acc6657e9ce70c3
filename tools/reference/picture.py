"""docs/architecture.svg: who calls whom, the rooms of each package on their floors, and what imports what.

Rooms, their modules and the imports are read from the code; the floors are the import-linter contracts' of
pyproject.toml, which hold the code to them.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_INK, _SOFT, _OURS, _ROOM, _THEIRS = "#1f2937", "#6b7280", "#eef2ff", "#ffffff", "#ffffff"
_SMALL = 11  # font size of module names; _LETTER is the width of one of its letters, in pixels, a little generous
_LETTER, _LINE, _GAP, _HEAD_HEIGHT = 5.7, 14, 8, 34
_WIDTH = 1100


@dataclass(frozen=True)
class Box:
    """A box of the picture: a package or something outside. ``lines`` of a package: ``modules: what they do``.

    ``floors``: rows of rooms inside a package, the highest first; they give the box its height.
    """

    name: str
    x: int
    y: int
    width: int
    height: int = 0
    lines: tuple[str, ...] = ()
    package: bool = True
    floors: tuple[tuple[str, ...], ...] = ()

    @property
    def bottom(self) -> int:
        """The y of its lower edge."""
        return self.y + self.height


CALLS = (
    ("callers", "scheduler_service", "gRPC, HTTP"),
    ("operators", "scheduler_service", ""),
    ("operators", "predictor_service", ""),
    ("scheduler_service", "predictor_service", "gRPC"),
    ("scheduler_service", "LLM servers", "HTTP streams"),
    ("scheduler_service", "Redis or Valkey", ""),
    ("exporters", "model folders", "write"),
    ("predictor_service", "model folders", "reads"),
)


def boxes() -> tuple[Box, ...]:
    """The boxes, each below what is drawn above it."""
    scheduler = _with_rooms(Box("scheduler_service", 30, 140, 650, floors=floors("scheduler_service")))
    predictor = Box(
        "predictor_service", 750, 140, 320, 130,
        (
            "servicer, wire, open_inference: calls and streams in",
            "batching, inputs: micro-batches, rows of like length",
            "model, artifact, catalog: ONNX files, reloaded",
            "trials: canary and shadow models",
        ),
    )  # fmt: skip
    folders = Box("model folders", 750, predictor.bottom + 50, 320, 56, ("model.onnx, manifest.json",), package=False)
    exporters = _with_rooms(Box("exporters", 750, folders.bottom + 50, 320, floors=floors("exporters")))
    outside = max(scheduler.bottom, exporters.bottom - 106) + 50
    below = outside + 56 + 40
    return (
        Box("callers", 30, 30, 400, 60, ("gRPC stubs in any language, OpenAI clients by HTTP",), package=False),
        Box("operators", 470, 30, 600, 60, ("top, explain, status page, Prometheus, OTLP, Grafana",), package=False),
        scheduler,
        predictor,
        folders,
        exporters,
        Box("LLM servers", 30, outside, 310, 56, ("TGI, vLLM, SGLang, llama.cpp",), package=False),
        Box("Redis or Valkey", 370, outside, 310, 56, ("leases of a budget that schedulers share",), package=False),
        Box(
            "predictive_scheduling", 30, below, 650, 76,
            (
                "client, connection, answers: what callers install",
                "serving, interceptors, telemetry, budget_points: what both services share",
            ),
        ),
        Box("predictive_scheduling_cli", 750, below, 320, 76, ("main, serve, calls, top, demo: the command line",)),
    )  # fmt: skip


def floors(package: str) -> tuple[tuple[str, ...], ...]:
    """The floors of a package, as the import-linter contract about its own modules lists them; the highest first.

    Raises ValueError where the package has a room that is on no floor.
    """
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(
        one["layers"] for one in contracts if one["type"] == "layers" and one["layers"][0].startswith(f"{package}.")
    )
    found = tuple(tuple(name.strip().rpartition(".")[2] for name in layer.split("|")) for layer in layers)
    listed = {name for floor in found for name in floor}
    if missing := {path.parent.name for path in (ROOT / package).glob("*/__init__.py")} - listed:
        raise ValueError(f"{package}: {', '.join(sorted(missing))} stands on no floor of the import-linter contract")
    return found


def modules(package: str, room: str) -> list[str]:
    """The modules of a room, in alphabetical order; empty where the room is a single module."""
    folder = ROOT / package / room
    found = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    return sorted(name for name in found if not name.startswith("__"))


def check_modules(drawn: Sequence[Box]) -> None:
    """Raise ValueError where a box names a module that its package does not have."""
    for box in drawn:
        for line in box.lines if box.package else ():
            for name in line.partition(":")[0].split(", "):
                if not list((ROOT / box.name).glob(f"{name}.py")) and not (ROOT / box.name / name).is_dir():
                    raise ValueError(f"{box.name} has no module {name}, which the picture shows")


def imports(drawn: Sequence[Box]) -> set[tuple[str, str]]:
    """Which package imports which, read from every module's import statements."""
    packages = {box.name for box in drawn if box.package}
    found = set()
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                found |= {(package, name.split(".")[0]) for name in names}
    return {(one, other) for one, other in found if other in packages and one != other}


def picture() -> str:
    """Return the picture."""
    drawn = boxes()
    check_modules(drawn)
    at = {box.name: box for box in drawn}
    found = imports(drawn)
    lines = [
        f"{one} → {', '.join(sorted(to for by, to in found if by == one))}" for one in sorted({by for by, _ in found})
    ]
    under = max(box.bottom for box in drawn) + 42
    height = under + 18 * len(lines) + 24
    parts = [_head(height)]
    parts += [_box(box) for box in drawn]
    parts += [_arrow(at[one], at[other], label) for one, other, label in CALLS]
    parts.append(_text(30, under, "Imports between packages, read from the code:", size=12, colour=_SOFT))
    parts += [_text(30, under + 18 * (place + 1), line, size=12, colour=_SOFT) for place, line in enumerate(lines)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _head(height: int) -> str:
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"
 font-family="system-ui, sans-serif" role="img" aria-label="Architecture: who calls whom, and what imports what">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z" fill="{_INK}"/></marker></defs><rect width="{_WIDTH}" height="{height}" fill="white"/>"""


def _text(x: float, y: float, text: str, *, size: int = 13, colour: str = _INK, name: bool = False) -> str:
    style = ' font-weight="600" font-family="ui-monospace, monospace"' if name else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{style}>{escape(text)}</text>'


def _wrapped(package: str, room: str, width: float) -> list[str]:
    return textwrap.wrap(", ".join(modules(package, room)), int((width - 20) / _LETTER))


def _room_width(box: Box, floor: tuple[str, ...]) -> float:
    return (box.width - 24 - _GAP * (len(floor) - 1)) / len(floor)


def _floor_height(box: Box, floor: tuple[str, ...]) -> int:
    lines = max(len(_wrapped(box.name, room, _room_width(box, floor))) for room in floor)
    return 26 + _LINE * lines


def _with_rooms(box: Box) -> Box:
    return replace(box, height=_HEAD_HEIGHT + sum(_floor_height(box, floor) + _GAP for floor in box.floors) + 4)


def _rooms(box: Box) -> list[str]:
    parts, y = [], box.y + _HEAD_HEIGHT
    for floor in box.floors:
        width, height = _room_width(box, floor), _floor_height(box, floor)
        for place, room in enumerate(floor):
            x = box.x + 12 + place * (width + _GAP)
            parts.append(
                f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{height}" rx="4" fill="{_ROOM}" stroke="{_SOFT}"/>'
            )
            parts.append(_text(x + 10, y + 18, room, size=12, name=True))
            for line, text in enumerate(_wrapped(box.name, room, width)):
                parts.append(_text(x + 10, y + 34 + _LINE * line, text, size=_SMALL, colour=_SOFT))
        y += height + _GAP
    return parts


def _box(box: Box) -> str:
    dashes = "" if box.package else ' stroke-dasharray="4 3"'
    fill = _OURS if box.package else _THEIRS
    place = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="6"'
    name = _text(box.x + 12, box.y + 23, box.name, name=box.package)
    parts = [f'<rect {place} fill="{fill}" stroke="{_INK}"{dashes}/>', f'<g font-weight="600">{name}</g>']
    parts += [_text(box.x + 12, box.y + 44 + 22 * place, line, size=12) for place, line in enumerate(box.lines)]
    return "".join([*parts, *_rooms(box)])


def _arrow(one: Box, other: Box, label: str) -> str:
    """A straight arrow between the nearest sides of two boxes, of which one is above or beside the other."""
    left, right = max(one.x, other.x), min(one.x + one.width, other.x + other.width)
    if left < right:  # one above the other
        x1 = x2 = (left + right) // 2
        y1, y2 = (one.bottom, other.y) if one.y < other.y else (one.y, other.bottom)
        x, y = x1 + 8, (y1 + y2) / 2 + 4
    else:
        y1 = y2 = (max(one.y, other.y) + min(one.bottom, other.bottom)) // 2
        x1, x2 = (one.x + one.width, other.x) if one.x < other.x else (one.x, other.x + other.width)
        x, y = (x1 + x2) // 2 - 16, y1 - 8.0
    line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{_INK}" marker-end="url(#tip)"/>'
    return line + (_text(x, y, label, size=12, colour=_SOFT) if label else "")
