"""One trace from the caller through scheduler, predictor and backend, with the figures on it."""

import asyncio
import logging

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from predictive_scheduling import AsyncSchedulerClient, semconv
from predictive_scheduling.interceptors import client_tracing
from predictive_scheduling.scheduler.v1 import scheduler_pb2
from predictive_scheduling.telemetry import Telemetry
from scheduler_service.generation.pace import answer_seconds
from tests.integration.running import predictor, scheduler
from tests.integration.test_scheduler import thinker
from tests.standins.backend import ScriptedBackend
from tests.standins.tgi import TgiStandIn
from tests.waiting import PATIENCE, eventually

GENERATE = "predictive_scheduling.scheduler.v1.SchedulerService/Generate"
PREDICT = "predictive_scheduling.predictor.v1.PredictorService/Predict"


@pytest.fixture
def memory():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def find(spans, name, kind):
    return [span for span in spans if span.name == name and span.kind is kind]


async def test_one_request_is_one_trace_with_prediction_latency_and_savings(memory):
    provider, exporter = memory
    async with TgiStandIn(thinker) as tgi, predictor(reporting=Telemetry(provider)) as predictions:
        settings = {"backend": "tgi", "backend_url": tgi.url, "predictor": predictions}
        async with (
            scheduler(reporting=Telemetry(provider), **settings) as address,
            AsyncSchedulerClient(address, interceptors=client_tracing(provider)) as client,
        ):
            events = [event async for event in client.generate("What is 1 + 1?")]
    spans = exporter.get_finished_spans()
    assert len({span.context.trace_id for span in spans if span.name in (PREDICT, GENERATE)}) == 1
    caller, server = find(spans, GENERATE, SpanKind.CLIENT)[0], find(spans, GENERATE, SpanKind.SERVER)[0]
    allocate = find(spans, "allocate", SpanKind.INTERNAL)[0]
    assert server.attributes[semconv.PREDICTION_OUTCOME] == "fresh"
    asked, answered = find(spans, PREDICT, SpanKind.CLIENT)[0], find(spans, PREDICT, SpanKind.SERVER)[0]
    call = find(spans, "text_completion stand-in/model", SpanKind.CLIENT)[0]
    parents = [(server, caller), (allocate, server), (asked, allocate), (answered, asked), (call, server)]
    for child, parent in parents:
        assert child.parent.span_id == parent.context.span_id
    assert server.attributes[semconv.PREDICTION_DURATION] > 0
    assert server.attributes[semconv.SAVED_VS_CAP] == events[-1].usage.tokens_saved_vs_cap
    assert server.attributes[semconv.RPC_STATUS] == "OK"
    assert answered.attributes[semconv.INFERENCE_DURATION] > 0
    assert call.attributes[semconv.GEN_AI_OUTPUT_TOKENS] > 0
    assert [event.name for event in server.events] == ["allocation", "first token"]
    assert events[0].allocation.trace_id == format(server.context.trace_id, "032x")
    assert tgi.headers[0]["traceparent"].split("-")[1] == events[0].allocation.trace_id


async def test_a_prediction_by_stream_is_in_its_requests_trace_as_a_call_is(memory):
    provider, exporter = memory
    by_stream = PREDICT + "Stream"
    async with predictor(reporting=Telemetry(provider)) as predictions:
        settings = {"predictor": predictions, "predictor_cache": 0}
        async with (
            scheduler(ScriptedBackend(thinker), reporting=Telemetry(provider), **settings) as address,
            AsyncSchedulerClient(address, interceptors=client_tracing(provider)) as client,
        ):

            async def streamed():
                await client.complete("What is 1 + 1?")
                return find(exporter.get_finished_spans(), by_stream, SpanKind.CLIENT)

            await eventually(streamed)
    spans = exporter.get_finished_spans()
    asked, answered = find(spans, by_stream, SpanKind.CLIENT)[0], find(spans, by_stream, SpanKind.SERVER)[0]
    allocations = {span.context.span_id for span in find(spans, "allocate", SpanKind.INTERNAL)}
    assert asked.parent.span_id in allocations
    assert answered.parent.span_id == asked.context.span_id
    assert asked.context.trace_id == answered.context.trace_id
    assert answered.attributes[semconv.INFERENCE_DURATION] > 0
    assert answered.attributes[semconv.RPC_STATUS] == "OK"


async def test_a_window_links_all_its_requests(memory):
    provider, exporter = memory
    settings = {"window_size": 4, "window_ms": 60_000.0}
    async with (
        scheduler(ScriptedBackend(thinker), reporting=Telemetry(provider), **settings) as address,
        AsyncSchedulerClient(address) as client,
    ):
        await asyncio.gather(*(client.complete("q", request_id=f"r{n}") for n in range(4)))
    allocate = find(exporter.get_finished_spans(), "allocate", SpanKind.INTERNAL)
    assert len(allocate) == 1
    assert {link.attributes[semconv.LINKED_REQUEST] for link in allocate[0].links} == {"r0", "r1", "r2", "r3"}
    assert allocate[0].attributes[semconv.WINDOW_SIZE] == 4


async def test_a_refused_request_is_no_error_of_the_server_and_prompts_stay_out(memory):
    provider, exporter = memory
    async with (
        scheduler(ScriptedBackend(thinker), reporting=Telemetry(provider)) as address,
        AsyncSchedulerClient(address) as client,
    ):
        await client.complete("a secret prompt")
        with pytest.raises(grpc.aio.AioRpcError):
            await client.complete("")
    spans = exporter.get_finished_spans()
    refused = [span for span in spans if span.attributes.get(semconv.RPC_STATUS) == "INVALID_ARGUMENT"]
    assert len(refused) == 1
    assert refused[0].status.status_code is StatusCode.UNSET
    assert not any("secret" in str(value) for span in spans for value in span.attributes.values())


async def test_a_span_says_why_and_when_and_the_tenant_travels_as_baggage(memory):
    provider, exporter = memory
    async with TgiStandIn(thinker, token_seconds=0.001) as tgi, predictor(reporting=Telemetry(provider)) as predictions:
        settings = {"backend": "tgi", "backend_url": tgi.url, "predictor": predictions}
        settings |= {"policy": "price", "cap_tokens": 16, "tokens_per_query": 16}
        async with scheduler(reporting=Telemetry(provider), **settings) as address:
            async with AsyncSchedulerClient(address) as client:
                done = await client.complete("What is 1 + 1?", tenant="gold")
    assert done.usage.finish_reason == scheduler_pb2.FINISH_REASON_FORCED
    server = next(span for span in exporter.get_finished_spans() if span.name.endswith("/Complete"))
    assert sorted(event.name for event in server.events) == ["allocation", "first token", "forced answer"]
    why = next(event for event in server.events if event.name == "allocation").attributes
    assert why[semconv.EXPLANATION] == done.allocation.explanation
    assert why[semconv.LIMITED_BY] == "cap"
    assert list(why[semconv.CURVE]) == pytest.approx(list(done.allocation.curve), abs=1e-4)
    assert server.attributes[semconv.TENANT] == "gold"
    assert {headers["baggage"] for headers in tgi.headers} == {"predictive_scheduling.tenant=gold"}


async def test_a_generation_that_is_cut_in_time_says_so(memory):
    provider, exporter = memory
    backend = ScriptedBackend(lambda p: [" 7"] if p.endswith("Final answer:") else ["t"] * 400, token_seconds=0.03)
    # Time is kept for 1,024 tokens of an answer that has one, so that no machine is too slow for it.
    settings = {"policy": "uniform", "cap_tokens": 400, "tokens_per_query": 400, "answer_tokens": 1024}
    async with scheduler(backend, reporting=Telemetry(provider), **settings) as address:
        async with AsyncSchedulerClient(address) as client:
            done = await client.complete("q", timeout=answer_seconds(1024, 0.03) + 0.5)
    assert done.usage.reasoning_tokens < 400
    server = next(span for span in exporter.get_finished_spans() if span.name.endswith("/Complete"))
    assert "cut by deadline" in [event.name for event in server.events]


@pytest.mark.parametrize("busy", [False, True])
async def test_readers_that_leave_a_generation_of_many_leave_its_trace_in_order(memory, caplog, busy):
    """``busy``: they leave while the server writes to them, so that the event loop closes their calls' generators.

    It does so in a context where no span of theirs was ever current. The others leave while the server waits for text.
    """
    provider, exporter = memory
    gate = asyncio.Event()
    if busy:
        backend = ScriptedBackend(lambda prompt: ["x" * 4096] * 1000)
    else:
        backend = ScriptedBackend(thinker, gate=gate, gate_after=3)
    settings = {"policy": "uniform", "tokens_per_query": 1000, "cap_tokens": 1000}
    request = scheduler_pb2.GenerateRequest(job=scheduler_pb2.Job(prompt="q", request_id="same"))
    async with scheduler(backend, reporting=Telemetry(provider), **settings) as address:
        async with AsyncSchedulerClient(address) as client:
            readers = [client.stub.Generate(request) for _ in range(20)]
            for reader in readers:
                assert (await reader.read()).allocation.request_id == "same"
                assert (await reader.read()).text.text
            for reader in readers[:-1]:
                reader.cancel()
            await eventually(lambda: len(find(exporter.get_finished_spans(), GENERATE, SpanKind.SERVER)) == 19)
            gate.set()
            while await readers[-1].read() is not grpc.aio.EOF:
                pass
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    spans = find(exporter.get_finished_spans(), GENERATE, SpanKind.SERVER)
    assert sorted(span.attributes[semconv.RPC_STATUS] for span in spans) == ["CANCELLED"] * 19 + ["OK"]


@pytest.mark.parametrize("traced", [True, False])
async def test_a_call_that_is_given_up_is_given_up_at_its_server_traced_or_not(memory, traced):
    provider, exporter = memory
    gate = asyncio.Event()
    interceptors = client_tracing(provider) if traced else None
    async with (
        scheduler(ScriptedBackend(thinker, gate=gate), policy="uniform") as address,
        AsyncSchedulerClient(address, interceptors=interceptors) as client,
        AsyncSchedulerClient(address) as other,
    ):

        async def until_there_are(requests):
            async with asyncio.timeout(PATIENCE):
                while True:
                    if (await other.status()).pending_requests == requests:
                        return
                    await asyncio.sleep(0.01)

        asked = asyncio.create_task(client.complete("q"))
        await until_there_are(1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until_there_are(0)
    spans = exporter.get_finished_spans()
    assert [span.attributes[semconv.RPC_STATUS] for span in spans] == ["CANCELLED"] * traced
