"""Train a difficulty classifier: an encoder with a LoRA adapter and a small head, as the paper does with its LLM.

The encoder is any transformers model folder; the mean of its token states is pooled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer

from exporters.measure.classes import soft_difficulty
from exporters.measure.curves import Curves
from exporters.predictors.trained_encoder import DifficultyNet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraRecipe:
    """What decides the classifier. ``max_tokens``: longer questions are cut."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: Sequence[str] = ("query", "key", "value", "dense")
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    epochs: int = 4
    batch: int = 32
    max_tokens: int = 160
    seed: int = 0


def states_of(
    net: DifficultyNet, tokenizer: Any, texts: Sequence[str], recipe: LoraRecipe
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the encoder makes of texts, (n, size), after its last layer, which the head reads, and its middle one."""
    rows = []
    with torch.no_grad():
        for at in range(0, len(texts), recipe.batch):
            batch = _encode(tokenizer, texts[at : at + recipe.batch], recipe.max_tokens)
            rows.append([states.numpy() for states in net.states(**batch)])
    last, middle = (np.concatenate(part) for part in zip(*rows, strict=True))
    return last, middle


def probabilities_of(net: DifficultyNet, states: NDArray[np.float32]) -> NDArray[np.float64]:
    """Class probabilities (n, 3) of texts, by their states after the last layer."""
    with torch.no_grad():
        found: NDArray[np.float64] = torch.softmax(net.head(torch.from_numpy(states)), dim=1).double().numpy()
    return found


def train_lora(curves: Curves, encoder: Path, recipe: LoraRecipe) -> tuple[DifficultyNet, Any]:
    """Fit adapter and head to the difficulty of the questions; returns net and tokenizer, the adapter merged."""
    torch.manual_seed(recipe.seed)
    wanted = torch.from_numpy(soft_difficulty(curves.accuracy))
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    base = AutoModel.from_pretrained(encoder, dtype=torch.float32)
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
    )
    net = DifficultyNet(get_peft_model(base, lora))
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(wanted) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    loss_of = torch.nn.CrossEntropyLoss()
    lengths = np.array([len(question) for question in curves.questions])
    rng = np.random.default_rng(recipe.seed)
    net.train()
    for epoch in range(recipe.epochs):
        total = 0.0
        batches = _batches_by_length(lengths, recipe.batch, rng)
        for rows in batches:
            batch = _encode(tokenizer, [curves.questions[row] for row in rows], recipe.max_tokens)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(net(**batch).float(), wanted[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += float(loss.detach())
        log.info("epoch %d of %d: loss %.4f", epoch + 1, recipe.epochs, total / len(batches))
    net.encoder = net.encoder.merge_and_unload()
    return net.eval(), tokenizer


def _encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> dict[str, torch.Tensor]:
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def _batches_by_length(lengths: NDArray[np.int64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows in batches of like length, the batches in random order: little padding."""
    order = np.argsort(lengths + rng.uniform(0, 30, len(lengths)))
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    return [batches[at] for at in rng.permutation(len(batches))]
