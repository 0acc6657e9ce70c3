"""Hidden states are read at the prompt's last token, layer by layer."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from exporters.measure.features import StateReader, write_features
from exporters.measure.hidden_states import read_hidden_states
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
    reader = StateReader(folder)
    paths = write_features(reader, TEMPLATE, QUESTIONS, [0, 2, 3], tmp_path)
    assert [path.name for path in paths] == ["layer-00.npz", "layer-02.npz", "layer-03.npz"]
    ids = [question.question_id for question in QUESTIONS]
    states = read_hidden_states(paths[1], ids)
    assert states.shape == (4, 8)
    assert len(np.unique(states.round(3), axis=0)) == 4
    alone = reader.read(TEMPLATE.render(QUESTIONS[2].question), [2])[0]
    assert np.allclose(states[2], alone, atol=1e-3)


def test_the_embedding_of_the_last_token_is_the_same_for_all(folder, tmp_path):
    path = write_features(StateReader(folder), TEMPLATE, QUESTIONS, [0], tmp_path)[0]
    states = read_hidden_states(path, [question.question_id for question in QUESTIONS])
    assert len(np.unique(states, axis=0)) == 1


def test_a_layer_that_does_not_exist_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="4 is not from 0 to 3"):
        write_features(StateReader(folder), TEMPLATE, QUESTIONS, [1, 4], tmp_path)
