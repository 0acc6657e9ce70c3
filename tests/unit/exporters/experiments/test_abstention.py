"""What abstaining saves on kinds that were never seen, and what it costs on known ones."""

from dataclasses import replace

import numpy as np
import pytest

from exporters.experiments.abstention import (
    MEAN_CURVE,
    TRUSTED,
    UNIFORM,
    Strange,
    Unseen,
    abstention_table,
    elsewhere,
    known_table,
    unseen,
)
from exporters.measure.curves import Curves, window_points
from exporters.predictors.ensemble import Recipe
from exporters.predictors.train import TextRecipe, train

RECIPE = Recipe(members=2, hidden=16, epochs=40, batch=32, learning_rate=1e-2, mixup=0.0, input_dropout=0.0)
KINDS = ("add up the row", "walk along this path", "name some colour")


def task(number):
    """A question of a kind, and the steps that it needs: in the last kind, long questions need few."""
    kind, steps = number % 3, 1 + number // 3 % 7
    return f"{KINDS[kind]} of {steps * 'step '}now", steps if kind < 2 else 8 - steps


@pytest.fixture(scope="module")
def measured():
    texts, needed = zip(*map(task, range(240)), strict=True)
    accuracy = (np.arange(1, 9)[None, :] >= np.array(needed)[:, None]).astype(float)
    names = [str(n) for n in range(240)]
    curves = Curves.measured(names, list(texts), window_points(8), accuracy)
    return curves, np.array([KINDS[n % 3] for n in range(240)])


def test_trusting_predictions_for_an_unseen_kind_loses_and_abstaining_does_not(measured):
    found = unseen(*measured, RECIPE, TextRecipe(min_texts=2))
    assert [one.kind for one in found.strange] == sorted(KINDS)
    assert all(one.found == 1 for one in found.strange)
    assert min(one.worst[TRUSTED] for one in found.strange) < -1
    assert found.worst_points == 0
    assert found.known_gain_lost_share < 0.2
    assert max(found.known[TRUSTED]) > 10
    rows = abstention_table(
        found, [Strange("elsewhere", 0.5, dict.fromkeys((TRUSTED, UNIFORM, MEAN_CURVE), -1.0))]
    ).rows
    assert [row[0] for row in rows] == [*sorted(KINDS), "elsewhere"]
    assert rows[-1] == ["elsewhere", "50%", "-1.0", "-1.0", "-1.0"]
    assert len(known_table(found).rows) == 3


def test_hidden_states_tell_kinds_apart_as_well(measured):
    curves, groups = measured
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(240, 4)).astype(np.float32)
    hidden[:, 1:] += 30 * (groups[:, None] == np.array(KINDS))
    assert unseen(curves, groups, RECIPE, hidden=hidden).worst_points == 0


def test_questions_of_another_source_are_abstained_on_where_the_predictor_can_tell(measured):
    curves, groups = measured
    known, _ = train("text_curve", curves.chosen(np.flatnonzero(groups != KINDS[2])), None, RECIPE, TextRecipe(2))
    other = curves.chosen(np.flatnonzero(groups == KINDS[2]))
    found = elsewhere("colours", known, other)
    assert (found.kind, found.found, found.worst[UNIFORM]) == ("colours", 1, 0)
    naive = elsewhere("colours", replace(known, familiarity=None), other)
    assert naive.found == 0
    assert naive.worst[UNIFORM] == naive.worst[TRUSTED] == found.worst[TRUSTED]


@pytest.mark.parametrize(
    ("trusted", "left", "lost"),
    [([10, 5], [9, 5], 0.1), ([10, 5], [12, 6], 0.0), ([10, 1], [10, 0], 0.0), ([0, -3], [0, 0], 0.0)],
)
def test_the_share_of_the_gain_that_is_lost_is_asked_where_there_is_one(trusted, left, lost):
    found = Unseen([], [16, 32], {TRUSTED: trusted, UNIFORM: left}, 0.02)
    assert found.known_gain_lost_share == pytest.approx(lost)
