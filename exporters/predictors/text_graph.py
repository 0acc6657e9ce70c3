"""From text to features inside an ONNX graph: word n-grams and the numbers in the text, no tokenizer file needed.

Theory of operation. The text is split into numbers, words and single signs. Two families of features follow: how often
each n-gram of the vocabulary occurs (log of 1 + count), and what the numbers in the text are — how many, their sum, the
largest, the first, the last, and two ratios, since many questions take as many steps as one number holds another. The
same graph computes the features in training and in serving, so the two cannot differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from exporters.predictors.onnx_graph import TEXT, GraphBuilder, session

WORD_PATTERN = r"[0-9]+|[A-Za-z]+|[^\sA-Za-z0-9]"
LARGEST_NUMBER = 9999
NUMERIC_FEATURES = 8


def add_tokens(build: GraphBuilder) -> str:
    """Add the split into tokens: (n, longest) strings, padded with empty ones; never without a column."""
    build.constant("full_stop", np.array([" ."], dtype=object))
    build.add("StringConcat", ["text", "full_stop"], "ended")  # so that an empty text has a token as well
    return build.add(
        "Tokenizer", ["ended"], "tokens", domain="com.microsoft", mark=0, mincharnum=1, pad_value="",
        tokenexp=WORD_PATTERN,
    )  # fmt: skip


def add_features(build: GraphBuilder, tokens: str, vocabulary: Sequence[tuple[str, ...]]) -> str:
    """Add the features of ``tokens``: (n, ``NUMERIC_FEATURES`` + vocabulary) float32; returns the output's name."""
    numbers = add_numbers(build, tokens)
    ordered = sorted(vocabulary, key=len)
    singles = sum(len(gram) == 1 for gram in ordered)
    build.add(
        "TfIdfVectorizer", [tokens], "counts", mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=0,
        ngram_counts=[0, singles], ngram_indexes=list(range(len(ordered))),
        pool_strings=[token for gram in ordered for token in gram],
    )  # fmt: skip
    build.add("Add", ["counts", "one"], "counts_and_one")
    build.add("Log", ["counts_and_one"], "grams")
    return build.add("Concat", [numbers, "grams"], "features", axis=1)


def add_numbers(build: GraphBuilder, tokens: str) -> str:
    """Add the features of the numbers in the text: (n, ``NUMERIC_FEATURES``) float32; returns the output's name."""
    add, constant = build.add, build.constant
    constant("one", np.array([1], np.float32))
    known = [str(number) for number in range(LARGEST_NUMBER + 1)]
    constant("axis", np.array([1], np.int64))
    constant("zero", np.array([0], np.float32))
    constant("nothing", np.array([""], dtype=object))
    add("Equal", [tokens, "nothing"], "is_padding")
    add("Not", ["is_padding"], "is_token")
    add("Cast", ["is_token"], "token_mask", to=TensorProto.FLOAT)
    add("ReduceSum", ["token_mask", "axis"], "length", keepdims=1)
    add(
        "LabelEncoder", [tokens], "values", domain="ai.onnx.ml", keys_strings=known,
        values_floats=[float(number) for number in known], default_float=-1.0,
    )  # fmt: skip
    add("GreaterOrEqual", ["values", "zero"], "is_number")
    add("Cast", ["is_number"], "number_mask", to=TensorProto.FLOAT)
    add("ReduceSum", ["number_mask", "axis"], "how_many", keepdims=1)
    add("Max", ["values", "zero"], "numbers")
    add("ReduceSum", ["numbers", "axis"], "total", keepdims=1)
    add("ReduceMax", ["numbers", "axis"], "largest", keepdims=1)
    for name, last in (("first", 0), ("last", 1)):
        add("ArgMax", ["number_mask"], f"{name}_place", axis=1, keepdims=1, select_last_index=last)
        add("GatherElements", ["numbers", f"{name}_place"], name, axis=1)
    for name in ("length", "how_many", "total", "largest", "first", "last"):
        add("Add", [name, "one"], f"{name}_and_one")
        add("Log", [f"{name}_and_one"], f"log_{name}")
    add("Div", ["first", "last_and_one"], "first_by_last")
    add("Sub", ["total", "last"], "others")
    add("Sub", ["how_many", "one"], "fewer")
    add("Max", ["fewer", "one"], "other_count")
    add("Div", ["others", "other_count"], "other_mean")
    add("Add", ["other_mean", "one"], "other_mean_and_one")
    add("Div", ["last", "other_mean_and_one"], "last_by_mean")
    constant("ratio_limit", np.array([50], np.float32))
    constant("ratio_unit", np.array([10], np.float32))
    for name in ("first_by_last", "last_by_mean"):
        add("Min", [name, "ratio_limit"], f"limited_{name}")
        add("Div", [f"limited_{name}", "ratio_unit"], f"scaled_{name}")
    logs = [f"log_{name}" for name in ("length", "how_many", "total", "largest", "first", "last")]
    return add("Concat", [*logs, "scaled_first_by_last", "scaled_last_by_mean"], "number_features", axis=1)


def tokenise(texts: Sequence[str]) -> list[list[str]]:
    """Return the tokens that the graph sees, per text."""
    build = GraphBuilder([TEXT])
    model = build.model({add_tokens(build): "tokens"}, TensorProto.STRING)
    rows = session(model).run(None, {"text": np.array(texts, dtype=object)})[0]
    return [[token for token in row if token] for row in rows.tolist()]


def vocabulary_of(texts: Sequence[str], *, min_texts: int, most: int) -> list[tuple[str, ...]]:
    """Return the 1- and 2-grams without numbers that occur in at least ``min_texts`` texts, at most ``most`` of them.

    Numbers are left to the numeric features: one text's numbers say little about another's.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    for tokens in tokenise(texts):
        grams = {(token,) for token in tokens} | set(pairwise(tokens))
        seen.update(gram for gram in grams if not any(token.isdigit() for token in gram))
    return sorted(gram for gram, count in seen.most_common(most) if count >= min_texts)


def text_features(texts: Sequence[str], vocabulary: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
    """Return the features of texts: (n, ``NUMERIC_FEATURES`` + vocabulary)."""
    build = GraphBuilder([TEXT])
    model = build.model({add_features(build, add_tokens(build), vocabulary): NUMERIC_FEATURES + len(vocabulary)})
    features: NDArray[np.float32] = session(model).run(None, {"text": np.array(texts, dtype=object)})[0]
    return features
