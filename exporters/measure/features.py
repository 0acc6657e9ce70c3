"""Hidden states of an LLM at the last token of each question's prompt, for predictors that read them.

Layer 0 is the embedding, layer L the L-th block's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from exporters.measure.questions import Question
from scheduler_service.generation.templates import PromptTemplate


class StateReader:
    """Runs an LLM from a GGUF file or a model folder, and reads its hidden states."""

    def __init__(self, model: Path) -> None:
        """Load the model; a GGUF is dequantised. Raises OSError or ValueError, naming it, where it cannot be read."""
        gguf = model.suffix == ".gguf"
        folder, options = (model.parent, {"gguf_file": model.name}) if gguf else (model, {})
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, **options).eval()
        except ValueError as error:  # which speaks of what it tried, not of where
            raise ValueError(f"{model}: no GGUF file, nor a folder of a transformers model: {error}") from None
        self.layers: int = self.model.config.num_hidden_layers
        if gguf:  # it is dequantised now, but would refuse to be saved as what it has become
            self.model.hf_quantizer = None
            self.model.config.__dict__.pop("quantization_config", None)

    def read(self, prompt: str, layers: Sequence[int]) -> NDArray[np.float16]:
        """Return the states of ``layers`` at the prompt's last token: (layers, size) float16."""
        tokens = self.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            states = self.model(**tokens, output_hidden_states=True).hidden_states
        result: NDArray[np.float16] = np.stack([states[layer][0, -1].numpy() for layer in layers]).astype(np.float16)
        return result


def read_features(
    reader: StateReader,
    template: PromptTemplate,
    questions: Sequence[Question],
    layers: Sequence[int],
    on_read: Callable[[], None] = lambda: None,
) -> NDArray[np.float16]:
    """Return the states: (layers, questions, size). Raises ValueError for an unknown layer."""
    if wrong := [layer for layer in layers if not 0 <= layer <= reader.layers]:
        raise ValueError(f"--layers: {wrong[0]} is not from 0 to {reader.layers}")
    rows = []
    for question in questions:
        rows.append(reader.read(template.render(question.question), layers))
        on_read()
    return np.stack(rows, axis=1)
