"""Budgets of thousands of tokens through both real services: many long streams at once, beside short ones.

The curves of a shipped predictor, stretched to a last point of 16,384 tokens, price requests whose backend writes
for as long as it may. Told for long and for short budgets in the same run: CPU of the scheduler a token, its memory
after each round, and what was used of what was granted. Targets: a long stream's token costs no more CPU than a short
one's, since nothing may grow with a stream; memory does not rise from round to round; the budget is kept within 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.callers import at_once, keep
from benchmarks.processes import backend, service
from exporters.experiments.table import save
from exporters.measure.curves import read_curves
from exporters.measure.hidden_states import read_hidden_states
from predictive_scheduling import AsyncSchedulerClient
from predictor_service.settings import SHIPPED_MODELS

_STREAMS = 200
_LONG, _SHORT = 64, 1  # factors by which points of 16, 32, … 256 tokens are stretched
_DEMO = Path("exporters/demo/data/curves.parquet")


def stretched_model(name: str, factor: int, folder: Path) -> None:
    """Copy a shipped model of evenly spaced points, its points ``factor`` times as far apart."""
    shutil.copytree(SHIPPED_MODELS / name, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"budget_window_tokens": 16 * factor}))


async def measure(factor: int, given: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """Rounds of 200 streams at once, with budgets stretched by ``factor``."""
    curves = read_curves(given.curves)
    states = read_hidden_states(given.hidden_states, curves.ids) if given.hidden_states else None
    mean = 64 * factor
    found: dict[str, Any] = {"mean_budget": mean, "last_point": 256 * factor, "rounds": []}
    with tempfile.TemporaryDirectory() as scratch:
        stretched_model(given.model, factor, Path(scratch) / "model")
        models = (f"--models={scratch}", f"--default-model={given.model}")
        async with backend() as url, service("predictor", *models) as predictor:
            flags = (
                "--backend=tgi", f"--backend-url={url}", f"--predictor={predictor.address}", "--answer-tokens=1",
                "--predictor-timeout-ms=5000", f"--tokens-per-query={mean}", "--no-reclaim", "--backend-slots=256",
            )  # fmt: skip
            async with service("scheduler", *flags) as running, AsyncSchedulerClient(running.address) as client:
                for turn in range(rounds):
                    budgets, used = np.zeros(_STREAMS), np.zeros(_STREAMS)
                    before = running.cpu_seconds()

                    async def ask(at: int, turn: int = turn, budgets: Any = budgets, used: Any = used) -> None:
                        row = (turn * _STREAMS + at) % len(curves.ids)
                        state = {} if states is None else {"hidden_state": states[row].tolist()}
                        reply = await client.complete(curves.questions[row], **state)
                        budgets[at] = reply.allocation.reasoning_budget_tokens
                        used[at] = reply.usage.reasoning_tokens

                    await at_once(_STREAMS, _STREAMS, ask)
                    found["rounds"].append(
                        {
                            "cpu_us_a_token": 1e6 * (running.cpu_seconds() - before) / float(used.sum()),
                            "memory_mb": running.memory_mb(),
                            "used_of_granted": float(used.mean()) / mean,
                            "largest_budget": float(budgets.max()),
                        }
                    )
                state = await client.budget()
                found["used_of_granted"] = state.used_tokens / (state.requests * mean)
    return found


def draw(path: Path, found: dict[str, Any]) -> None:
    """Memory and CPU a token, round by round."""
    drawing = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for name in ("short", "long"):
        rounds = found[name]["rounds"]
        left.plot([row["cpu_us_a_token"] for row in rounds], "o-", label=f"{name}: mean {found[name]['mean_budget']}")
        right.plot([row["memory_mb"] for row in rounds], "o-", label=name)
    left.set(title="CPU of the scheduler a token", xlabel="round of 200 streams", ylabel="µs", ylim=0)
    right.set(title="Memory of the scheduler", xlabel="round of 200 streams", ylabel="MB", ylim=0)
    left.legend(frameon=False)
    save(drawing, path)


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", type=Path, default=_DEMO)
    parser.add_argument("--hidden-states", type=Path)
    parser.add_argument("--model", default="gsm8k-r1-1.5b-text", help="a shipped predictor of evenly spaced points")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {"streams": _STREAMS}
    for name, factor, rounds in (("short", _SHORT, 4 * given.rounds), ("long", _LONG, given.rounds)):
        found[name] = asyncio.run(measure(factor, given, rounds))
        for row in found[name]["rounds"]:
            print(name, {key: round(value, 3) for key, value in row.items()})  # noqa: T201
    costs = {name: np.median([row["cpu_us_a_token"] for row in found[name]["rounds"]]) for name in ("short", "long")}
    found["long_to_short_cpu"] = float(costs["long"] / costs["short"])
    print(f"CPU a token, long to short: {found['long_to_short_cpu']:.2f}")  # noqa: T201
    keep(given, found, lambda path: draw(path, found))


if __name__ == "__main__":
    main()
