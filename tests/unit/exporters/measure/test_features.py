"""Hidden states are read at the prompt's last token, layer by layer."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from exporters.measure.features import StateReader, read_features
from exporters.measure.hidden_states import read_hidden_states, write_layers
from exporters.measure.questions import Question
from scheduler_service.generation.templates import PromptTemplate

TEMPLATE = PromptTemplate("t", "Q {prompt} A", "</t>", "</t>")
QUESTIONS = [Question(f"q{n}", f"word{n} and more", "x") for n in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with a word tokenizer, saved as transformers saves models."""
    path = tmp_path_factory.mktemp("llm")
    words = ["[UNK]", "Q", "A", "and", "more", *[f"word{n}" for n in range(4)]]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def test_every_layer_has_its_file_in_the_order_of_the_questions(folder, tmp_path):
    reader, read = StateReader(folder), []
    found = read_features(reader, TEMPLATE, QUESTIONS, [0, 2, 3], lambda: read.append(1))
    assert found.shape == (3, 4, 8)
    assert found.dtype == np.float16
    assert len(read) == 4
    ids = [question.question_id for question in QUESTIONS]
    paths = write_layers(tmp_path / "out", ids, [0, 2, 3], found)
    assert [path.name for path in paths] == ["layer-00.npz", "layer-02.npz", "layer-03.npz"]
    states = read_hidden_states(paths[1], ids)
    assert np.array_equal(states, found[1])
    assert len(np.unique(states.round(3), axis=0)) == 4
    alone = reader.read(TEMPLATE.render(QUESTIONS[2].question), [2])[0]
    assert np.allclose(states[2], alone, atol=1e-3)


def test_the_embedding_of_the_last_token_is_the_same_for_all(folder):
    states = read_features(StateReader(folder), TEMPLATE, QUESTIONS, [0])[0]
    assert len(np.unique(states, axis=0)) == 1


def test_a_layer_that_does_not_exist_is_refused(folder):
    with pytest.raises(ValueError, match="4 is not from 0 to 3"):
        read_features(StateReader(folder), TEMPLATE, QUESTIONS, [1, 4])


def test_as_many_layers_are_written_as_there_are_states(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        write_layers(tmp_path, ["q0"], [1, 2], np.zeros((3, 1, 4), np.float16))
