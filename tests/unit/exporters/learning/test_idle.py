"""Laws of what may be generated beside the traffic."""

from hypothesis import given
from hypothesis import strategies as st

from exporters.learning.idle import Allowed, IdleAccount, Load

ticks = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.floats(0, 20, allow_nan=False)), min_size=1, max_size=40
)
slots = st.integers(0, 16)


@given(ticks, slots, st.floats(0.01, 1.0))
def test_nothing_is_started_that_has_no_idle_slot_and_under_load_everything_is_given_up(made, room, share):
    account = IdleAccount(share)
    for in_flight, running, seconds in made:
        allowed = account.tick(Load(in_flight, room), running, seconds)
        assert 0 <= allowed.start <= max(0, room - in_flight - running)
        if in_flight >= account.busy * room:
            assert allowed == Allowed(give_up=True)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=200), st.floats(0.05, 0.95), st.integers(1, 30))
def test_over_time_no_more_than_the_share_of_what_was_idle_is_used(in_flight, share, length):
    """Each generation takes ``length`` seconds; what those use that run at the end was begun within the share."""
    account, room = IdleAccount(share), 8
    earned = used = 0.0
    running = []
    for others in in_flight:
        running = [left - 1 for left in running if left > 1]
        used += len(running)
        earned += share * max(0, room - others)
        allowed = account.tick(Load(others, room), len(running), 1.0)
        if allowed.give_up:
            running = []
        running += [length] * allowed.start
    assert used <= earned + room * length


def test_a_small_share_of_few_slots_is_used_in_turns():
    account = IdleAccount(0.1)
    started = sum(account.tick(Load(0, 4), 0, 1.0).start > 0 for _ in range(12))
    assert started > 0
    assert IdleAccount(0.1).tick(Load(0, 4), 0, 1.0).start == 0


def test_a_quiet_night_does_not_pay_for_a_busy_morning():
    account = IdleAccount(0.5)
    for _ in range(10_000):
        account.tick(Load(0, 4), 0, 1.0)
    assert account.balance <= 60


def test_what_ran_while_the_process_was_stopped_is_not_paid_for():
    account = IdleAccount(0.25)
    account.tick(Load(0, 8), 2, 36_000.0)
    assert sum(account.tick(Load(0, 8), 0, 1.0).start > 0 for _ in range(60))


def test_a_whole_share_may_use_all_that_is_idle():
    assert IdleAccount(1.0).tick(Load(1, 8), 2, 0.0).start == 5
