"""What is served follows from the lines, and from nothing else."""

import json

import pytest

from exporters.learning.ledger import Ledger, LedgerFault
from exporters.learning.promotion import Interval, Judged, Trained, Watched

BETTER, WORSE = Interval(0.1, 0.02, 0.2, 40), Interval(-0.1, -0.2, -0.02, 40)
EVENTS = [
    Trained(1, 10, 10),
    *[Judged(1, 10, until, BETTER) for until in (20, 30, 40)],
    Watched(1, 40, 50, {0: BETTER}),
    Trained(2, 50, 50),
    Watched(1, 50, 60, {0: WORSE}),
]


def test_read_again_it_stands_where_it_stood_after_every_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for event in EVENTS:
        ledger = Ledger(path)
        ledger.record(event, note="x")
        again = Ledger(path)
        assert again.standing == ledger.standing
        assert again.lines == ledger.lines
    assert [row["step"] for row in ledger.lines] == list(range(1, len(EVENTS) + 1))
    assert (ledger.last_number, ledger.standing.default) == (60, 0)
    assert len(ledger.about(1)) == 6


def test_what_is_ignored_is_not_written(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.record(EVENTS[0])
    assert ledger.record(EVENTS[0]).word == "ignored"
    assert len(Ledger(tmp_path / "ledger.jsonl").lines) == 1


def test_tokens_and_the_position_in_the_source_are_counted(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert (ledger.tokens, ledger.position, ledger.last_number) == (0, 0, 0)
    ledger.spent(3, 100, 7)
    ledger.spent(1, 20)
    assert (ledger.tokens, ledger.position) == (120, 7)
    ledger.spent(1, 0, 4)  # of a file that was begun anew
    assert ledger.position == 4
    assert Ledger(tmp_path / "ledger.jsonl").tokens == 120


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"event": "none"}', '{"event": "trained"}', '{"event": "judged", "version": 1}']
)
def test_a_line_that_is_none_is_named(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).record(EVENTS[0])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(LedgerFault, match="line 2"):
        Ledger(path)


def test_a_line_that_a_kill_cut_short_is_ignored_and_replaced(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).record(EVENTS[0])
    path.write_text(path.read_text() + '{"step": 2, "eve')
    ledger = Ledger(path)
    ledger.record(EVENTS[1])
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["trained", "judged"]
