"""What a person reads of a load: as it goes on, and at its end."""

from rich.text import Text

from predictive_scheduling_cli.demo.load import rise_and_fall
from predictive_scheduling_cli.demo.load_view import LoadView, closing
from predictive_scheduling_cli.demo.open_loop import Fleet
from tests.builders.asked import answered, refused

PHASES = rise_and_fall(40, 60, 50)


def read(marked):
    return Text.from_markup(marked).plain


def test_a_line_tells_what_happened_since_the_last_one():
    view = LoadView(PHASES, [1.0, 3.0, 41.0, 42.0, 43.0, 43.5], 10.0, 40)
    view.asked += [answered(1, 2), answered(3, 3, right=False)]
    first = view.line(Fleet(4, 1, 0.0085, 40, 0.54, 0), 4.0)
    assert read(first).split() == ["0:04", "0.5x", "0.5", "1", "54%", "40", "█" * 16, "85", "3.0", "s", "1", "of", "2"]
    assert "[green]" in first
    view.asked += [answered(41, 12), refused(42)]
    second = view.line(Fleet(4, 9, 0.02, 10, 1.8, 0.1), 64.0)
    assert read(second).split() == [
        "1:04", "2x", "0.1", "9", "180%", "10", "████░░░░░░░░░░░░", "200", "12.0", "s", "1", "of", "2", "1", "refused",
    ]  # fmt: skip
    assert "[red]" in second


def test_latencies_are_those_of_the_last_seconds_and_none_where_nothing_ended():
    view = LoadView(PHASES, [1.0], 10.0, 40)
    view.asked.append(answered(1, 2))
    assert "s" not in read(view.line(Fleet(60, 0, 0.0, None, None, None), 60.0)).split()
    assert "of 10 s" in read(view.header())


def test_columns_stand_below_their_names():
    view = LoadView(PHASES, [1.0], 10.0, 40)
    view.asked.append(answered(1, 2))
    header, line = read(view.header()), read(view.line(Fleet(4, 1, 0.0085, 20, 0.54, 0), 4.0))
    assert header.index("right") == line.index("1 of 1")
    assert header.index("mean budget") == line.index("20 █") - 1


def test_the_end_says_who_gave_up_how_much():
    asked = [
        answered(1, 1, family="product", tokens=80, right=False),
        answered(50, 1, family="product", tokens=4, right=False),
        answered(2, 1, family="sum", tokens=40), answered(51, 11, family="sum", tokens=36), refused(52, family="sum"),
    ]  # fmt: skip
    lines = [read(line) for line in closing(asked, PHASES, 10.0)]
    assert lines[1].split() == ["product", "80", "4", "76", "0%", "0%"]
    assert lines[2].split() == ["sum", "40", "18", "22", "100%", "50%"]
    assert "20 tokens instead of 60, and 33% were right instead of 50%" in lines[-2]
    assert "Of 3 questions 1 took longer than 10 s, and 1 were refused" in lines[-2]
    assert lines[-1].startswith("The most was given up by product (76 tokens, +0 points right), sum (22 tokens, -50")
    assert "The least by sum (22 tokens" in lines[-1]


def test_the_end_of_a_load_that_nobody_felt():
    asked = [answered(1, 1, tokens=40), answered(50, 1, tokens=40)]
    assert closing(asked, PHASES, 10.0)[-1] == "Nobody gave up anything."
    assert len(closing(asked[:1], PHASES, 10.0)) == 2
    everything_refused = closing([answered(1, 1), refused(50)], PHASES, 10.0)
    assert "0 tokens instead of 40" in read(everything_refused[-2])
