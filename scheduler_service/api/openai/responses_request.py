"""The body of an OpenAI response, parsed once: what it asks for in our words, or which field is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from predictive_scheduling.chat_prompt import joined
from scheduler_service.api.budget_words import Parsed, validated
from scheduler_service.api.openai.request import HINTS, GenerationRequest, Text, Unserved, served, without

_UNSERVED: Unserved = {
    "tools": (([],), "tools are not called"),
    "tool_choice": (("none", "auto"), "tools are not called"),
    "max_tool_calls": ((), "tools are not called"),
    "previous_response_id": ((), "responses are not stored; send the earlier turns as input"),
    "conversation": ((), "conversations are not stored; send the earlier turns as input"),
    "store": ((False,), "responses are not stored"),
    "background": ((False,), "responses are not stored"),
    "include": (([],), "nothing more is returned"),
    "prompt": ((), "prompts are not stored; send it as input"),
    "top_logprobs": ((0,), "log probabilities are not returned"),
    "truncation": (("disabled",), "inputs are not cut"),
}


class _Part(Parsed):
    """A part of a message's text, of the caller or of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _without_hints(cls, value: Any) -> Any:
        return without(value, "annotations", "logprobs")


class _Item(Parsed):
    """An item of the input: a message, or the reasoning of an earlier answer, which does not enter the prompt."""

    type: Literal["message", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[_Part],
        BeforeValidator(lambda value: [{"type": "input_text", "text": value}] if isinstance(value, str) else value),
    ]

    @model_validator(mode="before")
    @classmethod
    def _without_reasoning(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") == "reasoning":
            return {"type": "reasoning", "role": "assistant", "content": []}
        return without(value, "id", "status", "phase")

    @property
    def text(self) -> str:
        """The message's text."""
        return "".join(part.text for part in self.content)


class _Format(Parsed):
    """The form of an answer."""

    type: Literal["text"]


class _TextOptions(Parsed):
    """What an answer shall be like."""

    format: _Format | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesRequest(GenerationRequest):
    """A response as it is asked for."""

    input: Annotated[
        list[_Item],
        Field(min_length=1),
        BeforeValidator(lambda value: [{"role": "user", "content": value}] if isinstance(value, str) else value),
    ]
    instructions: Text = ""
    text: _TextOptions | None = None
    metadata: dict[Text, Text] = Field(default_factory=dict, max_length=16)

    @model_validator(mode="before")
    @classmethod
    def _served(cls, value: Any) -> Any:
        """Refuse what is not served, and leave out what changes nothing."""
        return served(value, _UNSERVED, HINTS)

    @property
    def prompt(self) -> str:
        """The instructions and the messages of the input as one prompt."""
        turns = [("system", self.instructions)] if self.instructions else []
        return joined([*turns, *((item.role, item.text) for item in self.input if item.type == "message")])


def parse_response(body: bytes) -> ResponsesRequest:
    """Return what a body asks for. Raises InvalidRequestError, naming the fields, for anything else."""
    return validated(lambda: ResponsesRequest.model_validate_json(body))
