"""Ask a service for its health: ``python -m predictive_scheduling.probe HOST:PORT [SERVICE]``; 0 where it serves.

For container engines and scripts; Kubernetes asks by itself.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(arguments: list[str]) -> int:
    """Ask once, within three seconds; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m predictive_scheduling.probe HOST:PORT [SERVICE]\n")
        return 2
    service = arguments[1] if len(arguments) == 2 else ""
    with grpc.insecure_channel(arguments[0]) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=3.0)
        except grpc.RpcError as error:
            sys.stderr.write(f"{error.code().name}: {error.details()}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    sys.stdout.write(f"{status}\n")
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
