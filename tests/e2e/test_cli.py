"""The command line, as a user runs it: in processes of its own."""

import asyncio
import io
import json
import signal
import subprocess
import sys

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from predictive_scheduling_cli.demo.load import rise_and_fall
from predictive_scheduling_cli.demo.load_run import run_load_demo
from predictive_scheduling_cli.demo.services import ServiceFailedError, service
from tests.browser import browser
from tests.integration.running import predictor, scheduler
from tests.integration.test_scheduler import thinker
from tests.programs import needs
from tests.standins.backend import ScriptedBackend
from tests.waiting import PATIENCE


async def cli(*words, stdin=b""):
    """Run the command line; returns exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictive_scheduling_cli", *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("command", ["demo", "generate", "allocate", "predictor", "scheduler"])
async def test_every_command_explains_itself(command):
    code, out, _ = await cli(command, "--help")
    assert code == 0
    assert "Usage" in out


async def test_the_help_names_where_to_start_and_the_version_is_told():
    code, out, _ = await cli("--help")
    assert code == 0
    assert "predictive-scheduling demo" in out
    assert (await cli("--version"))[1].strip() == "0.1.0"


async def test_generate_shows_the_text_the_budget_and_the_savings():
    async with predictor() as predictions:
        settings = {"predictor": predictions}
        async with scheduler(ScriptedBackend(thinker), **settings) as address:
            code, out, err = await cli("generate", "What is 1 + 1?", "--scheduler", address)
    assert code == 0
    assert "42" in out
    assert "64 reasoning tokens (uniform: 64)" in err
    assert "saved against the cap" in err


async def test_allocate_shows_the_plan_as_a_table_and_as_json():
    prompts = b"What is 487 times 693?\nHow many ones are in 1 0 1 1 0 1 1 0 1 1 0 1 0 1?\n"
    async with predictor() as predictions:
        settings = {"predictor": predictions}
        async with scheduler(ScriptedBackend(thinker), **settings) as address:
            _, table, _ = await cli("allocate", "-", "--scheduler", address, "--tokens", "48", stdin=prompts)
            _, plan, _ = await cli("allocate", "-", "--scheduler", address, "--tokens", "48", "--json", stdin=prompts)
    assert "of 96 tokens planned" in table
    given = json.loads(plan)["allocations"]
    assert sum(item["expected_tokens"] for item in given) <= 96.001
    assert given[0]["reasoning_budget_tokens"] < given[1]["reasoning_budget_tokens"]


async def test_a_scheduler_that_is_not_there_is_a_clear_error():
    code, _, err = await cli("generate", "hi", "--scheduler", "127.0.0.1:9", "--timeout", "60")
    assert code == 1
    assert "UNAVAILABLE" in err
    assert "127.0.0.1:9" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["scheduler"], 2, "backend_url: required for the backend tgi"),
        (["scheduler", "--backend=embedded", "--floor-tokens=300"], 2, "tokens_per_query: must be"),
        (
            ["scheduler", "--backend-url=http://127.0.0.1:9", "--backend-ready-seconds=0.2"],
            1,
            "did not answer in 0.2 s",
        ),
        (["predictor", "--models=/nonexistent"], 1, "no model folder"),
        (["predictor", "--max-batch-size=0"], 2, "max_batch_size"),
        (["predictor", "--default-model=nope"], 1, "default_model"),
    ],
)
async def test_a_service_that_cannot_start_says_why(words, code, message):
    got, _, err = await cli(*words)
    assert got == code
    assert message in err
    assert "Traceback" not in err


async def test_sigterm_drains_and_ends_a_service_cleanly(tmp_path):
    address = f"unix:{tmp_path / 'p.sock'}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictive_scheduling_cli", "predictor", f"--listen={address}",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with grpc.aio.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        reply = await check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    process.send_signal(signal.SIGTERM)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    assert b"draining" in err


async def test_the_demo_says_what_went_wrong_when_a_service_cannot_start(tmp_path):
    with pytest.raises(ServiceFailedError, match="no model folder"):
        async with service("predictor", f"unix:{tmp_path / 's'}", tmp_path / "log", otlp="", models=tmp_path):
            pass


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What a small demo printed, and the folder that it left."""
    folder = tmp_path_factory.mktemp("demo")
    options = ["--questions", "36", "--ample", "0", "--out", str(folder), "--telemetry"]
    done = subprocess.run(
        [sys.executable, "-m", "predictive_scheduling_cli", "demo", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_leaves_a_summary_a_report_and_its_telemetry(demo):
    out, folder = demo
    assert "points at equal tokens" in out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["queries"] == 36
    assert summary["coverage"] >= 0.9  # the predictor abstains on a few
    assert set(summary["policies"]) == {"uniform", "uniform_at_equal_use", "envelope"}
    for policy, figures in summary["policies"].items():
        # What uniform would use is known on average only, from other questions.
        assert figures["reserved_tokens"] <= 36 * 32 * (1.1 if policy == "uniform_at_equal_use" else 1)
        assert figures["reasoning_tokens"] <= figures["budget_tokens"]
        assert figures["answer_tokens"] > 0
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert summary["policies"]["uniform"]["budget_tokens"] == 36 * 32
    # Less than what was measured on all questions: noise of 36 questions must not fail a build.
    accuracy = {policy: figures["accuracy"] for policy, figures in summary["policies"].items()}
    assert accuracy["envelope"] >= max(accuracy["uniform"], accuracy["uniform_at_equal_use"])
    report = (folder / "report.html").read_text()
    assert report.count("<svg") == 4
    assert "http://" not in report.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    trace = json.loads((folder / "trace.json").read_text())
    names = {
        span["name"]
        for resource in trace["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    }
    assert {"allocate", "predictive_scheduling.predictor.v1.PredictorService/Predict"} <= names
    metrics = (folder / "metrics.json").read_text()
    assert "predictive_scheduling.added_latency" in metrics
    assert "predictive_scheduling.predictor.inference.duration" in metrics
    assert "listening on" in (folder / "logs.json").read_text()
    assert "watch it at http://127.0.0.1:" in out


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs("chromium")
async def test_the_demos_pages_are_read_in_a_browser(demo):
    _, folder = demo
    async with browser() as page:
        await page.open((folder / "traces.html").as_uri())
        assert await page.until("document.querySelectorAll('#list button').length") > 36
        assert await page.value("document.querySelectorAll('#spans details').length") > 1
        await page.open((folder / "status-envelope-32.html").as_uri())
        assert await page.until("document.querySelectorAll('#bars button').length") == 36
        await page.press("Tab")
        await page.press("Enter")
        why = await page.until("document.querySelector('#why dl') && document.querySelector('#why').innerText")
        assert "expected accuracy" in why
        assert page.faults == []


@pytest.mark.parametrize("words", [["--load", "--long"], ["--load", "--engine=vllm"]])
async def test_the_load_is_of_short_questions_to_the_embedded_llm(words):
    code, _, err = await cli("demo", *words)
    assert code == 2
    assert "--load" in err


@pytest.mark.slow
async def test_the_demo_of_a_load_tells_it_live_and_who_gave_up_how_much(tmp_path):
    said = Console(width=160, file=io.StringIO())
    out, sockets = tmp_path / "out", tmp_path / "s"
    for folder in (out, sockets):
        folder.mkdir()
    written = await run_load_demo(out, sockets, said, telemetry=True, phases=rise_and_fall(6, 10, 6))
    text = said.file.getvalue()
    assert "questions a second are what this machine answers at 40 tokens each" in text
    assert "watch it at http://127.0.0.1:" in text
    assert text.count("█") > 10
    assert "At twice the load a question had" in text
    found = json.loads(written.read_text())
    assert found["asked"] == sum(phase["asked"] for phase in found["phases"].values()) > 0
    assert found["seconds"][0]["mean_budget"] > 0


async def test_a_command_whose_libraries_are_missing_says_which_extra_to_install(tmp_path):
    # A stand-in that fails to import as an absent library does.
    (tmp_path / "pyarrow.py").write_text('raise ModuleNotFoundError("no pyarrow", name="pyarrow")')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictive_scheduling_cli", "evaluate", "--curves=c", "--model=m", "--json=j",
        stderr=asyncio.subprocess.PIPE, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"pyarrow is not installed" in err
    assert b"[train]" in err
