"""The collector: one trace serves every window, and killed runs go on."""

from dataclasses import replace

import pytest

from exporters.measure.collect import Plan, collect, estimate
from exporters.measure.curves import read_curves
from exporters.measure.judging import Agreeing
from exporters.measure.questions import Question
from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.templates import TEMPLATES
from tests.builders.collecting import LABELLED, PLAN, thinks
from tests.standins.backend import ScriptedBackend


def questions(count):
    return [Question(f"q{n}", f"question {n}?", "yes", "g") for n in range(count)]


async def test_a_curve_has_the_forced_answer_of_each_window_and_then_the_models_own(tmp_path):
    backend = ScriptedBackend(thinks(40))
    measured = await collect(backend, PLAN, questions(1), LABELLED, tmp_path / "c.parquet")
    # 16 tokens: too few; 32 and 48: enough (the "t" of the question counts too, hence 20, not 16); 64: its own answer.
    assert measured[0].accuracy == [0.0, 1.0, 1.0, 1.0]
    assert measured[0].used_tokens == [16.0, 32.0, 41.0, 41.0]
    assert measured[0].reasoning_tokens == 41
    assert measured[0].answers == [["no", "yes", "yes", "yes"]]
    assert len(backend.calls) == 3  # one trace and the forced answers of two windows


async def test_points_need_not_be_evenly_spaced_and_may_begin_at_nothing(tmp_path):
    backend = ScriptedBackend(thinks(40))
    plan = Plan(TEMPLATES["demo"], (0, 24, 4000), answer_tokens=4)
    (measured,) = await collect(backend, plan, questions(1), LABELLED, tmp_path / "c.parquet")
    assert (measured.accuracy, measured.used_tokens) == ([0.0, 1.0, 1.0], [0.0, 24.0, 41.0])
    curves = read_curves(tmp_path / "c.parquet")
    assert curves.points.tolist() == [0, 24, 4000]
    assert curves.used.tolist() == [[0.0, 24.0, 41.0]]
    with pytest.raises(ValueError, match="must rise"):
        Plan(TEMPLATES["demo"], (64, 16))


async def test_forcing_stops_where_the_answer_no_longer_changes(tmp_path):
    """From the second answer in a row on that is the trace's own, the points up to its end are not asked."""
    points = evenly_spaced(12, 8)
    asked = {}
    for settled in (0, 2):
        backend = ScriptedBackend(thinks(90))
        plan = Plan(TEMPLATES["demo"], points, answer_tokens=4, settled=settled)
        (measured,) = await collect(backend, plan, questions(1), LABELLED, tmp_path / f"{settled}.parquet")
        assert measured.accuracy == [0.0] * 2 + [1.0] * 10
        asked[settled] = (len(backend.calls), measured.generated_tokens)
    assert asked[0][0] == 1 + 11
    assert asked[2][0] == 1 + 4  # two wrong answers, two right ones
    assert asked[2][1] < asked[0][1]


async def test_without_labels_answers_are_held_against_the_ends_of_other_traces(tmp_path):
    backend = ScriptedBackend(thinks(40))
    asked = [Question("a", "question?", None, "g"), Question("b", "question?", "no", "g")]
    plan = replace(PLAN, samples=2)
    same = Agreeing(lambda one, other: one.strip() == other.strip())
    unlabelled, labelled = await collect(backend, plan, asked, same, tmp_path / "c.parquet")
    assert (unlabelled.accuracy, unlabelled.judged_by) == ([0.0, 1.0, 1.0, 1.0], "agreement")
    assert (labelled.accuracy, labelled.judged_by) == ([1.0, 0.0, 0.0, 0.0], "expected")


async def test_what_cannot_be_judged_is_refused_before_anything_is_generated(tmp_path):
    unlabelled = [Question("a", "question?", None)]
    backend = ScriptedBackend(thinks(40))
    with pytest.raises(ValueError, match="question a: no expected; --check agreement needs none"):
        await collect(backend, PLAN, unlabelled, LABELLED, tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="--samples: agreement needs at least two traces"):
        await collect(backend, PLAN, unlabelled, Agreeing(str.__eq__), tmp_path / "c.parquet")
    assert not backend.calls


async def test_a_pilot_says_what_the_rest_will_cost_and_is_not_measured_again(tmp_path):
    out, told = tmp_path / "c.parquet", []
    pilot = await collect(
        ScriptedBackend(thinks(10)),
        PLAN,
        questions(12),
        LABELLED,
        out,
        pilot=3,
        on_measured=lambda *seen: told.append(seen),
    )
    assert [item.question_id for item in pilot] == ["q0", "q4", "q8"]
    assert not out.exists()
    expected = estimate(pilot, 60.0, 12)
    assert (expected.questions, expected.seconds) == (12, 240.0)
    assert expected.tokens == 4 * sum(item.generated_tokens for item in pilot)
    assert "12 questions: about" in str(expected)
    assert [rest.questions for _, rest in told] == [2, 1, 0]
    backend = ScriptedBackend(thinks(10))
    await collect(backend, PLAN, questions(12), LABELLED, out)
    alone = ScriptedBackend(thinks(10))
    await collect(alone, PLAN, questions(1), LABELLED, tmp_path / "one.parquet")
    assert len(backend.calls) == 9 * len(alone.calls)


async def test_what_was_measured_before_a_failure_is_not_measured_again(tmp_path):
    out = tmp_path / "c.parquet"
    backend = ScriptedBackend(thinks(10))
    await collect(backend, PLAN, questions(3), LABELLED, tmp_path / "other.parquet")
    per_question = len(backend.calls) // 3
    broken = ScriptedBackend(thinks(10))
    seen = []

    def break_after_two(item, _):
        seen.append(item)
        if len(seen) == 2:
            broken.error = BackendUnavailableError("gone")

    with pytest.raises(ExceptionGroup):
        await collect(broken, PLAN, questions(6), LABELLED, out, concurrency=1, on_measured=break_after_two)
    progress = out.with_suffix(".progress.jsonl")
    progress.write_text(progress.read_text() + '{"question_id": "q5", "cut sho')  # as a kill may leave it
    again = ScriptedBackend(thinks(10))
    measured = await collect(again, PLAN, questions(6), LABELLED, out, concurrency=2)
    assert [item.question_id for item in measured] == [f"q{n}" for n in range(6)]
    assert len(again.calls) == 4 * per_question
    assert not progress.exists()
    assert read_curves(out).ids == [f"q{n}" for n in range(6)]


@pytest.mark.parametrize("cut", ['{"question_id": "q5", "cut sho', '{"settings": {"budg'])
async def test_what_was_measured_after_a_kill_is_not_lost_to_the_line_that_it_cut(tmp_path, cut):
    out = tmp_path / "c.parquet"
    progress = out.with_suffix(".progress.jsonl")
    progress.write_text(cut)
    broken = ScriptedBackend(thinks(10))

    def break_at_once(*_):
        broken.error = BackendUnavailableError("gone")

    with pytest.raises(ExceptionGroup):
        await collect(broken, PLAN, questions(2), LABELLED, out, concurrency=1, on_measured=break_at_once)
    again = ScriptedBackend(thinks(10))
    with pytest.raises(ValueError, match="--answer-tokens"):
        await collect(again, replace(PLAN, answer_tokens=5), questions(2), LABELLED, out)
    await collect(again, PLAN, questions(2), LABELLED, out)
    assert not any("question 0" in call.prompt for call in again.calls)
    assert again.calls


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answer_tokens": 5}, "--answer-tokens: is 5"),
        ({"sampling": Sampling(temperature=0.6)}, "--temperature: is 0.6"),
        ({"settled": 2}, "--settled: is 2"),
        ({"samples": 3}, "--samples: is 3"),
        ({"points": (16, 32)}, "--budgets: is 16,32"),
        ({}, "--backend-model: is other"),
    ],
)
async def test_no_run_goes_on_with_what_was_measured_otherwise(tmp_path, change, named):
    out, model = tmp_path / "c.parquet", {"backend-model": "one"}
    await collect(ScriptedBackend(thinks(10)), PLAN, questions(6), LABELLED, out, pilot=2, known_as=model)
    backend = ScriptedBackend(thinks(10))
    now = model if change else {"backend-model": "other"}
    with pytest.raises(ValueError, match=named):
        await collect(backend, replace(PLAN, **change), questions(6), LABELLED, out, known_as=now)
    assert not backend.calls
    measured = await collect(backend, PLAN, questions(6), LABELLED, out, known_as=model)
    assert len(measured) == 6


async def test_progress_that_does_not_say_its_settings_is_gone_on_with(tmp_path):
    out = tmp_path / "c.parquet"
    await collect(ScriptedBackend(thinks(10)), PLAN, questions(6), LABELLED, out, pilot=6)
    progress = out.with_suffix(".progress.jsonl")
    progress.write_text("".join(line for line in progress.read_text().splitlines(True)[1:]) + "[1]\n7\n")
    backend = ScriptedBackend(thinks(10))
    await collect(backend, PLAN, questions(6), LABELLED, out)
    assert not backend.calls


def test_a_cost_whose_time_nobody_took_has_none():
    assert str(estimate([], None, 12)) == "12 questions: about 0 tokens"


async def test_samples_are_averaged(tmp_path):
    calls = []

    def moody(prompt):
        if prompt.endswith("Final answer:"):
            return [" no", "\n\n"]
        calls.append(prompt)
        return ["t", "Final answer:", " yes" if len(calls) % 2 else " no", "\n\n"]

    plan = Plan(TEMPLATES["demo"], evenly_spaced(2, 16), samples=4, answer_tokens=4)
    measured = await collect(ScriptedBackend(moody), plan, questions(1), LABELLED, tmp_path / "c.parquet")
    assert measured[0].accuracy == [0.5, 0.5]
