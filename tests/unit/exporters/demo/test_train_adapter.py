"""What the adapter learns of an example: the solution; where its steps break off, never that they end there."""

import random
from dataclasses import replace

from exporters.demo.prompt import prompt_of
from exporters.demo.tasks import Task
from exporters.demo.train_adapter import LONG, AdapterRecipe, collate, encode, short_enough

TASK = Task("count", "How many ones are in 1 0 1?", "1:1 0:1 1:2", "2")


class Letters:
    """A tokenizer whose tokens are letters."""

    def encode(self, text):
        return [ord(letter) for letter in text]


def learnt(recipe, seed=0):
    """The whole example, and what of it is learnt, as text."""
    ids, known = encode(TASK, Letters(), random.Random(seed), recipe)
    return "".join(map(chr, ids)), "".join(chr(one) for one, wanted in zip(ids, known, strict=True) if wanted)


def test_the_whole_solution_is_learnt_and_nothing_of_the_question():
    text, solution = learnt(replace(LONG, cut_share=0.0))
    assert text == prompt_of(TASK.question) + solution
    assert solution == "1:1 0:1 1:2\nFinal answer: 2\n\n"


def test_of_steps_that_break_off_only_the_answer_is_learnt():
    for seed in range(10):
        text, solution = learnt(AdapterRecipe(cut_share=1.0), seed)
        assert text.endswith("Final answer: 2\n\n")
        assert solution == " 2\n\n"


def test_of_long_steps_that_break_off_those_before_are_learnt_too_but_not_that_they_end():
    for seed in range(10):
        text, solution = learnt(replace(LONG, cut_share=1.0), seed)
        steps = solution.removesuffix(" 2\n\n")
        assert TASK.steps.startswith(steps)
        assert text == prompt_of(TASK.question) + steps + ("\n" if steps else "") + "Final answer: 2\n\n"


def test_padding_and_what_is_not_learnt_carry_no_label():
    batch = collate([([1, 2, 3], [False, True, True]), ([4], [True])], pad=0)
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_questions_that_take_too_many_tokens_are_left_out():
    needed = len(learnt(replace(LONG, cut_share=0.0))[0])
    assert short_enough([TASK], Letters(), needed) == [TASK]
    assert short_enough([TASK], Letters(), needed - 1) == []
