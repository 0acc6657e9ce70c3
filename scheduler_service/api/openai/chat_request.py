"""The body of an OpenAI chat completion, parsed once: what it asks for in our words, or which field is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from predictive_scheduling.chat_prompt import joined
from scheduler_service.api.budget_words import Parsed, validated
from scheduler_service.api.openai.request import HINTS, GenerationRequest, Text, Unserved, served, without

_UNSERVED: Unserved = {
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
    "verbosity": (("medium",), "answers are as long as the model writes them"),
    "web_search_options": ((), "the web is not searched"),
    "store": ((False,), "completions are not stored"),
}


class _Part(Parsed):
    """A part of a message's text."""

    type: Literal["text"] = "text"
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _without_hints(cls, value: Any) -> Any:
        return without(value, "cache_control")


class _Message(Parsed):
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
        return without(value, "name", "reasoning_content", "reasoning", "refusal", "annotations")

    @property
    def text(self) -> str:
        """The message's text."""
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """A chat completion as it is asked for."""

    messages: Annotated[list[_Message], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _served(cls, value: Any) -> Any:
        """Refuse what is not served, and leave out what changes nothing."""
        return served(value, _UNSERVED, (*HINTS, "metadata", "prediction"))

    @property
    def prompt(self) -> str:
        """The messages as one prompt."""
        return joined([(message.role, message.text) for message in self.messages])


def parse_chat(body: bytes) -> ChatRequest:
    """Return what a body asks for. Raises InvalidRequestError, naming the fields, for anything else."""
    return validated(lambda: ChatRequest.model_validate_json(body))
