"""The style of texts: what of them training never saw, and the same in the graph as in numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.predictors.onnx_graph import TEXT, GraphBuilder, session
from exporters.predictors.text_graph import add_features, add_tokens
from exporters.predictors.text_style import STYLE_FIGURES, TextStyle, Words, add_style, held_out_figures

TEXTS = ["How many apples are left of 12?", "How many pears are left of 7?", "Is 3 + 4 even?", "Is 12 odd?"]
PLAIN = ["Is it?", "It is."]  # no numbers at all


def graph_of(style):
    build = GraphBuilder([TEXT])
    tokens = add_tokens(build)
    add_features(build, tokens, [("?",)])
    return session(build.model({add_style(build, tokens, style): STYLE_FIGURES}))


STYLES = {name: TextStyle.of(Words.of(texts)) for name, texts in (("numbers", TEXTS), ("plain", PLAIN))}
GRAPHS = {name: graph_of(style) for name, style in STYLES.items()}
PIECES = st.lists(
    st.sampled_from(["How", "many", "apples", "Is", "12", "007", "99999", "?", "zebra", "+", "."]), max_size=9
)


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(PIECES.map(" ".join) | st.text(max_size=30), min_size=1, max_size=4))
def test_the_graph_computes_the_same_figures_whatever_the_text(name, texts):
    found = GRAPHS[name].run(None, {"text": np.array(texts, dtype=object)})[0]
    np.testing.assert_allclose(found, STYLES[name].of_texts(texts), rtol=1e-4, atol=1e-5)


def test_a_text_of_training_has_nothing_new():
    figures = STYLES["numbers"].of_texts(TEXTS)
    assert (figures[:, 1:4] == 0).all()
    assert (figures[:, 0] > 0).all()


def test_words_pairs_and_triples_that_training_never_saw_are_told():
    words, pairs, triples = STYLES["numbers"].of_texts(["zebra zebra zebra", "apples many How"])[:, 1:4].T
    assert words.tolist() == [0.75, 0.0]  # a full stop is added to every text
    assert pairs.tolist() == [1.0, 1.0]
    assert triples.tolist() == [1.0, 1.0]


def test_numbers_count_as_one_word_and_are_new_to_texts_without_any():
    same = STYLES["numbers"].of_texts(["Is 3 odd?", "Is 8888 odd?"])
    assert same[0].tolist() == same[1].tolist()
    assert STYLES["plain"].of_texts(["Is 3?"])[0, 1] > 0


def test_what_a_text_alone_has_is_new_where_it_is_held_out():
    texts = [*TEXTS, "Name a zebra!"]
    figures = held_out_figures(Words.of(texts), 5, seed=0)
    assert figures[4, 1] > 0.5
    assert figures[0, 1] < 0.5


def test_parts_of_texts_are_the_texts():
    words = Words.of(TEXTS)
    part = words.part(np.array([2, 0]))
    expected = Words.of([TEXTS[0], TEXTS[2]], words.known)
    assert part.ids.tolist() == expected.ids.tolist()
    assert part.rows.tolist() == expected.rows.tolist()
