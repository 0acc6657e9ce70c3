"""The body of an OpenAI chat completion, parsed once: what it asks for in our words, or which field is wrong.

A field that is ``null`` counts as absent. What would change the answer and is not served (``stop``, ``tools``,
``response_format``, …) is refused by its name, and so are unknown fields; hints that change nothing (``user``,
``metadata``, …) are taken and have no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.domain import InvalidRequestError

# Fields that are not served: the values that change nothing, which are accepted, and why others are refused.
_UNSERVED: dict[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "one choice is returned; traces votes over several"),
    "stop": (([],), "an answer ends where the model's template says"),
    "tools": (([],), "tools are not called"),
    "tool_choice": (("none", "auto"), "tools are not called"),
    "functions": (([],), "functions are not called"),
    "function_call": (("none", "auto"), "functions are not called"),
    "response_format": (({"type": "text"},), "answers are plain text"),
    "logprobs": ((False,), "log probabilities are not returned"),
    "top_logprobs": ((0,), "log probabilities are not returned"),
    "logit_bias": (({},), "not supported"),
    "presence_penalty": ((0,), "not supported"),
    "frequency_penalty": ((0,), "not supported"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "reasoning_effort": ((), "the scheduler chooses the budget; max_reasoning_tokens limits it"),
    "verbosity": (("medium",), "answers are as long as the model writes them"),
    "web_search_options": ((), "the web is not searched"),
    "store": ((False,), "completions are not stored"),
}
# What changes nothing about an answer.
_HINTS = (
    "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction",
    "parallel_tool_calls",
)  # fmt: skip

_UINT32 = 2**32 - 1
_MOST_FAULTS = 8  # that an error tells of
Count = Annotated[int, Field(strict=True, ge=0, le=_UINT32)]
Real = Annotated[float, Field(strict=True)]


class _Parsed(BaseModel):
    """A JSON object in which a null counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _without(value: Any, *names: str) -> Any:
    return {k: v for k, v in value.items() if k not in names} if isinstance(value, dict) else value


class _Part(_Parsed):
    """A part of a message's text."""

    type: Literal["text"] = "text"
    text: Annotated[str, Field(strict=True)]

    @model_validator(mode="before")
    @classmethod
    def _without_hints(cls, value: Any) -> Any:
        return _without(value, "cache_control")


class _Message(_Parsed):
    """A chat message. What an earlier answer said besides its text does not become part of the prompt."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[_Part],
        Field(min_length=1),
        BeforeValidator(lambda value: [{"text": value}] if isinstance(value, str) else value),
    ]

    @model_validator(mode="before")
    @classmethod
    def _without_hints(cls, value: Any) -> Any:
        return _without(value, "name", "reasoning_content", "reasoning", "refusal", "annotations")

    @property
    def text(self) -> str:
        """The message's text."""
        return "".join(part.text for part in self.content)


class _StreamOptions(_Parsed):
    """What a stream shall bring besides its text."""

    include_usage: Annotated[bool, Field(strict=True)] = False
    include_obfuscation: Annotated[bool, Field(strict=True)] = False


def _harmless(asked: Any, values: Sequence[Any]) -> bool:
    return any(asked == one and isinstance(asked, bool) == isinstance(one, bool) for one in values)


class ChatRequest(_Parsed):
    """A chat completion as it is asked for; fields of our own are those of the proto's ``Job``."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    model: Annotated[str, Field(strict=True)] = ""
    stream: Annotated[bool, Field(strict=True)] = False
    stream_options: _StreamOptions = _StreamOptions()
    max_completion_tokens: Annotated[int, Field(strict=True, ge=1, le=_UINT32)] | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=_UINT32)] | None = None
    temperature: Real | None = None
    top_p: Real | None = None
    top_k: Count | None = None
    # OpenAI's seeds have 64 bits and a sign, ours 32.
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)] | None = None
    min_reasoning_tokens: Count | None = None
    max_reasoning_tokens: Count | None = None
    tenant: Annotated[str, Field(strict=True)] = ""
    priority: Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)] = 0
    traces: Count = 0
    request_id: Annotated[str, Field(strict=True)] = ""

    @model_validator(mode="before")
    @classmethod
    def _served(cls, value: Any) -> Any:
        """Refuse what is not served, and leave out what changes nothing."""
        if not isinstance(value, dict):
            return value
        for name, (harmless, why) in _UNSERVED.items():
            if value.get(name) is not None and not _harmless(value[name], harmless):
                raise InvalidRequestError(name, why)
        return _without(value, *_UNSERVED, *_HINTS)

    @property
    def completion_tokens(self) -> int | None:
        """The most tokens of reasoning and answer together; the newer of OpenAI's two names wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def prompt(self) -> str:
        """The prompt: a lone message as it is, several each after its role; the model's template goes around it."""
        if len(self.messages) == 1:
            return self.messages[0].text
        return "\n\n".join(f"{message.role.capitalize()}: {message.text}" for message in self.messages)

    def message(self) -> pb.GenerateRequest:
        """The request of the gRPC API that asks for the same; its constraints are yet to be checked."""
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
            )
        )


def parse(body: bytes) -> ChatRequest:
    """Return what a body asks for. Raises InvalidRequestError, naming the fields, for anything else."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        faults = [(_path(fault["loc"]), fault["msg"]) for fault in error.errors(include_url=False, include_input=False)]
        raise InvalidRequestError(*faults[0], faults[1:_MOST_FAULTS]) from None


def _path(places: Sequence[int | str]) -> str:
    path = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)
    return path.lstrip(".") or "body"
