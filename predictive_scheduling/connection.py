"""What every client holds: a channel with our service config, the deadline of its calls, and who it is."""

from __future__ import annotations

from importlib.resources import files
from types import TracebackType
from typing import Self

import grpc
import grpc.aio


def channel_options() -> list[tuple[str, str | int]]:
    """Return the channel options we recommend: the shipped service config (round robin, health checks, retries).

    A replica that was restarted is found again within a tenth of a second; gRPC's own first pause is a second, in which
    a quick rollout takes the next one away.
    """
    config = (files("predictive_scheduling") / "service_config.json").read_text()
    return [
        ("grpc.service_config", config),
        ("grpc.enable_retries", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),  # how long an attempt may take, at the least
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a bearer token; none for an empty one."""
    return (("authorization", f"Bearer {token}"),) if token else ()


class Connection:
    """A blocking client's channel; a context manager that closes it. The clients add a stub and their methods."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        """Connect to ``address``; ``timeout`` (seconds) is the deadline of every call.

        ``credentials``: for TLS (``channel_credentials``). ``token``: sent as a bearer token.
        """
        options = channel_options()
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=options)
        self._timeout = timeout
        self._metadata = bearer(token)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncConnection:
    """The same for asyncio. ``interceptors`` are those of the channel, such as tracing."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
        interceptors: list[grpc.aio.ClientInterceptor] | None = None,
    ) -> None:
        """Connect to ``address``; ``timeout`` (seconds) is the deadline of every call.

        ``credentials``: for TLS (``channel_credentials``). ``token``: sent as a bearer token.
        """
        options = channel_options()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)
        self._timeout = timeout
        self._metadata = bearer(token)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        await self._channel.close()
