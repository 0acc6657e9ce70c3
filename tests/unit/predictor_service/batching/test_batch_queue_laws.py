"""Laws of the predictor's queue: order kept, batches bounded, nobody lost, the abandoned dropped."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from predictor_service.batching.batch_queue import BatchQueue


@dataclass
class Group:
    name: int
    size: int
    abandoned: bool = False


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=30), st.integers(8, 20))
def test_every_live_entry_leaves_once_in_order_in_bounded_batches(entries, most):
    queue = BatchQueue(max_batch=most, max_delay=0.0, max_queries=10_000)
    groups = [Group(at, size) for at, (size, _) in enumerate(entries)]
    for group in groups:
        assert queue.offer([group], now=0.0)
    for group, (_, abandoned) in zip(groups, entries, strict=True):
        group.abandoned = abandoned
    taken = []
    while len(queue):
        batch = [group for _, group in queue.take()]
        assert sum(group.size for group in batch) <= most
        taken += batch
    assert [g.name for g in taken] == [g.name for g in groups if not g.abandoned]


@given(st.lists(st.integers(1, 8), max_size=20), st.integers(1, 40))
def test_what_does_not_fit_is_refused_whole(sizes, most):
    queue = BatchQueue(max_batch=8, max_delay=0.0, max_queries=most)
    for size in sizes:
        before = len(queue)
        accepted = queue.offer([Group(0, size)], now=0.0)
        assert len(queue) == (before + size if accepted else before)
        assert accepted is (before + size <= most)


def test_a_batch_is_due_when_full_or_when_its_oldest_entry_has_waited_enough():
    queue = BatchQueue(max_batch=4, max_delay=0.5, max_queries=100)
    assert queue.due_at() is None
    queue.offer([Group(0, 1)], now=10.0)
    assert queue.due_at() == 10.5
    queue.offer([Group(1, 3)], now=10.1)
    assert queue.due_at() == 0.0
