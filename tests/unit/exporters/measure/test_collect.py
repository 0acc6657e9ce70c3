"""The collector: one trace serves every window, killed runs go on, and files are checked when read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporters.faults import CurvesFileError
from exporters.measure.checkers import checker
from exporters.measure.collect import Plan, collect, estimate
from exporters.measure.curves import read_curves, write_curves
from exporters.measure.merge import merge
from exporters.measure.questions import Question, Shard, read_questions
from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.domain import BackendUnavailableError
from scheduler_service.generation.templates import TEMPLATES
from tests.standins.backend import ScriptedBackend

PLAN = Plan(TEMPLATES["demo"], evenly_spaced(4, 16), answer_tokens=4)


def thinks(tokens):
    """A model that thinks ``tokens`` tokens and answers right; cut short before its 20th token, it answers wrong."""

    def script(prompt):
        if prompt.endswith("Final answer:"):
            return [" yes" if prompt.count("t") >= 20 else " no", "\n\n"]
        return [*["t"] * tokens, "Final answer:", " yes", "\n\n"]

    return script


def questions(count):
    return [Question(f"q{n}", f"question {n}?", "yes", "g") for n in range(count)]


def right(expected, answer):
    return answer.strip() == expected


async def test_a_curve_has_the_forced_answer_of_each_window_and_then_the_models_own(tmp_path):
    backend = ScriptedBackend(thinks(40))
    measured = await collect(backend, PLAN, questions(1), right, tmp_path / "c.parquet")
    # 16 tokens: too few; 32 and 48: enough (the "t" of the question counts too, hence 20, not 16); 64: its own answer.
    assert measured[0].accuracy == [0.0, 1.0, 1.0, 1.0]
    assert measured[0].used_tokens == [16.0, 32.0, 41.0, 41.0]
    assert measured[0].reasoning_tokens == 41
    assert measured[0].answers == [["no", "yes", "yes", "yes"]]
    assert len(backend.calls) == 3  # one trace and the forced answers of two windows


async def test_points_need_not_be_evenly_spaced_and_may_begin_at_nothing(tmp_path):
    backend = ScriptedBackend(thinks(40))
    plan = Plan(TEMPLATES["demo"], (0, 24, 4000), answer_tokens=4)
    (measured,) = await collect(backend, plan, questions(1), right, tmp_path / "c.parquet")
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
        (measured,) = await collect(backend, plan, questions(1), right, tmp_path / f"{settled}.parquet")
        assert measured.accuracy == [0.0] * 2 + [1.0] * 10
        asked[settled] = (len(backend.calls), measured.generated_tokens)
    assert asked[0][0] == 1 + 11
    assert asked[2][0] == 1 + 4  # two wrong answers, two right ones
    assert asked[2][1] < asked[0][1]


async def test_a_pilot_says_what_the_rest_will_cost_and_is_not_measured_again(tmp_path):
    out, told = tmp_path / "c.parquet", []
    pilot = await collect(
        ScriptedBackend(thinks(10)),
        PLAN,
        questions(12),
        right,
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
    await collect(backend, PLAN, questions(12), right, out)
    alone = ScriptedBackend(thinks(10))
    await collect(alone, PLAN, questions(1), right, tmp_path / "one.parquet")
    assert len(backend.calls) == 9 * len(alone.calls)


async def test_what_was_measured_before_a_failure_is_not_measured_again(tmp_path):
    out = tmp_path / "c.parquet"
    backend = ScriptedBackend(thinks(10))
    await collect(backend, PLAN, questions(3), right, tmp_path / "other.parquet")
    per_question = len(backend.calls) // 3
    broken = ScriptedBackend(thinks(10))
    seen = []

    def break_after_two(item, _):
        seen.append(item)
        if len(seen) == 2:
            broken.error = BackendUnavailableError("gone")

    with pytest.raises(ExceptionGroup):
        await collect(broken, PLAN, questions(6), right, out, concurrency=1, on_measured=break_after_two)
    progress = out.with_suffix(".progress.jsonl")
    progress.write_text(progress.read_text() + '{"question_id": "q5", "cut sho')  # as a kill may leave it
    again = ScriptedBackend(thinks(10))
    measured = await collect(again, PLAN, questions(6), right, out, concurrency=2)
    assert [item.question_id for item in measured] == [f"q{n}" for n in range(6)]
    assert len(again.calls) == 4 * per_question
    assert not progress.exists()
    assert read_curves(out).ids == [f"q{n}" for n in range(6)]


async def test_samples_are_averaged(tmp_path):
    calls = []

    def moody(prompt):
        if prompt.endswith("Final answer:"):
            return [" no", "\n\n"]
        calls.append(prompt)
        return ["t", "Final answer:", " yes" if len(calls) % 2 else " no", "\n\n"]

    plan = Plan(TEMPLATES["demo"], evenly_spaced(2, 16), samples=4, answer_tokens=4)
    measured = await collect(ScriptedBackend(moody), plan, questions(1), right, tmp_path / "c.parquet")
    assert measured[0].accuracy == [0.5, 0.5]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"question_id": ["a"], "question": ["q"]}, "no column accuracy_at_window"),
        ({"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.5, 1.5]]}, "row 0.*window 1 is 1.5"),
        ({"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.5, float("nan")]]}, "window 1 is nan"),
        ({"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.5, None]]}, "window 1 is None"),
        (
            {"question_id": ["a", "b"], "question": ["q", "r"], "accuracy_at_window": [[0.5], [0.5, 0.6]]},
            "row 1.*2 windows, the first row has 1",
        ),
        (
            {"question_id": ["a", "a"], "question": ["q", "r"], "accuracy_at_window": [[0.5], [0.5]]},
            "row 1, question_id: a is also in row 0",
        ),
    ],
)
def test_a_faulty_curves_file_is_refused_with_row_and_column(tmp_path, columns, words):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(CurvesFileError, match=words):
        read_curves(path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "c.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(CurvesFileError, match="not a readable parquet file"):
        read_curves(path)


def test_curves_come_back_as_written(tmp_path):
    path = tmp_path / "deep" / "c.parquet"
    write_curves(path, {"question_id": ["a"], "question": ["q"], "accuracy_at_window": [[0.25, 0.5]], "more": [1]})
    curves = read_curves(path)
    assert (curves.ids, curves.questions, curves.accuracy.tolist()) == (["a"], ["q"], [[0.25, 0.5]])


def write_questions(path, count):
    rows = [{"question_id": f"q{n}", "question": f"question {n}?", "expected": "yes"} for n in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_questions(path)


@pytest.mark.parametrize("count", [1, 3, 7])
async def test_shards_merge_to_one_dataset_with_no_question_lost_or_doubled(tmp_path, count):
    asked = write_questions(tmp_path / "q.jsonl", 10)
    parts = []
    for index in range(count):
        parts.append(tmp_path / f"part-{index}.parquet")
        await collect(ScriptedBackend(thinks(10)), PLAN, Shard(index, count).of(asked), right, parts[-1])
    merge(parts, asked, tmp_path / "all.parquet")
    assert read_curves(tmp_path / "all.parquet").ids == [f"q{n}" for n in range(10)]
    if count > 1:
        with pytest.raises(CurvesFileError, match="in no part"):
            merge(parts[1:], asked, tmp_path / "all.parquet")
        with pytest.raises(CurvesFileError, match="is not in the questions file"):
            merge(parts, asked[:-1], tmp_path / "all.parquet")
    with pytest.raises(CurvesFileError, match=r"q0 is in .*part-0\.parquet too"):
        merge([*parts, parts[0]], asked, tmp_path / "all.parquet")


def test_a_shard_comes_from_an_indexed_jobs_environment():
    assert Shard.from_environment({}) == Shard(0, 1)
    assert Shard.from_environment({"JOB_COMPLETION_INDEX": "2", "SHARD_COUNT": "5"}) == Shard(2, 5)
    for environ in ({"JOB_COMPLETION_INDEX": "5", "SHARD_COUNT": "5"}, {"SHARD_COUNT": "many"}):
        with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX, SHARD_COUNT"):
            Shard.from_environment(environ)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1: not a JSON object"),
        (["[]"], "line 1: not a JSON object"),
        (['{"question_id": "a", "question": "q"}'], "line 1: no expected"),
        (['{"question_id": "a", "question": "q", "expected": "e"}'] * 2, "line 2: question_id a is also in line 1"),
    ],
)
def test_a_faulty_questions_file_is_refused_with_its_line(tmp_path, lines, words):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(CurvesFileError, match=words):
        read_questions(path)


@pytest.mark.parametrize(
    ("expected", "answer", "equal"),
    [
        ("72", "\n\n**Final Answer**\n\\boxed{72}", True),
        ("72", "\\boxed{72", True),
        ("0.5", "\\boxed{\\frac{1}{2}}", True),
        ("1000", "\\boxed{1,000}", True),
        ("72", "\\boxed{73}", False),
        ("72", "", False),
    ],
)
def test_mathematical_answers_are_compared_by_value(expected, answer, equal):
    assert checker("maths")(expected, answer) is equal


def test_checkers_are_found_by_name_or_refused():
    assert checker("exact")("Yes", " yes.\nmore")
    assert checker("exporters.measure.checkers:exact")("a", "A")
    for name in ("nope", "os:nope", "nomodule:f", "os:name"):
        with pytest.raises(ValueError, match="--check"):
            checker(name)
