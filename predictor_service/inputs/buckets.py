"""Which rows of a batch run together: rows of like length, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence

# A run of its own costs about as much as this many tokens: 1.8 ms to 0.24 ms a token on a 22M encoder and one core,
# where batches of 32 texts of 8 to 130 tokens run 3.3 times as fast as padded to the longest.
_RUN_TOKENS = 8


def buckets(lengths: Sequence[int], run_tokens: int = _RUN_TOKENS) -> list[list[int]]:
    """Split rows by length so that the fewest tokens are worked on; returns lists of positions, shortest rows first.

    A bucket costs its longest row times its rows, and ``run_tokens`` for the run itself. Exact: the best split of the
    sorted rows, which are few, by dynamic programming over the distinct lengths.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ends = [at for at in range(1, len(order) + 1) if at == len(order) or lengths[order[at]] != lengths[order[at - 1]]]
    best: dict[int, tuple[int, int]] = {0: (0, 0)}  # rows done → cost so far, where the last bucket began
    for end in ends:
        longest = lengths[order[end - 1]]
        best[end] = min((cost + longest * (end - start) + run_tokens, start) for start, (cost, _) in best.items())
    found: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        found.append(order[start:end])
        end = start
    return found[::-1]
