"""From queries to the inputs of an ONNX graph: the text itself, its tokens, or a hidden state, as the manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor_service.artifact import ArtifactError, Manifest


@dataclass(frozen=True, eq=False)
class Query:
    """One query: text, a hidden state (float32 vector), or both."""

    text: str = ""
    hidden_state: NDArray[np.float32] | None = None


class GraphInputs:
    """Makes a graph's inputs from checked queries.

    Text goes in as ``text`` (n,) strings, or, where the manifest has ``max_tokens``, as ``input_ids`` and
    ``attention_mask`` (n, longest) int64, padded on the right; a hidden state as ``hidden_state`` (n, size) float32.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Load the tokenizer where one is needed. Raises ArtifactError where it cannot be."""
        self._manifest = manifest
        self._before, self._after = manifest.prompt.split("{prompt}", 1)
        self._tokenizer = _tokenizer(folder / "tokenizer.json", manifest.max_tokens) if manifest.max_tokens else None

    def of(self, queries: Sequence[Query]) -> dict[str, NDArray[Any]]:
        """Return the inputs of a batch."""
        inputs: dict[str, NDArray[Any]] = {}
        if self._tokenizer is not None:
            inputs.update(_tokens(self._tokenizer, [f"{self._before}{query.text}{self._after}" for query in queries]))
        elif self._manifest.takes_text:
            inputs["text"] = np.array([query.text for query in queries], dtype=object)
        if self._manifest.hidden_size:
            inputs["hidden_state"] = np.stack([query.hidden_state for query in queries])  # type: ignore[misc]
        return inputs


def _tokens(tokenizer: Any, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([row.ids for row in encoded], dtype=np.int64),
        "attention_mask": np.array([row.attention_mask for row in encoded], dtype=np.int64),
    }


def _tokenizer(path: Path, max_tokens: int) -> Any:
    """Load a tokenizer that pads to the longest of a batch and keeps a text's last ``max_tokens`` tokens.

    The last ones, since a causal model is read at the last token.
    """
    from tokenizers import Tokenizer  # only models with a tokenizer of their own need the library

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise ArtifactError(f"{path}: not a tokenizer: {error}") from error
    tokenizer.enable_padding()
    tokenizer.enable_truncation(max_tokens, direction="left")
    return tokenizer
