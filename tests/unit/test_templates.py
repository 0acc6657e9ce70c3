"""Prompt templates."""

import pytest

from scheduler_service.templates import TEMPLATES, PromptTemplate


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
