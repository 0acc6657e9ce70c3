"""The answer to a response, whole or as a stream of events: a ``reasoning`` item, then a ``message`` item.

A stream opens each item and its only part, sends its text in deltas, and closes part and item before the next one
opens. Events are numbered. The last one holds the whole response, as it is returned where nothing is streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scheduler_service.api.openai.answer import Fault, Frame, Json, Said
from scheduler_service.api.openai.responses_request import ResponsesRequest
from scheduler_service.domain import Event, Text, TextKind, Usage

_EVENTS = {TextKind.REASONING: "response.reasoning_text", TextKind.ANSWER: "response.output_text"}


class ResponsesAnswer:
    """Answers ``asked`` in OpenAI's form of responses."""

    def __init__(self, asked: ResponsesRequest, request_id: str, model: str, created: int) -> None:
        """Answer as ``model``; ``created``: the time, in seconds since 1970."""
        self._asked, self._id, self._model, self._created = asked, request_id, model, created
        self._said, self._sent = Said(), 0
        self._opened: list[TextKind] = []  # the items of the stream, of which the last one is open

    def opened(self) -> Iterator[Frame]:
        """Say that the response has begun."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))

    def add(self, event: Event) -> Iterator[Frame]:
        """Return the events of the stream that an event of the generation makes."""
        self._said.add(event)
        match event:
            case Text() if event.text:
                if event.kind not in self._opened:
                    yield from self._next_item(event.kind)
                # Log probabilities belong to the text of answers alone.
                more: Json = {"logprobs": []} if event.kind is TextKind.ANSWER else {}
                yield self._within(event.kind, f"{_EVENTS[event.kind]}.delta", delta=event.text, **more)
            case Usage():
                if TextKind.ANSWER not in self._opened:  # an answer without a word is one, too
                    yield from self._next_item(TextKind.ANSWER)
                yield from self._close_item(_status(self._said))
                response = self.whole(self._said)
                yield self._event(f"response.{response['status']}", response=response)

    def broken(self, fault: Fault) -> Iterator[Frame]:
        """Say the error, and that the response has failed."""
        yield self._event("error", code=fault.kind, message=fault.message, param=fault.param)
        error = {"code": "server_error", "message": fault.message}
        yield self._event("response.failed", response={**self._response("failed"), "error": error})

    def whole(self, said: Said) -> Json:
        """Return the response."""
        status = _status(said)
        output = [self._item(TextKind.REASONING, said.reasoning, "completed")] if said.reasoning else []
        output.append(self._item(TextKind.ANSWER, said.answer, status))
        details = {"reason": "max_output_tokens"} if said.cut else None
        return {**self._response(status), "output": output, "incomplete_details": details, "usage": _usage(said)}

    def _response(self, status: str) -> Json:
        asked = self._asked
        effort = asked.words().effort
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": [],
            "usage": None,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions or None,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata,
            "reasoning": {"effort": effort.value if effort else None, "summary": None},
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "text": {"format": {"type": "text"}},
            "tools": [],
            "tool_choice": "none",
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "background": False,
            "store": False,
            "truncation": "disabled",
        }

    def _next_item(self, kind: TextKind) -> Iterator[Frame]:
        if self._opened:
            yield from self._close_item("completed")
        self._opened.append(kind)
        item = {**self._item(kind, "", "in_progress"), "content": []}
        yield self._event("response.output_item.added", output_index=self._place(kind), item=item)
        yield self._within(kind, "response.content_part.added", part=_part(kind, ""))

    def _close_item(self, status: str) -> Iterator[Frame]:
        kind = self._opened[-1]
        text = self._said.answer if kind is TextKind.ANSWER else self._said.reasoning
        more: Json = {"logprobs": []} if kind is TextKind.ANSWER else {}
        yield self._within(kind, f"{_EVENTS[kind]}.done", text=text, **more)
        yield self._within(kind, "response.content_part.done", part=_part(kind, text))
        item = self._item(kind, text, status)
        yield self._event("response.output_item.done", output_index=self._place(kind), item=item)

    def _item(self, kind: TextKind, text: str, status: str) -> Json:
        item: Json = {"id": self._item_id(kind), "status": status, "content": [_part(kind, text)]}
        if kind is TextKind.REASONING:
            return {**item, "type": "reasoning", "summary": []}
        return {**item, "type": "message", "role": "assistant"}

    def _item_id(self, kind: TextKind) -> str:
        return f"{'rs' if kind is TextKind.REASONING else 'msg'}_{self._id}"

    def _place(self, kind: TextKind) -> int:
        return self._opened.index(kind)

    def _within(self, kind: TextKind, name: str, **fields: Any) -> Frame:
        """An event of an item's only part."""
        place = {"item_id": self._item_id(kind), "output_index": self._place(kind), "content_index": 0}
        return self._event(name, **place, **fields)

    def _event(self, name: str, **fields: Any) -> Frame:
        frame = Frame({"type": name, "sequence_number": self._sent, **fields}, name)
        self._sent += 1
        return frame


def _part(kind: TextKind, text: str) -> Json:
    if kind is TextKind.REASONING:
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": []}


def _status(said: Said) -> str:
    return "incomplete" if said.cut else "completed"


def _usage(said: Said) -> Json:
    return {
        "input_tokens": said.usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": said.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": said.usage.reasoning_tokens},
        "total_tokens": said.usage.prompt_tokens + said.completion_tokens,
        "predictive_scheduling": said.budget(),
    }
