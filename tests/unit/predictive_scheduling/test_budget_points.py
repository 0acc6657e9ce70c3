"""Budget points and what they are used for: even ones have a spacing, what is none is refused with its place."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predictive_scheduling.budget_points import (
    MOST_POINTS,
    MOST_TOKENS,
    CurveError,
    check_points,
    checked_usage,
    evenly_spaced,
    risen_usage,
    spacing,
)


@given(st.integers(1, 50), st.integers(1, 500))
def test_even_points_have_their_spacing(count, step):
    points = evenly_spaced(count, step)
    assert (len(points), points[0], points[-1]) == (count, step, count * step)
    assert spacing(points) == step


@pytest.mark.parametrize("points", [(), (0,), (0, 16, 32), (16, 48), (16, 32, 64), (16, 32, 47)])
def test_other_points_have_none(points):
    assert spacing(points) == 0


@pytest.mark.parametrize("points", [(1,), (0, 1), (MOST_TOKENS,), evenly_spaced(MOST_POINTS, 256)])
def test_points_at_the_limits_are_taken(points):
    check_points(points)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ((), "1 to 512 budgets, not 0"),
        (evenly_spaced(MOST_POINTS + 1, 1), "not 513"),
        ((-1, 16), "from 0 to 131072 tokens, not -1 to 16"),
        ((0,), "not 0 to 0"),
        ((16, MOST_TOKENS + 1), "not 16 to 131073"),
        ((16, 16), "16 at place 1 follows 16"),
        ((16, 64, 32), "32 at place 2 follows 64"),
    ],
)
def test_what_are_no_points_is_refused_with_its_place(points, words):
    with pytest.raises(CurveError, match=words) as caught:
        check_points(points)
    assert caught.value.part == "points"


def test_rounding_is_forgiven_and_more_is_not():
    assert checked_usage((16, 32), (16 * (1 + 1e-7), 16.0)) == (16.0, 16.0)
    for used, words in (((16.01, 20.0), "at place 0"), ((16.0, 15.9), "at place 1"), ((float("nan"), 1.0), "place 0")):
        with pytest.raises(CurveError, match=words):
            checked_usage((16, 32), used)


@given(st.lists(st.tuples(st.integers(1, 99), st.floats(0, 9999)), min_size=1, max_size=20))
@example([(16, 0.0), (16, 32.0)])
def test_risen_usage_is_usage(drawn):
    points = tuple(sum(step for step, _ in drawn[: at + 1]) for at in range(len(drawn)))
    risen = risen_usage(points, [value for _, value in drawn])
    assert checked_usage(points, risen) == risen
    assert all(kept >= min(value, point) for kept, (_, value), point in zip(risen, drawn, points, strict=True))
    # A token more of budget uses a token more at most, whatever a predictor says.
    rises = zip([(0, 0.0), *zip(points, risen, strict=True)], zip(points, risen, strict=True), strict=False)
    assert all(use - used <= point - before + 1e-9 for (before, used), (point, use) in rises)
