"""The answer to a chat completion, whole or in chunks. Reasoning comes as ``reasoning_content``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scheduler_service.api.openai.answer import Fault, Frame, Json, Said
from scheduler_service.api.openai.chat_request import ChatRequest
from scheduler_service.domain import Event, Text, TextKind, Usage

_DONE = Frame("[DONE]")


class ChatAnswer:
    """Answers ``asked`` in OpenAI's form of chat completions."""

    def __init__(self, asked: ChatRequest, request_id: str, model: str, created: int) -> None:
        """Answer as ``model``; ``created``: the time, in seconds since 1970."""
        self._asked, self._said = asked, Said()
        self._names = {"id": f"chatcmpl-{request_id}", "created": created, "model": model}

    def opened(self) -> Iterator[Frame]:
        """Say who speaks."""
        yield self._chunk({"role": "assistant", "content": ""})

    def add(self, event: Event) -> Iterator[Frame]:
        """Return the chunks of an event."""
        self._said.add(event)
        match event:
            case Text() if event.text:
                yield self._chunk({"content" if event.kind is TextKind.ANSWER else "reasoning_content": event.text})
            case Usage():
                yield self._chunk({}, _finish(self._said))
                if self._asked.stream_options.include_usage:
                    yield Frame({**self._named("chat.completion.chunk", []), "usage": _usage(self._said)})
                yield _DONE

    def broken(self, fault: Fault) -> Iterator[Frame]:
        """Say the error in the stream."""
        yield Frame(fault.body())
        yield _DONE

    def whole(self, said: Said) -> Json:
        """Return the completion."""
        message = {"role": "assistant", "content": said.answer, "reasoning_content": said.reasoning}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(said)}
        return {**self._named("chat.completion", [choice]), "usage": _usage(said)}

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> Frame:
        return Frame(self._named("chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": finish}]))

    def _named(self, kind: str, choices: list[Any]) -> Json:
        return {**self._names, "object": kind, "choices": choices}


def _finish(said: Said) -> str:
    return "length" if said.cut else "stop"


def _usage(said: Said) -> Json:
    return {
        "prompt_tokens": said.usage.prompt_tokens,
        "completion_tokens": said.completion_tokens,
        "total_tokens": said.usage.prompt_tokens + said.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": said.usage.reasoning_tokens},
        "predictive_scheduling": said.budget(),
    }
