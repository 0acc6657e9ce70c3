"""From queries to a graph's inputs: texts as they are, tokens padded little, hidden states beside them."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from predictor_service.artifact import ArtifactError, read_manifest
from predictor_service.inputs.features import GraphInputs, Query
from predictor_service.settings import SHIPPED_MODELS

TEXT = read_manifest(SHIPPED_MODELS / "demo-text")
TOKENS = TEXT.model_copy(update={"takes_text": True, "max_tokens": 6, "prompt": "Q {prompt} A"})


@pytest.fixture
def tokenized(tmp_path):
    """A folder with a tokenizer whose ids are those of the words: Q 1, A 2, a 3, b 4, c 5."""
    words = ["[UNK]", "Q", "A", "a", "b", "c"]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_texts_go_in_as_they_are(tmp_path):
    ((rows, inputs),) = GraphInputs(tmp_path, TEXT).runs([Query("a"), Query("b c")])
    assert rows == [0, 1]
    assert inputs["text"].tolist() == ["a", "b c"]
    assert "hidden_state" not in inputs


def test_tokens_stand_in_the_models_prompt_and_are_padded_on_the_right(tokenized):
    ((rows, inputs),) = GraphInputs(tokenized, TOKENS).runs([Query("a"), Query("b c")])
    tokens, mask = inputs["input_ids"].tolist(), inputs["attention_mask"].tolist()
    found = {row: (tokens[at], mask[at]) for at, row in enumerate(rows)}
    assert found == {0: ([1, 3, 2, 0], [1, 1, 1, 0]), 1: ([1, 4, 5, 2], [1, 1, 1, 1])}


def test_of_a_long_text_the_end_is_kept(tokenized):
    ((_, inputs),) = GraphInputs(tokenized, TOKENS).runs([Query("a a a a a b c")])
    assert inputs["input_ids"].tolist() == [[3, 3, 3, 4, 5, 2]]


def test_texts_of_very_different_length_run_apart_with_their_own_states(tokenized):
    manifest = TOKENS.model_copy(update={"max_tokens": 400, "hidden_size": 2})
    queries = [Query("a " * (300 if at % 2 else 1), np.full(2, at, np.float32)) for at in range(6)]
    runs = GraphInputs(tokenized, manifest).runs(queries)
    assert [rows for rows, _ in runs] == [[0, 2, 4], [1, 3, 5]]
    for rows, inputs in runs:
        assert inputs["hidden_state"].tolist() == [[at, at] for at in rows]


def test_a_model_of_states_alone_gets_no_text(tmp_path):
    manifest = TEXT.model_copy(update={"takes_text": False, "hidden_size": 2})
    ((_, inputs),) = GraphInputs(tmp_path, manifest).runs([Query("a", np.ones(2, np.float32))])
    assert set(inputs) == {"hidden_state"}


def test_a_tokenizer_that_is_none_is_refused_by_its_file(tmp_path):
    for text in (None, "{}"):
        if text is not None:
            (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"tokenizer\.json: not a tokenizer"):
            GraphInputs(tmp_path, TOKENS)
