"""What LLM servers say of their load on ``/metrics``, in Prometheus's text form. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_RUNNING = (
    "vllm:num_requests_running", "sglang:num_running_reqs", "tgi_batch_current_size", "llamacpp:requests_processing",
)  # fmt: skip
_WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "tgi_queue_size", "llamacpp:requests_deferred")
# Those of TGI and llama.cpp count a request's tokens once it has ended.
_GENERATED = ("vllm:generation_tokens_total", "sglang:generation_tokens_total")
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{[^\n]*\})?[ \t]+([^\s]+)")


@dataclass(frozen=True)
class Signals:
    """A server's load: requests that run and that wait, whoever sent them, and tokens generated since its start.

    ``generated``: ``None`` where it does not count them as they come.
    """

    running: float
    waiting: float
    generated: float | None = None


def signals_of(text: str) -> Signals | None:
    """Return what a page of metrics says; ``None`` where it says nothing of how many requests run."""
    found: dict[str, float] = {}
    wanted = {*_RUNNING, *_WAITING, *_GENERATED}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or sample[1] not in wanted:
            continue
        try:
            value = float(sample[2])
        except ValueError:
            continue
        if 0 <= value < float("inf"):
            found[sample[1]] = found.get(sample[1], 0.0) + value
    running = _first(found, _RUNNING)
    if running is None:
        return None
    return Signals(running, _first(found, _WAITING) or 0.0, _first(found, _GENERATED))


def together(all_signals: Iterable[Signals | None]) -> Signals | None:
    """The load of several servers as one; ``None`` where one of them says nothing, since the sum would be too small."""
    said = list(all_signals)
    known = [one for one in said if one is not None]
    if not known or len(known) < len(said):
        return None
    counts = [one.generated for one in known if one.generated is not None]
    generated = sum(counts) if len(counts) == len(known) else None
    return Signals(sum(one.running for one in known), sum(one.waiting for one in known), generated)


def _first(found: dict[str, float], names: Iterable[str]) -> float | None:
    return next((found[name] for name in names if name in found), None)
