"""Laws of promotion, in whatever order events come: repeated, stale, of unknown versions, with odd numbers."""

from hypothesis import given
from hypothesis import strategies as st

from exporters.learning.promotion import UNIFORM, Interval, Judged, Standing, Trained, Watched, after

numbers = st.integers(0, 60)
versions = st.integers(0, 6)


@st.composite
def intervals(draw):
    low, mean, high = sorted(draw(st.tuples(*[st.floats(-1, 1)] * 3)))
    return Interval(mean, low, high, draw(st.integers(0, 50)))


events = st.one_of(
    st.builds(Trained, versions, numbers, numbers),
    st.builds(Judged, versions, numbers, numbers, intervals()),
    st.builds(Watched, versions, numbers, numbers, st.dictionaries(versions, intervals(), max_size=3)),
)
# Event streams in which much is accepted: versions and questions rise, with noise in between.
streams = st.lists(events, max_size=40)


@st.composite
def plausible(draw):
    made, version, at = [], 0, 0
    for _ in range(draw(st.integers(0, 25))):
        at += draw(st.integers(0, 5))
        kind = draw(st.sampled_from(["train", "judge", "watch", "noise"]))
        if kind == "train":
            version += 1
            made.append(Trained(version, at, at))
        elif kind == "judge":
            made.append(Judged(version, draw(st.integers(max(0, at - 20), at)), at + 1, draw(intervals())))
        elif kind == "watch":
            gains = {draw(st.integers(0, version)): draw(intervals()) for _ in range(2)}
            made.append(Watched(draw(st.integers(0, version)), at, at + 1, gains))
        else:
            made.append(draw(events))
    return made


def steps(stream):
    standing = Standing()
    for event in stream:
        before = standing
        standing, decision = after(standing, event)
        yield before, event, standing, decision


@given(st.one_of(streams, plausible()))
def test_nothing_moves_up_but_by_a_bound_above_0_on_unseen_and_newer_questions(stream):
    order = ["trained", "shadow", "canary", "default"]

    def height(standing, version):
        if version == standing.default and version != UNIFORM:
            return 3
        return (
            order.index(standing.candidate.step) if standing.candidate and standing.candidate.version == version else -1
        )

    for before, event, now, decision in steps(stream):
        for version in range(1, 8):
            rise = height(now, version) - height(before, version)
            if rise <= 0 or (isinstance(event, Trained) and height(now, version) == 0):
                continue
            if isinstance(event, Watched):  # back to what was a default before
                assert version in before.lineage
                assert event.against[version].high < 0
                continue
            assert isinstance(event, Judged)
            assert (rise, decision.word) == (1, "promoted")
            assert event.gain.low > 0
            assert event.until > before.candidate.until
            assert event.since >= before.candidate.unseen


@given(st.one_of(streams, plausible()))
def test_a_version_has_one_place_and_a_retired_one_none(stream):
    for before, _, now, _ in steps(stream):
        places = [
            *now.lineage,
            *([now.default] if now.default else []),
            *([now.candidate.version] if now.candidate else []),
        ]
        assert len(places) == len(set(places))
        assert not set(places) & now.retired
        assert before.retired <= now.retired


@given(st.one_of(streams, plausible()))
def test_what_is_ignored_changes_nothing_and_coming_again_is_ignored(stream):
    for before, event, now, decision in steps(stream):
        if decision.word == "ignored":
            assert now == before
        again, twice = after(now, event)
        assert (again, twice.word) == (now, "ignored")


@given(st.one_of(streams, plausible()))
def test_a_default_leaves_only_for_one_that_is_better_by_its_bound(stream):
    for before, event, now, _ in steps(stream):
        if before.default not in (UNIFORM, now.default):
            better = isinstance(event, Judged) and event.gain.low > 0
            worse = isinstance(event, Watched) and event.against[now.default].high < 0
            assert better or worse
