"""The port for gateways: what it was told last still gets to other schedulers when it ends."""

from scheduler_service.gateway.grant_names import GrantName, written
from scheduler_service.gateway.mailbox import Mailbox
from scheduler_service.gateway.server import GatewayServer
from scheduler_service.gateway.settling import Settling
from scheduler_service.grants import Told
from tests.builders.deciding import Deciding
from tests.standins.mail_store import MailStore


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
