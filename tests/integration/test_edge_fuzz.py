"""Whatever callers send: a documented status, no traceback, no fault of ours in the log, a ledger that balances.

One scheduler, a process of its own, is sent thousands of bodies and messages: drawn, mutated, and as bytes.
"""

import http.client
import json
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from predictive_scheduling import SchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.demo.services import free_address
from scheduler_service.api.openai.chat_request import ChatRequest
from scheduler_service.api.openai.responses_request import ResponsesRequest
from tests.integration.running import DOCUMENTED

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
HTTP = {200, 400, 401, 403, 404, 405, 408, 413, 429, 503, 504}
GRPC = {*DOCUMENTED, grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND} - {grpc.StatusCode.CANCELLED}
MOST_GROWTH = 300 << 20  # bytes of memory, over all that is sent


class Running:
    """A scheduler with a front, as a process; ``log``: where it writes what it logs: warnings and faults alone."""

    def __init__(self, policy, log):
        self.front, self.log, self.read = free_address(), log, 0
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.standins.scripted_scheduler", policy, self.front],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self.server = self.process.stdout.readline().decode().strip()
        assert self.server, log.read_text()
        self.memory = self.resident()

    def resident(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    @property
    def fault(self):
        """What it said of a fault of its own since it was asked last."""
        with self.log.open("rb") as log:
            log.seek(self.read)
            told = log.read()
        self.read += len(told)
        return told.decode() if b"Traceback" in told else ""

    def check(self):
        """It lives, it holds what it should, and its books are right."""
        with SchedulerClient(self.server, timeout=30) as client:
            while (budget := client.budget()).reserved_tokens:
                time.sleep(0.05)
            assert budget.granted_tokens == budget.used_tokens + budget.returned_tokens
            assert client.complete("still there?").answer
            assert client.status().pending_requests == 0
        assert not self.fault
        assert self.resident() - self.memory < MOST_GROWTH

    def end(self):
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


@pytest.fixture(scope="module", params=["price", "envelope"])
def running(request, tmp_path_factory):
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    found = Running(request.param, tmp_path_factory.mktemp("fuzz") / "log")
    try:
        yield found
        found.check()
    finally:
        found.end()


def post(running, body, headers, path="/v1/chat/completions"):
    connection = http.client.HTTPConnection(*running.front.split(":"), timeout=60)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def judge(running, status, text):
    assert status in HTTP, text
    assert "Traceback" not in text
    if status != 200:
        assert json.loads(text)["error"]["message"]
    assert not running.fault


odd_numbers = st.sampled_from([0, -1, 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-320])
odd_texts = st.sampled_from(["", "\0", "a" * 300, "\u202e", "😀", "null", "text", "user", "\x7f"]) | st.text(max_size=5)
scalars = st.none() | st.booleans() | odd_numbers | odd_texts | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3), max_leaves=6
)
RESPONSES = "/v1/responses"
NAMES = [
    *ChatRequest.model_fields,
    *ResponsesRequest.model_fields,
    "n",
    "stop",
    "tools",
    "logprobs",
    "logit_bias",
    "response_format",
    "user",
    "other",
]
QUESTION = [{"role": "user", "content": "What is 1 + 1?"}]
sound = {
    "stream": st.booleans(),
    "stream_options": st.just({"include_usage": True}),
    "max_completion_tokens": st.integers(1, 200),
    "temperature": st.floats(0, 2),
    "traces": st.integers(0, 3),
    "request_id": st.sampled_from("abc"),
    "tenant": st.sampled_from("ab"),
    "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
    "thinking": st.fixed_dictionaries({"type": st.sampled_from(["enabled", "disabled", "adaptive", "on"])}),
    "enable_thinking": st.booleans(),
    "thinking_token_budget": st.integers(0, 200),
    "priority": st.integers(-100, 100),
    "weight": st.floats(1 / 16, 16),
}


@st.composite
def bodies(draw):
    """Mostly sound bodies, with a few fields that are not."""
    body = draw(st.fixed_dictionaries({"messages": st.just(QUESTION)}, optional=sound))
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=2)):
        body[name] = draw(values)
    if draw(st.booleans()):
        message = {"role": draw(st.sampled_from(["user", "system"]) | values), "content": draw(values | odd_texts)}
        body["messages"] = [message, *draw(st.lists(values, max_size=1))]
    return body


@st.composite
def response_bodies(draw):
    """The same for responses."""
    body = {"input": "What is 1 + 1?", **draw(bodies())}
    del body["messages"]
    if draw(st.booleans()):
        item = {"role": draw(st.sampled_from(["user", "system"]) | values), "content": draw(values | odd_texts)}
        body["input"] = [item, *draw(st.lists(values | st.just({"type": "reasoning"}), max_size=1))]
    return body


def changed(data):
    """Bytes with a few of them changed, cut off, doubled or moved."""

    @st.composite
    def build(draw):
        raw = bytearray(draw(data))
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(raw)))
            to = min(len(raw), at + draw(st.integers(0, 6)))
            raw[at:to] = draw(st.binary(max_size=6) | st.just(bytes(raw[at:to] * 2)))
        return bytes(raw)

    return build()


def encoded(body):
    return json.dumps(body).encode()


@FUZZ
@given(bodies())
@example({"messages": [{"role": "user", "content": "q"}], "max_completion_tokens": 1, "traces": 3})
def test_bodies_end_with_a_documented_status(running, body):
    judge(running, *post(running, encoded(body), {}))


@FUZZ
@given(response_bodies() | response_bodies().map(encoded).flatmap(lambda raw: changed(st.just(raw))))
@example({"input": [{"type": "reasoning"}]})
@example(b'{"input":"\\ud800"}')
@example(b'{"input":' + b'[{"content":' * 30_000)
def test_bodies_of_responses_end_with_a_documented_status(running, body):
    judge(running, *post(running, body if isinstance(body, bytes) else encoded(body), {}, RESPONSES))


@FUZZ
@given(st.binary(max_size=50) | changed(bodies().map(encoded)) | st.integers(1, 200_000).map(lambda deep: b"[" * deep))
@example(b'{"messages":[{"role":"user","content":"\\ud800"}]}')
@example(b'{"messages":[{"role":"user","content":"q"}],"temperature":NaN}')
@example(b'{"messages":[{"role":"user","content":"q"}],"temperature":1e999}')
@example(b'{"messages":[{"role":"user","content":"q"}],"seed":' + b"9" * 5000 + b"}")
@example(b'{"messages":' + b'[{"content":' * 30_000)
def test_bytes_that_are_almost_bodies_end_with_a_documented_status(running, body):
    judge(running, *post(running, body, {}))


HEADERS = ["Authorization", "X-Request-Timeout", "traceparent", "Baggage", "Content-Type", "Content-Encoding", "Expect"]
printable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)


@FUZZ
@given(st.dictionaries(st.sampled_from(HEADERS), printable | st.sampled_from(["0", "nan", "1e9", "gzip", "br"])))
def test_headers_end_with_a_documented_status(running, headers):
    headers.pop("Expect", None) if headers.get("Expect", "").lower().strip() == "100-continue" else None
    body = {"messages": [{"role": "user", "content": "q"}], "max_completion_tokens": 2}
    status, text = post(running, encoded(body), headers)
    assert status in HTTP | {415, 417}, text
    assert "Traceback" not in text
    assert not running.fault


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


@FUZZ
@given(changed(st.just(HEAD)) | st.binary(min_size=1, max_size=60))
def test_bytes_that_are_almost_http_leave_the_server_alive(running, raw):
    host, port = running.front.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(raw)
        client.shutdown(socket.SHUT_WR)
        told = b""
        try:
            while part := client.recv(65536):
                told += part
        except ConnectionError:
            pass
    assert b"Traceback" not in told
    assert b" 500 " not in told.split(b"\r\n")[0]
    assert not running.fault


numbers = st.sampled_from([0, 1, 15, 16, 64, 128, 129, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
reals = st.floats(width=32) | st.sampled_from([0.0, 0.5, 1.0, -1.0])
texts = odd_texts | st.sampled_from(["a", "b", "What is 1 + 1?", "x" * 5000])
samplings = st.builds(
    pb.Sampling,
    temperature=st.none() | reals,
    top_p=st.none() | reals,
    top_k=st.none() | numbers,
    seed=st.none() | numbers,
)
jobs = st.builds(
    pb.Job,
    prompt=texts,
    request_id=texts,
    model=st.just("") | texts,
    tenant=texts,
    priority=st.integers(-200, 200),
    min_reasoning_tokens=st.none() | numbers,
    max_reasoning_tokens=st.none() | numbers,
    sampling=st.none() | samplings,
    traces=st.integers(0, 4) | numbers,
    hidden_state=st.lists(reals, max_size=4),
    hidden_state_layer=numbers,
    effort=st.integers(-1, 8),
    weight=st.none() | reals,
)
items = st.builds(
    pb.PlanItem,
    prompt=texts,
    curve=st.lists(reals | st.floats(0, 1, width=32), max_size=20),
    min_reasoning_tokens=st.none() | numbers,
    max_reasoning_tokens=st.none() | numbers,
    weight=st.none() | reals,
)
MESSAGES = {
    "Generate": st.builds(pb.GenerateRequest, job=st.none() | jobs),
    "Complete": st.builds(pb.CompleteRequest, job=st.none() | jobs),
    "Allocate": st.builds(
        pb.AllocateRequest,
        items=st.lists(items, max_size=5) | items.map(lambda item: [item] * 100),
        tokens_per_query=st.integers(0, 300) | numbers,
        policy=st.sampled_from(["", "uniform", "greedy", "envelope", "exact", "price", "target"]) | texts,
    ),
    "ReportOutcome": st.builds(pb.ReportOutcomeRequest, request_id=texts, score=reals),
    "GetBudget": st.just(pb.GetBudgetRequest()),
    "GetStatus": st.builds(pb.GetStatusRequest, recent=numbers),
    "GetRequest": st.builds(pb.GetRequestRequest, request_id=texts),
}
calls = st.sampled_from(sorted(MESSAGES)).flatmap(lambda name: st.tuples(st.just(name), MESSAGES[name]))
raw_calls = calls.flatmap(
    lambda call: st.tuples(st.just(call[0]), changed(st.just(call[1].SerializeToString())) | st.binary(max_size=40))
)


@pytest.fixture(scope="module")
def channel(running):
    with grpc.insecure_channel(running.server) as found:
        yield found


def ended(running, call, *arguments, **options):
    """How a call ended."""
    try:
        for _ in call(*arguments, timeout=60, **options):
            pass
    except grpc.RpcError as failure:
        error = failure
    else:
        error = None
    assert not running.fault
    if error is None:
        return grpc.StatusCode.OK
    assert "Traceback" not in error.details()
    assert "Error(" not in error.details()
    return error.code()


def method(channel, name):
    return channel.unary_stream(f"/predictive_scheduling.scheduler.v1.SchedulerService/{name}")


@FUZZ
@given(calls)
def test_messages_end_with_a_documented_status(running, channel, call):
    assert ended(running, method(channel, call[0]), call[1].SerializeToString()) in GRPC


@FUZZ
@given(raw_calls)
def test_bytes_that_are_almost_messages_end_with_a_documented_status(running, channel, call):
    assert ended(running, method(channel, call[0]), call[1]) in GRPC


odd_metadata = st.dictionaries(
    st.sampled_from(["authorization", "traceparent", "baggage", "tracestate", "x-odd"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
)


@FUZZ
@given(odd_metadata)
def test_metadata_ends_with_a_documented_status(running, channel, metadata):
    assert ended(running, method(channel, "GetBudget"), b"", metadata=tuple(metadata.items())) in GRPC
