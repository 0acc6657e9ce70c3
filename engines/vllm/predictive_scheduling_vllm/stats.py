"""What became of the states, for vLLM's log and its ``/metrics``: ``vllm:prompt_states_total{result=…}``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

RESULTS = ("sent", "late", "queue_full", "unreachable", "refused", "failed")


@dataclass
class StateStats(KVConnectorStats):
    """Counts by result since they were last read."""

    def reset(self) -> None:
        """Count from zero."""
        self.data: dict[str, int | float] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Add the counts of another."""
        self.data = dict(Counter(self.data) + Counter(other.data))
        return self

    def reduce(self) -> dict[str, int | float]:
        """Return the counts, for the log."""
        return {f"prompt states {result}": count for result, count in self.data.items()}

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not any(self.data.values())


class StateMetrics(KVConnectorPromMetrics):
    """The counter, by engine and result."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        """Register the counter, every result at zero."""
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        counter = self._counter_cls(
            name="vllm:prompt_states",
            documentation="Hidden states of prompts and ends of requests, by what became of sending them.",
            labelnames=[*labelnames, "result"],
        )
        self._counters = {
            engine: {result: counter.labels(*values, result) for result in RESULTS}
            for engine, values in per_engine_labelvalues.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Add what was counted since the last time."""
        for result, count in transfer_stats_data.items():
            if result in self._counters[engine_idx]:
                self._counters[engine_idx][result].inc(count)
