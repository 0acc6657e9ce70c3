"""The demo's model as a transformers folder, for engines that load no GGUF: vLLM, SGLang, transformers.

Run ``python -m exporters.demo.engine_model --out DIR`` (extra ``train``; half a minute). The base GGUF is dequantised,
the adapter is merged into its weights, and a chat template is added that writes the demo's prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from exporters.demo.gguf_lora import merge_lora_gguf
from exporters.demo.prompt import THINK_END
from scheduler_service.generation.backends.gguf_files import ADAPTER, base_model_path

# One user's message, as the model was trained to read it; an answer that was begun is gone on with.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ message.content }}"
    "{% else %}Question: {{ message.content }}\n{% endif %}"
    "{% endfor %}"
)


def write_model(out: Path, *, base: Path | None = None, adapter: Path = ADAPTER) -> None:
    """Write model and tokenizer to ``out``, in bfloat16. Raises OSError for a GGUF that cannot be read."""
    gguf = base or base_model_path()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    merge_lora_gguf(model, adapter)
    # It was dequantised, but would be saved as what it was.
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    tokenizer.chat_template = CHAT_TEMPLATE
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    adapter: Annotated[Path, typer.Option(help="GGUF adapter to merge.")] = ADAPTER,
) -> None:
    """Write the demo's model as a folder that vLLM and transformers load; it ends its thinking with 'Final answer:'."""
    write_model(out, adapter=adapter)
    typer.echo(f"{out}: thinking ends at {THINK_END!r}")


if __name__ == "__main__":
    typer.run(main)
