"""From queries to the inputs of an ONNX graph: the text itself, its tokens, or a hidden state, as the manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor_service.artifact import ArtifactError, Manifest
from predictor_service.inputs.buckets import buckets


@dataclass(frozen=True, eq=False)
class Query:
    """One query: text, a hidden state (float32 vector), or both."""

    text: str = ""
    hidden_state: NDArray[np.float32] | None = None


class GraphInputs:
    """Makes a graph's inputs from checked queries.

    Text goes in as ``text`` (n,) strings, or, where the manifest has ``max_tokens``, as ``input_ids`` and
    ``attention_mask`` (n, longest) int64, padded on the right; a hidden state as ``hidden_state`` (n, size) float32.
    Tokenised texts of very different lengths come in several runs, so that little is padded.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Load the tokenizer where one is needed. Raises ArtifactError where it cannot be."""
        self._manifest = manifest
        self._before, self._after = manifest.prompt.split("{prompt}", 1)
        self._tokenizer = _tokenizer(folder / "tokenizer.json", manifest.max_tokens) if manifest.max_tokens else None

    def runs(self, queries: Sequence[Query]) -> list[tuple[list[int], dict[str, NDArray[Any]]]]:
        """Return a batch as runs of the graph: which of the queries, and the graph's inputs."""
        everything = list(range(len(queries)))
        if self._tokenizer is None:
            runs = [(everything, self._texts(queries))]
        else:
            encoded = self._tokenizer.encode_batch([f"{self._before}{query.text}{self._after}" for query in queries])
            split = buckets([len(row.ids) for row in encoded])
            runs = [(rows, _padded([encoded[row].ids for row in rows])) for rows in split]
        if self._manifest.hidden_size:
            states = np.stack([query.hidden_state for query in queries])  # type: ignore[misc]
            for rows, inputs in runs:
                inputs["hidden_state"] = states[rows]
        return runs

    def _texts(self, queries: Sequence[Query]) -> dict[str, NDArray[Any]]:
        return {"text": np.array([query.text for query in queries], dtype=object)} if self._manifest.takes_text else {}


def _padded(tokens: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    longest = max(map(len, tokens))
    ids, mask = np.zeros((len(tokens), longest), np.int64), np.zeros((len(tokens), longest), np.int64)
    for row, some in enumerate(tokens):
        ids[row, : len(some)] = some
        mask[row, : len(some)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _tokenizer(path: Path, max_tokens: int) -> Any:
    """Load a tokenizer that pads nothing and keeps a text's last ``max_tokens`` tokens.

    The last ones, since a causal model is read at the last token.
    """
    from tokenizers import Tokenizer  # only models with a tokenizer of their own need the library

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise ArtifactError(f"{path}: not a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, direction="left")
    return tokenizer
