"""What both services answer besides their own methods."""

from functools import partial

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.integration.running import predictor, scheduler
from tests.standins.backend import ScriptedBackend


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
