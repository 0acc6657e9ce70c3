"""How a model's prompt, reasoning and answer are written: what budget forcing has to know about a model."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PromptTemplate:
    """A model's format.

    ``prompt``: the text sent, with ``{prompt}`` for the user's. ``think_end``: what the model writes when it has
    thought enough. ``think_start``: what the assistant's message begins with in a chat, where the server writes the
    rest of the prompt by its own template. ``answer_suffix``: what is appended to cut reasoning to make it answer; it
    contains ``think_end``.
    ``stop``: texts that end the answer. ``special_marks``: the marks are special tokens, which servers leave out of
    their text unless they are asked for them.
    """

    name: str
    prompt: str
    think_end: str
    answer_suffix: str
    stop: tuple[str, ...] = ()
    think_start: str = ""
    special_marks: bool = False

    def __post_init__(self) -> None:
        """Refuse a template that could not be filled or forced; raises ValueError naming the field."""
        if "{prompt}" not in self.prompt:
            raise ValueError(f"template {self.name}: prompt: must contain {{prompt}}")
        if "" in self.stop:
            raise ValueError(f"template {self.name}: stop: must not be empty")
        if not self.think_end or self.think_end not in self.answer_suffix:
            raise ValueError(f"template {self.name}: answer_suffix: must contain think_end ({self.think_end!r})")

    def render(self, prompt: str) -> str:
        """Return the text that the backend continues; braces in the user's prompt are left alone."""
        before, after = self.prompt.split("{prompt}", 1)
        return f"{before}{prompt}{after}"

    @property
    def answer_opening(self) -> str:
        """What a forced answer already says when the model goes on: the suffix after the end of thinking."""
        return self.answer_suffix.split(self.think_end, 1)[1]


TEMPLATES = {
    template.name: template
    for template in (
        PromptTemplate(
            name="demo",
            prompt="Question: {prompt}\n",
            think_end="Final answer:",
            answer_suffix="\nFinal answer:",
            stop=("\n\n",),
        ),
        PromptTemplate(
            name="deepseek-r1",
            prompt="<｜User｜>{prompt}<｜Assistant｜><think>\n",
            think_end="</think>",
            answer_suffix="\n</think>\n\n**Final Answer**\n\\boxed{",
            think_start="<think>\n",
        ),
        PromptTemplate(
            name="qwen3",
            prompt="<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n",
            think_end="</think>",
            answer_suffix="\n</think>\n\nFinal answer: ",
            stop=("<|im_end|>",),
            # No think_start: the published chat template puts an empty block of thinking before a message that has
            # none, and the model opens its own after the generation prompt.
        ),
        PromptTemplate(
            name="gpt-oss",
            # Harmony. Its system message may leave out the date, which a template that stands still does not know.
            prompt=(
                "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
                "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n"
                "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
                "<|start|>user<|message|>{prompt}<|end|><|start|>assistant<|channel|>analysis<|message|>"
            ),
            # The whole way to the final channel: after <|end|> alone the model may go on with more analysis.
            think_end="<|end|><|start|>assistant<|channel|>final<|message|>",
            answer_suffix="<|end|><|start|>assistant<|channel|>final<|message|>",
            stop=("<|return|>",),
            special_marks=True,
        ),
    )
}


def read_templates(path: Path) -> dict[str, PromptTemplate]:
    """Return the built-in templates and those of a TOML file: a table for each, with the fields of PromptTemplate.

    One of the same name replaces a built-in one. Raises ValueError, with the file and the template, for a file that
    cannot be read, a field that is missing or unknown, or a template that could not be filled or forced.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"templates: {path}: {error}") from None
    found = dict(TEMPLATES)
    for name, table in tables.items():
        try:
            fields = {**table, "stop": tuple(table.get("stop", ()))}
            found[name] = PromptTemplate(name=name, **fields)
        except (TypeError, AttributeError) as error:
            raise ValueError(
                f"templates: {path}: {name}: {str(error).replace('PromptTemplate.__init__() ', '')}"
            ) from None
    return found
