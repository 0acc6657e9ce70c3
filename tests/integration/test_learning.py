"""The loop beside running services: prompts from a scheduler, its load, and a predictor that serves what is made."""

import asyncio
import itertools
import json
from functools import partial

import aiohttp
import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from exporters.cli import learn as command
from exporters.learning.candidates import make
from exporters.learning.idle import Load
from exporters.learning.pool import Pool
from exporters.learning.samples import Sample
from exporters.learning.store import FolderStore
from exporters.learning.traffic import RunningScheduler, SchedulerUnreachableError
from exporters.predictors.export import export
from predictive_scheduling import AsyncPredictorClient, AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.main import app
from predictor_service.model import LoadedModel
from tests.builders.learning import KEY, PROMPTS, by_prompt_with_states, by_state, learner, mean_only, write_prompts
from tests.integration.running import balanced, predictor, scheduler
from tests.standins.backend import ScriptedBackend
from tests.standins.connector import ConnectorStandIn
from tests.standins.openai import OpenAiStandIn
from tests.waiting import eventually


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


def run(tmp_path, *options, once=True, **environment):
    arguments = [
        "learn", f"--store={tmp_path / 'models'}", f"--state={tmp_path / 'state'}", "--template=demo",
        "--backend=embedded", "--check=exact", "--windows=4", "--samples=2", "--least-questions=8", "--look=8",
        "--tenant-share=0.4", *(["--once"] if once else []), *options,
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


def test_a_store_that_cannot_be_written_ends_a_pass_and_not_the_command(tmp_path, scripted, monkeypatch):
    waited, real = [], asyncio.sleep

    async def sleep(seconds):
        if seconds != 7:  # it is the backend's
            return await real(seconds)
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt
        return (tmp_path / "models").unlink()

    write_prompts(tmp_path / "prompts.jsonl", [f"secret {at}" for at in range(32)])
    (tmp_path / "models").write_text("no folder")
    monkeypatch.setattr("asyncio.sleep", sleep)
    options = [f"--prompts={tmp_path / 'prompts.jsonl'}", "--budget=32", "--every=7"]
    done = run(tmp_path, *options, once=False)
    assert (done.exit_code, waited) == (130, [7, 7]), done.output
    assert done.output.count("this pass ends, the next goes on") == 1
    assert "served: version 1" in done.output


def test_a_pass_goes_on_with_what_is_measured_when_its_time_is_up(tmp_path, scripted):
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    scripted.token_seconds = 60
    done = run(tmp_path, f"--prompts={tmp_path / 'prompts.jsonl'}", "--budget=32", "--measure-seconds=1")
    assert (done.exit_code, "24 new prompts, 0 measured by 0 tokens" in done.output) == (0, True)


def test_with_a_key_the_command_keeps_prompts_encrypted(tmp_path, scripted):
    prompts, key = tmp_path / "prompts.jsonl", tmp_path / "key"
    key.write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
    write_prompts(prompts, [f"secret {at}" for at in range(4)])
    assert run(tmp_path, f"--prompts={prompts}", "--budget=32", f"--key-file={key}").exit_code == 0
    assert (tmp_path / "state/samples").exists()
    other = run(tmp_path, f"--prompts={prompts}", "--budget=32", **{command.KEY_VARIABLE: "b" * 43 + "="})
    assert (other.exit_code, "by another key" in other.output) == (1, True)
    (tmp_path / "state/samples").unlink()  # forgotten prompts are no new ones
    assert "0 new prompts" in run(tmp_path, f"--prompts={prompts}", "--budget=32", f"--key-file={key}").output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--scheduler, --prompts: give one of them"),
        (["--prompts=none.jsonl"], "--budget: needed with --prompts"),
        (["--prompts=none.jsonl", "--budget=32"], "none.jsonl"),
        (["--scheduler=unix:/nowhere.sock"], "the scheduler does not answer"),
        (["--prompts=none.jsonl", "--budget=32", "--budgets=3,2"], "--budgets"),
        (["--prompts=none.jsonl", "--budget=32", "--layer=3"], "--reports-listen, --layer"),
        (["--prompts=none.jsonl", "--budget=32", "--layer=3", "--reports-listen=unix:/x"], "embedded reports nothing"),
    ],
)
def test_what_is_missing_is_named(tmp_path, scripted, options, said):
    failed = run(tmp_path, *options)
    assert (failed.exit_code, said in failed.output) == (1, True)
    assert not json.dumps(failed.output).count("Traceback")


async def trained(folder):
    """Model folders: a mean curve as versions 1 and 3, one that reads states (2,) of layer 3 as version 2."""
    pool = Pool()
    await by_prompt_with_states([pool.add(Sample(f"steep {at}", "t")) for at in range(6)], pool.measured)
    examples = pool.all()
    texts = [example.sample.prompt for example in examples]
    hidden = np.stack([example.state.values for example in examples]).astype(np.float32)
    for version, made in ((1, mean_only(examples, 32)), (2, by_state(examples, 32)), (3, mean_only(examples, 32))):
        export(made.trained, folder / str(version), texts, hidden, name="learned", version=str(version))
    return folder


@pytest.fixture
async def served(tmp_path):
    """A predictor of what the loop publishes, an engine with our connector, and a scheduler that takes its states."""
    models, trial = tmp_path / "models", {"canary": "learned=learned-canary"}
    models.mkdir()
    connector = ConnectorStandIn(lambda prompt: [1.0, 0.0])
    settings = {"default_model": "learned", "default_may_be_missing": True, "reload_seconds": 0.05, **trial}
    async with (
        OpenAiStandIn(lambda _: ["t"] * 80, connector=connector) as engine,
        predictor(models, **settings) as predictions,
        scheduler(
            backend="vllm", backend_url=engine.url, template="demo", predictor=predictions, policy="price",
            tokens_per_query=32, floor_tokens=8, cap_tokens=64, reports_listen=f"unix:{tmp_path}/states.sock",
        ) as address,
        AsyncSchedulerClient(address) as client,
    ):  # fmt: skip
        yield FolderStore(models), await trained(tmp_path / "trained"), client, connector


async def test_defaults_that_read_texts_and_states_follow_each_other_and_each_gets_what_it_reads(served):
    store, models, client, connector = served
    numbers = itertools.count()

    async def predicted_by(label):
        done = (await client.complete(f"question {next(numbers)}")).allocation
        return done.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH and done.predictor == label

    for version, layers in ((1, []), (2, [3]), (3, [])):
        store.publish("default", models / str(version))
        await eventually(lambda version=version: predicted_by(f"learned@{version}"))
        await balanced(client)
        connector.asked.clear()
        assert await predicted_by(f"learned@{version}")  # from here on each request, not only one
        await balanced(client)
        assert connector.asked[0]["layers"] == layers


async def test_a_text_s_candidate_is_tried_beside_states_and_one_of_states_cannot_be_beside_a_text(served):
    """So the loop publishes the first as a trial and not the second."""
    store, models, client, _ = served
    numbers = itertools.count()

    async def predictor_of_one():
        done = (await client.complete(f"question {next(numbers)}")).allocation
        return done.predictor if done.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH else ""

    async def is_predicted_by(label):
        return await predictor_of_one() == label

    store.publish("default", models / "2")
    await eventually(lambda: is_predicted_by("learned@2"))
    store.publish("canary", models / "3")
    await eventually(lambda: is_predicted_by("learned-canary@3"))
    store.withdraw("canary")
    store.publish("default", models / "1")
    await eventually(lambda: is_predicted_by("learned@1"))
    store.publish("canary", models / "2")
    for _ in range(8):
        assert await predictor_of_one() == "learned@1"


DRAWN = np.random.default_rng(0).normal(size=(100, 7))  # what else is in a state


def number(prompt):
    return int(prompt.split("secret ")[1].split()[0])


def hard(prompt):
    """Whether a question, "secret" and a number, needs 50 tokens; its number is all that tells."""
    return number(prompt) % 2 == 0


def thinks_for_the_hard(prompt):
    thought = prompt.count("t") - prompt.split("\n")[0].count("t")
    if prompt.endswith("Final answer:"):
        return [" no" if hard(prompt) and thought < 50 else " yes", "\n\n"]
    return [*["t"] * (60 if hard(prompt) else 10), "Final answer:", " yes", "\n\n"]


async def test_the_command_makes_a_model_of_the_engine_s_states_where_they_tell_more(tmp_path, monkeypatch):
    kinds = ("mean_curve", "hidden_state_mlp")
    monkeypatch.setattr("exporters.learning.loop._maker", lambda _: partial(make, least_text=20, kinds=kinds))
    prompts = tmp_path / "prompts.jsonl"
    write_prompts(prompts, [f"secret {at}" for at in range(60)])
    (tmp_path / "key").write_text(KEY)
    connector = ConnectorStandIn(lambda prompt: [4.0 if hard(prompt) else -4.0, *DRAWN[number(prompt)]])
    async with OpenAiStandIn(thinks_for_the_hard, connector=connector) as engine:
        options = [
            f"--prompts={prompts}", "--budget=48", "--backend=vllm", f"--backend-url={engine.url}",
            f"--reports-listen=unix:{tmp_path}/learn.sock", "--layer=3", f"--key-file={tmp_path / 'key'}",
            "--look=16", "--least-questions=24", "--slots=8",
        ]  # fmt: skip
        done = await asyncio.to_thread(run, tmp_path, *options)
    assert done.exit_code == 0, done.output
    card = json.loads((tmp_path / "models/cards/1.json").read_text())
    assert (card["kind"], card["hidden_size"], card["layer"]) == ("hidden_state_mlp", 8, 3)
    assert card["held_out_gain"]["hidden_state_mlp"] > card["held_out_gain"]["mean_curve"]
    assert card["evidence"][0]["decision"] == "promoted"
    assert not (tmp_path / "models/learned-shadow").exists()  # nobody would bring it states
    assert {example.state.origin for example in Pool(tmp_path / "state/samples", KEY).all()} == {(3, 8)}
    assert {(body["model"], body["priority"]) for body in engine.requests} == {("m", command.LEAST_PRIORITY)}


def test_while_it_runs_the_command_serves_its_metrics(tmp_path, scripted, monkeypatch, caplog):
    prompts, pages, sleep = tmp_path / "prompts.jsonl", [], asyncio.sleep
    write_prompts(prompts, [f"secret {at}" for at in range(32)])

    async def scrape(seconds):
        """The pause between two passes, in which Prometheus comes by."""
        if seconds != 7:
            return await sleep(seconds)
        port = next(record.args[0] for record in caplog.records if record.msg == "metrics on port %d")
        async with aiohttp.ClientSession() as session:
            for token in ("", "open sesame"):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(f"http://127.0.0.1:{port}/metrics", headers=headers) as reply:
                    pages.append((reply.status, await reply.text()))
        raise KeyboardInterrupt

    monkeypatch.setattr("asyncio.sleep", scrape)
    options = [f"--prompts={prompts}", "--budget=32", "--metrics-listen=127.0.0.1:0", "--pages-token=open sesame"]
    assert run(tmp_path, *options, "--every=7", once=False).exit_code == 130
    (refused, _), (status, page) = pages
    assert (refused, status) == (401, 200)
    assert 'predictive_scheduling_learn_questions_total{outcome="measured"} 32' in page
    assert 'predictive_scheduling_learn_version{slot="default"} 1' in page
    assert "secret" not in page
