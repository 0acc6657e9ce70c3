"""Teach a model folder of before what it was trained on, from its training data; its curves stay as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from exporters.predictors.familiarity import LEAST_QUESTIONS, add_familiarity, learn_familiarity, limits_of
from exporters.predictors.onnx_graph import GraphBuilder, with_half_weights
from predictor_service.artifact import Manifest, read_manifest, write_manifest
from predictor_service.model import LoadedModel

_OUTPUT = "unfamiliarity"


def familiarise(folder: Path, version: str, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Manifest:
    """Add the distance from training to a folder's graph, and its limit to the manifest; returns the new manifest.

    ``texts``, ``hidden``: the questions that it was trained on, and their hidden states where it takes them. Raises
    ArtifactError where the folder cannot be served, ValueError where it knows its distance already, has an encoder,
    needs hidden states, or where there are too few questions.
    """
    manifest = read_manifest(folder)
    graph = onnx.load(folder / "model.onnx")
    if _OUTPUT in {output.name for output in graph.graph.output}:
        raise ValueError(f"--model: {folder}: it knows how far queries lie from its training already")
    if manifest.max_tokens:
        raise ValueError(f"--model: {folder}: {manifest.kind} has an encoder, whose states are not known here")
    if manifest.hidden_size and hidden is None:
        raise ValueError(f"--hidden-states: {manifest.kind} needs them")
    reads_text, reads_states = manifest.takes_text, manifest.hidden_size > 0
    learned = learn_familiarity(texts if reads_text else None, hidden if reads_states else None)
    if learned is None:
        raise ValueError(f"--curves: {len(texts)} questions are too few, {LEAST_QUESTIONS} are needed")
    known = learned.familiarity
    build = GraphBuilder([])
    add_familiarity(build, "tokens" if reads_text else None, "hidden_state" if reads_states else None, known)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        staged = Path(scratch)
        halved = any(weight.data_type == TensorProto.FLOAT16 for weight in graph.graph.initializer)
        extended = build.extend(graph, {_OUTPUT: 1})
        onnx.save(with_half_weights(extended) if halved else extended, staged / "model.onnx")
        taught = Manifest(**{**manifest.model_dump(), **limits_of(known), "version": version})
        written = write_manifest(staged, taught)
        LoadedModel(staged)
        for name in ("model.onnx", "manifest.json"):
            (staged / name).replace(folder / name)
    return written
