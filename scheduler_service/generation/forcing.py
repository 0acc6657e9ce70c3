"""Budget forcing without I/O: which call to make next, what each piece of text is, and when to stop reading.

Theory of operation. A generation is a chain of calls to a server that continues raw text. The first calls ask for
reasoning, never for more than is left of the budget. Three things can end the reasoning:

* the model writes ``think_end``: what follows is its own answer, read on in the same call;
* the budget is used up: the call is over, and the next one continues ``prompt + reasoning + answer_suffix``, which
  makes the model answer from what it has thought so far;
* the model stops without ``think_end``: its answer is asked for in the same way.

The answer ends at a stop text, at the model's own end, or after ``answer_tokens``. A text that may turn out to be the
start of ``think_end`` or of a stop is held back until it is decided; every other text leaves at once.

Progress is a law: a call ends the reasoning or the answer, or brings a token, or ``end_call`` says that it did neither
and the generation has failed. A piece that crosses a limit ends what the limit is of. So a generation is over after a
number of calls that the budgets bound, whatever a server writes or claims.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from scheduler_service.domain import FinishReason, Text, TextKind
from scheduler_service.generation.templates import PromptTemplate

# Calls that may end at a length before what they were asked for: a server may have a smaller limit of its own.
_MOST_SHORT_CALLS = 16
_MOST_BREAKS = 3  # of one generation: servers fail one after the other when they are restarted


class CallEnd(enum.Enum):
    """How a backend's call ended: at its most tokens, or by the model (end token or stop text)."""

    LENGTH = "length"
    MODEL = "model"


@dataclass(frozen=True)
class Call:
    """A request to continue ``prompt`` by at most ``max_tokens`` tokens, ending at any of ``stop``.

    ``turn``: the same as a chat. ``thinking_budget``: where the server is to end the thinking by itself, 0 for nowhere.
    ``report``: what the server is to say of it beside its answer, where it can. ``special_tokens``: these are part of
    the text. ``priority``: where a server serves by priority, those of lower numbers go first.
    """

    prompt: str
    max_tokens: int
    stop: tuple[str, ...] = ()
    turn: Turn | None = None
    thinking_budget: int = 0
    report: ReportRequest | None = None
    special_tokens: bool = False
    priority: int = 0


@dataclass(frozen=True)
class ReportRequest:
    """What a server is to send to the address ``to``, under the name ``id``.

    The hidden states of ``layers`` at the prompt's last token, as soon as they are there, and, once the call is over,
    how many tokens it generated.
    """

    to: str
    id: str
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A turn of a chat: what the user said, what the assistant has begun to say, and what ends its thinking."""

    user: str
    begun: str
    think_end: str


def held_back(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of ``text`` that could be the start of one of ``marks``."""
    longest = max((len(mark) - 1 for mark in marks), default=0)
    end = text[-longest:] if longest else ""
    if not any(mark[0] in end for mark in marks):  # nearly always: nothing in it could begin one
        return 0
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0


@dataclass
class BudgetForcing:
    """One generation. Feed it what the backend says; it says what to emit and what to call next.

    ``budget``: the most reasoning tokens; ``answer_tokens``: the most answer tokens; ``call_limit``: the most tokens to
    ask for in one call, 0 for any. ``server_budget``: the server ends the thinking by itself, and goes on with the
    answer in the same call; tokens are counted here all the same, and a server that does not is cut off. ``begun``:
    what was thought before, none of which counts here.
    """

    template: PromptTemplate
    prompt: str
    budget: int
    answer_tokens: int
    call_limit: int = 0
    server_budget: bool = False
    begun: str = ""
    reasoning_tokens: int = 0
    answer_used: int = 0
    forced: bool = False
    finish: FinishReason | None = None
    _kind: TextKind = TextKind.REASONING
    _thoughts: list[str] = field(default_factory=list)
    _answer: list[str] = field(default_factory=list)
    _held: str = ""
    _held_tokens: int = 0
    _cut: bool = False
    _closed_by: str = ""
    _server_ends_at: int | None = None
    _ends_at: int = 0
    _asked: int = 0
    _before: tuple[TextKind, int] = (TextKind.REASONING, 0)
    _short_calls: int = 0
    _breaks: int = 0
    _emitted: list[Text] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Go on from what was thought before."""
        self._thoughts.append(self.begun)

    def next_call(self) -> Call | None:
        """Return the call to make now, or ``None`` when the generation is over."""
        call = self._next_call()
        if call is not None:
            self._asked, self._before = call.max_tokens, (self._kind, self._counted)
        return call

    def _next_call(self) -> Call | None:
        if self.finish is not None:
            return None
        if self._kind is TextKind.REASONING:
            if self.reasoning_tokens < self.budget:
                return self._think(self.budget - self.reasoning_tokens)
            self._force()
        rest = self.answer_tokens - self.answer_used
        if rest <= 0:
            self._finish(FinishReason.ANSWER_LENGTH)
            return None
        begun = self._thought() + self._closed_by + "".join(self._answer) + self._held
        return self._call(begun, rest, stop=self.template.stop)

    def _think(self, rest: int) -> Call:
        """Ask for reasoning. A server that ends it by itself writes ``think_end`` as the budget's last token."""
        if not self.server_budget or rest < 2:
            call = self._call(self._thought() + self._held, rest)
            self._ends_at = self.reasoning_tokens + call.max_tokens
            return call
        self._ends_at = self.reasoning_tokens + rest
        self._server_ends_at = self._ends_at - 1
        return self._call(self._thought() + self._held, rest + self.answer_tokens, thinking_budget=rest - 1)

    def _call(self, begun: str, most: int, *, stop: tuple[str, ...] = (), thinking_budget: int = 0) -> Call:
        turn = Turn(self.prompt, self.template.think_start + begun, self.template.think_end)
        limit = min(most, self.call_limit) if self.call_limit else most
        return Call(
            self.template.render(self.prompt) + begun, limit, stop, turn, thinking_budget,
            special_tokens=self.template.special_marks,
        )  # fmt: skip

    def feed(self, text: str, tokens: int) -> bool:
        """Take a piece of the running call; returns whether to go on reading it."""
        if self._kind is TextKind.REASONING:
            return self._feed_reasoning(text, tokens)
        return self._feed_answer(text, tokens)

    def goes_on(self) -> bool:
        """Whether to go on reading the running call.

        Its reasoning is over where the budget is used up and the call was asked for more: the budget has become
        smaller since, or was not known yet.
        """
        if self._kind is TextKind.REASONING and self.reasoning_tokens >= self.budget < self._ends_at:
            self._force()
            return False
        return True

    def end_call(self, end: CallEnd) -> bool:
        """Take the end of a call that was read to its end; ``next_call`` then says how to go on.

        Returns whether the call got anywhere. One that ended nothing and brought nothing would be made again for ever.
        """
        if self.finish is not None:
            return True
        brought = self._counted - self._before[1]
        if end is CallEnd.LENGTH and self._kind is self._before[0] and not brought:
            return False
        self._short_calls += end is CallEnd.LENGTH and brought < self._asked
        spent = self._short_calls > _MOST_SHORT_CALLS
        if self._kind is TextKind.REASONING:
            if end is CallEnd.MODEL or spent:
                self._force()
        elif end is CallEnd.MODEL:
            self._finish(self._ended)
        elif spent or self.answer_used >= self.answer_tokens:
            self._finish(FinishReason.ANSWER_LENGTH)
        return True

    def broke_off(self) -> bool:
        """Take the end of a call that its server broke off; returns whether ``next_call`` may go on from there.

        It may where the call brought something, a few times: another server continues what was said so far.
        """
        if self.finish is not None or self._counted == self._before[1] or self._breaks >= _MOST_BREAKS:
            return False
        self._breaks += 1
        return True

    @property
    def reasoning(self) -> bool:
        """Whether the reasoning still goes on, so that it can be cut."""
        return self._kind is TextKind.REASONING and self.finish is None and not self._cut

    @property
    def grows(self) -> bool:
        """Whether a larger budget could be used: not where the server was told the budget and ends the thinking."""
        return self.reasoning and self._server_ends_at is None

    @property
    def _counted(self) -> int:
        return self.reasoning_tokens + self.answer_used

    @property
    def _ended(self) -> FinishReason:
        return FinishReason.FORCED if self.forced else FinishReason.NATURAL

    def set_budget(self, tokens: int) -> None:
        """The budget is now so many tokens; ``goes_on`` says whether that ends the running call. A cut stays one."""
        if not self._cut:
            self.budget = tokens

    def cut(self) -> None:
        """End the reasoning with what was thought so far; the next call forces the answer."""
        self.budget, self._cut = min(self.budget, self.reasoning_tokens), True

    def take(self) -> list[Text]:
        """Return what is to be emitted since the last call of this method."""
        emitted, self._emitted = self._emitted, []
        return emitted

    def _thought(self) -> str:
        """The reasoning as the prompt of the answer continues it: no doubled white space before what closes it."""
        thought = "".join(self._thoughts)
        return thought.rstrip() if self._closed_by[:1].isspace() else thought

    def _feed_reasoning(self, text: str, tokens: int) -> bool:
        end = self.template.think_end
        before, mark, after = (self._held + text).partition(end)
        within = min(tokens, max(0, self.budget - self.reasoning_tokens))
        self.reasoning_tokens += within
        self._held_tokens += within
        if mark:
            self._held = ""
            self._emit_reasoning(before)
            self._settle_marker()
            self._kind, self._closed_by = TextKind.ANSWER, end
            # A server that was told where to end the thinking ended it there: the model would have gone on. Its mark
            # may come without a token of its own, so one that ends a token before the budget counts as ended, too.
            self.forced = self._server_ends_at is not None and self.reasoning_tokens >= self._server_ends_at
            return self._feed_answer(after, tokens - within)
        if within < tokens:  # the server did not stop where it was told to
            self._force()
            return False
        keep = held_back(before, (end,))
        self._held = before[len(before) - keep :]
        self._emit_reasoning(before[: len(before) - keep])
        return True

    def _emit_reasoning(self, text: str) -> None:
        self._thoughts.append(text)
        if text:
            self._emitted.append(Text(TextKind.REASONING, text, self._held_tokens))
            self._held_tokens = 0

    def _settle_marker(self) -> None:
        """Account for the tokens of a whole or half-written end of thinking: reasoning without text of its own."""
        if self._held_tokens:
            self._emitted.append(Text(TextKind.REASONING, "", self._held_tokens))
        self._held, self._held_tokens = "", 0

    def _force(self) -> None:
        """Turn to the answer; a half-written end of thinking is dropped."""
        self._settle_marker()
        self._kind, self.forced, self._closed_by = TextKind.ANSWER, True, self.template.answer_suffix
        if self.template.answer_opening:
            self._emitted.append(Text(TextKind.ANSWER, self.template.answer_opening, 0, forced=True))

    def _feed_answer(self, text: str, tokens: int) -> bool:
        within = min(tokens, self.answer_tokens - self.answer_used)
        if tokens and not within:  # the answer had all its tokens before: a stop that comes now is not part of it
            self._finish(FinishReason.ANSWER_LENGTH)
            return False
        self.answer_used += within
        self._held_tokens += within
        held = self._held + text
        found = [at for at in (held.find(stop) for stop in self.template.stop) if at >= 0]
        if found:
            self._held = held[: min(found)]
            self._finish(self._ended)
            return False
        if within < tokens:  # what crosses the limit is not shown
            self._finish(FinishReason.ANSWER_LENGTH)
            return False
        keep = held_back(held, self.template.stop)
        self._emit_answer(held[: len(held) - keep])
        self._held = held[len(held) - keep :]
        return True

    def _emit_answer(self, text: str) -> None:
        self._answer.append(text)
        if text:
            self._emitted.append(Text(TextKind.ANSWER, text, self._held_tokens, self.forced))
            self._held_tokens = 0

    def _finish(self, reason: FinishReason) -> None:
        """Let out what was held back; it did not become a stop text."""
        held, self._held = self._held, ""
        self._answer.append(held)
        if held or self._held_tokens:
            self._emitted.append(Text(TextKind.ANSWER, held, self._held_tokens, self.forced))
            self._held_tokens = 0
        self.finish = reason
