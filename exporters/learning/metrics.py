"""What the loop says of itself, by OpenTelemetry. Each instrument is described in docs/metrics.md, with what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import get_args

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from exporters.learning.loop import Learner
from exporters.learning.measuring import Measuring
from exporters.learning.promotion import Interval, Word
from predictive_scheduling import semconv

_PREFIX = semconv.OWN + "learn."
_Read = Callable[[], Iterable[Observation]]


def watch(
    meters: metrics.MeterProvider, learner: Learner, measuring: Measuring, clock: Callable[[], float] = time.time
) -> None:
    """Observe the loop whenever metrics are collected, in the middle of a pass, too. Counts begin with the process.

    ``clock``: seconds since 1970, as the learner's.
    """
    meter, done, ledger, began = meters.get_meter("exporters.learning"), learner.done, learner.ledger, clock()

    def total(name: str, unit: str, description: str, read: _Read) -> None:
        meter.create_observable_counter(_PREFIX + name, [_callback(read)], unit, description)

    def gauge(name: str, unit: str, description: str, read: _Read) -> None:
        meter.create_observable_gauge(_PREFIX + name, [_callback(read)], unit, description)

    def questions() -> Iterable[Observation]:
        counts = {"measured": done.measured, "given_up": measuring.given_up, "refused": len(measuring.unmeasurable)}
        return [Observation(count, {"outcome": outcome}) for outcome, count in counts.items()]

    def gains(read: Callable[[Interval], float]) -> _Read:
        def found() -> Iterable[Observation]:
            latest = {"candidate": ledger.latest_gain("judged"), "default": ledger.latest_gain("watched")}
            return [Observation(read(gain), {"slot": slot}) for slot, gain in latest.items() if gain is not None]

        return found

    words = [word for word in get_args(Word) if word != "ignored"]
    total("samples", "{sample}", "Samples taken", lambda: [Observation(done.samples)])
    total("questions", "{question}", "Questions, by what became of measuring them", questions)
    total("tokens", "{token}", "Tokens generated for measuring", lambda: [Observation(measuring.backend.tokens)])
    total(
        "decisions", "{decision}", "Decisions, by word",
        lambda: [Observation(done.decisions[word], {"decision": word}) for word in words],
    )  # fmt: skip
    gauge(
        "version", "{version}", "Version in each slot, 0 for none",
        lambda: [Observation(version, {"slot": slot}) for slot, version in learner.served.items()],
    )  # fmt: skip
    gauge("gain", "1", "Gain in accuracy at the latest look", gains(lambda gain: gain.mean))
    gauge("gain.low", "1", "Lower bound of that gain's interval", gains(lambda gain: gain.low))
    gauge(
        "pass.age", "s", "Time since a pass was made to its end",
        lambda: [Observation(clock() - (learner.last_pass() or began))],
    )  # fmt: skip


def _callback(read: _Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: read()
