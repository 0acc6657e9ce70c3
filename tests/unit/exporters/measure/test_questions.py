"""Questions files and shards of them."""

import pytest

from exporters.faults import CurvesFileError
from exporters.measure.questions import Shard, read_questions


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
        (['{"question_id": "a", "expected": "e"}'], "line 1: no question"),
        (['{"question_id": "a", "question": "q", "expected": "e"}'] * 2, "line 2: question_id a is also in line 1"),
    ],
)
def test_a_faulty_questions_file_is_refused_with_its_line(tmp_path, lines, words):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(CurvesFileError, match=words):
        read_questions(path)


def test_a_question_may_hold_what_else_ends_a_line(tmp_path):
    path = tmp_path / "q.jsonl"
    asked = "one\u2028two\u0085three"
    path.write_text(f'{{"question_id": "a", "question": "{asked}"}}\r\n\n{{"question_id": "b", "question": "q"}}\n')
    assert [one.question for one in read_questions(path)] == [asked, "q"]
