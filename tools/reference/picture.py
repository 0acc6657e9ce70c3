"""docs/architecture.svg: who calls whom, and which package imports which. The imports are read from the code."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_INK, _SOFT, _OURS, _THEIRS = "#1f2937", "#6b7280", "#eef2ff", "#ffffff"


_HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 770" font-family="system-ui, sans-serif"
 font-size="13" role="img" aria-label="Architecture: who calls whom, and which package imports which">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z" fill="{_INK}"/></marker></defs><rect width="1000" height="770" fill="white"/>"""


@dataclass(frozen=True)
class Box:
    """A box of the picture: a package or something outside. ``lines`` of a package: ``modules: what they do``."""

    name: str
    x: int
    y: int
    width: int
    height: int
    lines: tuple[str, ...] = ()
    package: bool = True


BOXES = (
    Box("callers", 30, 30, 250, 74, ("gRPC stubs in any language", "OpenAI clients by HTTP"), package=False),
    Box("operators", 720, 30, 250, 74, ("top, explain, status page", "Prometheus, OTLP, Grafana"), package=False),
    Box(
        "scheduler_service", 30, 150, 500, 258,
        (
            "server, assembly: start, wiring, drain",
            "servicer, openai_front, intake, generations: calls in, events out",
            "pipeline, admission, collector, dispatcher: a request's way",
            "guarded_predictor, predictor_client: ask, remember, give up in time",
            "planning, allocation, window, ledger: who gets how much (pure)",
            "forcing: cut the thinking, force the answer (pure)",
            "backends: TGI, vLLM, SGLang, OpenAI, llama.cpp, embedded",
            "shared_budget: one budget for several schedulers",
            "observers, metrics, spans, journal: what became of it",
        ),
    ),
    Box(
        "predictor_service", 620, 150, 350, 150,
        (
            "servicer, open_inference: calls in",
            "batcher, batch_queue, buckets: micro-batches",
            "model, artifact, catalog: ONNX files, reloaded",
            "trials: canary and shadow models",
        ),
    ),
    Box("LLM servers", 30, 456, 240, 56, ("TGI, vLLM, SGLang, llama.cpp",), package=False),
    Box("Redis or Valkey", 290, 456, 240, 56, ("leases of one budget",), package=False),
    Box("model folders", 720, 336, 250, 56, ("model.onnx, manifest.json",), package=False),
    Box(
        "exporters", 620, 430, 350, 98,
        (
            "collect, features: measure a model",
            "kinds, train, export: curves → ONNX",
            "evaluate, simulation, experiments: what it gains",
        ),
    ),
    Box(
        "predictive_scheduling", 30, 560, 500, 78,
        (
            "client, connection, answers: what callers install",
            "serving, interceptors, telemetry: what both services share",
        ),
    ),
    Box("predictive_scheduling_cli", 620, 576, 350, 62, ("main, serve, calls, top, demo: the command line",)),
)  # fmt: skip
CALLS = (
    ("callers", "scheduler_service", "gRPC, HTTP"),
    ("operators", "scheduler_service", ""),
    ("operators", "predictor_service", ""),
    ("scheduler_service", "predictor_service", "gRPC"),
    ("scheduler_service", "LLM servers", "HTTP streams"),
    ("scheduler_service", "Redis or Valkey", ""),
    ("exporters", "model folders", "writes"),
    ("predictor_service", "model folders", "reads"),
)


def check_modules() -> None:
    """Raise ValueError where a box names a module that its package does not have."""
    for box in BOXES:
        for line in box.lines if box.package else ():
            for name in line.partition(":")[0].split(", "):
                if not list((ROOT / box.name).glob(f"{name}.py")) and not (ROOT / box.name / name).is_dir():
                    raise ValueError(f"{box.name} has no module {name}, which the picture shows")


def imports() -> set[tuple[str, str]]:
    """Which package imports which, read from every module's import statements."""
    packages = {box.name for box in BOXES if box.package}
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
    check_modules()
    at = {box.name: box for box in BOXES}
    parts = [_HEAD]
    parts += [_arrow(at[one], at[other], label) for one, other, label in CALLS]
    parts += [_drawn(box) for box in BOXES]
    lines = [f"{one} → {', '.join(sorted(to for by, to in imports() if by == one))}" for one in _importing()]
    parts.append(
        f'<text x="30" y="680" fill="{_SOFT}" font-size="12">Imports between packages, read from the code:</text>'
    )
    for place, line in enumerate(lines):
        parts.append(f'<text x="30" y="{698 + 17 * place}" fill="{_SOFT}" font-size="12">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _importing() -> list[str]:
    return sorted({one for one, _ in imports()})


def _drawn(box: Box) -> str:
    style = f'fill="{_OURS if box.package else _THEIRS}" stroke="{_INK}"' + (
        "" if box.package else ' stroke-dasharray="4 3"'
    )
    family = ' font-family="ui-monospace, monospace"' if box.package else ""
    texts = [
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="6" {style}/>',
        f'<text x="{box.x + 12}" y="{box.y + 24}" font-weight="600" fill="{_INK}"{family}>{escape(box.name)}</text>',
    ]
    for place, line in enumerate(box.lines):
        y = box.y + 46 + 24 * place if box.height > 120 else box.y + 45 + 20 * place
        texts.append(f'<text x="{box.x + 12}" y="{y}" fill="{_INK}">{escape(line)}</text>')
    return "".join(texts)


def _arrow(one: Box, other: Box, label: str) -> str:
    """A straight arrow between the nearest sides of two boxes."""
    left, right = max(one.x, other.x), min(one.x + one.width, other.x + other.width)
    if left < right:  # one above the other
        x1 = x2 = (left + right) // 2
        y1, y2 = (one.y + one.height, other.y) if one.y < other.y else (one.y, other.y + other.height)
    else:
        top, bottom = max(one.y, other.y), min(one.y + one.height, other.y + other.height)
        y1 = y2 = (top + bottom) // 2 if top < bottom else one.y + one.height // 2
        x1, x2 = (one.x + one.width, other.x) if one.x < other.x else (one.x, other.x + other.width)
        if top >= bottom:
            y2 = other.y + 30
    x, y = ((x1 + x2) / 2 + 8, (y1 + y2) / 2 + 4) if x1 == x2 else ((x1 + x2) / 2 - 20, (y1 + y2) / 2 - 8)
    text = f'<text x="{x}" y="{y}" fill="{_SOFT}" font-size="12">{escape(label)}</text>'
    line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{_INK}" marker-end="url(#tip)"/>'
    return line + (text if label else "")
