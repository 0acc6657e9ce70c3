"""Models on trial: a canary answers a share of another model's calls, a shadow is only compared with what was answered.

Which calls fall into a share is decided by what they ask, so that a query that comes again has the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor_service.inputs.features import Query

KINDS = ("canary", "shadow")


@dataclass(frozen=True)
class Trial:
    """The model on trial, and the share of the calls that it gets, above 0 and at most 1."""

    model: str
    share: float

    @classmethod
    def parse(cls, text: str) -> Trial:
        """Read ``name`` or ``name:share``. Raises ValueError for anything else."""
        name, _, share = text.partition(":")
        trial = cls(name.strip(), float(share or 1.0))
        if not trial.model or not 0 < trial.share <= 1:
            raise ValueError(f"{text!r}: write model:share, the share above 0 and at most 1")
        return trial

    def takes(self, queries: Sequence[Query]) -> bool:
        """Whether a call falls into the share."""
        return self.share >= 1 or _position(queries[0]) < self.share


def _position(query: Query) -> float:
    """A query's number from 0 to 1, which follows from its digest."""
    state = b"" if query.hidden_state is None else query.hidden_state.tobytes()
    digest = hashlib.blake2b(query.text.encode() + b"\0" + state, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass
class TrialRecord:
    """What came of a trial so far: queries, failures, curves compared, and seconds in the graph."""

    queries: int = 0
    failures: int = 0
    compared: int = 0
    difference: float = 0.0
    seconds: float = 0.0

    def answered(self, queries: int, seconds: float) -> None:
        """Note that so many queries were predicted in one batch."""
        self.queries += queries
        self.seconds += seconds

    def differed(self, returned: NDArray[np.float32], tried: NDArray[np.float32]) -> float:
        """Note how far the trial's curves lie from those that were returned, both (n, K); returns the mean of it.

        Curves that are no numbers, which are abstained on, are not compared: they would be in every later mean.
        """
        apart = np.abs(returned - tried).mean(axis=1)
        apart = apart[np.isfinite(apart)]
        self.compared += len(apart)
        self.difference += float(apart.sum())
        return float(apart.mean()) if len(apart) else 0.0

    @property
    def mean_difference(self) -> float:
        """Mean absolute difference of the curves, 0 where none were compared."""
        return self.difference / self.compared if self.compared else 0.0

    @property
    def seconds_per_query(self) -> float:
        """Mean time in the graph, 0 before the first query."""
        return self.seconds / self.queries if self.queries else 0.0


class Trials:
    """Which model is on trial beside which, and their counts."""

    def __init__(self, canary: Mapping[str, Trial] | None = None, shadow: Mapping[str, Trial] | None = None) -> None:
        """Try ``canary`` and ``shadow``, by the name of the model whose calls they get."""
        self._trials = {"canary": dict(canary or {}), "shadow": dict(shadow or {})}
        self._records = {(kind, name): TrialRecord() for kind in KINDS for name in self._trials[kind]}

    def find(self, kind: str, model: str, queries: Sequence[Query]) -> tuple[Trial, TrialRecord] | None:
        """The trial of that kind that gets this call of ``model``, and its record."""
        trial = self._trials[kind].get(model)
        if trial is None or not trial.takes(queries):
            return None
        return trial, self._records[kind, model]

    def of(self, model: str) -> list[tuple[str, Trial, TrialRecord]]:
        """The trials beside a model: kind, trial, record."""
        return [
            (kind, self._trials[kind][model], self._records[kind, model])
            for kind in KINDS
            if model in self._trials[kind]
        ]
