"""A collection of curves from a scripted model, for the tests of collecting and merging."""

from exporters.measure.collect import Plan
from exporters.measure.judging import Labelled
from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.generation.templates import TEMPLATES

PLAN = Plan(TEMPLATES["demo"], evenly_spaced(4, 16), answer_tokens=4)


def thinks(tokens):
    """A model that thinks ``tokens`` tokens and answers right; cut short before its 20th token, it answers wrong."""

    def script(prompt):
        if prompt.endswith("Final answer:"):
            return [" yes" if prompt.count("t") >= 20 else " no", "\n\n"]
        return [*["t"] * tokens, "Final answer:", " yes", "\n\n"]

    return script


LABELLED = Labelled(lambda expected, answer: answer.strip() == expected)
