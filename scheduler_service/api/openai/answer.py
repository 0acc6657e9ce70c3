"""What an answer to OpenAI's clients is made of, whatever its form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from scheduler_service.domain import Allocation, Event, FinishReason, Text, TextKind, Usage

Json = dict[str, Any]


class Frame(NamedTuple):
    """A server-sent event: its data, as JSON where it is no text, and its name, which may be empty."""

    data: Mapping[str, Any] | str
    name: str = ""

    def encoded(self) -> bytes:
        """Return it as it goes over the wire."""
        data = self.data if isinstance(self.data, str) else json.dumps(self.data)
        name = f"event: {self.name}\n" if self.name else ""
        return f"{name}data: {data}\n\n".encode()


class Fault(NamedTuple):
    """An error as clients read it: what went wrong, of which kind it is, and which field is to blame."""

    message: str
    kind: str
    param: str | None = None

    def body(self) -> Json:
        """Return the body that says it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": None}}


class Answer(Protocol):
    """The answer to one request, whole or as a stream. Takes events, and returns what is to be sent."""

    def opened(self) -> Iterator[Frame]:
        """Return the frames with which a stream begins."""
        ...

    def add(self, event: Event) -> Iterator[Frame]:
        """Return the frames of an event; the usage is the last one."""
        ...

    def broken(self, fault: Fault) -> Iterator[Frame]:
        """Return the frames with which a stream ends that cannot go on."""
        ...

    def whole(self, said: Said) -> Json:
        """Return the body of an answer that is not streamed, after its last event."""
        ...


@dataclass
class Said:
    """What has been said of an answer so far; allocation and usage are there once it has ended."""

    reasoning: str = ""
    answer: str = ""
    allocation: Allocation = field(init=False)
    usage: Usage = field(init=False)

    def add(self, event: Event) -> None:
        """Take an event."""
        match event:
            case Allocation():
                self.allocation = event
            case Text(kind=TextKind.REASONING):
                self.reasoning += event.text
            case Text():
                self.answer += event.text
            case Usage():
                self.usage = event

    @property
    def cut(self) -> bool:
        """Whether the answer was cut at its limit."""
        return self.usage.finish_reason is FinishReason.ANSWER_LENGTH

    @property
    def completion_tokens(self) -> int:
        """Tokens of reasoning and answer."""
        return self.usage.reasoning_tokens + self.usage.answer_tokens

    def budget(self) -> Json:
        """What became of the budget."""
        return {
            "policy": self.allocation.policy,
            "reasoning_budget_tokens": self.usage.reserved_tokens,
            "baseline_tokens": self.allocation.baseline_tokens,
            "expected_accuracy": self.allocation.expected_accuracy,
            "prediction_outcome": self.allocation.prediction.outcome.value,
            "price": self.allocation.price,
            "tokens_saved_vs_cap": self.usage.saved_vs_cap_tokens,
            "forced": self.usage.finish_reason is not FinishReason.NATURAL,
            "traces": self.usage.traces,
            "votes": self.usage.votes,
        }
