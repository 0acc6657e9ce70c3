"""Prompt templates."""

import pytest
from pydantic import ValidationError

from scheduler_service.domain import FinishReason, Sampling, TextKind
from scheduler_service.generation.backends.openai import parameters
from scheduler_service.generation.forcing import BudgetForcing, CallEnd
from scheduler_service.generation.templates import TEMPLATES, PromptTemplate, read_templates
from scheduler_service.settings import SchedulerSettings


def test_braces_in_a_prompt_are_left_alone():
    assert TEMPLATES["demo"].render("{prompt} {x}") == "Question: {prompt} {x}\n"


def test_every_shipped_template_can_be_forced():
    for template in TEMPLATES.values():
        assert template.think_end in template.answer_suffix


# What the models' published chat templates make of one question, up to what the model goes on with in its thinking:
# the generation prompt, and the start mark where the model writes that itself (Qwen3, gpt-oss). No beginning-of-text
# token: servers add it by the tokenizer.
PROMPTS = {
    "deepseek-r1": "<｜User｜>Why?<｜Assistant｜><think>\n",
    "qwen3": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "gpt-oss": (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. "
        "Channel must be included for every message.<|end|><|start|>user<|message|>Why?<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>"
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_those_of_the_published_chat_templates(name):
    assert TEMPLATES[name].render("Why?") == PROMPTS[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepseek-r1", "<think>\nso\n</think>\n\n**Final Answer**\n\\boxed{"),
        ("qwen3", "<think>\nso\n</think>\n\nFinal answer: "),
        ("gpt-oss", "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_a_forced_answer_continues_the_thought_in_the_models_own_format(name, expected):
    forcing = BudgetForcing(TEMPLATES[name], "Why?", 1, 8)
    forcing.next_call()
    forcing.feed("so", 1)
    forcing.end_call(CallEnd.LENGTH)
    call = forcing.next_call()
    assert call is not None
    assert call.prompt.endswith(expected)


@pytest.mark.parametrize("name", ["qwen3", "gpt-oss"])
def test_a_chat_whose_template_would_close_the_thinking_of_a_begun_message_begins_with_none(name):
    call = BudgetForcing(TEMPLATES[name], "Why?", 8, 8).next_call()
    assert call is not None
    assert call.turn is not None
    assert call.turn.begun == ""


def test_harmonys_second_analysis_is_still_reasoning_and_its_final_channel_the_answer():
    forcing = BudgetForcing(TEMPLATES["gpt-oss"], "Why?", 100, 8)
    call = forcing.next_call()
    assert call is not None
    assert call.special_tokens
    for piece in ["One.", "<|end|>", "<|start|>", "assistant", "<|channel|>", "analysis", "<|message|>", "Two."]:
        assert forcing.feed(piece, 1)
    for piece in ["<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "42"]:
        assert forcing.feed(piece, 1)
    assert not forcing.feed("<|return|>", 1)
    texts = forcing.take()
    assert "".join(text.text for text in texts if text.kind is TextKind.ANSWER) == "42"
    assert "".join(text.text for text in texts if text.kind is TextKind.REASONING) == (
        "One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two."
    )
    assert (forcing.finish, forcing.reasoning_tokens) == (FinishReason.NATURAL, 14)


def test_special_tokens_are_asked_for_only_where_a_template_has_them_as_marks():
    for name, special in (("gpt-oss", True), ("qwen3", False), ("deepseek-r1", False), ("demo", False)):
        call = BudgetForcing(TEMPLATES[name], "Why?", 8, 8).next_call()
        assert call is not None
        assert ("skip_special_tokens" in parameters(call, Sampling(), "m")) is special


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": "no place"}, "prompt"),
        ({"answer_suffix": "nothing"}, "answer_suffix"),
        ({"think_end": ""}, "answer_suffix"),
    ],
)
def test_a_template_that_cannot_work_is_refused_by_name(fields, named):
    good = {"name": "t", "prompt": "{prompt}", "think_end": "</t>", "answer_suffix": "</t>"}
    with pytest.raises(ValueError, match=f"template t: {named}: "):
        PromptTemplate(**{**good, **fields})


def test_templates_of_a_file_stand_beside_the_built_in_ones(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(
        '[mine]\nprompt = "<q>{prompt}</q>"\nthink_end = "</t>"\nanswer_suffix = "</t> So: "\nstop = ["\\n"]\n'
    )
    found = read_templates(path)
    assert set(found) == {*TEMPLATES, "mine"}
    assert found["mine"].render("x") == "<q>x</q>"
    assert found["mine"].stop == ("\n",)
    settings = SchedulerSettings(backend="embedded", template="mine", templates=str(path))
    assert settings.known_templates["mine"] == found["mine"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mine", "t.toml"),
        ('[mine]\nprompt = "{prompt}"\n', "mine.*think_end"),
        ('[mine]\nprompt = "{prompt}"\nthink_end = "e"\nanswer_suffix = "e"\nmore = 1\n', "mine.*more"),
        ('[mine]\nprompt = "none"\nthink_end = "e"\nanswer_suffix = "e"\n', "mine: prompt"),
        ("mine = 1", "mine"),
    ],
)
def test_a_faulty_template_is_named(tmp_path, text, words):
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_templates(path)
    with pytest.raises(ValidationError, match=words):
        SchedulerSettings(backend="embedded", templates=str(path))
