"""Parts of a collection become one dataset."""

import json

import pytest

from exporters.faults import CurvesFileError
from exporters.measure.collect import collect
from exporters.measure.curves import read_curves, write_curves
from exporters.measure.merge import merge
from exporters.measure.questions import Question, Shard, read_questions
from tests.builders.collecting import LABELLED, PLAN, thinks
from tests.standins.backend import ScriptedBackend


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
        await collect(ScriptedBackend(thinks(10)), PLAN, Shard(index, count).of(asked), LABELLED, parts[-1])
    merge(parts, asked, tmp_path / "all.parquet")
    assert read_curves(tmp_path / "all.parquet").ids == [f"q{n}" for n in range(10)]
    if count > 1:
        with pytest.raises(CurvesFileError, match="in no part"):
            merge(parts[1:], asked, tmp_path / "all.parquet")
        with pytest.raises(CurvesFileError, match="is not in the questions file"):
            merge(parts, asked[:-1], tmp_path / "all.parquet")
    with pytest.raises(CurvesFileError, match=r"q0 is in .*part-0\.parquet too"):
        merge([*parts, parts[0]], asked, tmp_path / "all.parquet")


@pytest.mark.parametrize(("column", "value"), [("used_tokens", [1.0, 2.0]), ("samples", 4), ("difficulty", "easy")])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_known_of_some_parts_alone_is_neither_lost_nor_made_up(tmp_path, column, value, first):
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for at, part in enumerate(parts):
        known = {column: [value]} if first == (at == 0) else {}
        curve = {"question_id": [f"q{at}"], "question": ["?"], "budget_tokens": [[16, 32]], "accuracy": [[0.1, 0.2]]}
        write_curves(part, {**curve, **known})
    with pytest.raises(CurvesFileError, match=f"{column}: some parts have it"):
        merge(parts, [Question(f"q{at}", "?", None) for at in range(2)], tmp_path / "all.parquet")
