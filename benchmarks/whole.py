"""The whole, by the real services: accuracy for the same tokens, tokens for the same accuracy, and when it pays.

    python -m benchmarks.whole --curves CURVES --hidden-states STATES --json whole.json --plot whole.svg

Predictor and scheduler run as processes; a backend writes as many tokens as it is asked for; every question goes
through them by gRPC, some at a time, in the file's order. A question counts with its measured accuracy at the reasoning
tokens that it was given. Uniform goes through the same scheduler by its policy of that name. The time added is what the
scheduler tells of each request (window, prediction, allocation); what the saved tokens are worth depends on the LLM's
speed, so the balance is drawn over it: a request pays where tokens saved at equal accuracy × seconds a token exceed
what it waited.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.callers import at_once, keep
from benchmarks.processes import backend, service
from exporters.measure.curves import WINDOW_TOKENS, Curves, read_curves
from exporters.measure.hidden_states import read_hidden_states
from predictive_scheduling import AsyncSchedulerClient

_CALLERS = 16
_SPEEDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
Floats = NDArray[np.float64]


def accuracy_at(curves: Floats, tokens: Floats | float) -> float:
    """Mean measured accuracy at so many reasoning tokens each, of whole windows."""
    windows = np.broadcast_to(np.asarray(tokens) // WINDOW_TOKENS, (len(curves),)).astype(int)
    found = np.where(windows > 0, curves[np.arange(len(curves)), np.maximum(windows, 1) - 1], 0.0)
    return float(found.mean())


def uniform_tokens_for(curves: Floats, accuracy: float) -> float | None:
    """Tokens a question that uniform needs for this accuracy, between windows by a straight line; None beyond all."""
    means = np.concatenate([[0.0], curves.mean(axis=0)])
    reached = np.flatnonzero(means >= accuracy)
    if not len(reached):
        return None
    at = int(reached[0])
    share = (accuracy - means[at - 1]) / (means[at] - means[at - 1])
    return float(WINDOW_TOKENS * (at - 1 + share))


async def replay(address: str, curves: Curves, states: NDArray[np.float32] | None) -> dict[str, Floats]:
    """Send every question; returns tokens, seconds added and tokens expected to be saved, each (n,)."""
    count = len(curves.ids)
    tokens, added, saved = np.zeros(count), np.zeros(count), np.zeros(count)
    async with AsyncSchedulerClient(address) as client:

        async def ask(at: int) -> None:
            state = {} if states is None else {"hidden_state": states[at].tolist()}
            reply = await client.complete(curves.questions[at], **state)
            given = reply.allocation
            tokens[at] = reply.usage.reasoning_tokens
            added[at] = given.added_seconds
            saved[at] = reply.usage.tokens_saved_at_equal_accuracy

        await at_once(count, _CALLERS, ask)
    return {"tokens": tokens, "added": added, "saved": saved}


async def measure(curves: Curves, states: NDArray[np.float32] | None, model: str, budgets: list[int]) -> dict[str, Any]:
    """Measure every policy at every budget."""
    found: dict[str, Any] = {"questions": len(curves.ids), "model": model, "policies": {}}
    cap = curves.accuracy.shape[1] * WINDOW_TOKENS
    async with backend() as url, service("predictor", f"--default-model={model}") as predictor:
        for policy in ("uniform", "envelope", "price"):
            for budget in budgets:
                flags = (
                    "--backend=tgi", f"--backend-url={url}", f"--predictor={predictor.address}",
                    "--predictor-timeout-ms=2000", f"--policy={policy}", f"--tokens-per-query={budget}",
                    f"--cap-tokens={cap}", "--floor-tokens=16", "--answer-tokens=1", "--no-reclaim",
                    f"--window-size={_CALLERS}", "--window-ms=100",
                )  # fmt: skip
                async with service("scheduler", *flags) as running:
                    seen = await replay(running.address, curves, states)
                found["policies"].setdefault(policy, {})[budget] = _summary(curves.accuracy, seen)
    return found


def _summary(curves: Floats, seen: dict[str, Floats]) -> dict[str, Any]:
    accuracy = accuracy_at(curves, seen["tokens"])
    needed = uniform_tokens_for(curves, accuracy)
    balance = {
        str(pace): {
            "share_that_pays": float((seen["saved"] * pace > seen["added"]).mean()),
            "mean_seconds": float((seen["saved"] * pace - seen["added"]).mean()),
        }
        for pace in _SPEEDS
    }
    spent, added = float(seen["tokens"].mean()), float(seen["added"].mean())
    saves = needed is not None and needed > spent + 1  # less is rounding
    p50, p99 = 1e3 * np.quantile(seen["added"], [0.5, 0.99])
    return {
        "tokens": spent,
        "accuracy": accuracy,
        "uniform_tokens_for_this_accuracy": needed,
        "added_ms": {"p50": float(p50), "p99": float(p99)},
        "expected_saved_tokens": float(seen["saved"].mean()),
        "pays_from_seconds_per_token": added / (needed - spent) if needed is not None and saves else None,
        "balance": balance,
    }


def draw(path: Path, found: dict[str, Any]) -> None:
    """Accuracy against tokens, and the share of requests that pays against the LLM's speed."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for policy, budgets in found["policies"].items():
        rows = list(budgets.values())
        left.plot([row["tokens"] for row in rows], [100 * row["accuracy"] for row in rows], "o-", label=policy)
    left.set(title="Measured accuracy, by the real services", xlabel="reasoning tokens a question", ylabel="%")
    left.legend(frameon=False)
    for budget, row in found["policies"]["price"].items():
        shares = [100 * one["share_that_pays"] for one in row["balance"].values()]
        right.plot([1e3 * pace for pace in _SPEEDS], shares, "o-", label=f"{budget} tokens")
    right.set(title="Requests that save more time than they wait", xlabel="ms a token", ylabel="%", xscale="log")
    right.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--hidden-states", type=Path)
    parser.add_argument("--model", default="gsm8k-r1-1.5b-hidden", help="a shipped predictor")
    parser.add_argument("--budgets", type=int, nargs="*", default=[32, 48, 64, 96, 128])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    curves = read_curves(given.curves)
    states = read_hidden_states(given.hidden_states, curves.ids) if given.hidden_states else None
    found = asyncio.run(measure(curves, states, given.model, given.budgets))
    for policy, budgets in found["policies"].items():
        for budget, row in budgets.items():
            needed = row["uniform_tokens_for_this_accuracy"]
            same = "beyond uniform at any budget" if needed is None else f"uniform needs {needed:5.1f}"
            print(  # noqa: T201
                f"{policy:9} {budget:>4}: {row['tokens']:6.1f} tokens, {100 * row['accuracy']:5.1f} %, {same}, "
                f"added p50 {row['added_ms']['p50']:.1f} ms, p99 {row['added_ms']['p99']:.1f} ms, "
                f"pays from {row['pays_from_seconds_per_token']} s a token"
            )
    keep(given, found, lambda path: draw(path, json.loads(json.dumps(found))))


if __name__ == "__main__":
    main()
