"""Trained predictors that read text with an encoder of their own: ``layer_mlp`` and ``lora_difficulty``, as one graph.

The encoder goes through torch's exporter with dynamic batch and length. float16 stores its weights in half the size and
computes as before; int8 is onnxruntime's dynamic quantisation of the finished graph, per channel.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from transformers import AutoModel, AutoTokenizer

from exporters.measure.classes import DIFFICULTY
from exporters.predictors.ensemble import Ensemble
from exporters.predictors.familiarity import FURTHEST, Distance, Familiarity, keep, kept, limits_of
from exporters.predictors.onnx_graph import with_half_weights
from exporters.predictors.trained import Calibration, Interface, lookup

Floats = NDArray[np.float64]


class EncoderNet(Protocol):
    """A torch module from token ids and mask (n, t) to the curve (n, K), first, and whatever else is served."""

    outputs: tuple[str, ...]
    kind: str
    familiarity: Familiarity | None

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run a batch."""
        ...


class DifficultyNet(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Encoder, mean pooling and the paper's head (LayerNorm → Linear → ReLU → Linear) to three classes."""

    def __init__(self, encoder: Any) -> None:
        """Put a head on a transformers ``encoder``."""
        super().__init__()
        self.encoder = encoder
        size = encoder.config.hidden_size
        self.head = torch.nn.Sequential(
            torch.nn.LayerNorm(size),
            torch.nn.Linear(size, size),
            torch.nn.ReLU(),
            torch.nn.Linear(size, len(DIFFICULTY)),
        )

    def states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean of each text's token states, (n, size), after the last layer and after the middle one."""
        read = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        mask = attention_mask.unsqueeze(-1).to(read.last_hidden_state.dtype)
        last, middle = (
            ((states * mask).sum(1) / mask.sum(1)).float()
            for states in (read.last_hidden_state, read.hidden_states[len(read.hidden_states) // 2])
        )
        return last, middle

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits of the classes (n, 3)."""
        logits: torch.Tensor = self.head(self.states(input_ids, attention_mask)[0])
        return logits


class FarOff(torch.nn.Module):  # type: ignore[misc]  # as above
    """States (n, size) to their distance from training, (n, 1), in units."""

    def __init__(self, known: Distance) -> None:
        """Measure as ``known`` does."""
        super().__init__()
        self.unit = known.unit
        for name in ("centre", "scale", "whiten", "centres"):
            self.register_buffer(name, torch.from_numpy(getattr(known, name)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the distances."""
        z = ((states - self.centre) / self.scale).clamp(-FURTHEST, FURTHEST)
        apart = (z @ self.whiten).unsqueeze(1) - self.centres
        return (apart * apart).sum(dim=2).amin(dim=1, keepdim=True) / self.unit


def _far_off(familiarity: Familiarity | None) -> FarOff | None:
    return None if familiarity is None or familiarity.states is None else FarOff(familiarity.states)


class DifficultyCurves(torch.nn.Module):  # type: ignore[misc]  # as above
    """Tokens to the class-weighted mean curve (n, K) and the class probabilities (n, 3).

    Where it knows its training, its last output is the distance of the middle layer's pooled state from that, (n, 1):
    the last one's tells difficulties apart, and no longer what is asked.
    """

    kind = "lora_difficulty"

    def __init__(self, net: DifficultyNet, class_curves: Floats, familiarity: Familiarity | None = None) -> None:
        """Look the curves (3, K) of a trained classifier's classes up."""
        super().__init__()
        self.net, self.familiarity, self.far_off = net, familiarity, _far_off(familiarity)
        self.outputs = ("curve", "difficulty") if self.far_off is None else ("curve", "difficulty", "unfamiliarity")
        self.register_buffer("class_curves", torch.from_numpy(class_curves.astype(np.float32)))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return curve, difficulty, and the distance."""
        last, middle = self.net.states(input_ids, attention_mask)
        probabilities = torch.softmax(self.net.head(last), dim=1)
        # No matrix product, so that quantisation leaves the look-up alone.
        curve = (probabilities.unsqueeze(-1) * self.class_curves).sum(dim=1)
        return (curve, probabilities) if self.far_off is None else (curve, probabilities, self.far_off(middle))


class LayerCurves(torch.nn.Module):  # type: ignore[misc]  # as above
    """Tokens through the first layers of an LLM to the curve (n, K) that an ensemble reads at the last token.

    Where it knows its training, its second output is the distance of the state from that, (n, 1).
    """

    kind = "layer_mlp"

    def __init__(self, llm: Any, ensemble: Ensemble, familiarity: Familiarity | None = None) -> None:
        """Put a head on ``llm``, a transformers model without its own, already cut (``cut_after``)."""
        super().__init__()
        self.encoder = llm
        self.ensemble, self.familiarity, self.far_off = ensemble, familiarity, _far_off(familiarity)
        self.outputs = ("curve",) if self.far_off is None else ("curve", "unfamiliarity")
        members = ensemble.members
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
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last = (attention_mask.sum(dim=1) - 1).view(-1, 1, 1).expand(-1, 1, output.shape[-1])
        state: torch.Tensor = output.gather(1, last).squeeze(1)
        return state

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the curve, and the distance."""
        clip, keep = self.ensemble.clip, self.ensemble.keep
        states = self.states(input_ids, attention_mask)
        inputs = ((states - self.centre) / self.scale).clamp(-clip, clip)
        hidden = inputs @ self.first + self.first_bias
        hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:]) * self.norm_scale + self.norm_bias
        curves = torch.sigmoid(torch.nn.functional.gelu(hidden) @ self.second + self.second_bias)
        curve = self.mean_curve + keep * (curves.mean(dim=0) - self.mean_curve)
        return (curve,) if self.far_off is None else (curve, self.far_off(states))


def cut_after(llm: Any, layers: int) -> Any:
    """Cut a Llama- or Qwen-style transformers model after ``layers`` blocks; its output is then that layer's.

    The states of the last layer are read after the final norm, those before without it.
    """
    if layers < len(llm.layers):
        llm.layers = llm.layers[:layers]
        llm.config.num_hidden_layers = layers
        llm.norm = torch.nn.Identity()
    return llm


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """A predictor with an encoder. ``prompt``: what the text is put into; ``max_tokens``: longer texts are cut."""

    net: EncoderNet
    tokenizer: Any
    calibration: Calibration
    max_tokens: int
    prompt: str = "{prompt}"
    layer: int = 0
    class_curves: Floats | None = None

    def __post_init__(self) -> None:
        """Cut long texts as the predictor does: a causal model is read at the last token."""
        self.tokenizer.truncation_side = "left"

    @property
    def interface(self) -> Interface:
        """Return the inputs that the graph takes, and its kind."""
        return Interface(
            kind=self.net.kind,
            takes_text=True,
            layer=self.layer,
            max_tokens=self.max_tokens,
            prompt=self.prompt,
            class_curves=lookup(DIFFICULTY, self.class_curves),
            **limits_of(self.net.familiarity),
        )

    def write(self, folder: Path, precision: str) -> None:
        """Write ``model.onnx`` in float32, float16 or int8, and ``tokenizer.json``."""
        path = folder / "model.onnx"
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "whole.onnx"
            _export(self.net, whole)
            if precision == "int8":
                _quantise(whole, path)
            else:
                graph = onnx.load(str(whole))
                onnx.save(with_half_weights(graph) if precision == "float16" else graph, path)
        self.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    def reference(self, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Floats:
        """Its curves (n, K) by torch, text by text; ``hidden`` is not used."""
        curves: Floats = np.clip(self._outputs(texts, "curve"), 0, 1)
        return curves

    def unfamiliarity(self, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Floats | None:
        """How far queries lie from its training (n,), by torch, where it knows; ``hidden`` is not used."""
        return self._outputs(texts, "unfamiliarity")[:, 0] if "unfamiliarity" in self.net.outputs else None

    def _outputs(self, texts: Sequence[str], name: str) -> Floats:
        """An output of the net for each text."""
        at = self.net.outputs.index(name)
        rows = []
        before, after = self.prompt.split("{prompt}", 1)
        for text in texts:
            tokens = self.tokenizer(
                f"{before}{text}{after}", return_tensors="pt", truncation=True, max_length=self.max_tokens
            )
            with torch.no_grad():
                rows.append(self.net(tokens["input_ids"], tokens["attention_mask"])[at][0].double().numpy())
        return np.stack(rows)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the encoder as a transformers folder and the head's arrays."""
        net = self.net
        encoder = net.encoder if isinstance(net, LayerCurves) else net.net.encoder  # type: ignore[attr-defined]
        encoder.save_pretrained(folder / "encoder")
        self.tokenizer.save_pretrained(folder / "encoder")
        keep(net.familiarity, folder)
        if isinstance(net, LayerCurves):
            arrays = net.ensemble.arrays()
        else:
            head = net.net.head.state_dict()  # type: ignore[attr-defined]
            arrays = {name: value.numpy() for name, value in head.items()}
        np.savez_compressed(folder / "head.npz", **arrays)  # type: ignore[arg-type]
        curves = None if self.class_curves is None else self.class_curves.tolist()
        own = {"kind": net.kind, "max_tokens": self.max_tokens, "prompt": self.prompt, "layer": self.layer}
        cut = isinstance(getattr(encoder, "norm", None), torch.nn.Identity)
        return {**own, "class_curves": curves, "cut": cut}

    @classmethod
    def load(cls, folder: Path, saved: dict[str, Any], calibration: Calibration) -> TrainedEncoder:
        """Return the predictor that ``save`` wrote."""
        tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
        encoder = AutoModel.from_pretrained(folder / "encoder", dtype=torch.float32).eval()
        with np.load(folder / "head.npz", allow_pickle=False) as file:
            arrays = dict(file)
        net: Any
        curves = None
        if saved["kind"] == "layer_mlp":
            if saved["cut"]:
                encoder.norm = torch.nn.Identity()
            net = LayerCurves(encoder, Ensemble.from_arrays(arrays), kept(folder))
        else:
            classifier = DifficultyNet(encoder)
            classifier.head.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
            curves = np.array(saved["class_curves"])
            net = DifficultyCurves(classifier, curves, kept(folder))
        return cls(net.eval(), tokenizer, calibration, saved["max_tokens"], saved["prompt"], saved["layer"], curves)


def _export(net: Any, path: Path) -> None:
    ids = torch.ones((2, 5), dtype=torch.int64)
    rows, length = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("length", min=1, max=4096)
    shapes = ({0: rows, 1: length}, {0: rows, 1: length})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        program = torch.onnx.export(
            net.eval(), (ids, torch.ones_like(ids)), dynamo=True, opset_version=20, dynamic_shapes=shapes,
            input_names=["input_ids", "attention_mask"], output_names=list(net.outputs), verbose=False,
        )  # fmt: skip
    if program is None:
        raise ValueError("torch's exporter returned no program")
    program.save(str(path))


def _quantise(whole: Path, path: Path) -> None:
    prepared = whole.with_name("prepared.onnx")
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
