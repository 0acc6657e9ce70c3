"""Where states may be sent to. A request's body is anybody's: only what the engine's operator allows is a destination.

Addresses are ``unix:/path``, ``tcp://ip:port`` and ``file:/folder``. Allowed are patterns of them: a path may hold
``*`` within one of its parts, an ip may be a network (``tcp://10.0.0.0/8:50070``), a port may be ``*``. A request names
an ip and no host name: looking one up could take seconds, and whoever answers would choose where the state goes.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KEY = "prompt_state"  # of the request's kv_transfer_params
_NAME = re.compile(r"[0-9A-Za-z_-]{16,64}")
_LONGEST = 512
_MOST_LAYERS = 64
_HIGHEST_LAYER = 9999


class RefusedError(ValueError):
    """A request asks for what it may not have; the text says what, and holds nothing of the request."""


@dataclass(frozen=True)
class Address:
    """One destination: ``kind`` is unix, tcp or file, ``path`` of a socket or folder, ``host`` and ``port`` of tcp."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True)
class Wanted:
    """What a request asks for: the states of ``layers`` (none: of all that are kept) to ``address``, under ``name``."""

    name: str
    address: Address
    layers: tuple[int, ...] | None


class Allowed:
    """The addresses that an operator allows. Raises ValueError for a pattern that is none."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Read the patterns."""
        self._paths: list[tuple[str, str]] = []
        self._networks: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int | None]] = []
        if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError("destinations: must be a list of addresses")
        for pattern in patterns:
            kind, _, rest = pattern.partition(":")
            if kind in ("unix", "file") and _is_plain(rest):
                self._paths.append((kind, rest))
            elif kind == "tcp" and rest.startswith("//"):
                network, port = _host_and_port(rest[2:])
                if port != "*" and not _is_port(port):
                    raise ValueError(f"destinations: {pattern!r}: the port must be from 1 to 65535, or *")
                try:
                    self._networks.append(
                        (ipaddress.ip_network(network, strict=False), None if port == "*" else int(port))
                    )
                except ValueError as error:
                    raise ValueError(f"destinations: {pattern!r}: {error}") from None
            else:
                raise ValueError(
                    f"destinations: {pattern!r} is none of unix:/path, tcp://network:port and file:/folder"
                )

    def __contains__(self, address: object) -> bool:
        """Whether something may be sent there."""
        if not isinstance(address, Address):
            return False
        if address.kind == "tcp":
            host = ipaddress.ip_address(address.host)
            return any(
                host.version == network.version and host in network and port in (None, address.port)
                for network, port in self._networks
            )
        parts = address.path.split("/")
        return any(
            kind == address.kind
            and len(parts) == len(pattern.split("/"))
            and all(map(fnmatch.fnmatchcase, parts, pattern.split("/")))
            for kind, pattern in self._paths
        )


def parse_address(text: str) -> Address:
    """Read an address. Raises RefusedError for what is none."""
    kind, _, rest = text.partition(":")
    if kind in ("unix", "file") and _is_plain(rest):
        return Address(kind, path=rest)
    if kind == "tcp" and rest.startswith("//"):
        host, port = _host_and_port(rest[2:])
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            raise RefusedError("to: the host of a tcp address must be an ip") from None
        if isinstance(ip, ipaddress.IPv6Address):
            if ip.scope_id is not None:  # any text may stand there
                raise RefusedError("to: the host of a tcp address must be an ip without a zone")
            ip = ip.ipv4_mapped or ip  # it leads to the IPv4 address, so it is allowed where that is
        if _is_port(port):
            return Address("tcp", host=str(ip), port=int(port))
    raise RefusedError("to: must be unix:/path, tcp://ip:port or file:/folder")


def wanted(parameters: Mapping[str, object] | None, allowed: Allowed) -> Wanted | None:
    """Read what a request's ``kv_transfer_params`` ask of us; ``None`` where they ask nothing.

    Raises RefusedError for an address that is not allowed, and for anything that is not as it must be.
    """
    asked = parameters.get(KEY) if isinstance(parameters, Mapping) else None
    if asked is None:
        return None
    if not isinstance(asked, Mapping):
        raise RefusedError("must be an object")
    name, to, layers = asked.get("id"), asked.get("to"), asked.get("layers")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RefusedError("id: must be 16 to 64 letters, digits, - or _")
    if not isinstance(to, str) or len(to) > _LONGEST:
        raise RefusedError("to: must be an address")
    if layers is not None and (
        not isinstance(layers, Sequence)
        or isinstance(layers, str)
        or len(layers) > _MOST_LAYERS
        or not all(type(layer) is int and 0 <= layer <= _HIGHEST_LAYER for layer in layers)
    ):
        raise RefusedError(f"layers: must be a list of numbers of layers, {_MOST_LAYERS} at most")
    address = parse_address(to)
    if address not in allowed:
        raise RefusedError("to: not among the destinations that this engine allows")
    return Wanted(name, address, None if layers is None else tuple(layers))


def _is_plain(path: str) -> bool:
    """Whether a path is absolute, can be written, and goes straight where it says."""
    try:
        path.encode()
    except UnicodeEncodeError:  # half a pair of surrogates
        return False
    # normpath leaves two slashes at the beginning as they are.
    return path[:1] == "/" != path[1:2] != "" and "\0" not in path and posixpath.normpath(path) == path


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


def _host_and_port(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port
