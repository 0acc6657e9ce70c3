"""Predictors that read text with an encoder of their own: ``layer_mlp`` and ``lora_difficulty``, as one ONNX graph.

The encoder goes through torch's exporter with dynamic batch and length; int8 is onnxruntime's dynamic quantisation of
the finished graph, per channel. Both precisions are compared with torch before a folder is written.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from exporters.curves import WINDOW_TOKENS, Curves
from exporters.ensemble import Ensemble
from exporters.lora_difficulty import CLASSES, Classifier, difficulty_of
from predictor_service.artifact import Manifest, write_manifest
from predictor_service.features import Query
from predictor_service.model import LoadedModel

Floats = NDArray[np.float64]
_WORST_PARITY = 0.05


class DifficultyCurves(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Tokens to the class-weighted mean curve (n, K) and the class probabilities (n, 3)."""

    def __init__(self, classifier: Classifier) -> None:
        """Wrap a trained classifier."""
        super().__init__()
        self.net = classifier.net
        self.register_buffer("class_curves", torch.from_numpy(classifier.class_curves.astype(np.float32)))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return curve and difficulty."""
        probabilities = torch.softmax(self.net(input_ids, attention_mask), dim=1)
        # No matrix product, so that quantisation leaves the look-up alone.
        return (probabilities.unsqueeze(-1) * self.class_curves).sum(dim=1), probabilities


class LayerCurves(torch.nn.Module):  # type: ignore[misc]  # as above
    """Tokens through the first layers of an LLM to the curve (n, K) that an ensemble reads at the last token."""

    def __init__(self, llm: Any, layers: int, ensemble: Ensemble) -> None:
        """Cut ``llm`` (a transformers model without its head) after ``layers`` blocks."""
        super().__init__()
        if layers < len(llm.layers):  # the states of the last layer are read after the norm, those before without it
            llm.layers = llm.layers[:layers]
            llm.config.num_hidden_layers = layers
            llm.norm = torch.nn.Identity()
        self.llm = llm
        members = ensemble.members
        self.clip, self.keep = ensemble.clip, ensemble.keep
        for name, value in {
            "centre": ensemble.centre,
            "scale": ensemble.scale,
            "first": np.stack([member.first for member in members]),
            "first_bias": np.stack([member.first_bias for member in members])[:, None],
            "norm_scale": np.stack([member.norm_scale for member in members])[:, None],
            "norm_bias": np.stack([member.norm_bias for member in members])[:, None],
            "second": np.stack([member.second for member in members]),
            "second_bias": np.stack([member.second_bias for member in members])[:, None],
            "mean_curve": ensemble.mean_curve,
        }.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(value, dtype=np.float32)))

    def states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states at each row's last token: (n, size)."""
        output = self.llm(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last = (attention_mask.sum(dim=1) - 1).view(-1, 1, 1).expand(-1, 1, output.shape[-1])
        state: torch.Tensor = output.gather(1, last).squeeze(1)
        return state

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the curve."""
        inputs = ((self.states(input_ids, attention_mask) - self.centre) / self.scale).clamp(-self.clip, self.clip)
        hidden = inputs @ self.first + self.first_bias
        hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:]) * self.norm_scale + self.norm_bias
        curves = torch.sigmoid(torch.nn.functional.gelu(hidden) @ self.second + self.second_bias)
        result: torch.Tensor = self.mean_curve + self.keep * (curves.mean(dim=0) - self.mean_curve)
        return result


@dataclass(frozen=True)
class EncoderParity:
    """Distance of the served curves from torch's (fractions of accuracy), over ``rows`` texts, and the graph's size."""

    precision: str
    rows: int
    largest: float
    mean: float
    megabytes: float


def write_graph(net: torch.nn.Module, outputs: Sequence[str], path: Path, *, int8: bool) -> None:
    """Export ``net`` (ids and mask to ``outputs``) to ``path``."""
    ids = torch.ones((2, 5), dtype=torch.int64)
    rows, length = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("length", min=1, max=4096)
    shapes = ({0: rows, 1: length}, {0: rows, 1: length})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        program = torch.onnx.export(
            net.eval(), (ids, torch.ones_like(ids)), dynamo=True, opset_version=20, dynamic_shapes=shapes,
            input_names=["input_ids", "attention_mask"], output_names=list(outputs), verbose=False,
        )  # fmt: skip
        if program is None:
            raise ValueError("torch's exporter returned no program")
        if not int8:
            program.save(str(path))
            return
        whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
        program.save(str(whole))
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared), str(path), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
            op_types_to_quantize=["MatMul", "Gemm"], nodes_to_exclude=_stacked_products(prepared),
        )  # fmt: skip


def _stacked_products(path: Path) -> list[str]:
    """Names of the products with stacked weights (an ensemble's heads), which cannot be quantised per channel."""
    graph = onnx.load(str(path)).graph
    stacked = {weight.name for weight in graph.initializer if len(weight.dims) > 2}
    return [node.name for node in graph.node if node.op_type == "MatMul" and stacked & set(node.input)]


def export_encoder(
    net: torch.nn.Module,
    tokenizer: Any,
    folder: Path,
    manifest: Manifest,
    reference: Floats,
    texts: Sequence[str],
    *,
    int8: bool,
) -> EncoderParity:
    """Write a model folder with its tokenizer; returns how far it is from ``reference``, torch's curves of ``texts``.

    Raises ArtifactError where the predictor could not serve it, and ValueError, removing the folder, where the served
    curves are not those that were trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = ["curve", "difficulty"] if manifest.kind == "lora_difficulty" else ["curve"]
    write_graph(net, outputs, folder / "model.onnx", int8=int8)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write_manifest(folder, manifest)
    served = LoadedModel(folder).run([Query(text) for text in texts]).curves
    error = np.abs(served - np.clip(reference, 0, 1))
    if error.mean() > _WORST_PARITY:
        shutil.rmtree(folder)
        raise ValueError(f"--int8: the served curves are off by {error.mean():.3f} on average; use --float32")
    size = (folder / "model.onnx").stat().st_size / 1e6
    return EncoderParity("int8" if int8 else "float32", len(texts), float(error.max()), float(error.mean()), size)


def difficulty_manifest(
    name: str, version: str, curves: Curves, classifier: Classifier, validation: dict[str, float], data: dict[str, str]
) -> Manifest:
    """The manifest of a difficulty classifier; its class curves are the paper's lookup database."""
    counts = np.bincount(difficulty_of(curves.accuracy), minlength=len(CLASSES))
    lookup = {name: [round(float(v), 4) for v in classifier.class_curves[at]] for at, name in enumerate(CLASSES)}
    manifest = _text_manifest(name, version, "lora_difficulty", curves, validation, data)
    return replace(
        manifest,
        max_tokens=classifier.recipe.max_tokens,
        class_curves=lookup,
        validation={
            **manifest.validation,
            **{f"training_{name}": float(counts[at]) for at, name in enumerate(CLASSES)},
        },
    )


def layer_manifest(
    name: str,
    version: str,
    curves: Curves,
    layer: int,
    prompt: str,
    validation: dict[str, float],
    data: dict[str, str],
    max_tokens: int = 512,
) -> Manifest:
    """The manifest of a truncated LLM with a head."""
    manifest = _text_manifest(name, version, "layer_mlp", curves, validation, data)
    return replace(manifest, layer=layer, prompt=prompt, max_tokens=max_tokens)


def _text_manifest(
    name: str, version: str, kind: str, curves: Curves, validation: dict[str, float], data: dict[str, str]
) -> Manifest:
    measured = curves.accuracy
    return Manifest(
        name=name,
        version=version,
        kind=kind,
        budget_window_tokens=WINDOW_TOKENS,
        windows=measured.shape[1],
        takes_text=True,
        hidden_size=0,
        layer=0,
        max_text_bytes=32768,
        training_data=data,
        validation={key: round(value, 4) for key, value in validation.items()},
        reliability=round(max(0.0, validation.get("pearson", 0.0)), 4),
        mean_curve=[round(float(value), 4) for value in measured.mean(axis=0)],
        uncertainty=[round(float(value), 4) for value in measured.std(axis=0)],
    )
