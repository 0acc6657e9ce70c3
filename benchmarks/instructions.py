"""Instructions of an allocation, counted by callgrind: the same on every run, whatever else the machine does.

    python -m benchmarks.instructions

Needs valgrind. Each work runs once and then eleven times in a process of its own; a tenth of the difference is one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.allocation import POINTS, curves
from scheduler_service.allocation import POLICIES, Curve, Problem, make_plan
from scheduler_service.allocation.price import DualPrice

_MORE = 10


def works() -> dict[str, Callable[[], object]]:
    """What is counted: plans of a window of 32, and one decision of the price."""
    window = Problem(POINTS, curves(32), np.full(32, 16), np.full(32, 256), 64 * 32)
    price, known = DualPrice(), np.ones(32, dtype=bool)
    one = Curve(tuple(POINTS.tolist()), tuple(curves(1)[0].tolist()))
    plans = {
        f"{name}, window of 32": partial(make_plan, POLICIES[name], window, known)
        for name in ("uniform", "greedy", "envelope", "exact")
    }
    return plans | {"price, one request": lambda: price.decide(one, 16, 256, 64.0, 0.0, 640.0)}


def count(name: str, times: int) -> int:
    """Instructions of a process that does the work so many times."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={Path(scratch) / 'out'}"]
        itself = [sys.executable, "-m", "benchmarks.instructions", f"--work={name}", f"--times={times}"]
        environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([*command, *itself], env=environment, check=True, capture_output=True, text=True)  # noqa: S603  # ourselves
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"callgrind counted nothing:\n{done.stderr}")
    return int(found[1])


def main() -> None:
    """Do one work, or count all and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work")
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    if given.work:
        work = works()[given.work]
        for _ in range(given.times):
            work()
        return
    for name in works():
        instructions = (count(name, 1 + _MORE) - count(name, 1)) / _MORE
        print(f"{name:24} {instructions / 1e6:8.2f} million instructions")  # noqa: T201


if __name__ == "__main__":
    main()
