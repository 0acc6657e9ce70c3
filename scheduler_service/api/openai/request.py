"""What chat completions and responses ask for alike, and how either refuses what is not served.

A field that is ``null`` counts as absent. What would change the answer and is not served is refused by its name, and so
are unknown fields; hints that change nothing (``user``, ``metadata``, …) are taken and have no effect.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.api.budget_words import BudgetFields, Count, Flag, Parsed, Real
from scheduler_service.api.messages import effort_value
from scheduler_service.domain import InvalidRequestError

# Fields that are not served: the values that change nothing, which are accepted, and why others are refused.
Unserved = Mapping[str, tuple[tuple[Any, ...], str]]

# What changes nothing about an answer.
HINTS = ("user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
         "parallel_tool_calls")  # fmt: skip

# What is taken of words that are objects.
_PARTS = {
    "reasoning": ("effort", "summary"),
    "thinking": ("type", "budget_tokens"),
    "chat_template_kwargs": ("enable_thinking",),
}
_UINT32 = 2**32 - 1
Text = Annotated[str, Field(strict=True)]


class StreamOptions(Parsed):
    """What a stream shall bring besides its text."""

    include_usage: Flag = False
    include_obfuscation: Flag = False


class GenerationRequest(BudgetFields):
    """A generation as it is asked for; fields of our own are those of the proto's ``Job``."""

    model: Text = ""
    stream: Flag = False
    stream_options: StreamOptions = StreamOptions()
    temperature: Real | None = None
    top_p: Real | None = None
    top_k: Count | None = None
    # OpenAI's seeds have 64 bits and a sign, ours 32.
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)] | None = None
    tenant: Text = ""
    traces: Count = 0
    request_id: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _words_that_are_served(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name, parts in _PARTS.items():
            word = value.get(name)
            for part, said in word.items() if isinstance(word, dict) else ():
                if part not in parts and said is not None:
                    raise InvalidRequestError(f"{name}.{part}", "not supported")
        reasoning = value.get("reasoning")
        if isinstance(reasoning, dict) and reasoning.get("summary") not in (None, "auto"):
            raise InvalidRequestError("reasoning.summary", "reasoning is returned as it is, not summarised")
        return value

    @property
    @abstractmethod
    def prompt(self) -> str:
        """The prompt, before the model's template."""

    def message(self) -> pb.GenerateRequest:
        """The request of the gRPC API that asks for the same; its constraints are yet to be checked.

        ``words`` has what that API has no field for.
        """
        sampling = pb.Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=None if self.seed is None else self.seed & _UINT32,
        )
        return pb.GenerateRequest(
            job=pb.Job(
                prompt=self.prompt,
                request_id=self.request_id,
                model=self.model,
                tenant=self.tenant,
                priority=self.priority,
                min_reasoning_tokens=self.min_reasoning_tokens,
                max_reasoning_tokens=self.max_reasoning_tokens,
                sampling=sampling,
                traces=self.traces,
                effort=effort_value(self.words().effort),
                weight=self.weight,
            )
        )


def served(value: Any, unserved: Unserved, hints: Sequence[str]) -> Any:
    """Return a body without what changes nothing. Raises InvalidRequestError for what is not served."""
    if not isinstance(value, dict):
        return value
    for name, (harmless, why) in unserved.items():
        if value.get(name) is not None and not _harmless(value[name], harmless):
            raise InvalidRequestError(name, why)
    return without(value, *unserved, *hints)


def without(value: Any, *names: str) -> Any:
    """Return a JSON object without some of its fields, anything else as it is."""
    return {k: v for k, v in value.items() if k not in names} if isinstance(value, dict) else value


def _harmless(asked: Any, values: Sequence[Any]) -> bool:
    return any(asked == one and isinstance(asked, bool) == isinstance(one, bool) for one in values)
