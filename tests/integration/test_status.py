"""What a person sees of a running scheduler: the status, the page in a real browser, ``top`` in a terminal."""

import asyncio

import grpc
import grpc.aio
import pytest
from rich.console import Console
from typer.testing import CliRunner

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.main import app
from predictive_scheduling_cli.top import bars, view
from scheduler_service.domain import BackendUnavailableError
from tests.browser import browser
from tests.integration.running import predictor, scheduler
from tests.integration.test_scheduler import thinker
from tests.programs import needs
from tests.standins.backend import ScriptedBackend

BREAKING = "What is 40 + 2 - 9?"  # known to the predictor, as the others are


def scripted(prompt):
    if BREAKING in prompt:
        raise BackendUnavailableError("gone")
    return thinker(prompt)


async def work(client):
    """A dozen requests, one of which fails and one of which is refused."""
    for at in range(11):
        await client.complete(f"What is {at} + 2?", request_id=f"r{at}", tenant="gold" if at % 2 else "free")
    with pytest.raises(grpc.aio.AioRpcError):
        await client.complete(BREAKING, request_id="broken", tenant="gold")
    await client.report_outcome("r3", 1.0)


@pytest.fixture
async def running(unused_tcp_port):
    async with predictor() as predictions:
        settings = {"predictor": predictions, "policy": "price", "max_in_flight": 12}
        page = f"127.0.0.1:{unused_tcp_port}"
        async with scheduler(ScriptedBackend(scripted), status_listen=page, **settings) as address:
            async with AsyncSchedulerClient(address) as client:
                await work(client)
                yield address, client, f"http://{page}/"


async def test_the_status_tells_rates_times_and_last_requests(running):
    _, client, _ = running
    status = await client.status(recent=5)
    assert (status.policy, status.model) == ("price", "scripted-model")
    assert status.requests_per_second > 0
    assert status.coverage == 1.0
    assert status.mean_used_tokens > 0
    assert status.mean_expected_accuracy > 0
    assert {stage.stage for stage in status.stages} >= {"prediction", "allocation", "added", "time_to_first_token"}
    assert all(stage.p50_seconds <= stage.p99_seconds for stage in status.stages)
    assert dict(status.failed_requests) == {"BackendUnavailableError": 3}  # its client tried again
    assert [one.outcomes for one in status.predictors] == [1]
    assert [record.allocation.request_id for record in status.recent] == ["broken", "r10", "r9", "r8", "r7"]
    assert [record.prompt for record in status.recent] == [""] * 5
    assert status.budget.requests == 14


async def test_a_request_says_why_it_got_its_budget(running):
    _, client, _ = running
    record = await client.find("r3")
    assert record.state == pb.REQUEST_STATE_FINISHED
    assert record.tenant == "gold"
    assert record.allocation.limited_by != pb.BUDGET_LIMIT_UNSPECIFIED
    assert f"{record.allocation.reasoning_budget_tokens} tokens (uniform: 64)" in record.allocation.explanation
    broken = await client.find("broken")
    assert (broken.state, broken.error) == (pb.REQUEST_STATE_FAILED, "BackendUnavailableError")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.find("nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_tenant_sees_its_own_requests_only(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-a a\nsecret-b b\n")
    async with scheduler(ScriptedBackend(thinker), auth_tokens=str(tokens), journal_prompts=True) as address:
        async with (
            AsyncSchedulerClient(address, token="secret-a") as a,
            AsyncSchedulerClient(address, token="secret-b") as b,
            AsyncSchedulerClient(address) as nobody,
        ):
            await a.complete("a's question", request_id="of-a")
            await b.complete("b's question", request_id="of-b")
            assert [(one.tenant, one.prompt) for one in (await a.status(10)).recent] == [("a", "a's question")]
            assert (await b.find("of-b")).prompt == "b's question"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await b.find("of-a")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await nobody.status()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@needs("chromium")
async def test_the_page_shows_it_in_a_browser_and_is_used_by_keyboard(running):
    _, client, url = running
    async with browser() as page:
        await page.open(url)
        assert await page.until("document.querySelectorAll('#bars button').length") == 12
        text = await page.value("document.body.innerText")
        assert "scripted-model on embedded, policy price" in text
        assert "coverage: fresh predictions" in text
        assert "BackendUnavailableError" in text
        assert "demo-text@" in text
        await page.press("Tab")
        label = await page.value("document.activeElement.getAttribute('aria-label')")
        assert label.startswith("r0: ")
        await page.press("Tab", times=3)
        await page.press("Enter")
        why = await page.until("document.querySelector('#why dl') && document.querySelector('#why').innerText")
        record = await client.find("r3")
        assert record.allocation.explanation in why
        assert await page.value("document.querySelector('#why svg').getAttribute('role')") == "img"
        await page.value("document.querySelector('#id').focus(), document.querySelector('#id').value = ''")
        for key in "nobody":
            await page.press(key)
        await page.press("Enter")
        await page.until("document.querySelector('#why').innerText.includes('is none of the last')")
        text = await page.value("document.body.innerText + document.body.innerHTML")
        assert "What is" not in text  # prompts are not kept unless they are asked for
        assert {request.split("?")[0] for request in page.requests} <= {url, f"{url}status.json", f"{url}request.json",
                                                                       f"{url}favicon.ico"}  # fmt: skip
        assert [fault for fault in page.faults if "404" not in fault] == []
        assert await page.value("document.documentElement.scrollWidth <= window.innerWidth")


@needs("chromium")
async def test_the_page_fits_a_phone(running):
    _, _, url = running
    async with browser(width=500) as page:
        await page.open(url)
        await page.until("document.querySelectorAll('#bars button').length")
        assert await page.value("document.documentElement.scrollWidth <= window.innerWidth")


async def test_top_looks_once_and_names_a_scheduler_that_is_not_there(running, unused_tcp_port_factory):
    address, _, _ = running

    def run(*arguments):
        return CliRunner().invoke(app, ["top", "--once", "--scheduler", *arguments], env={"COLUMNS": "120"})

    shown = await asyncio.to_thread(run, address)
    assert shown.exit_code == 0, shown.output
    for text in ("scripted-model on embedded", "coverage", "100.0%", "prediction", "BackendUnavailableError", "█"):
        assert text in shown.output
    gone = await asyncio.to_thread(run, f"127.0.0.1:{unused_tcp_port_factory()}")
    assert gone.exit_code == 1
    assert "is a scheduler running at" in gone.output


async def test_explain_says_why_in_the_terminal(running):
    address, client, _ = running
    shown = await asyncio.to_thread(
        CliRunner().invoke, app, ["explain", "r3", "--scheduler", address], env={"COLUMNS": "120"}
    )
    assert shown.exit_code == 0, shown.output
    assert (await client.find("r3")).allocation.explanation in " ".join(shown.output.split())


def test_top_draws_a_scheduler_that_has_done_nothing():
    console = Console(width=100, record=True, file=None, quiet=True)
    console.print(view(pb.GetStatusResponse(model="m", backend="tgi", policy="price")))
    record = pb.RequestRecord(allocation=pb.Allocation(reasoning_budget_tokens=8, baseline_tokens=16))
    drawn = bars([record, record], height=2)
    assert drawn.plain.splitlines() == ["   16   ", "    8 ██"]
