"""Lets vLLM keep hidden states without guessing tokens.

The method ``extract_hidden_states`` is one of speculative decoding: beside keeping states, it proposes one draft token
a step, the token that was just sampled, which is hardly ever right. Every step then computes two tokens for each
request and rejects one, for nothing. vLLM can be told to schedule no drafts
(``num_speculative_tokens_per_batch_size``), but the method's proposer insists on one. It is asked for one here as ever,
and none is handed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def none_wanted(per_batch_size: Sequence[Sequence[int]] | None) -> bool:
    """Whether vLLM is told to schedule no drafts, whatever the batch's size."""
    return bool(per_batch_size) and all(entry[2] == 0 for entry in per_batch_size or ())


def allow() -> None:
    """Let the proposer hand on no draft. Raises ImportError or AttributeError for a vLLM that is made otherwise."""
    from vllm.v1.spec_decode.extract_hidden_states import ExtractHiddenStatesProposer

    propose = ExtractHiddenStatesProposer.propose
    if getattr(propose, "hands_on_none", False):
        return

    def propose_some(self: Any, num_speculative_tokens: int, *args: Any, **kwargs: Any) -> Any:
        return propose(self, self.num_speculative_tokens, *args, **kwargs)[:, :num_speculative_tokens]

    propose_some.hands_on_none = True  # type: ignore[attr-defined]
    ExtractHiddenStatesProposer.propose = propose_some
