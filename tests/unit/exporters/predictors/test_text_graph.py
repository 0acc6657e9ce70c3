"""A text's features."""

import numpy as np
import pytest

from exporters.predictors.text_graph import NUMERIC_FEATURES, text_features, tokenise, vocabulary_of
from tests.builders.training import TEXTS


def test_text_is_split_into_numbers_words_and_signs():
    assert tokenise(["Add 12+3, größer?"])[0] == ["Add", "12", "+", "3", ",", "gr", "ö", "ß", "er", "?", "."]


def test_the_numbers_of_a_text_become_features():
    row = text_features(["Start at 58 and take 7"], [("Start",)])[0]
    logs = np.log1p([7, 2, 65, 58, 58, 7])
    assert row[:6] == pytest.approx(list(logs), rel=1e-5)
    assert row[6] == pytest.approx(58 / 8 / 10)
    assert row[7] == pytest.approx(7 / 59 / 10)
    assert row[NUMERIC_FEATURES] == pytest.approx(np.log(2))


@pytest.mark.parametrize("text", ["", " \n\t", "no numbers", "9" * 400, "\x00", "🙂" * 10, "00012"])
def test_any_text_has_finite_features(text):
    assert np.isfinite(text_features([text], [("a",), ("a", "b")])).all()


def test_a_text_has_the_same_features_in_any_batch():
    vocabulary = vocabulary_of(TEXTS, min_texts=3, most=100)
    whole = text_features(TEXTS, vocabulary)
    assert np.allclose(whole[5], text_features([TEXTS[5]], vocabulary)[0])
    assert not any(token.isdigit() for gram in vocabulary for token in gram)
