"""What our server interceptors share: they wrap each method's handler, once, and not again for every call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def answering(handler: Any, *, unary: Any, stream: Any, request_deserializer: Any = None) -> Handler:
    """Return ``handler`` with another behaviour, for a method that takes one request.

    ``unary``, ``stream``: make the new behaviour of its old one, where it answers once, or with a stream.
    ``request_deserializer``: parses requests; the handler's own where it is not given.
    """
    parse = request_deserializer or handler.request_deserializer
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(stream(handler.unary_stream), parse, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(unary(handler.unary_unary), parse, handler.response_serializer)


class WrappingInterceptor(grpc.aio.ServerInterceptor):
    """Puts ``wrap``'s handler in the place of each method's own."""

    def __init__(self) -> None:
        """Know no method yet."""
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    def wrap(self, handler: Handler, method: str) -> Handler:
        """Return what answers calls of ``method`` (``/package.Service/Method``); ``handler`` itself for no change."""
        raise NotImplementedError

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the wrapped handler of the called method, where there is one."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self.wrap(handler, method))
        return known[1]
