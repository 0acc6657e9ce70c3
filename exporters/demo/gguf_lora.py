"""A peft LoRA of a Llama-style model as a GGUF adapter that llama.cpp loads beside the base model, and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WEIGHT = re.compile(r"layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])\.")


def _rope_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the output rows of a query or key projection from transformers' rotary layout to llama.cpp's."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _transformers_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo ``_rope_order``."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _heads(model: Any) -> dict[str, int]:
    return {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}


def write_lora_gguf(model: Any, path: Path, *, alpha: float) -> None:
    """Write every LoRA pair of a peft model over a Llama-style base to ``path`` (float16).

    Raises ValueError for a LoRA weight on a layer that has no GGUF name.
    """
    heads = _heads(model)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    for name, value in model.state_dict().items():
        if "lora_" not in name:
            continue
        match = _WEIGHT.search(name)
        if match is None or match[2] not in _NAMES:
            raise ValueError(f"{name}: no GGUF name for this layer; target only {sorted(_NAMES)}")
        layer = _NAMES[match[2]]
        weight = value.detach().float().numpy()
        if match[3] == "B" and layer in heads:
            weight = _rope_order(weight, heads[layer])
        writer.add_tensor(f"blk.{match[1]}.{layer}.weight.lora_{match[3].lower()}", weight.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_lora_gguf(model: Any, path: Path) -> None:
    """Load what ``write_lora_gguf`` wrote into a peft model of the same rank and layers, to train on from there.

    Raises KeyError for a layer that the file lacks, and RuntimeError for another rank.
    """
    heads = _heads(model)
    stored = {tensor.name: np.array(tensor.data, np.float32) for tensor in gguf.GGUFReader(path).tensors}
    weights = {}
    for name in model.state_dict():
        if "lora_" in name and (match := _WEIGHT.search(name)) is not None:
            layer = _NAMES[match[2]]
            weight = stored[f"blk.{match[1]}.{layer}.weight.lora_{match[3].lower()}"]
            if match[3] == "B" and layer in heads:
                weight = _transformers_order(weight, heads[layer])
            weights[name] = torch.from_numpy(np.ascontiguousarray(weight))
    model.load_state_dict(weights, strict=False)


def merge_lora_gguf(model: Any, path: Path) -> None:
    """Add what ``write_lora_gguf`` wrote to the weights of the model itself, which is no peft model.

    Adds ``alpha / rank · B · A`` to each layer (arXiv 2106.09685). Raises KeyError for a layer that the model lacks.
    """
    reader = gguf.GGUFReader(path)
    alpha = float(reader.get_field(gguf.Keys.Adapter.LORA_ALPHA).contents())
    stored = {tensor.name: np.array(tensor.data, np.float32) for tensor in reader.tensors}
    layers = {own: name for name, own in _NAMES.items()}
    heads = _heads(model)
    parameters = dict(model.named_parameters())
    for name in [name for name in stored if name.endswith(".lora_a")]:
        _, number, own, *_ = name.split(".")
        first, second = stored[name], stored[name.removesuffix("a") + "b"]
        if own in heads:
            second = _transformers_order(second, heads[own])
        change = torch.from_numpy(second @ first * (alpha / len(first)))
        weight = parameters[f"model.layers.{number}.{layers[own]}.weight"]
        with torch.no_grad():
            weight += change.to(weight.dtype)
