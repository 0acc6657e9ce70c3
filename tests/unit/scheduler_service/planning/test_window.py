"""The request window closes by size or by age, and lets the abandoned go."""

from scheduler_service.planning.window import RequestWindow


def test_size_closes_it():
    window = RequestWindow(max_size=2, max_age_seconds=1.0)
    assert window.add("a", now=0.0) == []
    assert window.add("b", now=0.1) == ["a", "b"]
    assert len(window) == 0


def test_the_age_of_the_oldest_closes_it():
    window = RequestWindow(max_size=9, max_age_seconds=1.0)
    assert window.due_at() is None
    window.add("a", now=5.0)
    window.add("b", now=5.9)
    assert window.due_at() == 6.0
    assert window.close_if_due(5.99) == []
    assert window.close_if_due(6.0) == ["a", "b"]
    assert window.due_at() is None


def test_higher_priority_comes_first_and_arrival_breaks_ties():
    window = RequestWindow(max_size=3, max_age_seconds=1.0)
    window.add("late", now=0.0)
    window.add("urgent", now=0.0, priority=5)
    assert window.add("later", now=0.0) == ["urgent", "late", "later"]


def test_an_abandoned_item_is_not_allocated():
    window = RequestWindow(max_size=3, max_age_seconds=1.0)
    gone = object()
    window.add(gone, now=0.0)
    assert window.remove(gone)
    assert not window.remove(gone)
    assert window.close_if_due(10.0) == []


def test_an_adaptive_window_keeps_a_lone_request_from_waiting_but_gathers_a_crowd():
    window = RequestWindow(max_size=8, max_age_seconds=0.02, adaptive=True)
    assert window.add("first", 0.0) == ["first"]  # nothing is known of others
    for at in range(1, 5):
        assert window.add(f"slow {at}", float(at)) == [f"slow {at}"]  # one a second
    now, closed = 4.0, []
    for at in range(40):  # one a millisecond: after a few, it pays to wait
        now += 0.001
        closed.append(len(window.add(f"fast {at}", now)))
    assert closed[-8:].count(0) >= 7
    assert max(closed) == 8
    window.close()
    for at in range(12):  # and back to one a second
        now += 1.0
        window.close_if_due(now)
        last = window.add(f"slow again {at}", now)
    assert last == ["slow again 11"]
