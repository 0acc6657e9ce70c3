"""How far queries lie from training, and the limit that a stated share of its own questions exceeds."""

import numpy as np
import pytest

from exporters.demo.tasks import split_tasks
from exporters.predictors.familiarity import (
    FALSE_ALARMS,
    LEAST_QUESTIONS,
    Familiarity,
    familiarity_of_states,
    learn_familiarity,
)

TASKS = split_tasks().curves[:360]
SOME = [task.question for task in TASKS if task.family != "lookup"]
OTHERS = [task.question for task in TASKS if task.family == "lookup"]


def states(rows, seed=0, spread=1.0):
    """Hidden states around two centres."""
    rng = np.random.default_rng(seed)
    centres = np.array([[3.0] * 6, [-3.0] * 6])
    return (centres[rng.integers(0, 2, rows)] + spread * rng.normal(size=(rows, 6))).astype(np.float32)


def test_another_kind_of_text_is_beyond_the_limit_and_known_ones_are_within():
    known = learn_familiarity(SOME, None).familiarity
    assert (known.measure(OTHERS, None) > known.limit).all()
    assert (known.measure(SOME, None) > known.limit).mean() <= 2 * FALSE_ALARMS


def test_states_between_two_clusters_are_beyond_the_limit():
    known = learn_familiarity(None, states(600)).familiarity
    assert (known.measure([], np.zeros((1, 6), np.float32)) > known.limit).all()
    assert (known.measure([], states(600, seed=1)) > known.limit).mean() == pytest.approx(FALSE_ALARMS, abs=0.02)


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_the_stated_share_of_held_out_questions_is_beyond_the_limit(rate):
    learned = learn_familiarity(None, states(500), false_alarms=rate)
    assert learned.familiarity.false_alarms == rate
    assert learned.alarms.mean() == pytest.approx(rate, abs=0.003)


def test_either_input_makes_a_query_strange_where_both_are_read():
    hidden = states(len(SOME))
    known = learn_familiarity(SOME, hidden).familiarity
    both = known.measure([SOME[0], OTHERS[0], SOME[0]], np.stack([hidden[0], hidden[0], np.full(6, 90, np.float32)]))
    assert (both > known.limit).tolist() == [False, True, True]


def test_too_few_questions_tell_nothing():
    assert learn_familiarity(None, states(LEAST_QUESTIONS - 1)) is None
    assert learn_familiarity(SOME[: LEAST_QUESTIONS - 1], None) is None
    assert learn_familiarity(None, states(LEAST_QUESTIONS)) is not None


def test_of_few_questions_no_small_rate_is_stated():
    few, many = (learn_familiarity(None, states(count)).familiarity for count in (50, 400))
    assert (few.false_alarms, many.false_alarms) == (3 / 50, FALSE_ALARMS)


def test_of_an_encoder_that_knows_its_questions_only_others_say_what_is_usual():
    learnt_by_heart, others, asked = states(600, 0, 0.3), states(400, 1), states(2000, 2)
    known = familiarity_of_states(learnt_by_heart, others)
    assert (known.measure([], asked) > known.limit).mean() == pytest.approx(FALSE_ALARMS, abs=0.02)
    assert (known.measure([], np.zeros((1, 6), np.float32)) > known.limit).all()
    deceived = learn_familiarity(None, learnt_by_heart).familiarity
    assert (deceived.measure([], asked) > deceived.limit).mean() > 0.9
    assert familiarity_of_states(learnt_by_heart, others[:50]).false_alarms == 3 / 50


@pytest.mark.parametrize(("seen", "others"), [(LEAST_QUESTIONS, LEAST_QUESTIONS - 1), (LEAST_QUESTIONS - 1, 400)])
def test_an_encoder_of_too_few_questions_tells_nothing(seen, others):
    assert familiarity_of_states(states(seen), states(others)) is None


def test_states_that_never_vary_and_those_beyond_all_bounds_give_a_number():
    known = learn_familiarity(None, np.ones((LEAST_QUESTIONS, 4), np.float32)).familiarity
    far, near = known.measure([], np.array([[3e38] * 4, [1, 1, 1, 1]], np.float32))
    assert near <= known.limit < far < np.inf


@pytest.mark.parametrize(("texts", "hidden"), [(SOME, None), (None, states(120)), (SOME, states(len(SOME)))])
def test_what_is_saved_is_what_is_loaded(tmp_path, texts, hidden):
    known = learn_familiarity(texts, hidden).familiarity
    known.save(tmp_path / "f.npz")
    loaded = Familiarity.load(tmp_path / "f.npz")
    assert (loaded.limit, loaded.false_alarms) == (known.limit, known.false_alarms)
    asked = OTHERS[:5], None if hidden is None else hidden[:5]
    assert loaded.measure(*asked).tolist() == known.measure(*asked).tolist()
