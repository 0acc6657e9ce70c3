"""What leads a model to its next step, and what sends it away."""

import pytest

from exporters.learning.promotion import UNIFORM, Interval, Judged, Standing, Trained, Watched, after

BETTER, WORSE, UNSURE = Interval(0.1, 0.02, 0.2, 40), Interval(-0.1, -0.2, -0.02, 40), Interval(0.01, -0.1, 0.1, 40)


NOTHING = Standing()


def run(*events, patience=3, standing=NOTHING):
    words = []
    for event in events:
        standing, decision = after(standing, event, patience)
        words.append(decision.word)
    return standing, words


def risen(version, since=0):
    """The events that lead a version from training to default, over questions ``since`` + 1 to ``since`` + 40."""
    judged = [Judged(version, since + 10, since + at, BETTER) for at in (20, 30, 40)]
    return [Trained(version, since + 10, 10), *judged]


def test_a_candidate_takes_three_steps_each_on_newer_questions():
    trained, *judged = risen(1)
    standing, _ = run(trained)
    steps = []
    for event in judged:
        standing, decision = after(standing, event)
        assert decision.word == "promoted"
        steps.append(standing.candidate.step if standing.candidate else "default")
    assert steps == ["shadow", "canary", "default"]
    assert (standing.default, standing.lineage, standing.watched) == (1, (), 40)


def test_the_same_questions_do_not_count_twice():
    standing, words = run(Trained(1, 10, 10), Judged(1, 10, 20, BETTER), Judged(1, 10, 20, BETTER))
    assert words[-1] == "ignored"
    assert standing.candidate.step == "shadow"


def test_questions_of_its_training_do_not_count():
    assert run(Trained(1, 10, 10), Judged(1, 5, 20, BETTER))[1] == ["candidate", "ignored"]


def test_no_questions_are_no_evidence():
    assert run(Trained(1, 10, 10), Judged(1, 10, 20, Interval(1.0, 1.0, 1.0, 0)))[1] == ["candidate", "ignored"]


@pytest.mark.parametrize("low", [0.0, -0.01])
def test_a_bound_that_is_not_above_0_leads_nowhere(low):
    standing, words = run(Trained(1, 10, 10), Judged(1, 10, 20, Interval(0.1, low, 0.3, 40)))
    assert words[-1] == "undecided"
    assert standing.candidate.step == "trained"


def test_a_candidate_that_is_worse_is_refused_at_once_and_one_that_stays_unsure_after_some_looks():
    assert run(Trained(1, 10, 10), Judged(1, 10, 20, WORSE))[1][-1] == "refused"
    looks = [Judged(1, 10, until, UNSURE) for until in (20, 30, 40)]
    standing, words = run(Trained(1, 10, 10), *looks)
    assert words[1:] == ["undecided", "undecided", "refused"]
    assert standing.retired == {1}
    assert run(*[Judged(1, 10, 90, BETTER)], standing=standing)[1] == ["ignored"]


def test_only_one_candidate_is_on_its_way_and_no_version_comes_twice():
    standing, words = run(Trained(1, 10, 10), Trained(2, 20, 20))
    assert words[-1] == "ignored"
    standing, _ = run(*risen(1))
    assert run(Trained(1, 50, 50), standing=standing)[1] == ["ignored"]


def test_a_default_that_falls_below_the_one_before_gives_way_to_it():
    standing, _ = run(*risen(1), *risen(2, since=40))
    assert (standing.default, standing.lineage, standing.fallbacks) == (2, (1,), (UNIFORM, 1))
    standing, words = run(Watched(2, 80, 90, {UNIFORM: BETTER, 1: WORSE}), standing=standing)
    assert words == ["rolled back"]
    assert (standing.default, standing.lineage, standing.retired) == (1, (), {2})


def test_of_several_that_are_better_it_gives_way_to_the_best():
    standing, _ = run(*risen(1), *risen(2, since=40))
    much = Interval(-0.3, -0.4, -0.2, 40)
    standing, _ = run(Watched(2, 80, 90, {UNIFORM: much, 1: WORSE}), standing=standing)
    assert (standing.default, standing.lineage, standing.retired) == (UNIFORM, (), {1, 2})


def test_a_default_that_does_well_stays_and_what_it_was_watched_on_does_not_count_again():
    standing, words = run(*risen(1), Watched(1, 40, 50, {UNIFORM: BETTER}))
    assert words[-1] == "stays"
    assert run(Watched(1, 40, 50, {UNIFORM: WORSE}), standing=standing)[1] == ["ignored"]
    assert run(Watched(2, 50, 60, {UNIFORM: WORSE}), standing=standing)[1] == ["ignored"]
    assert run(Watched(1, 50, 60, {7: WORSE}), standing=standing)[1] == ["stays"]  # 7 never was before it


def test_after_a_rollback_a_candidate_that_was_held_against_the_bad_default_begins_again():
    events = [*risen(1), Trained(2, 50, 50), Judged(2, 50, 60, BETTER), Watched(1, 40, 70, {UNIFORM: WORSE})]
    standing, words = run(*events)
    assert words[-1] == "rolled back"
    assert (standing.candidate.version, standing.candidate.step, standing.candidate.unseen) == (2, "trained", 70)
    assert run(Judged(2, 50, 80, BETTER), standing=standing)[1] == ["ignored"]


def test_reasons_name_the_bound():
    _, decision = after(run(Trained(1, 10, 10))[0], Judged(1, 10, 20, UNSURE))
    assert "+1.0 points (-10.0 to +10.0; 40 questions) beside uniform budgets" in decision.reason
