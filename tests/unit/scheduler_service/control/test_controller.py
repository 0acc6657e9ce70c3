"""The controller, one behaviour at a time, mostly before a small engine that is a fluid."""

import pytest

from scheduler_service.control.capacity import Bounds
from scheduler_service.control.controller import Controller
from scheduler_service.control.learning import Observation
from scheduler_service.control.objectives import parse_objectives
from tests.builders.fluid_engine import FluidEngine

BOUNDS = Bounds(32, 256, 1024)
FITS = 200 / (0.02 + 306 * 0.015)  # requests a second that take all slots with the most


def controlled(*texts, **engine):
    objectives = parse_objectives(texts or ["total p99 20s"])
    return FluidEngine(Controller(objectives, BOUNDS), objectives[0], **engine)


def quiet(**seen):
    usual = {
        "seconds": 1.0, "arrivals": 20, "running": 60, "waiting": 0, "tokens": 6000, "outstanding": 9000, "slots": 200,
    }  # fmt: skip
    return Observation(**(usual | seen))


def test_a_controller_needs_an_objective():
    with pytest.raises(ValueError, match="objectives: needs one"):
        Controller([], BOUNDS)


def test_requests_get_the_most_while_nothing_was_seen_and_when_nobody_comes():
    controller = Controller(parse_objectives(["total p99 20s"]), BOUNDS)
    nothing = controller.observe(quiet(running=0, tokens=0), 1.0)
    assert (nothing.mean, nothing.longest_of("anyone"), nothing.refuse) == (256, 1024, 0)
    idle = Controller(parse_objectives(["total p99 20s"]), BOUNDS).observe(quiet(arrivals=0), 1.0)
    assert (idle.mean, idle.refuse, idle.load) == (256, 0, 0)


@pytest.mark.parametrize("seconds", [1e3, 1e4, 1e6])
def test_a_process_that_was_stopped_for_long_goes_on(seconds):
    controller = Controller(parse_objectives(["total p99 20s"]), BOUNDS)
    controller.observe(quiet(running=200, waiting=50), 1.0)
    controller.observe(quiet(running=200, waiting=50), 2.0)  # so that the slots are known
    found = controller.observe(quiet(seconds=seconds), 2.0 + seconds)
    assert BOUNDS.least <= found.mean <= BOUNDS.most


def test_at_half_load_nothing_is_given_up():
    engine = controlled()
    engine.run(FITS / 2, 60)
    assert set(engine.means) == {256}
    assert set(engine.shares) == {0}
    assert engine.decision.load == pytest.approx(0.5, abs=0.1)
    assert engine.decision.longest_of("") == 1024


def test_at_twice_the_load_the_objective_is_held_by_budgets_and_nobody_is_refused():
    engine = controlled()
    engine.run(FITS / 2, 30)
    engine.run(2 * FITS, 90)
    assert max(engine.seconds[40:]) < 20
    assert 32 < engine.decision.mean < 256
    assert max(engine.shares) == 0
    assert engine.decision.load == pytest.approx(2, abs=0.3)
    (objective,) = engine.controller.corrections
    assert engine.decision.predicted[objective] < 20


def test_beyond_the_floors_a_share_is_refused_that_makes_the_rest_fit():
    engine = controlled()
    engine.run(8 * FITS, 120)
    assert engine.decision.mean == 32
    assert engine.decision.refuse == pytest.approx(1 - 306 / 8 / 82, abs=0.12)
    assert 1 <= engine.decision.retry_seconds <= 60
    assert max(engine.seconds[60:]) < 20


def test_the_time_to_come_back_is_true():
    """Were the refused to come back after it, and nobody else, they would be admitted."""
    engine = controlled()
    engine.run(8 * FITS, 60)
    waited = engine.decision.retry_seconds
    engine.run(0.0, round(waited + 1))
    assert engine.decision.refuse == 0


def test_the_time_to_come_back_is_that_of_the_backlog_where_floors_would_fit():
    engine = controlled()
    engine.run(FITS / 2, 30)
    fits = engine.controller.observe(quiet(arrivals=FITS, outstanding=1e6, running=200, tokens=200 / 0.015), 31.0)
    for second in range(32, 40):
        fits = engine.controller.observe(
            quiet(arrivals=FITS, outstanding=1e6, waiting=500, running=200, tokens=200 / 0.015), float(second)
        )
    assert fits.mean == 32
    assert fits.refuse == 1
    assert fits.retry_seconds == 60  # nearly a million tokens, at some nine thousand a second that are to spare


def test_an_objective_of_first_tokens_keeps_requests_from_waiting():
    engine = controlled("first_token p95 1s")
    engine.run(2 * FITS, 90)
    waiting = sum(cohort.count for cohort in engine.cohorts) - 200
    assert waiting < 40
    assert engine.decision.longest == {"": 1024}


def test_a_tenant_with_an_objective_of_its_own_has_shorter_budgets():
    engine = controlled("total p99 20s", "gold: total p99 3s")
    engine.run(FITS / 2, 20)
    assert engine.decision.longest_of("gold") < engine.decision.longest_of("else")
    assert engine.decision.longest_of("else") <= 1024


def test_the_tightest_of_all_objectives_counts():
    both, one = controlled("total p99 20s", "first_token p95 1s"), controlled()
    waiting = []
    for engine in (both, one):
        engine.run(FITS / 2, 20)
        engine.run(3 * FITS, 30)
        waiting.append(sum(cohort.count for cohort in engine.cohorts))
    assert waiting[0] < waiting[1]


def test_an_objective_that_nothing_can_hold_leaves_the_least():
    engine = controlled("total p99 100ms")
    engine.run(FITS, 60)
    assert engine.decision.mean == 32
    assert engine.decision.longest_of("") == 32
