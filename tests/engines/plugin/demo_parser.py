"""A reasoning parser for the demo's model: what comes before "Final answer:" is reasoning.

vLLM's own parsers want marks that are one token each; this one looks at the text. vLLM finds it as a plugin, by the
metadata beside it: what ``--reasoning-parser-plugin`` names is loaded too late.
"""

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser

MARK = "Final answer:"


class DemoParser(ReasoningParser):
    """Splits at the mark."""

    def is_reasoning_end(self, input_ids):
        return MARK in self.model_tokenizer.decode(list(input_ids))

    def extract_content_ids(self, input_ids):
        return []

    def extract_reasoning(self, model_output, request):
        reasoning, mark, content = model_output.partition(MARK)
        return reasoning, content if mark else None

    def extract_reasoning_streaming(
        self, previous_text, current_text, delta_text, previous_token_ids, current_token_ids, delta_token_ids
    ):
        def parts(text):
            reasoning, mark, content = text.partition(MARK)
            if not mark:  # the last characters may be the mark's first
                held = next((n for n in range(len(MARK) - 1, 0, -1) if reasoning.endswith(MARK[:n])), 0)
                reasoning = reasoning[: len(reasoning) - held]
            return reasoning, content

        (before, said), (now, saying) = parts(previous_text), parts(current_text)
        reasoning, content = now[len(before) :], saying[len(said) :]
        if not reasoning and not content:
            return None
        return DeltaMessage(reasoning=reasoning or None, content=content or None)
