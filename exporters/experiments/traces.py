"""Self-consistency: when does a second trace beat longer reasoning? By resampling the traces that were collected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from math import comb

import numpy as np

from exporters.experiments.table import Floats, Table
from exporters.measure.curves import WINDOW_TOKENS

TRACES = (1, 2, 3, 5, 8)
_MOST_SUBSETS = 300


def vote(answers: Sequence[str], right: frozenset[str]) -> float:
    """Chance that the most frequent answer is right, where ties are broken by lot; no answer is no vote."""
    counts = Counter(answer for answer in answers if answer)
    if not counts:
        return 0.0
    most = max(counts.values())
    leaders = [answer for answer, count in counts.items() if count == most]
    return sum(answer in right for answer in leaders) / len(leaders)


def vote_curve(answers: Sequence[Sequence[str]], right: frozenset[str], traces: int) -> Floats:
    """Accuracy of a vote among ``traces`` of one question's traces (traces × windows), at each window: (K,).

    The mean over all subsets of the collected traces, or over some hundreds where there are more.
    """
    subsets = list(_subsets(len(answers), traces))
    windows = range(len(answers[0]))
    return np.array(
        [np.mean([vote([answers[trace][at] for trace in chosen], right) for chosen in subsets]) for at in windows]
    )


def _subsets(count: int, size: int) -> Iterator[Sequence[int]]:
    if comb(count, size) <= _MOST_SUBSETS:
        yield from combinations(range(count), size)
        return
    rng = np.random.default_rng(0)
    yield from islice((tuple(rng.choice(count, size, replace=False)) for _ in iter(int, 1)), _MOST_SUBSETS)


def vote_curves(
    answers: Sequence[Sequence[Sequence[str]]],
    expected: Sequence[str],
    is_right: Callable[[str, str], bool],
    canonical: Callable[[str], str],
) -> dict[int, Floats]:
    """Mean accuracy of votes by the number of traces, at each window (K,); ``answers``: questions × traces × windows.

    ``canonical`` brings answers into the form in which they are counted as the same.
    """
    collected = min(len(traces) for traces in answers)
    rows: dict[int, list[Floats]] = {count: [] for count in TRACES if count <= collected}
    for traces, wanted in zip(answers, expected, strict=True):
        counted = [[canonical(answer) for answer in trace] for trace in traces]
        pairs = {canonical(answer): answer for trace in traces for answer in trace}
        right = frozenset(form for form, answer in pairs.items() if is_right(wanted, answer))
        for count, found in rows.items():
            found.append(vote_curve(counted, right, count))
    return {count: np.mean(found, axis=0) for count, found in rows.items()}


def traces_table(curves: dict[int, Floats]) -> Table:
    """Accuracy by total reasoning tokens, all traces together, when each trace gets an equal part."""
    windows = len(curves[1])
    totals = [
        WINDOW_TOKENS * count for count in (2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 64) if count <= windows * max(curves)
    ]
    rows = []
    for count, curve in curves.items():
        cells = []
        for total in totals:
            window = total // count // WINDOW_TOKENS
            cells.append(f"{100 * curve[window - 1]:.1f}" if 1 <= window <= windows else "")
        rows.append([str(count), *cells])
    return Table(["traces", *[f"{total} tokens" for total in totals]], rows)
