"""The words by which callers say how much a request may reason, and what each means here. Pure.

Callers bring words of several makers: OpenAI's ``reasoning_effort``, Anthropic's ``thinking``, those of vLLM, llama.cpp
and Qwen's templates, and our own. They all come down to four things: a floor, a cap, a limit of reasoning and answer
together, and a weight, which says what the request's accuracy is worth. Whatever reads bodies of chat completions or
responses reads these words here, so that they mean the same wherever they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scheduler_service.domain import Effort, InvalidRequestError

_EFFORTS = {Effort.MINIMAL: 0.25, Effort.LOW: 0.5, Effort.MEDIUM: 1.0, Effort.HIGH: 2.0, Effort.XHIGH: 4.0}
_DOUBLES_AT = 50  # the priority that weighs 2, so that 100 weighs 4, as much as the highest effort
LEAST_WEIGHT, MOST_WEIGHT = 1 / 16, 16.0

_UINT32 = 2**32 - 1
_MOST_FAULTS = 8  # that an error tells of
Count = Annotated[int, Field(strict=True, ge=0, le=_UINT32)]
Positive = Annotated[int, Field(strict=True, ge=1, le=_UINT32)]
Real = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
CountOrAny = Annotated[int, Field(strict=True, ge=-1, le=_UINT32)]  # llama.cpp's -1 is no limit
EffortWord = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

Model = TypeVar("Model", bound=BaseModel)


class Limit(NamedTuple):
    """A limit in tokens, and the field that set it."""

    tokens: int
    field: str


@dataclass(frozen=True)
class BudgetWords:
    """What a body says of its request's budget, in tokens; ``None`` for what it does not say.

    ``floor``: the least reasoning. ``cap``: the most, the least of all that were given; 0 is no reasoning.
    ``completion``: reasoning and answers together. ``effort``, ``priority``, ``factor``: what ``weight`` is made of.
    """

    floor: int | None = None
    cap: int | None = None
    completion: Limit | None = None
    effort: Effort | None = None
    priority: int = 0
    factor: float = 1.0

    @property
    def weight(self) -> float:
        """What the request's accuracy is worth, 1/16 to 16."""
        return weight_of(self.effort, self.priority, self.factor)


def weight_of(effort: Effort | None, priority: int, factor: float = 1.0) -> float:
    """What the accuracy of a request is worth that brings these words; 1 where it brings none. 1/16 to 16."""
    product = _EFFORTS.get(effort or Effort.MEDIUM, 1.0) * 2 ** (priority / _DOUBLES_AT) * factor
    return min(MOST_WEIGHT, max(LEAST_WEIGHT, product))


class Parsed(BaseModel):
    """A JSON object in which a null counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class _Word(Parsed):
    """A word that is an object. What it says besides is not about the budget."""

    model_config = ConfigDict(extra="ignore")


class _Reasoning(_Word):
    """OpenAI's word in responses."""

    effort: EffortWord | None = None


class _Thinking(_Word):
    """Anthropic's word."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None


class _TemplateArguments(_Word):
    """What a chat template is told."""

    enable_thinking: Flag | None = None


class BudgetFields(Parsed):
    """The fields of a body that are about its budget; ``words`` says what they mean together."""

    reasoning_effort: EffortWord | None = None
    reasoning: _Reasoning | None = None
    thinking: _Thinking | None = None
    enable_thinking: Flag | None = None
    chat_template_kwargs: _TemplateArguments | None = None
    thinking_token_budget: Count | None = None
    thinking_budget_tokens: CountOrAny | None = None
    reasoning_budget_tokens: CountOrAny | None = None
    min_reasoning_tokens: Count | None = None
    max_reasoning_tokens: Count | None = None
    max_completion_tokens: Positive | None = None
    max_output_tokens: Positive | None = None
    max_tokens: Positive | None = None
    priority: Annotated[int, Field(strict=True, ge=-100, le=100)] = 0
    weight: Annotated[float, Field(strict=True, ge=LEAST_WEIGHT, le=MOST_WEIGHT)] = 1.0

    def words(self) -> BudgetWords:
        """Return what the fields mean. Raises InvalidRequestError where two contradict each other."""
        effort = self._effort()
        caps = [self.max_reasoning_tokens, self.thinking_token_budget, self.thinking_budget_tokens]
        caps += [self.reasoning_budget_tokens, self.thinking.budget_tokens if self.thinking else None]
        known = [cap for cap in caps if cap is not None and cap >= 0]
        if effort is Effort.NONE or self._switched_off():
            known.append(0)
        return BudgetWords(
            self.min_reasoning_tokens, min(known, default=None), self._completion(), effort, self.priority, self.weight
        )

    def _effort(self) -> Effort | None:
        one, other = self.reasoning_effort, self.reasoning.effort if self.reasoning else None
        if one and other and one != other:
            raise InvalidRequestError("reasoning.effort", f"{other!r}, while reasoning_effort is {one!r}")
        return Effort(one or other) if one or other else None

    def _switched_off(self) -> bool:
        template = self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None
        disabled = self.thinking is not None and self.thinking.type == "disabled"
        return disabled or self.enable_thinking is False or template is False

    def _completion(self) -> Limit | None:
        """The limit of reasoning and answers together; of several names the newer one counts."""
        for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
            if (tokens := getattr(self, name)) is not None:
                return Limit(tokens, name)
        return None


class _AnyBody(BudgetFields):
    """A body whose other fields are for whoever answers it."""

    model_config = ConfigDict(extra="ignore")


def read(body: Mapping[str, Any]) -> BudgetWords:
    """Return what a body of a chat completion, a completion or a response says of its budget.

    ``body``: its JSON object. Raises InvalidRequestError, naming each field, for a word that is none.
    """
    return validated(lambda: _AnyBody.model_validate(body)).words()


def validated(validate: Callable[[], Model]) -> Model:
    """Return what ``validate`` makes of a body. Raises InvalidRequestError, naming each field that is wrong."""
    try:
        return validate()
    except ValidationError as error:
        faults = [(_path(fault["loc"]), fault["msg"]) for fault in error.errors(include_url=False, include_input=False)]
        raise InvalidRequestError(*faults[0], faults[1:_MOST_FAULTS]) from None


def _path(places: Sequence[int | str]) -> str:
    path = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)
    return path.lstrip(".") or "body"
