"""Models on trial: the share of the calls that they get, and what is noted of them."""

import numpy as np
import pytest

from predictor_service.inputs.features import Query
from predictor_service.trials import Trial, Trials


@pytest.mark.parametrize(
    ("text", "trial"), [("m", Trial("m", 1.0)), ("m:0.05", Trial("m", 0.05)), (" m :1", Trial("m", 1.0))]
)
def test_a_trial_is_written_as_a_model_and_its_share(text, trial):
    assert Trial.parse(text) == trial


@pytest.mark.parametrize("text", ["", ":0.5", "m:0", "m:-1", "m:1.1", "m:nan", "m:many", "m:0.5:0.5"])
def test_what_is_no_trial_is_refused(text):
    with pytest.raises(ValueError, match=r"share|float"):
        Trial.parse(text)


def test_a_trial_gets_about_its_share_and_a_query_that_comes_again_the_same_answer():
    trial, queries = Trial("m", 0.25), [Query(f"question {at}") for at in range(4000)]
    taken = [trial.takes([query]) for query in queries]
    assert sum(taken) / len(taken) == pytest.approx(0.25, abs=0.03)
    assert [trial.takes([query, Query("another")]) for query in queries] == taken
    larger = Trial("m", 0.5)
    assert all(larger.takes([query]) for query, was in zip(queries, taken, strict=True) if was)


def test_hidden_states_tell_queries_apart_as_texts_do():
    trial = Trial("m", 0.5)
    taken = {trial.takes([Query("", np.full(4, at, np.float32))]) for at in range(64)}
    assert taken == {True, False}


def test_trials_are_found_by_kind_and_by_the_model_beside_which_they_are():
    trials = Trials({"a": Trial("b", 1.0)}, {"a": Trial("c", 1.0), "d": Trial("e", 1.0)})
    asked = [Query("q")]
    assert trials.find("canary", "a", asked)[0].model == "b"
    assert trials.find("shadow", "a", asked)[0].model == "c"
    assert trials.find("canary", "d", asked) is None
    assert [(kind, trial.model) for kind, trial, _ in trials.of("a")] == [("canary", "b"), ("shadow", "c")]
    assert trials.of("b") == []


def test_what_comes_of_a_trial_is_averaged_by_query():
    trials = Trials(shadow={"a": Trial("b", 1.0)})
    _, record = trials.find("shadow", "a", [Query("q")])
    assert (record.mean_difference, record.seconds_per_query) == (0.0, 0.0)
    record.answered(1, 0.5)
    record.answered(3, 0.5)
    assert record.differed(np.zeros((1, 2), np.float32), np.full((1, 2), 0.5, np.float32)) == 0.5
    record.differed(np.zeros((3, 2), np.float32), np.full((3, 2), -0.25, np.float32))
    nothing, halves = np.full((1, 2), np.nan, np.float32), np.full((1, 2), 0.5, np.float32)
    assert record.differed(halves, nothing) == record.differed(nothing, halves) == 0.0  # they are no curves
    (found,) = [record for *_, record in trials.of("a")]
    assert (found.seconds_per_query, found.mean_difference) == (0.25, (0.5 + 3 * 0.25) / 4)
