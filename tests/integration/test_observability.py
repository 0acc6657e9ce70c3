"""What an SRE runs, on the real thing: Prometheus scrapes the services, and the dashboard's queries have answers."""

import asyncio
import itertools
import json
import re
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
import yaml
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from exporters.learning.idle import IdleAccount
from exporters.learning.measuring import Counting, Measuring, Unused
from exporters.learning.metrics import watch
from exporters.measure.collect import Plan
from exporters.measure.judging import judge_of
from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.metrics_page import MetricsPage
from predictive_scheduling.telemetry import Telemetry
from predictive_scheduling_cli.demo.services import free_port
from scheduler_service.gateway.envoy_messages import (
    ACCESS_LOGS,
    PROCESSOR,
    ProcessingRequest,
    ProcessingResponse,
    StreamAccessLogsMessage,
    StreamAccessLogsResponse,
)
from scheduler_service.generation.templates import TEMPLATES
from tests.builders.learning import PROMPTS, learner, write_prompts
from tests.integration.running import predictor, scheduler
from tests.integration.test_scheduler import thinker
from tests.programs import needs
from tests.standins.backend import ScriptedBackend
from tests.standins.tgi import TgiStandIn
from tests.waiting import PATIENCE
from tools.observability.dashboard import dashboard

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "observability"


def reporting():
    """Telemetry as the services set it up for a page, with traces, so that there are exemplars."""
    page = InMemoryMetricReader()
    return Telemetry(TracerProvider(), MeterProvider([page]), page)


@asynccontextmanager
async def services(log):
    """A predictor with a model on trial, two backends of which one breaks, a scheduler.

    Yields the scheduler's client, and where each service's metrics are; ``log``: what captures where they listen.
    """
    log.set_level("INFO", "predictive_scheduling.metrics_page")
    trial = "demo-text=gsm8k-r1-1.5b-text"
    async with (
        TgiStandIn(thinker, token_seconds=0.0005) as tgi,
        TgiStandIn(thinker, overloaded=True) as broken,
        predictor(reporting=reporting(), metrics_listen="127.0.0.1:0", shadow=trial) as predictions,
    ):
        settings = {
            "backend": "tgi", "backend_url": f"{tgi.url},{broken.url}", "template": "demo", "predictor": predictions,
            "policy": "price", "max_tenant_in_flight": 3, "backend_ready_seconds": 1,
            "objective": "total p99 20s, t0: first_token p95 2s",
            "ext_proc_listen": f"127.0.0.1:{free_port()}",
        }  # fmt: skip
        async with scheduler(reporting=reporting(), metrics_listen="127.0.0.1:0", **settings) as address:
            pages = [record.args[0] for record in log.records if record.msg == "metrics on port %d"]
            async with AsyncSchedulerClient(address) as client:
                await ask_as_envoy(settings["ext_proc_listen"])
                yield client, dict(zip(("predictor", "scheduler"), pages, strict=True))


async def ask_as_envoy(address):
    """Tell of two requests as Envoy does, one that gets a budget and one that is nothing of ours, and log a third."""
    for body in (b'{"messages": [{"role": "user", "content": "What is 1 + 2?"}]}', b"?"):
        async with grpc.aio.insecure_channel(address) as channel:
            process = channel.stream_stream(
                f"/{PROCESSOR}/Process", ProcessingRequest.SerializeToString, ProcessingResponse.FromString
            )
            path = {"key": ":path", "raw_value": b"/v1/chat/completions"}
            call = process()
            await call.write(ProcessingRequest(request_headers={"headers": {"headers": [path]}}))
            await call.write(ProcessingRequest(request_body={"body": body, "end_of_stream": True}))
            await call.done_writing()
            assert [one.WhichOneof("response") async for one in call] == ["request_headers", "request_body"]
    entry = {"request": {"request_headers": {"x-predictive-scheduling-request": "forged"}}}
    async with grpc.aio.insecure_channel(address) as channel:
        log = channel.stream_unary(
            f"/{ACCESS_LOGS}/StreamAccessLogs",
            StreamAccessLogsMessage.SerializeToString,
            StreamAccessLogsResponse.FromString,
        )
        await log(iter([StreamAccessLogsMessage(http_logs={"log_entry": [entry]})]))


@asynccontextmanager
async def learning(folder):
    """A loop that has made a pass; yields where its metrics are."""
    write_prompts(folder / "prompts.jsonl", PROMPTS)
    loop, server = learner(folder), Counting(ScriptedBackend(lambda _: []))
    judge = judge_of("agreement:exact", lambda _: None)
    report = reporting()
    watch(report.meters, loop, Measuring(server, Plan(TEMPLATES["demo"]), judge, Unused(8), IdleAccount(1.0)))
    await loop.one_pass()
    page = MetricsPage(report.scraped, "127.0.0.1:0")
    page.start()
    try:
        yield page.port
    finally:
        page.stop()


NUMBERS = itertools.count()


async def work(client, rounds):
    """Requests that succeed, are refused, or ask for what is not there; outcomes are reported."""
    for _ in range(rounds):
        calls = [client.complete(f"What is {next(NUMBERS)} + {n}?", tenant=f"t{n % 2}") for n in range(8)]
        for done in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(done, grpc.aio.AioRpcError):
                assert done.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            else:
                await client.report_outcome(done.allocation.request_id, 1.0)
        await asyncio.sleep(0.2)


@asynccontextmanager
async def prometheus(folder, targets, listen):
    """A Prometheus that scrapes every second; yields a function that asks it."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "rules.yaml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{listen}", "--enable-feature=exemplar-storage", "--log.level=error",
    )  # fmt: skip
    url = f"http://127.0.0.1:{listen}"
    try:
        async with aiohttp.ClientSession() as session:

            async def ask(path, **parameters):
                async with session.get(f"{url}/api/v1/{path}", params=parameters) as reply:
                    body = await reply.json()
                    assert body["status"] == "success", f"{parameters}: {body}"
                    return body["data"]

            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        async with session.get(f"{url}/-/ready") as reply:
                            if reply.status == 200:
                                break
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.1)
            yield ask
    finally:
        process.terminate()
        await process.wait()


def queries():
    """Every query of the dashboard, with Grafana's variables filled in: panel's title, query."""
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "15s").replace("$job", "scheduler|predictor")
            yield panel["title"], query


@needs("prometheus")
async def test_every_query_of_the_dashboard_has_data(tmp_path, caplog, unused_tcp_port_factory):
    async with services(caplog) as (client, ports), learning(tmp_path) as page:
        ports["learn"] = page
        async with prometheus(tmp_path, ports, unused_tcp_port_factory()) as ask:
            async with asyncio.timeout(5 * PATIENCE):
                await client.complete("Tell me of the sea.")  # which the predictor abstains on
                while True:
                    await work(client, 10)
                    answers = {
                        query: (title, (await ask("query", query=query))["result"]) for title, query in queries()
                    }
                    empty = [
                        f"{title}: {query}"
                        for query, (title, result) in answers.items()
                        if all(one["value"][1] == "NaN" for one in result)
                    ]
                    if not empty:
                        break
                    print(f"no data yet: {empty[:3]} and so on")  # noqa: T201  # what a failure shows
            exemplars = await ask("query_exemplars", query="predictive_scheduling_added_latency_seconds_bucket",
                                  start="0", end="9999999999")  # fmt: skip
            assert re.fullmatch("[0-9a-f]{32}", exemplars[0]["exemplars"][0]["labels"]["trace_id"])
            rules = (await ask("rules"))["groups"]
            assert {rule["health"] for group in rules for rule in group["rules"]} == {"ok"}
            names = set(await ask("label/__name__/values"))
    documented = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    exposed = {
        re.sub("_(bucket|count|sum)$", "", name)
        for name in names
        if name.startswith(("predictive_scheduling_", "rpc_", "gen_ai_"))
    }
    reported = {"predictive_scheduling_wasted"}  # only by engines with our connector
    assert exposed | reported == documented, "docs/metrics.md lists every metric, and no other"


@needs("promtool")
@pytest.mark.parametrize("tests", ["rules_test.yaml", "rules_days_test.yaml"])
async def test_the_alerts_fire_when_they_should_and_only_then(tests):
    process = await asyncio.create_subprocess_exec(
        "promtool",
        "test",
        "rules",
        str(FOLDER / tests),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def test_every_alert_is_tested_and_has_a_runbook():
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    tests = "".join((FOLDER / name).read_text() for name in ("rules_test.yaml", "rules_days_test.yaml"))
    runbooks = (ROOT / "docs/runbooks.md").read_text()
    for name, rule in alerts.items():
        assert f'alertname="{name}"' in tests, f"{name} is not tested"
        assert f"\n## {name}\n" in runbooks, f"{name} has no runbook"
        assert rule["annotations"]["runbook_url"].endswith(f"runbooks.md#{name.lower()}")


def test_the_dashboard_has_no_panel_twice_and_says_what_each_shows():
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels)
    assert all(panel["targets"] for panel in panels)


def points(reader):
    """What was measured: by instrument, its points' attributes and values."""
    found = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found[metric.name] = [
                    (dict(point.attributes), getattr(point, "value", None) or getattr(point, "sum", 0))
                    for point in metric.data.data_points
                ]
    return found


async def test_the_figures_are_those_that_the_caller_got():
    report = reporting()
    async with TgiStandIn(thinker) as tgi, predictor() as predictions:
        settings = {"backend": "tgi", "backend_url": tgi.url, "template": "demo", "predictor": predictions}
        settings |= {"policy": "price", "metrics_tenants": 2}
        async with scheduler(reporting=report, **settings) as address, AsyncSchedulerClient(address) as client:
            done = [await client.complete(f"What is {at} + 2?", tenant=f"t{at}") for at in range(5)]
            measured = points(report.scraped)
    own = "predictive_scheduling."
    usages = [one.usage for one in done]

    def total(name, **labels):
        return sum(value for found, value in measured[own + name] if labels.items() <= found.items())

    assert total("predictions", outcome="fresh") == 5
    assert total("tokens", kind="reasoning") == sum(usage.reasoning_tokens for usage in usages)
    assert total("budget.given") == pytest.approx(sum(one.allocation.expected_tokens for one in done))
    assert total("saved_vs_cap") == sum(usage.tokens_saved_vs_cap for usage in usages)
    assert total("time_added") == pytest.approx(sum(one.allocation.added_seconds for one in done))
    assert total("net_benefit.requests", against="equal_accuracy", sign="negative") == sum(
        usage.net_benefit_at_equal_accuracy_seconds < 0 for usage in usages
    )
    tenants = {found["tenant"]: value for found, value in measured[own + "requests"]}
    assert tenants == {"t0": 1, "t1": 1, "other": 3}
    assert total("spent") == total("tokens", kind="reasoning")
    methods = [found["rpc.method"] for found, _ in measured["rpc.server.call.duration"]]
    assert methods == ["predictive_scheduling.scheduler.v1.SchedulerService/Complete"]
    assert measured["rpc.client.call.duration"]
    usage = {found["gen_ai.token.type"]: value for found, value in measured["gen_ai.client.token.usage"]}
    assert usage["output"] == sum(usage.reasoning_tokens + usage.answer_tokens for usage in usages)
