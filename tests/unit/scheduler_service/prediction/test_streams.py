"""When a stream to the predictor is opened again; the streams themselves are in test_prediction_streams."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.prediction.streams import Pause

ENDS = st.lists(st.tuples(st.floats(0, 5), st.sampled_from(["answered", "nothing", "faulty", "without"])), max_size=50)


@given(ENDS)
def test_a_pause_is_never_cut_short_and_at_most_a_minute(ends):
    pause, now = Pause(), 0.0
    for after, how in ends:
        now += after
        before = pause.until
        if how in ("answered", "nothing"):
            pause.ended(now, answered=how == "answered")
        elif how == "faulty":
            pause.faulty(now)
        else:
            pause.without(now)
        assert before <= pause.until
        assert pause.until <= now + 60


@given(st.integers(1, 30))
def test_streams_that_answer_nothing_are_opened_ever_less_often_and_one_that_does_ends_that(count):
    pause, pauses, now = Pause(), [], 0.0
    for _ in range(count):
        pause.ended(now, answered=False)
        pauses.append(pause.until - now)
        now = pause.until
    assert pauses[0] < 0.2
    assert all(later >= sooner - 1e-6 for sooner, later in pairwise(pauses))
    assert max(pauses) <= 10.0 + 1e-6
    pause.ended(now, answered=True)
    assert pause.until <= now
