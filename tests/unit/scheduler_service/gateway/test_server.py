"""The port for gateways as it ends: what it was told last gets to others, and responses that pass end before it."""

import asyncio

import grpc.aio
import pytest

from scheduler_service.gateway.budgets import Decision
from scheduler_service.gateway.envoy_messages import PROCESSOR, ProcessingRequest, ProcessingResponse
from scheduler_service.gateway.grant_names import GrantName, written
from scheduler_service.gateway.mailbox import Mailbox
from scheduler_service.gateway.server import GatewayServer
from scheduler_service.gateway.settling import Settling
from scheduler_service.grants import Told
from tests.builders.deciding import Deciding
from tests.standins.mail_store import MailStore

RETURNED = {"request_body_mode": "BUFFERED", "response_body_mode": "STREAMED"}
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":9}}\n\n'


def uncounted(*_):
    """Count nothing."""


async def test_what_was_told_last_is_sent_before_it_ends():
    store, budgets, other = MailStore(), Deciding(), "b" * 12
    mailbox = Mailbox(store, budgets.instance, uncounted)
    settling = Settling(budgets, uncounted, mailbox)
    server = GatewayServer(budgets, settling, "127.0.0.1:0")
    await server.start()
    assert server.port
    await Mailbox(store, other, uncounted).exchange()
    await settling.exchange()
    settling.tell(written(GrantName(other, 7), ("", "mine")), Told(1))
    await server.stop()
    assert len(mailbox) == 0
    assert len(store.inboxes[f"{{predictive-scheduling}}:told:{other}"]) == 1


class Decides:
    """Decides the same for everybody, and remembers what it was told."""

    def __init__(self):
        self.told = []

    async def decide(self, seen):
        return Decision(b"new", {}, 1, streamed=True, usage_added=True)

    def settle(self, grant, told):
        self.told.append(told)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_response_that_passes_is_waited_for_as_long_as_the_server_drains(ends):
    budgets = Decides()
    settling = Settling(Deciding(), uncounted)
    server = GatewayServer(budgets, settling, "127.0.0.1:0", patience=lambda: 3600.0 if ends else 0.01)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stream = channel.stream_stream(
            f"/{PROCESSOR}/Process", ProcessingRequest.SerializeToString, ProcessingResponse.FromString
        )()

        async def said(**message):
            await stream.write(ProcessingRequest(**message))
            return await stream.read()

        await said(request_body={"body": b"old", "end_of_stream": True}, protocol_config=RETURNED)
        await said(response_headers={"headers": {"headers": [{"key": ":status", "raw_value": b"200"}]}})
        stopping = asyncio.create_task(server.stop())
        if ends:
            done, _ = await asyncio.wait([stopping], timeout=1.0)  # twice what other streams get
            assert not done
            found = await said(response_body={"body": USAGE, "end_of_stream": True})
            assert found.response_body.response.body_mutation.clear_body
            await stream.done_writing()
        await stopping
    (first, *_) = budgets.told
    assert (first.completion_tokens, first.failure) == ((9, "") if ends else (0, "cancelled"))
