"""TLS, mutual TLS, renewed certificates, and who a call is made for."""

import asyncio

import aiohttp
import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from predictive_scheduling import AsyncPredictorClient, AsyncSchedulerClient, SchedulerClient, channel_credentials
from predictive_scheduling.openmetrics import render
from predictive_scheduling.telemetry import Telemetry
from predictive_scheduling_cli.demo.services import free_address
from scheduler_service.api.identity import Identity, read_tokens
from scheduler_service.domain import PermissionDeniedError, UnauthenticatedError
from tests.integration.running import bad_fields, predictor, refused, scheduler
from tests.integration.test_openai_front import MESSAGES
from tests.standins.backend import ScriptedBackend
from tests.waiting import PATIENCE


def quick(prompt):
    return ["t", "Final answer:", " 42", "\n\n"]


def tls(files, **more):
    return {"tls_cert": files["cert"], "tls_key": files["key"], **more}


def on_localhost(address):
    return f"localhost:{address.rpartition(':')[2]}"


async def code_of(call):
    return (await refused(call)).code()


async def test_both_services_speak_tls_and_the_scheduler_checks_the_predictor(authority):
    files = authority.issue("server")
    credentials = channel_credentials(authority.ca_file)
    async with predictor(**tls(files)) as predictions:
        async with AsyncPredictorClient(on_localhost(predictions), credentials=credentials, timeout=PATIENCE) as direct:
            assert len((await direct.predict(["hello"])).predictions) == 1
        settings = {
            "predictor": on_localhost(predictions), "predictor_tls_ca": authority.ca_file,
        }  # fmt: skip
        async with scheduler(ScriptedBackend(quick), **tls(files), **settings) as address:
            async with AsyncSchedulerClient(on_localhost(address), credentials=credentials, timeout=PATIENCE) as client:
                done = await client.complete("What is 1 + 2?")
            assert done.allocation.prediction_outcome == 1  # fresh
            async with AsyncSchedulerClient(address, timeout=1) as plain:
                assert await code_of(plain.complete("q")) in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                )

            def blocking():
                with SchedulerClient(on_localhost(address), credentials=credentials, timeout=PATIENCE) as other:
                    return other.complete("q").answer

            assert (await asyncio.to_thread(blocking)).strip() == "42"


async def test_a_client_without_a_certificate_is_not_let_in_and_one_with_it_is_its_tenant(authority):
    files = authority.issue("server")
    settings = tls(files, tls_client_ca=authority.ca_file)
    own = authority.issue("client", common_name="team-a")
    async with scheduler(ScriptedBackend(quick), **settings) as address:
        target = on_localhost(address)
        stranger = channel_credentials(authority.ca_file)
        async with AsyncSchedulerClient(target, credentials=stranger, timeout=1) as client:
            assert await code_of(client.complete("q")) in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
        known = channel_credentials(authority.ca_file, own["cert"], own["key"])
        async with AsyncSchedulerClient(target, credentials=known, timeout=PATIENCE) as client:
            assert (await client.complete("q", tenant="team-a")).answer
            assert await code_of(client.complete("q", tenant="team-b")) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path, authority):
    files = authority.issue("server")
    async with scheduler(ScriptedBackend(quick), **tls(files)) as address:
        async with AsyncSchedulerClient(
            on_localhost(address), credentials=channel_credentials(authority.ca_file), timeout=PATIENCE
        ) as client:
            assert (await client.complete("q")).answer
        other = authority.succeeded_by(tmp_path / "new", files)
        async with AsyncSchedulerClient(
            on_localhost(address), credentials=channel_credentials(other.ca_file), timeout=PATIENCE
        ) as client:
            assert (await client.complete("q")).answer


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# team tokens\nsecret-a team-a\n\nsecret-b team-b\n")
    return path


async def test_a_token_is_asked_for_and_names_the_tenant_on_every_method(tokens):
    async with scheduler(ScriptedBackend(quick), auth_tokens=str(tokens)) as address:
        async with AsyncSchedulerClient(address) as nobody, AsyncSchedulerClient(address, token="wrong") as wrong:
            for client in (nobody, wrong):
                calls = (client.complete("q"), client.budget(), client.report_outcome("x", 1.0))
                for call in calls:
                    assert await code_of(call) is grpc.StatusCode.UNAUTHENTICATED
        async with AsyncSchedulerClient(address, token="secret-a") as client:
            assert (await client.complete("q")).answer
            assert (await client.complete("q", tenant="team-a")).answer
            assert await code_of(client.complete("q", tenant="team-b")) is grpc.StatusCode.PERMISSION_DENIED
            assert (await client.budget()).requests == 2


async def test_the_http_front_asks_for_the_same_tokens(tokens):
    front = free_address()
    async with scheduler(ScriptedBackend(quick), auth_tokens=str(tokens), http_listen=front):
        async with aiohttp.ClientSession() as session:
            for token, tenant, status in (
                ("", "", 401),
                ("wrong", "", 401),
                ("secret-a", "team-b", 403),
                ("secret-b", "", 200),
            ):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                body = {"messages": MESSAGES, "tenant": tenant}
                async with session.post(f"http://{front}/v1/chat/completions", json=body, headers=headers) as response:
                    assert response.status == status


def test_identities():
    open_door = Identity()
    assert open_door.tenant("", "", "anybody") == "anybody"
    assert Identity(by_certificate=True).tenant("", "team-a", "") == "team-a"
    with pytest.raises(PermissionDeniedError):
        Identity(by_certificate=True).tenant("", "team-a", "team-b")
    locked = Identity({b"x": "t"})
    for header in ("", "Basic abc", "Bearer ", "Bearer no"):
        with pytest.raises(UnauthenticatedError):
            locked.tenant(header, "", "")


@pytest.mark.parametrize(("text", "words"), [("only-a-token", "line 1"), ("# nothing\n", "no token"), (None, "tokens")])
def test_a_faulty_file_of_tokens_is_named(tmp_path, text, words):
    path = tmp_path / "tokens"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_tokens(path)


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(ValueError, match="cert, key"):
        channel_credentials("", "cert.pem", "")


async def test_prompts_answers_and_tokens_never_enter_logs_metrics_or_the_journal(caplog, tmp_path):
    """At the most talkative level, with requests that succeed, are refused, fail at the backend, and are malformed."""
    caplog.set_level("DEBUG")
    (tmp_path / "tokens").write_text("swordfish alice\n")
    page = InMemoryMetricReader()
    reporting = Telemetry(TracerProvider(), MeterProvider([page]), page)
    backend = ScriptedBackend(lambda _: ["hush", "\nFinal answer:", " treasure", "\n\n"])
    async with predictor(reporting=reporting, log_level="debug") as predictions:
        settings = {"predictor": predictions, "policy": "price", "log_level": "debug"}
        settings |= {"auth_tokens": str(tmp_path / "tokens"), "backend_token": "opensesame"}
        async with scheduler(backend, reporting=reporting, **settings) as address:
            async with AsyncSchedulerClient(address, token="swordfish") as client:
                reply = await client.complete("where is the mother lode")
                assert "treasure" in reply.answer
                await code_of(client.complete("where is the mother lode", max_reasoning_tokens=1_000_000))
                record = await client.find(reply.allocation.request_id)
                backend.error = RuntimeError("the backend stumbles")
                await code_of(client.complete("another mother lode"))
            async with AsyncSchedulerClient(address, token="shibboleth") as stranger:
                await code_of(stranger.complete("where is the mother lode"))
        told = caplog.text + render(page.get_metrics_data(), openmetrics=True) + str(record)
    for secret in ("mother lode", "treasure", "hush", "swordfish", "opensesame", "shibboleth"):
        assert secret not in told, secret
    assert "settings" in caplog.text


async def test_prompts_are_handed_out_to_readers_only_and_of_those_who_agreed(tokens):
    with tokens.open("a") as file:
        file.write("secret-l learner\n")
    sampling = {"auth_tokens": str(tokens), "sample_tenants": "team-a", "sample_readers": "learner"}
    async with scheduler(ScriptedBackend(quick), **sampling) as address:
        for token in ("secret-a", "secret-b"):
            async with AsyncSchedulerClient(address, token=token) as client:
                await client.complete(f"the prompt of {token}")
                assert await code_of(client.take_samples(9)) is grpc.StatusCode.PERMISSION_DENIED
        async with AsyncSchedulerClient(address, token="secret-l") as learner:
            assert await code_of(learner.take_samples(0)) is grpc.StatusCode.INVALID_ARGUMENT
            taken = await learner.take_samples(9)
            assert [(sample.prompt, sample.tenant) for sample in taken.samples] == [
                ("the prompt of secret-a", "team-a")
            ]
            assert taken.seen == 1

            def blocking():
                with SchedulerClient(address, token="secret-l", timeout=PATIENCE) as other:
                    return other.take_samples(9)

            assert not (await asyncio.to_thread(blocking)).samples


async def test_where_nobody_agreed_nothing_is_kept(tokens):
    async with scheduler(ScriptedBackend(quick)) as address, AsyncSchedulerClient(address) as client:
        await client.complete("q")
        error = await refused(client.take_samples(9))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert bad_fields(error) == ["sample_tenants"]
