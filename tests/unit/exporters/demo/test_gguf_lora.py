"""A peft adapter written as GGUF holds the same weights, in llama.cpp's layout."""

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from exporters.demo.gguf_lora import read_lora_gguf, write_lora_gguf


def tiny(target_modules):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=target_modules, init_lora_weights=False)
    return get_peft_model(LlamaForCausalLM(config), lora)


def test_every_pair_is_written_under_its_gguf_name(tmp_path):
    model = tiny(["q_proj", "v_proj", "down_proj"])
    write_lora_gguf(model, tmp_path / "a.gguf", alpha=4)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    layers = ("attn_q", "attn_v", "ffn_down")
    assert set(tensors) == {f"blk.{n}.{layer}.weight.lora_{ab}" for n in (0, 1) for layer in layers for ab in "ab"}
    assert reader.fields["adapter.lora.alpha"].parts[-1][0] == 4.0
    state = {name: value.numpy() for name, value in model.state_dict().items() if "lora_" in name}
    expected = next(value for name, value in state.items() if "layers.1.self_attn.v_proj.lora_B" in name)
    assert np.allclose(tensors["blk.1.attn_v.weight.lora_b"], expected, atol=1e-3)


def test_queries_and_keys_are_put_in_llama_cpps_rotary_order(tmp_path):
    model = tiny(["q_proj"])
    write_lora_gguf(model, tmp_path / "a.gguf", alpha=4)
    written = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}["blk.0.attn_q.weight.lora_b"]
    state = model.state_dict()
    original = next(v for n, v in state.items() if "layers.0.self_attn.q_proj.lora_B" in n).numpy()
    # Head size 4: transformers keeps the two halves of a head apart, llama.cpp interleaves them.
    assert np.allclose(written[:4], original[[0, 2, 1, 3]], atol=1e-3)


def test_a_layer_without_a_gguf_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no GGUF name"):
        write_lora_gguf(tiny(["lm_head"]), tmp_path / "a.gguf", alpha=4)


def test_an_adapter_that_was_written_is_read_back_into_a_model_of_the_same_layers(tmp_path):
    trained, fresh = tiny(["q_proj", "k_proj", "down_proj"]), tiny(["q_proj", "k_proj", "down_proj"])
    write_lora_gguf(trained, tmp_path / "a.gguf", alpha=4)
    for name, value in fresh.named_parameters():
        if "lora_" in name:
            value.data.zero_()
    read_lora_gguf(fresh, tmp_path / "a.gguf")
    for (name, value), other in zip(trained.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert np.allclose(value.numpy(), other.numpy(), atol=1e-3), name
