"""How a text is written, next to the texts of training: what an unfamiliar text shows in its words, not its features.

Theory of operation. Features count the n-grams that many training texts have; a text of another kind has few of them,
and looks like a short one of the known kinds. So the style asks for what is *not* known. Numbers count as one word.
Six figures a text: mean surprise of its words (negative log of their share in training), shares of its words, pairs and
triples of words that training never saw, log length, and share of numbers. Pairs and triples are kept as one bit each
of a hashed set, 8 bits for each that is known: one in nine that are new passes for known, in training and in serving.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from exporters.predictors.onnx_graph import GraphBuilder
from exporters.predictors.text_graph import LARGEST_NUMBER, tokenise

Ints = NDArray[np.int64]
STYLE_FIGURES = 6
_UNKNOWN, _NUMBER, _FIRST_WORD = 0, 1, 2
_PRIMES = (1_000_003, 998_244_353, 1_566_083_941)
_BITS_EACH = 8
_LEAST_BITS = 64
_NUMBERS = frozenset(str(number) for number in range(LARGEST_NUMBER + 1))


@dataclass(frozen=True, eq=False)
class Words:
    """The words of some texts by number. ``ids``: (T,) of all words in order; ``rows``: (T,) the text of each."""

    known: dict[str, int]
    ids: Ints
    rows: Ints
    texts: int

    @classmethod
    def of(cls, texts: Sequence[str], known: dict[str, int] | None = None, *, least_texts: int = 1) -> Words:
        """Number the words of ``texts``; with ``known``, words that are not in it are unknown.

        ``least_texts``: without, a word of fewer texts is unknown, so that nothing shows who wrote it.
        """
        split = tokenise(texts)
        if known is None:
            texts_with = Counter(token for tokens in split for token in set(tokens))
            words = {word for word, count in texts_with.items() if count >= least_texts} - _NUMBERS
            known = {word: at for at, word in enumerate(sorted(words), start=_FIRST_WORD)}
        ids = [_NUMBER if token in _NUMBERS else known.get(token, _UNKNOWN) for tokens in split for token in tokens]
        rows = np.repeat(np.arange(len(split)), [len(tokens) for tokens in split])
        return cls(known, np.array(ids, np.int64), rows, len(split))

    def part(self, rows: Ints) -> Words:
        """The words of some of the texts, in their own order."""
        place = np.full(self.texts, -1)
        place[np.sort(rows)] = np.arange(len(rows))
        kept = place[self.rows] >= 0
        return Words(self.known, self.ids[kept], place[self.rows[kept]], len(rows))


@dataclass(frozen=True, eq=False)
class TextStyle:
    """What training texts were written in. ``surprise``: (W,) of each word, first of unknown ones, then of numbers.

    ``words``: the words from the third on. ``pairs``, ``triples``: hashed sets, a bit a place, eight in a byte.
    """

    words: list[str]
    surprise: NDArray[np.float32]
    pairs: NDArray[np.uint8]
    triples: NDArray[np.uint8]

    @classmethod
    def of(cls, words: Words) -> TextStyle:
        """Learn the style of texts; a word of ``words.known`` that does not occur in them counts as unknown."""
        counts = np.bincount(words.ids, minlength=len(words.known) + _FIRST_WORD)
        counts[_UNKNOWN] = 0
        unseen = np.log(max(len(words.ids), 1)) + 1
        surprise = np.where(counts > 0, np.log(max(len(words.ids), 1)) - np.log(np.maximum(counts, 1)), unseen)
        sets = []
        for length in (2, 3):
            grams, _ = _grams(words, length)
            found = np.unique(grams, axis=0)
            size = max(_LEAST_BITS, _BITS_EACH * len(found))
            bits = np.zeros(-(-size // 8) * 8, np.uint8)
            bits[_places(found, len(bits))] = 1
            sets.append(np.packbits(bits, bitorder="little"))
        return cls(list(words.known), surprise.astype(np.float32), sets[0], sets[1])

    def figures(self, words: Words) -> NDArray[np.float32]:
        """The style of texts whose words are numbered alike: (n, ``STYLE_FIGURES``)."""
        new = self.surprise[words.ids] >= self.surprise[_UNKNOWN]
        lengths = np.bincount(words.rows, minlength=words.texts)
        columns = [
            _mean(self.surprise[words.ids], words.rows, lengths),
            _mean(new.astype(np.float64), words.rows, lengths),
        ]
        known = Words(words.known, np.where(new, _UNKNOWN, words.ids), words.rows, words.texts)
        for length, packed in ((2, self.pairs), (3, self.triples)):
            grams, rows = _grams(known, length)
            places = _places(grams, 8 * len(packed))
            seen = (packed[places >> 3] >> (places & 7).astype(np.uint8)) & 1
            strange = (seen == 0) | (grams == _UNKNOWN).any(axis=1)
            columns.append(_mean(strange.astype(np.float64), rows, lengths - (length - 1)))
        columns += [np.log1p(lengths), _mean((words.ids == _NUMBER).astype(np.float64), words.rows, lengths)]
        return np.stack(columns, axis=1).astype(np.float32)

    def of_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The style of any texts: (n, ``STYLE_FIGURES``)."""
        return self.figures(Words.of(texts, {word: at for at, word in enumerate(self.words, start=_FIRST_WORD)}))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything in arrays by name, for ``from_arrays``."""
        return {
            "words": np.array(self.words), "surprise": self.surprise, "pairs": self.pairs, "triples": self.triples
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> TextStyle:
        """The style that ``arrays`` were taken of."""
        return cls(arrays["words"].tolist(), arrays["surprise"], arrays["pairs"], arrays["triples"])


def held_out_figures(words: Words, folds: int, seed: int) -> NDArray[np.float32]:
    """The style of each text beside the others' only: texts are not new to their own style."""
    fold = np.random.default_rng(seed).permutation(words.texts) % folds
    figures = np.zeros((words.texts, STYLE_FIGURES), np.float32)
    for at in range(folds):
        rest, own = np.flatnonzero(fold != at), np.flatnonzero(fold == at)
        figures[own] = TextStyle.of(words.part(rest)).figures(words.part(own))
    return figures


def _grams(words: Words, length: int) -> tuple[Ints, Ints]:
    """All runs of so many words within a text, (G, length), and the text of each (G,)."""
    count = max(0, len(words.ids) - length + 1)
    grams = np.stack([words.ids[at : at + count] for at in range(length)], axis=1)
    inside = words.rows[:count] == words.rows[length - 1 : length - 1 + count]
    return grams[inside], words.rows[:count][inside]


def _places(grams: Ints, bits: int) -> Ints:
    places: Ints = (grams * np.array(_PRIMES[: grams.shape[1]])).sum(axis=1) % bits
    return places


def _mean(values: NDArray[Any], rows: Ints, counts: Ints) -> NDArray[np.float64]:
    """Mean of the values of each text; 0 for a text that has none."""
    return np.bincount(rows, values, minlength=len(counts)) / np.maximum(counts, 1)


def add_style(build: GraphBuilder, tokens: str, style: TextStyle) -> str:
    """Add the style of ``tokens`` to a graph that has their numbers; returns the output's name: (n, 6) float32."""

    def add(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        return build.add(operator, inputs, f"style_{output}", **attributes)

    def constant(name: str, value: NDArray[Any]) -> str:
        return build.constant(f"style_{name}", value)

    numbers = _NUMBER if style.surprise[_NUMBER] < style.surprise[_UNKNOWN] else _UNKNOWN
    words = add(
        "LabelEncoder", [tokens], "word_ids", domain="ai.onnx.ml", keys_strings=style.words,
        values_int64s=list(range(_FIRST_WORD, _FIRST_WORD + len(style.words))), default_int64=_UNKNOWN,
    )  # fmt: skip
    ids = add("Where", ["is_number", constant("number_id", np.array(numbers, np.int64)), words], "ids")
    no_word, nothing = constant("no_word", np.array(_UNKNOWN, np.int64)), constant("nothing", np.array(0, np.uint8))
    eight = constant("eight", np.array(8, np.int64))
    masks = constant("masks", (1 << np.arange(8)).astype(np.uint8))
    columns = constant("columns", np.array([1], np.int64))

    def mean(values: str, mask: str, name: str) -> str:
        """Mean over the tokens that ``mask`` has; 0 where it has none."""
        total = add("ReduceSum", [add("Mul", [values, mask], f"{name}_masked"), columns], f"{name}_sum", keepdims=1)
        count = add("ReduceSum", [mask, columns], f"{name}_count", keepdims=1)
        return add("Div", [total, add("Max", [count, "one"], f"{name}_number")], name)

    surprise = add("Gather", [constant("surprises", style.surprise), ids], "surprise_each")
    new = add("Cast", [add("Equal", [ids, no_word], "is_new")], "new", to=TensorProto.FLOAT)
    figures = [mean(surprise, "token_mask", "surprise"), mean(new, "token_mask", "new_words")]
    for length, name, packed in ((2, "pairs", style.pairs), (3, "triples", style.triples)):
        hashed, strange, mask = "", "", ""
        for at in range(length):
            start = constant(f"{name}_start_{at}", np.array([at], np.int64))
            last = np.iinfo(np.int64).max if at == length - 1 else at - length + 1
            end = constant(f"{name}_end_{at}", np.array([last], np.int64))
            part = add("Slice", [ids, start, end, columns], f"{name}_ids_{at}")
            prime = constant(f"{name}_prime_{at}", np.array(_PRIMES[at], np.int64))
            own, unknown = add("Mul", [part, prime], f"{name}_part_{at}"), f"{name}_unknown_{at}"
            hashed = add("Add", [hashed, own], f"{name}_hash_{at}") if at else own
            new_one = add("Equal", [part, no_word], unknown)
            strange = add("Or", [strange, new_one], f"{name}_strange_{at}") if at else new_one
            if at == length - 1:
                mask = add("Slice", ["token_mask", start, end, columns], f"{name}_mask")
        place = add("Mod", [hashed, constant(f"{name}_bits", np.array(8 * len(packed), np.int64))], f"{name}_place")
        byte = add("Gather", [constant(name, packed), add("Div", [place, eight], f"{name}_byte_at")], f"{name}_byte")
        bit = add("Gather", [masks, add("Mod", [place, eight], f"{name}_bit_at")], f"{name}_bit")
        absent = add("Equal", [add("BitwiseAnd", [byte, bit], f"{name}_seen"), nothing], f"{name}_absent")
        either = add("Cast", [add("Or", [absent, strange], f"{name}_either")], f"{name}_new", to=TensorProto.FLOAT)
        figures.append(mean(either, mask, f"{name}_share"))
    share = add("Div", ["how_many", "length"], "number_share")
    return add("Concat", [*figures, "log_length", share], "figures", axis=1)
