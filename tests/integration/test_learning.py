"""The loop beside running services: prompts from a scheduler, its load, and a predictor that serves what is made."""

import asyncio
import itertools
import json
from functools import partial

import grpc
import pytest
import numpy as np
from typer.testing import CliRunner

from exporters.cli import learn as command
from exporters.learning.idle import Load
from exporters.learning.candidates import make
from exporters.learning.traffic import RunningScheduler, SchedulerUnreachableError
from exporters.learning.pool import Pool
from exporters.learning.samples import Sample
from exporters.learning.store import FolderStore
from predictive_scheduling import AsyncPredictorClient, AsyncSchedulerClient
from exporters.predictors.export import export
from predictive_scheduling_cli.main import app
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictor_service.model import LoadedModel
from tests.builders.learning import KEY, PROMPTS, by_prompt_with_states, by_state, learner, mean_only, write_prompts
from tests.integration.running import balanced, predictor, scheduler
from tests.standins.backend import ScriptedBackend
from tests.waiting import eventually
from tests.standins.connector import ConnectorStandIn
from tests.standins.openai import OpenAiStandIn


async def test_a_running_scheduler_gives_samples_its_load_and_its_mean_budget():
    backend = ScriptedBackend(lambda _: ["t"] * 4)
    settings = {"policy": "uniform", "sample_tenants": "team-a", "tokens_per_query": 48}
    async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
        await client.complete("one", tenant="team-a")
        await client.complete("two", tenant="team-b")
        running = RunningScheduler(client, slots=4)
        assert [(sample.prompt, sample.tenant) for sample in await running.take(10)] == [("one", "team-a")]
        assert await running.take(10) == []
        assert await running.load() == Load(0, 4)
        assert await running.mean_budget() == 48


async def test_a_scheduler_that_does_not_answer_counts_as_busy_and_gives_no_samples(caplog):
    async with AsyncSchedulerClient("unix:/nowhere/at-all.sock", timeout=0.2) as client:
        running = RunningScheduler(client, slots=4)
        assert [await running.load(), await running.load()] == [Load(4, 4)] * 2
        assert caplog.text.count("nothing is measured") == 1
        with pytest.raises(SchedulerUnreachableError, match="gives no samples"):
            await running.take(1)
        with pytest.raises(SchedulerUnreachableError, match="does not answer"):
            await running.mean_budget()


async def test_a_predictor_that_began_without_a_model_serves_what_is_made_and_lets_go_what_is_taken_back(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    settings = {
        "default_model": "learned", "default_may_be_missing": True, "reload_seconds": 0.05,
        "canary": "learned=learned-canary:0.1", "shadow": "learned=learned-shadow",
    }  # fmt: skip
    async with predictor(models, **settings) as address, AsyncPredictorClient(address) as client:

        async def answers():
            try:
                return (await client.predict(["any"])).model
            except grpc.aio.AioRpcError as error:
                return error.code()

        assert await answers() == grpc.StatusCode.FAILED_PRECONDITION
        write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
        loop = learner(tmp_path)
        await loop.one_pass()

        async def served():
            return await answers() == "learned"

        await eventually(served)
        loop._store.withdraw("default")

        async def gone():
            return await answers() == grpc.StatusCode.FAILED_PRECONDITION

        await eventually(gone)


@pytest.fixture
def scripted(monkeypatch):
    """A model that thinks for 60 tokens and is right from the 50th on, whatever is asked."""

    def script(prompt):
        if prompt.endswith("Final answer:"):
            return [" yes" if prompt.count("t") - prompt.split("\n")[0].count("t") >= 50 else " no", "\n\n"]
        return [*["t"] * 60, "Final answer:", " yes", "\n\n"]

    backend = ScriptedBackend(script)
    monkeypatch.setattr("scheduler_service.generation.backends.make_backend", lambda _: backend)
    return backend


def run(tmp_path, *options, **environment):
    arguments = [
        "learn", f"--store={tmp_path / 'models'}", f"--state={tmp_path / 'state'}", "--once", "--template=demo",
        "--backend=embedded", "--check=exact", "--windows=4", "--samples=2", "--least-questions=8", "--look=8",
        "--tenant-share=0.4", *options,
    ]  # fmt: skip
    return CliRunner().invoke(app, arguments, env=environment)


def test_the_command_makes_a_model_from_a_file_of_prompts_and_says_what_it_did(tmp_path, scripted):
    prompts = tmp_path / "prompts.jsonl"
    write_prompts(prompts, [f"secret {at}" for at in range(32)])
    done = run(tmp_path, f"--prompts={prompts}", "--budget=32")
    assert done.exit_code == 0, done.output
    assert "32 new prompts, 32 measured by" in done.output
    assert "promoted: version 1: +" in done.output
    assert "served: version 1" in done.output
    assert "secret" not in done.output
    assert LoadedModel(tmp_path / "models/learned").manifest.budget_points == (16, 32, 48, 64)
    again = run(tmp_path, f"--prompts={prompts}", "--budget=32")
    assert "0 new prompts" in again.output


def test_a_scheduler_that_is_away_ends_a_pass_and_not_the_command(tmp_path, scripted, monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("asyncio.sleep", sleep)
    arguments = ["learn", f"--store={tmp_path / 'models'}", f"--state={tmp_path / 'state'}", "--every=7",
                 "--scheduler=unix:/nowhere.sock", "--budget=32", "--backend=embedded", "--slots=2"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, waited) == (130, [7, 7])
    assert done.output.count("this pass ends, the next goes on") == 2


def test_with_a_key_the_command_keeps_prompts_encrypted(tmp_path, scripted):
    prompts, key = tmp_path / "prompts.jsonl", tmp_path / "key"
    key.write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
    write_prompts(prompts, [f"secret {at}" for at in range(4)])
    assert run(tmp_path, f"--prompts={prompts}", "--budget=32", f"--key-file={key}").exit_code == 0
    assert (tmp_path / "state/samples").exists()
    other = run(tmp_path, f"--prompts={prompts}", "--budget=32", **{command.KEY_VARIABLE: "b" * 43 + "="})
    assert (other.exit_code, "by another key" in other.output) == (1, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--scheduler, --prompts: give one of them"),
        (["--prompts=none.jsonl"], "--budget: needed with --prompts"),
        (["--prompts=none.jsonl", "--budget=32"], "none.jsonl"),
        (["--scheduler=unix:/nowhere.sock"], "the scheduler does not answer"),
        (["--prompts=none.jsonl", "--budget=32", "--budgets=3,2"], "--budgets"),
    ],
        (["--prompts=none.jsonl", "--budget=32", "--layer=3"], "--reports-listen, --layer"),
        (["--prompts=none.jsonl", "--budget=32", "--layer=3", "--reports-listen=unix:/x"], "embedded reports nothing"),
)
def test_what_is_missing_is_named(tmp_path, scripted, options, said):
    failed = run(tmp_path, *options)
    assert (failed.exit_code, said in failed.output) == (1, True)
    assert not json.dumps(failed.output).count("Traceback")
