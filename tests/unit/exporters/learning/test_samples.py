"""Where samples come from, and how much say a tenant has."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.faults import CurvesFileError
from exporters.learning.samples import Example, FileSource, Sample, fair


def examples(tenants):
    return [Example(at, str(at), Sample(f"prompt {at}", tenant)) for at, tenant in enumerate(tenants)]


@given(st.lists(st.sampled_from("aaaabcdefgh"), max_size=80), st.floats(0.01, 1.0))
def test_no_tenant_has_more_than_its_share_of_what_is_kept(tenants, share):
    kept = fair(examples(tenants), share)
    counts = Counter(example.tenant for example in kept)
    most = max(counts.values(), default=0)
    assert most <= max(1, max(share, 1 / max(1, len(counts))) * len(kept) + 1e-6)
    assert set(counts) == set(tenants)  # none is left out
    numbers = [example.number for example in kept]
    assert numbers == sorted(numbers)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_with_a_whole_share_all_are_kept(tenants):
    assert len(fair(examples(tenants), 1.0)) == len(tenants)


def test_who_sends_much_is_kept_with_its_latest():
    kept = fair(examples("aaaaaaaabcd"), 0.25)
    assert [(example.tenant, example.number) for example in kept] == [("a", 7), ("b", 8), ("c", 9), ("d", 10)]


def test_what_is_printed_of_a_sample_holds_no_prompt():
    assert "secret" not in repr(Example(1, "key", Sample("secret", "team")))


async def test_a_file_is_read_on_from_where_it_was_read(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one", "tenant": "a"}\n\n{"question": "two"}\n{"prompt": "three"}\n')
    source = FileSource(path)
    assert await source.take(2) == [Sample("one", "a"), Sample("two", "")]
    assert source.position == 3
    assert await source.take(9) == [Sample("three", "")]
    assert await source.take(9) == []
    assert await FileSource(path, 3).take(9) == [Sample("three", "")]


async def test_a_file_with_fewer_lines_than_were_read_is_another_one(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    source = FileSource(path, 3)
    assert await source.take(9) == [Sample("one", ""), Sample("two", "")]
    assert source.position == 2


@pytest.mark.parametrize("cut", [5, 15, 17, 22])
async def test_a_last_line_that_is_still_being_written_is_taken_once_it_is_whole(tmp_path, cut):
    path, written = tmp_path / "prompts.jsonl", '{"prompt": "one"}\n{"prompt": "zwölf"}'.encode()
    path.write_bytes(written[: 18 + cut])
    source = FileSource(path)
    whole = len(written) <= 18 + cut
    assert await source.take(9) == [Sample("one", ""), *[Sample("zwölf", "")] * whole]
    path.write_bytes(written + b'\n{"prompt": "three"}\n')
    assert await source.take(9) == [*[Sample("zwölf", "")] * (not whole), Sample("three", "")]


async def test_separators_of_lines_within_a_prompt_end_no_line(tmp_path):
    prompts = ["one\u2028two", "one\u0085two", "one\u2029two"]
    rows = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts]
    (tmp_path / "prompts.jsonl").write_text("\r\n".join(rows), newline="")
    assert [sample.prompt for sample in await FileSource(tmp_path / "prompts.jsonl").take(9)] == prompts


FAULTY = [
    "no json secret", "[]", '"secret"', '{"prompt": 7}', "{}", '{"prompt": "", "question": null}',
    '{"prompt": "secret", "tenant": 3}', '{"prompt": "secret \\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("line", FAULTY)
async def test_a_faulty_line_is_named_by_its_number_and_not_quoted(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(CurvesFileError, match="line 2") as caught:
        await FileSource(path).take(9)
    assert "secret" not in str(caught.value)
