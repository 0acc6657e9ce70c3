"""What one call may bring: how much text, how many tokens it may claim, and for how long it may bring none. No I/O."""

from __future__ import annotations

from scheduler_service.generation.backends.base import Ended, Piece
from scheduler_service.generation.backends.faults import ServerFault
from scheduler_service.generation.backends.sse import StreamFormatError
from scheduler_service.generation.backends.wire import count
from scheduler_service.generation.forcing import Call, CallEnd

_BASE = 64 << 10
_CHARACTERS_A_TOKEN = 1 << 10  # on average, with room: the longest tokens of known vocabularies have some hundred
_LONGEST_TOKEN = 16 << 10  # servers that do not say how many tokens a chunk has may send several in one
_AFTER_THE_END_SECONDS = 5.0


class CallBounds:
    """The bounds of one call, and how much of them is used up.

    ``event_bytes``: the longest event: it may repeat the whole text (TGI) or the prompt (llama.cpp), escaped.
    ``idle_seconds``: how long the server may take without bringing a token. ``moved``: whether it has brought one since
    this was last set back.
    """

    def __init__(self, call: Call, idle_seconds: float) -> None:
        """Nothing has come yet."""
        text = _BASE + _CHARACTERS_A_TOKEN * call.max_tokens
        self.event_bytes = text + 6 * len(call.prompt)
        self.idle_seconds = idle_seconds
        self.moved = False
        self.counted = 0
        self._asked = call.max_tokens
        self._text_left = text
        self._most_prompt_tokens = 4 * len(call.prompt) + _BASE  # a chat template adds text of its own
        self._told = False

    def tokens(self, told: int | None, text: str) -> int:
        """How many tokens ``text`` is. ``told``: the server's count since the call began, dropped where it is absurd.

        Without it a text counts as one.
        """
        if not (known := count(told, self._asked)):
            return int(bool(text))
        self._told = True
        return max(0, known - self.counted)

    def piece(self, text: str, tokens: int) -> Piece:
        """Return a piece that came. Raises StreamFormatError where it is more text than tokens can be."""
        self._text_left -= len(text)
        if self._text_left < 0 or len(text) > _LONGEST_TOKEN * (tokens or 1):
            raise StreamFormatError("sent more text than its tokens can hold")
        if tokens:
            self.counted += tokens
            self.moved = True
        return Piece(text, tokens)

    def ending(self) -> None:
        """The server has said how the call ended; what may still come is not worth a long wait."""
        self.idle_seconds = min(self.idle_seconds, _AFTER_THE_END_SECONDS)
        self.moved = True

    def ended(self, end: CallEnd, prompt_tokens: int | None) -> Ended:
        """Return the end that came. Raises ServerFault for a call that was cut before its first token."""
        if end is CallEnd.LENGTH and not self.counted:
            raise ServerFault("ended a call without a token")
        return Ended(end, count(prompt_tokens, self._most_prompt_tokens))

    @property
    def uncounted(self) -> int:
        """Tokens of a call that was read to its most tokens, and whose server never says how many came."""
        return 0 if self._told or not self.counted else max(0, self._asked - self.counted)
