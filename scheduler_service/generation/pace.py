"""How fast the backend generates, learned from what it generated, and what a deadline then allows. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

_SAFETY = 1.2  # a deadline is met if tokens come a fifth slower than they did


def answer_seconds(answer_tokens: int, seconds_per_token: float) -> float:
    """Time to keep free for an answer: two tokens more than it may have, for the call that asks for it."""
    return _SAFETY * (answer_tokens + 2) * seconds_per_token


@dataclass
class Pace:
    """The backend's time per token: an average in which ``memory`` tokens weigh as much as everything before them."""

    memory: float = 2000.0
    seconds_per_token: float = 0.0

    def observe(self, seconds_per_token: float, tokens: int) -> None:
        """Count ``tokens`` that came ``seconds_per_token`` apart; fewer than two say nothing."""
        if tokens < 2 or seconds_per_token <= 0:
            return
        if not self.seconds_per_token:
            self.seconds_per_token = seconds_per_token
            return
        share = tokens / (tokens + self.memory)
        self.seconds_per_token += share * (seconds_per_token - self.seconds_per_token)

    def budget_within(self, seconds: float, answer_tokens: int) -> int | None:
        """Reasoning tokens that fit into ``seconds`` before an answer; ``None`` while nothing was measured."""
        if not self.seconds_per_token:
            return None
        return max(
            0,
            int((seconds - answer_seconds(answer_tokens, self.seconds_per_token)) / (_SAFETY * self.seconds_per_token)),
        )
