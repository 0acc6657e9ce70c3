"""What both services answer besides their own methods."""

import asyncio
import sys
from contextlib import AsyncExitStack
from functools import partial

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from predictive_scheduling import AsyncSchedulerClient, probe
from predictive_scheduling.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from predictive_scheduling.serving import LIVENESS
from tests.integration.running import predictor, scheduler
from tests.standins.backend import ScriptedBackend
from tests.waiting import PATIENCE, eventually


@pytest.mark.parametrize(
    ("name", "running"),
    [
        ("predictive_scheduling.scheduler.v1.SchedulerService", partial(scheduler, ScriptedBackend(lambda _: ["a"]))),
        ("predictive_scheduling.predictor.v1.PredictorService", predictor),
    ],
)
async def test_health_and_reflection_answer(name, running):
    async with running(reflection=True) as address, grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", name):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        listed = [service.name async for reply in call for service in reply.list_services_response.service]
    assert name in listed


async def test_reflection_is_off_unless_it_is_asked_for():
    async with predictor() as address, grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_liveness_stays_while_readiness_goes(unused_tcp_port):
    """A draining server is alive: a probe must not have it killed with calls in flight."""
    backend = ScriptedBackend(lambda _: ["t"] * 60, gate=asyncio.Event())
    probed = f"127.0.0.1:{unused_tcp_port}"
    async with AsyncExitStack() as stack:
        settings = {"health_listen": probed, "drain_seconds": PATIENCE, "policy": "uniform"}
        server = await stack.enter_async_context(AsyncExitStack())
        address = await server.enter_async_context(scheduler(backend, **settings))
        client = await stack.enter_async_context(AsyncSchedulerClient(address))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(probed))
        health = health_pb2_grpc.HealthStub(channel)

        async def states():
            replies = [await health.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", LIVENESS)]
            return [health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status) for reply in replies]

        assert await states() == ["SERVING", "SERVING"]
        call = asyncio.ensure_future(client.complete("q"))
        await eventually(lambda: backend.open)
        stopping = asyncio.ensure_future(server.aclose())

        async def changed():
            return await states() != ["SERVING", "SERVING"]

        await eventually(changed)
        assert await states() == ["NOT_SERVING", "SERVING"]
        backend.gate.set()
        assert (await call).usage.reasoning_tokens
        await stopping
        reflected = channel.unary_unary("/predictive_scheduling.scheduler.v1.SchedulerService/GetBudget")
        with pytest.raises(grpc.aio.AioRpcError):
            await reflected(b"")


async def test_the_probe_tells_a_server_that_serves_from_one_that_does_not(unused_tcp_port):
    async with predictor() as address:
        assert await asyncio.to_thread(probe.main, [address]) == 0
        assert await asyncio.to_thread(probe.main, [address, LIVENESS]) == 0
        assert await asyncio.to_thread(probe.main, [address, "nobody"]) == 1
    assert await asyncio.to_thread(probe.main, [f"127.0.0.1:{unused_tcp_port}"]) == 1
    assert probe.main([]) == 2


async def test_two_servers_share_a_port_where_both_say_so(unused_tcp_port):
    """The kernel deals connections out; each must be answered, and a third server without a word is refused."""
    listen = f"127.0.0.1:{unused_tcp_port}"
    async with (
        predictor(listen=listen, reuse_port=True) as address,
        predictor(listen=listen, reuse_port=True),
    ):
        for _ in range(16):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(BaseExceptionGroup) as caught:
            async with predictor(listen=listen):
                pass
        assert "address" in repr(caught.value).lower()


async def test_a_predictor_starts_on_the_provider_that_it_was_given_or_not_at_all():
    """In processes, as a platform starts it; no provider but the CPU is in the package that tests install."""
    command = [sys.executable, "-m", "predictive_scheduling_cli", "predictor", "--provider", "cuda"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 1
    reason = said.decode().splitlines()[-1]
    assert reason.startswith("provider: cuda needs onnxruntime's CUDAExecutionProvider")
    assert "predictive-scheduling[predictor-gpu]" in reason
    assert "Traceback" not in said.decode()


async def test_a_predictor_that_may_fall_back_serves_on_the_cpu(caplog):
    async with predictor(provider="cuda", provider_fallback=True) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            asked = predictor_pb2.PredictRequest(queries=[predictor_pb2.Query(text="What is 1 + 1?")])
            assert len((await stub.Predict(asked)).predictions) == 1
    assert [record.message for record in caplog.records if "falling back to cpu" in record.message]
