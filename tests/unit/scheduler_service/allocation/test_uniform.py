"""Uniform: the same for everybody, within floors and caps."""

from scheduler_service.allocation import POLICIES
from tests.builders.problems import problem


def test_uniform_gives_everybody_the_same_to_the_token():
    assert POLICIES["uniform"].allocate(problem([[0.5] * 4] * 3, total=100)).tolist() == [34, 33, 33]


def test_uniform_respects_floors_and_caps():
    plan = POLICIES["uniform"].allocate(problem([[0.5] * 4] * 3, total=90, floors=[40, 0, 0], caps=[64, 10, 64]))
    assert plan.tolist() == [40, 10, 40]
