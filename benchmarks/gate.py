"""Has anything become slower than it may? Ratios to what was measured beside it in the same run, whatever the machine.

    python -m benchmarks.gate out/bench

The folder holds what ``make bench`` wrote. Each limit has a third of room above what is usual, since medians move by a
tenth from run to run. It is run on request, never by the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Limit:
    """A ratio of a program's figures, and the most that it may be."""

    program: str
    what: str
    ratio: Callable[[Any], float]
    most: float


def _served(graph: str, callers: str) -> Callable[[Any], float]:
    def ratio(found: Any) -> float:
        costs = found[graph]["served"][callers]
        return float(costs["predictor"]["cpu_us_a_query"] / costs["plain batcher"]["cpu_us_a_query"])

    return ratio


LIMITS = (
    Limit("allocation", "envelope of 100,000, to an argsort", lambda found: found["against_argsort"]["ratio"], 3.5),
    Limit("streaming", "CPU a token at 64 at once, to a bare proxy", lambda found: _cost(found["64"]), 0.75),
    Limit("gateway", "CPU of a request of 128 tokens, to a minimal processor", lambda found: _asked(found["128"]), 3.0),
    Limit("predictor", "tiny graph, one at a time, to a plain batcher", _served("demo-text", "1"), 1.6),
    Limit("predictor", "tiny graph, 64 at once, to a plain batcher", _served("demo-text", "64"), 2.0),
    Limit("predictor", "encoder, 64 at once, to a plain batcher", _served("encoder", "64"), 1.8),
    Limit("growth", "to come in with 100,000 in flight, to 1,000", lambda found: _growth(found, "in_us"), 2.0),
    Limit("growth", "to end with 100,000 in flight, to 1,000", lambda found: _growth(found, "out_us"), 2.0),
)  # fmt: skip


def _cost(contenders: Any) -> float:
    return float(contenders["scheduler"]["cpu_us_a_token"] / contenders["bare proxy"]["cpu_us_a_token"])


def _asked(contenders: Any) -> float:
    return float(contenders["gateway"]["cpu_ms_a_request"] / contenders["minimal processor"]["cpu_ms_a_request"])


def _growth(found: Any, key: str) -> float:
    measured = found["requests"]["measured"]
    return float(measured["100000"][key] / measured["1000"][key])


def main() -> int:
    """Print each ratio; returns 1 where one is beyond its limit or could not be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    beyond = 0
    for limit in LIMITS:
        path = folder / f"{limit.program}.json"
        if not path.exists():
            print(f"{limit.program:11} {limit.what:50} {path} is missing: make bench")  # noqa: T201
            beyond += 1
            continue
        ratio = limit.ratio(json.loads(path.read_text()))
        beyond += ratio > limit.most
        verdict = "ok" if ratio <= limit.most else "BEYOND"
        print(f"{limit.program:11} {limit.what:50} {ratio:5.2f}, at most {limit.most:.2f}: {verdict}")  # noqa: T201
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main())
