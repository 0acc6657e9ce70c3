"""Follows the requests that want their state, from their first tokens to the step in which the prompt is computed.

Plain bookkeeping on the side of vLLM's scheduler. A prompt may be computed in several steps (chunks), begin behind a
prefix that the cache holds (never with its last token, which is always computed), be thrown back by a preemption and
begin again elsewhere, or be given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from predictive_scheduling_vllm.destinations import Wanted


@dataclass(frozen=True)
class Ready:
    """A prompt that this step computes to its end: its last token's place in the cache, and who wants its state."""

    wanted: Wanted
    block: int
    offset: int
    prompt_tokens: int


@dataclass
class _Request:
    wanted: Wanted
    prompt_tokens: int
    blocks: list[int] = field(default_factory=list)


class Prompts:
    """The requests whose state is still to be sent. ``block_size``: tokens of a block of the states' cache."""

    def __init__(self, block_size: int) -> None:
        """Follow none yet."""
        self._block_size = block_size
        self._followed: dict[str, _Request] = {}

    def __len__(self) -> int:
        return len(self._followed)

    def began(self, request: str, wanted: Wanted, prompt_tokens: int, blocks: Sequence[int]) -> None:
        """Follow a request from the step on in which it is scheduled for the first time."""
        self._followed[request] = _Request(wanted, prompt_tokens, list(blocks))

    def went_on(self, request: str, blocks: Sequence[int] | None, *, anew: bool) -> None:
        """A request is scheduled again: ``blocks`` are added to it, or are all it has where it begins ``anew``."""
        if (followed := self._followed.get(request)) is None:
            return
        followed.blocks = [*([] if anew else followed.blocks), *(blocks or ())]

    def ready(self, request: str, computed: int, scheduled: int) -> Ready | None:
        """Return a prompt that ends in this step: ``computed`` tokens before it, ``scheduled`` in it; and forget it."""
        followed = self._followed.get(request)
        if followed is None or computed + scheduled < followed.prompt_tokens:
            return None
        del self._followed[request]
        last = followed.prompt_tokens - 1
        at, offset = divmod(last, self._block_size)
        if not computed <= last or at >= len(followed.blocks):  # it was computed before, where we did not look
            return None
        return Ready(followed.wanted, followed.blocks[at], offset, followed.prompt_tokens)

    def ended(self, requests: Iterable[str]) -> None:
        """Forget requests that are over."""
        for request in requests:
            self._followed.pop(request, None)
