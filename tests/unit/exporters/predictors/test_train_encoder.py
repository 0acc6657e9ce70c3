"""Predictors with an encoder of their own: trained on tiny models, exported, and served as they were trained."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from exporters.measure.classes import soft_difficulty
from exporters.measure.curves import Curves, window_points
from exporters.predictors.checkpoint import load_checkpoint, save_checkpoint
from exporters.predictors.ensemble import Recipe
from exporters.predictors.export import export
from exporters.predictors.familiarity import LEAST_QUESTIONS
from exporters.predictors.lora_difficulty import LoraRecipe, probabilities_of, states_of, train_lora
from exporters.predictors.train_encoder import train_layer_mlp, train_lora_difficulty
from predictor_service.artifact import ArtifactError, read_manifest
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from scheduler_service.generation.templates import PromptTemplate

COUNT = 120
WORDS = ["[PAD]", "[UNK]", "Q", "A", *[f"w{n}" for n in range(10)]]
TEMPLATE = PromptTemplate("t", "Q {prompt} A", "</t>", "</t>")


@pytest.fixture(scope="module")
def curves():
    return questions(COUNT)


def questions(count):
    """Questions of one to twelve words, whose first word says how hard they are."""
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 10, count)
    texts = [" ".join([f"w{h}", *(f"w{w}" for w in rng.integers(0, 10, rng.integers(0, 12)))]) for h in hard]
    accuracy = np.clip((np.arange(1, 17)[None, :] - hard[:, None]) / 16 + rng.normal(0, 0.01, (count, 16)), 0, 1)
    return Curves.measured([f"q{n}" for n in range(count)], texts, window_points(accuracy.shape[1]), accuracy)


def save(path, model):
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(path)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    return save(tmp_path_factory.mktemp("llama"), LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return save(tmp_path_factory.mktemp("bert"), BertModel(config))


QUIET = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "float16", "int8"])


@QUIET
@PRECISIONS
@pytest.mark.parametrize("layer", [2, 3])
def test_a_truncated_llm_and_its_head_serve_what_was_trained(tmp_path, curves, llama, layer, precision):
    recipe = Recipe(members=3, hidden=16, epochs=30, batch=16)
    trained = train_layer_mlp(curves, llama, layer, TEMPLATE, recipe, {})
    manifest, parity = export(
        trained, tmp_path / "m", curves.questions, None, name="layer", version="1", precision=precision
    )
    assert parity.largest < {"float32": 1e-5, "float16": 5e-3, "int8": 0.2}[precision]
    assert (manifest.kind, manifest.layer, manifest.prompt) == ("layer_mlp", layer, TEMPLATE.prompt)
    assert parity.unfamiliarity < {"float32": 1e-4, "float16": 5e-3, "int8": 0.05}[precision]
    model = LoadedModel(tmp_path / "m")
    known = model.run([Query(text) for text in curves.questions])
    assert (known.abstained == 0).mean() > 0.9
    together = model.run([Query("w1"), Query("w2 w3 w4 w5 w6")]).curves
    # int8 scales its inputs by the whole batch, so that company changes an answer a little
    assert np.allclose(together[0], model.run([Query("w1")]).curves[0], atol=0.05 if precision == "int8" else 1e-5)
    save_checkpoint(trained, tmp_path / "c")
    again = load_checkpoint(tmp_path / "c")
    assert again.interface == trained.interface
    texts = curves.questions[:8]
    assert np.allclose(again.reference(texts, None), trained.reference(texts, None), atol=1e-6)
    assert np.allclose(again.unfamiliarity(texts, None), trained.unfamiliarity(texts, None), rtol=1e-5)


@QUIET
def test_a_truncated_llm_trained_on_few_questions_does_not_abstain(tmp_path, curves, llama):
    few = curves.chosen(range(LEAST_QUESTIONS - 1))
    trained = train_layer_mlp(few, llama, 2, TEMPLATE, Recipe(members=2, hidden=8, epochs=2, batch=16), {})
    manifest, _ = export(trained, tmp_path / "m", few.questions, None, name="layer", version="1")
    assert manifest.most_unfamiliarity is None
    assert trained.unfamiliarity(few.questions, None) is None
    assert LoadedModel(tmp_path / "m").run([Query("w1 w1")]).unfamiliarity is None


@QUIET
@PRECISIONS
def test_a_difficulty_classifier_serves_probabilities_and_their_curve(tmp_path, curves, bert, precision):
    recipe = LoraRecipe(epochs=3, batch=16, rank=4, target_modules=("query", "value"))
    trained = train_lora_difficulty(curves, bert, recipe, {})
    manifest, parity = export(
        trained, tmp_path / "m", curves.questions, None, name="d", version="1", precision=precision
    )
    assert parity.largest < {"float32": 1e-5, "float16": 5e-3, "int8": 0.1}[precision]
    assert "class_accuracy" in manifest.validation
    result = LoadedModel(tmp_path / "m").run([Query(text) for text in curves.questions[:9]])
    assert result.difficulty is not None
    assert np.allclose(result.difficulty.sum(axis=1), 1, atol=1e-5)
    lookup = np.array([manifest.class_curves[name] for name in ("easy", "medium", "hard")])
    assert np.allclose(result.curves, result.difficulty @ lookup, atol=1e-3)
    save_checkpoint(trained, tmp_path / "c")
    again = load_checkpoint(tmp_path / "c")
    assert again.interface == trained.interface
    texts = curves.questions[:8]
    assert np.allclose(again.reference(texts, None), trained.reference(texts, None), atol=1e-6)


@QUIET
@PRECISIONS
def test_a_difficulty_classifier_abstains_on_what_its_encoder_was_not_trained_on(tmp_path, bert, precision):
    many = questions(10 * LEAST_QUESTIONS)  # a tenth of them says what is usual
    trained = train_lora_difficulty(many, bert, LoraRecipe(epochs=1, rank=4, target_modules=("query", "value")), {})
    manifest, parity = export(
        trained, tmp_path / "m", many.questions[:60], None, name="d", version="1", precision=precision
    )
    assert manifest.false_alarm_rate == 3 / LEAST_QUESTIONS
    assert parity.unfamiliarity < {"float32": 1e-4, "float16": 5e-3, "int8": 0.05}[precision]
    model = LoadedModel(tmp_path / "m")
    assert (model.run([Query(text) for text in many.questions]).abstained == 0).mean() > 0.8
    assert model.run([Query("A A Q Q A Q A A Q Q A A Q A A A Q")]).abstained.all()
    save_checkpoint(trained, tmp_path / "c")
    again = load_checkpoint(tmp_path / "c")
    texts = many.questions[:8]
    assert np.allclose(again.unfamiliarity(texts, None), trained.unfamiliarity(texts, None), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_classifier_learns_what_can_be_known(curves, bert):
    recipe = LoraRecipe(epochs=60, batch=16, learning_rate=1e-2, target_modules=("query", "value", "dense"))
    net, tokenizer = train_lora(curves, bert, recipe)
    probabilities = probabilities_of(net, states_of(net, tokenizer, curves.questions, recipe)[0])
    best = soft_difficulty(curves.accuracy).argmax(axis=1)
    assert (probabilities.argmax(axis=1) == best).mean() > 0.7


def test_a_layer_that_does_not_exist_is_refused(curves, llama):
    with pytest.raises(ValueError, match="--layer: 4 is not from 1 to 3"):
        train_layer_mlp(curves, llama, 4, TEMPLATE, Recipe(), {})


def test_a_folder_that_needs_a_tokenizer_and_has_none_is_refused(tmp_path):
    from tests.integration.models import hidden_state_model

    folder = hidden_state_model(tmp_path / "m")
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_tokens": 8}))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not listed"):
        read_manifest(folder)
