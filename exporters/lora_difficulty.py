"""Train a difficulty classifier: an encoder with a LoRA adapter and a small head, as the paper does with its LLM.

The head is the paper's: LayerNorm → Linear → ReLU → Linear to three classes. A class's accuracy curve is the mean
measured curve of the training questions in it; a query's curve is the mean of those, weighted by its probabilities.
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

from exporters.curves import Curves

log = logging.getLogger(__name__)

CLASSES = ("easy", "medium", "hard")
_EASY_SHARE = _HARD_SHARE = 0.2


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
    smoothing: float = 0.05
    seed: int = 0


def difficulty_of(accuracy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class of each curve (n, K) by its last accuracy: best fifth easy (0), worst fifth hard (2), others medium (1)."""
    ranks = np.argsort(np.argsort(accuracy[:, -1], kind="stable"), kind="stable") / len(accuracy)
    classes: NDArray[np.int64] = np.where(ranks >= 1 - _EASY_SHARE, 0, np.where(ranks < _HARD_SHARE, 2, 1))
    return classes


class DifficultyNet(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Encoder, mean pooling, head: token ids and mask (n, t) to logits (n, 3)."""

    def __init__(self, encoder: Any, size: int) -> None:
        """Put a head on ``encoder``, whose states have ``size`` components."""
        super().__init__()
        self.encoder = encoder
        self.head = torch.nn.Sequential(
            torch.nn.LayerNorm(size), torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, len(CLASSES))
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits of the classes."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        logits: torch.Tensor = self.head(((states * mask).sum(1) / mask.sum(1)).float())
        return logits


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier: the net with its adapter merged, its tokenizer, and the mean curve of each class (3, K)."""

    net: DifficultyNet
    tokenizer: Any
    class_curves: NDArray[np.float64]
    recipe: LoraRecipe

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Class probabilities of texts: (n, 3)."""
        rows = []
        with torch.no_grad():
            for at in range(0, len(texts), self.recipe.batch):
                batch = _encode(self.tokenizer, texts[at : at + self.recipe.batch], self.recipe.max_tokens)
                rows.append(torch.softmax(self.net(**batch), dim=1).double().numpy())
        return np.concatenate(rows)

    def curves(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Expected curves of texts: (n, K)."""
        result: NDArray[np.float64] = self.probabilities(texts) @ self.class_curves
        return result


def train_lora(curves: Curves, encoder: Path, recipe: LoraRecipe) -> Classifier:
    """Fit the adapter and the head on the questions of a curves file; the adapter is merged into the encoder."""
    torch.manual_seed(recipe.seed)
    classes = difficulty_of(curves.accuracy)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    base = AutoModel.from_pretrained(encoder, dtype=torch.float32)
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
    )
    net = DifficultyNet(get_peft_model(base, lora), base.config.hidden_size)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(classes) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
    lengths = np.array([len(question) for question in curves.questions])
    rng = np.random.default_rng(recipe.seed)
    net.train()
    for epoch in range(recipe.epochs):
        total = 0.0
        batches = _batches_by_length(lengths, recipe.batch, rng)
        for rows in batches:
            batch = _encode(tokenizer, [curves.questions[row] for row in rows], recipe.max_tokens)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(net(**batch).float(), torch.from_numpy(classes[rows]))
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += float(loss.detach())
        log.info("epoch %d of %d: loss %.4f", epoch + 1, recipe.epochs, total / len(batches))
    net.encoder = net.encoder.merge_and_unload()
    means = np.stack([curves.accuracy[classes == at].mean(axis=0) for at in range(len(CLASSES))])
    return Classifier(net.eval(), tokenizer, means, recipe)


def _encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> dict[str, torch.Tensor]:
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def _batches_by_length(lengths: NDArray[np.int64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows in batches of like length, the batches in random order: little padding."""
    order = np.argsort(lengths + rng.uniform(0, 30, len(lengths)))
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    return [batches[at] for at in rng.permutation(len(batches))]
