"""Prompts of real traffic, where they come from, and how many of each tenant may teach.

A tenant's say is bounded: of what a model is trained or scored on, no tenant has more than a share, so that one who
sends much, or sends what is to mislead, moves little. Prompts are never written to a log, a card or an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from exporters.faults import CurvesFileError
from exporters.learning.states import PromptState
from exporters.measure.collect import Measured


@dataclass(frozen=True)
class Sample:
    """A prompt of a tenant that has agreed to it."""

    prompt: str = field(repr=False)
    tenant: str


class Source(Protocol):
    """Where samples come from. ``position``: how far it was read, where it would hand out the same again."""

    position: int

    async def take(self, most: int) -> list[Sample]:
        """Return what has come since the last call, in its order, ``most`` at most."""
        ...


@dataclass(frozen=True)
class Example:
    """A sample as it is kept. ``number``: of its arrival, rising; ``key``: a digest that only this loop can compute.

    ``measured``: its curves, once they are known; ``state``: of its prompt, where the LLM server gave it with them.
    """

    number: int
    key: str
    sample: Sample
    measured: Measured | None = field(default=None, repr=False)
    state: PromptState | None = field(default=None, repr=False)

    @property
    def tenant(self) -> str:
        """Whose prompt it is."""
        return self.sample.tenant


class OnMeasured(Protocol):
    """Is told what was measured of an example, by its key."""

    def __call__(self, key: str, measured: Measured, state: PromptState | None = None) -> None:
        """Take it."""
        ...


class FileSource:
    """Samples of a JSON-lines file: ``prompt`` (or ``question``) and, where known, ``tenant`` in each line.

    The file may grow; each call reads on where the last one stopped. One with fewer lines than were read is another
    file, and read from its first.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        """Read ``path``, when asked, from line ``position`` on."""
        self._path, self.position = path, position

    async def take(self, most: int) -> list[Sample]:
        """Return the next samples. Raises CurvesFileError with the line of the first fault, without its content.

        A last line that has no end yet, and is no sample, is taken to be still being written.
        """
        taken: list[Sample] = []
        # Not splitlines: JSON may hold separators of lines, such as U+2028, as they are.
        *lines, unfinished = self._path.read_bytes().split(b"\n")
        lines += [unfinished] if _row(unfinished) is not None else []
        if len(lines) < self.position:
            self.position = 0
        for number, line in enumerate(lines[self.position :], start=self.position + 1):
            if len(taken) == most:
                break
            self.position = number
            if line.strip():
                taken.append(self._sample(number, line))
        return taken

    def _sample(self, number: int, line: bytes) -> Sample:
        row = _row(line)
        prompt = None if row is None else row.get("prompt") or row.get("question")
        if row is None or not isinstance(prompt, str) or not isinstance(row.get("tenant", ""), str):
            raise CurvesFileError(f"{self._path}: line {number}: no JSON object with a prompt, and tenants as text")
        return Sample(prompt, row.get("tenant", ""))


def _row(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; ``None`` where it is none."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a pair of surrogates can be sent to nobody
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def fair(examples: Sequence[Example], share: float) -> list[Example]:
    """Return the examples in their order, but of each tenant at most ``share`` of what is returned: its latest.

    Where there are fewer tenants than that takes, each may have as much as any other.
    """
    counts = Counter(example.tenant for example in examples)
    most = _most_of_one(list(counts.values()), share)
    left = dict.fromkeys(counts, most)
    kept: list[Example] = []
    for example in reversed(examples):
        if left[example.tenant]:
            left[example.tenant] -= 1
            kept.append(example)
    return kept[::-1]


def _most_of_one(counts: list[int], share: float) -> int:
    """The largest number of one tenant's that is no more than ``share`` of what all then have."""
    if not counts:
        return 0
    allowed = max(share, 1 / len(counts))
    for most in range(max(counts), 1, -1):
        if most <= allowed * sum(min(count, most) for count in counts) + 1e-9:
            return most
    return 1
