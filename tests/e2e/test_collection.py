"""Sharded collection in processes of its own: a worker is killed midway, and nothing is lost or doubled."""

import asyncio
import collections
import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from exporters.measure.curves import read_curves
from exporters.measure.hidden_states import read_hidden_states
from exporters.measure.merge import merge
from exporters.measure.on_ray import run_on_ray
from exporters.measure.questions import read_questions
from predictive_scheduling_cli.main import app
from tests.standins.tgi import TgiStandIn
from tests.unit.exporters.measure.test_features import folder  # noqa: F401  # a fixture: a tiny LLM
from tests.waiting import eventually

COUNT = 24
OPTIONS = ["--backend", "tgi", "--template", "demo", "--check", "exact", "--samples", "1", "--windows", "2"]


def thinker(prompt):
    return [" yes", "\n\n"] if prompt.endswith("Final answer:") else [*["t "] * 20, "Final answer:", " yes", "\n\n"]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [{"question_id": f"q{n}", "question": f"word{n % 4} and more", "expected": "yes"} for n in range(COUNT)]
    rows = [{**row, "question": f"number {n}: {row['question']}"} for n, row in enumerate(rows)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


async def worker(questions, out, shard, url):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictive_scheduling_cli", "collect", *OPTIONS, "--backend-url", url, "--concurrency=1",
        "--questions", str(questions), "--out", str(out), "--shard", shard,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


async def test_a_worker_killed_midway_goes_on_where_it_was(tmp_path, questions):
    parts = [tmp_path / f"part-{index}.parquet" for index in range(2)]
    progress = parts[1].with_suffix(".progress.jsonl")
    async with TgiStandIn(script=thinker, token_seconds=0.01) as server:
        whole, killed = [await worker(questions, part, f"{at}/2", server.url) for at, part in enumerate(parts)]
        await eventually(lambda: progress.exists() and len(progress.read_text().splitlines()) >= 4)
        killed.kill()
        assert await killed.wait() < 0
        done = [json.loads(line)["question_id"] for line in progress.read_text().splitlines()[1:]]
        assert 3 <= len(done) < COUNT // 2
        assert not parts[1].exists()  # half a part never looks like a whole one
        again = await worker(questions, parts[1], "1/2", server.url)
        assert await again.wait() == 0
        assert await whole.wait() == 0
        asked = [request["inputs"].split(":")[0] for request in server.requests]
    merge(parts, read_questions(questions), tmp_path / "all.parquet")
    assert read_curves(tmp_path / "all.parquet").ids == [f"q{n}" for n in range(COUNT)]
    times = collections.Counter(name.removeprefix("Question: number ") for name in asked)
    once = times[done[0].removeprefix("q")]
    # Only the question that was under way when the worker died was asked again.
    assert sum(count > once for count in times.values()) <= 1


@pytest.fixture
def ray_without_noise(monkeypatch):
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")


@pytest.mark.filterwarnings("ignore")
async def test_a_ray_cluster_collects_the_same(tmp_path, questions, ray_without_noise):
    done = []
    async with TgiStandIn(script=thinker) as server:
        command = ["collect", *OPTIONS, "--backend-url", server.url]
        await asyncio.to_thread(
            run_on_ray, command, questions, tmp_path / "all.parquet", 3, on_done=lambda: done.append(1)
        )
    curves = read_curves(tmp_path / "all.parquet")
    assert curves.ids == [f"q{n}" for n in range(COUNT)]
    assert (curves.accuracy == 1).all()
    assert len(done) == 3


@pytest.mark.filterwarnings("ignore")
async def test_a_ray_cluster_says_why_a_shard_failed(tmp_path, questions, ray_without_noise):
    with pytest.raises(RuntimeError, match="backend_url"):
        await asyncio.to_thread(run_on_ray, ["collect", "--backend", "tgi"], questions, tmp_path / "all.parquet", 1)
    with pytest.raises(ValueError, match="collect or features, not train"):
        run_on_ray(["train"], questions, tmp_path / "all.parquet", 1)


def test_hidden_states_of_shards_merge_to_those_of_one_run(tmp_path, questions, folder):  # noqa: F811
    def read(out, shard):
        options = ["--questions", str(questions), "--model", str(folder), "--template", "demo", "--layers", "1,2"]
        done = CliRunner().invoke(app, ["features", *options, "--out", str(out), "--shard", shard])
        assert done.exit_code == 0, done.output

    read(tmp_path / "whole", "0/1")
    for index in range(2):
        read(tmp_path / f"part-{index}", f"{index}/2")
    asked = read_questions(questions)
    merge([tmp_path / "part-0", tmp_path / "part-1"], asked, tmp_path / "all")
    ids = [question.question_id for question in asked]
    for name in ("layer-01.npz", "layer-02.npz"):
        merged, whole = (read_hidden_states(tmp_path / where / name, ids) for where in ("all", "whole"))
        assert np.array_equal(merged, whole)
