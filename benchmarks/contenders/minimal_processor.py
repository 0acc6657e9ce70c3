"""The least that an external processor in Python can do: read a body, put a number into it. It decides nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from scheduler_service.gateway.envoy_messages import PROCESSOR, ProcessingRequest, ProcessingResponse


async def process(requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
    """Answer each message."""
    async for request in requests:
        if request.WhichOneof("request") == "request_headers":
            yield ProcessingResponse(request_headers={})
            continue
        body = json.dumps({**json.loads(request.request_body.body), "thinking_token_budget": 64}).encode()
        length = {"header": {"key": "content-length", "raw_value": str(len(body)).encode()}}
        mutation = {"header_mutation": {"set_headers": [length]}, "body_mutation": {"body": body}}
        yield ProcessingResponse(request_body={"response": mutation})


async def main() -> None:
    """Serve until ended."""
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        process, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PROCESSOR, {"Process": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stderr.write(f"listening on port {port}\n")
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
