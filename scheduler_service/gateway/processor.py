"""Envoy's external processor: a stream a request, from which its budget goes into the request's body.

Theory of operation. Envoy opens a stream for each HTTP request and sends what its processing mode says: headers, the
body, and, where the response passes through here, that in chunks. Each message is answered by one, in
order. ``Exchange`` is one such request: it remembers what was said of it, asks ``GatewayBudgets`` once the body is
there, and settles where the response passes through. Where it does not, the access log tells (``access_logs``).

What always holds: every message is answered, and what is not understood passes as it came.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from scheduler_service.api.statuses import status_of
from scheduler_service.domain import OverloadedError, QuotaExceededError
from scheduler_service.gateway.budgets import OURS, Decision, GatewayBudgets, Seen
from scheduler_service.gateway.envoy_messages import ProcessingMode, ProcessingRequest, ProcessingResponse
from scheduler_service.gateway.usage import StreamedUsage, Used, whole_usage
from scheduler_service.grants import Told

log = logging.getLogger(__name__)

_NOTHING = ProcessingMode.NONE
_MOST_WHOLE = 8 << 20


async def process(
    budgets: GatewayBudgets, context: grpc.aio.ServicerContext[Any, Any], returning: set[Exchange]
) -> None:
    """Answer the messages of one stream until Envoy ends it; it is in ``returning`` while it should not be cut."""
    exchange = Exchange(budgets)
    try:
        while (request := await context.read()) is not grpc.aio.EOF:
            answer = await exchange.answer(request)
            if exchange.returns:
                returning.add(exchange)
            try:
                await context.write(answer)
            except BaseException:
                exchange.unheard()
                raise
    finally:
        returning.discard(exchange)
        exchange.ended()


class Exchange:
    """One HTTP request and its response, as Envoy tells of them."""

    def __init__(self, budgets: GatewayBudgets) -> None:
        """Nothing is known yet."""
        self._budgets = budgets
        self._headers: Mapping[str, str] = {}
        self._returns = False
        self._decision: Decision | None = None
        self._response: _Response | None = None

    @property
    def returns(self) -> bool:
        """Whether a response passes through here, now or later, that is read for its usage."""
        return self._decision is not None and (self._returns or self._response is not None)

    async def answer(self, request: ProcessingRequest) -> ProcessingResponse:
        """The answer to a message."""
        if request.HasField("protocol_config"):
            self._returns = request.protocol_config.response_body_mode != _NOTHING
        match request.WhichOneof("request"):
            case "request_headers":
                self._headers = headers_of(request.request_headers)
                return self._request_headers()
            case "request_body":
                return await self._decide(request.request_body)
            case "response_headers":
                self._response = _Response(headers_of(request.response_headers), self._decision)
                return self._response_headers(request.response_headers.end_of_stream)
            case "response_body":
                return self._response_body(request.response_body)
            case "request_trailers":
                return ProcessingResponse(request_trailers={})
            case "response_trailers":  # the body before it does not say that it is the end
                self._settle(complete=True)
                return ProcessingResponse(response_trailers={})
            case _:
                return ProcessingResponse(response_trailers={})

    def ended(self) -> None:
        """Settle what the response told, where it came this way; one that did not is the access log's to tell."""
        self._settle(complete=False)

    def unheard(self) -> None:
        """An answer did not reach Envoy, which waits only so long: its request passed without a budget."""
        if self._decision is not None and self._response is None:
            self._budgets.settle(self._decision.grant, Told(completion_tokens=0, failure="late"))

    async def _decide(self, body: Any) -> ProcessingResponse:
        if not body.end_of_stream or self._decision is not None:  # a part of a body that is too long to be held
            return ProcessingResponse(request_body={})
        try:
            decision = await self._budgets.decide(Seen(body.body, self._headers, self._returns))
        except (OverloadedError, QuotaExceededError) as error:
            return refusal(error)
        if decision is None:
            return ProcessingResponse(request_body={})
        self._decision = decision
        headers = {**decision.headers, "content-length": str(len(decision.body))}
        gone = ["content-encoding"] if "content-encoding" in self._headers else []
        if decision.usage_added:
            gone.append("accept-encoding")  # a compressed response could not be read
        return ProcessingResponse(
            request_body={
                "response": {
                    "header_mutation": {"set_headers": set_headers(headers), "remove_headers": gone},
                    "body_mutation": {"body": decision.body},
                }
            }
        )

    def _request_headers(self) -> ProcessingResponse:
        """Nobody outside names a grant, or it could be settled by others; Envoy's own configuration sees to it, too."""
        forged = [name for name in OURS if name in self._headers]
        mutation = {"response": {"header_mutation": {"remove_headers": forged}}} if forged else {}
        return ProcessingResponse(request_headers=mutation)

    def _response_headers(self, end_of_stream: bool) -> ProcessingResponse:
        if end_of_stream:
            self._settle(complete=True)
        # The usage that is taken out makes a whole number of bytes fewer than announced.
        changes = self._decision is not None and self._decision.usage_added
        mutation = {"response": {"header_mutation": {"remove_headers": ["content-length"]}}} if changes else {}
        return ProcessingResponse(response_headers=mutation)

    def _response_body(self, body: Any) -> ProcessingResponse:
        if self._response is None:  # headers were not sent here
            self._response = _Response({}, self._decision)
        kept = self._response.feed(body.body, last=body.end_of_stream)
        if body.end_of_stream:
            self._settle(complete=True)
        if kept == body.body:
            return ProcessingResponse(response_body={})
        mutation = {"body": kept} if kept else {"clear_body": True}
        return ProcessingResponse(response_body={"response": {"body_mutation": mutation}})

    def _settle(self, *, complete: bool) -> None:
        if self._decision is not None and self._response is not None:
            self._budgets.settle(self._decision.grant, self._response.told(complete=complete))


@dataclass
class _Response:
    """What came back so far."""

    headers: Mapping[str, str]
    decision: Decision | None
    began: float = field(default_factory=time.monotonic)
    first: float = 0.0
    last: float = 0.0
    whole: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.stream: StreamedUsage | None = None
        if self.decision is None:
            return
        # Who asks for a stream may get another answer, and the other way round; what is packed cannot be read here.
        asked = "text/event-stream" if self.decision.streamed else ""
        events = "text/event-stream" in self.headers.get("content-type", asked).lower()
        if events and self.headers.get("content-encoding", "identity").lower() == "identity":
            self.stream = StreamedUsage(take_out=self.decision.usage_added)

    def feed(self, chunk: bytes, *, last: bool) -> bytes:
        """Read a chunk; returns what goes on of it."""
        self.last = time.monotonic()
        self.first = self.first or self.last
        if self.decision is None:
            return chunk
        if self.stream is not None:
            return self.stream.feed(chunk, last=last)
        if len(self.whole) < _MOST_WHOLE:
            self.whole += chunk
        return chunk

    def told(self, *, complete: bool) -> Told:
        """What it says of the request."""
        status = self.headers.get(":status", "200")
        if not status.startswith("2"):
            return Told(completion_tokens=0, failure=f"HTTP {status}")
        used = self.stream.used if self.stream is not None else whole_usage(bytes(self.whole))
        if used is None and self.stream is not None:
            used = Used(self.stream.events)
        elif used is None:
            used = Used(None if complete or self.whole else 0)
        tokens = used.completion_tokens or 0
        pace = (self.last - self.first) / (tokens - 1) if self.stream is not None and tokens > 1 else 0.0
        return Told(
            used.completion_tokens,
            used.reasoning_tokens,
            used.prompt_tokens,
            "" if complete else "cancelled",
            max(0.0, self.first - self.began),
            pace,
        )


def headers_of(message: Any) -> dict[str, str]:
    """The headers of a message, by their names in lower case; of several of one name the last."""
    return {one.key.lower(): one.value or one.raw_value.decode("utf-8", "replace") for one in message.headers.headers}


def set_headers(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """A mutation that sets headers."""
    overwrite = "OVERWRITE_IF_EXISTS_OR_ADD"
    return [
        {"header": {"key": name, "raw_value": value.encode()}, "append_action": overwrite}
        for name, value in values.items()
    ]


def refusal(error: OverloadedError | QuotaExceededError) -> ProcessingResponse:
    """An answer in the engine's place, in OpenAI's form: come back later."""
    status = status_of(error)
    body = {"error": {"message": status.message, "type": status.row.kind, "param": None, "code": None}}
    headers = {"content-type": "application/json", "retry-after": str(math.ceil(error.retry_seconds))}
    return ProcessingResponse(
        immediate_response={
            "status": {"code": status.row.http},
            "headers": {"set_headers": set_headers(headers)},
            "body": json.dumps(body).encode(),
            "details": "predictive_scheduling_refused",
        }
    )
