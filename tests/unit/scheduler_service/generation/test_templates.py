"""Prompt templates."""

import pytest
from pydantic import ValidationError

from scheduler_service.generation.templates import TEMPLATES, PromptTemplate, read_templates
from scheduler_service.settings import SchedulerSettings


def test_braces_in_a_prompt_are_left_alone():
    assert TEMPLATES["demo"].render("{prompt} {x}") == "Question: {prompt} {x}\n"


def test_every_shipped_template_can_be_forced():
    for template in TEMPLATES.values():
        assert template.think_end in template.answer_suffix


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
