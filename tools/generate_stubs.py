"""Regenerate the committed stubs of ``protos/`` (``make stubs``), or check that they are current (``--check``)."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "predictive_scheduling"
VENDORED = "from buf.validate import validate_pb2 as buf_dot_validate_dot_validate__pb2"
IMPORTED = "from predictive_scheduling.protovalidate_options import validate_pb2 as buf_dot_validate_dot_validate__pb2"


def generate(out: Path) -> list[Path]:
    """Generate every stub below ``out``; returns their paths relative to ``out``."""
    protos = sorted((ROOT / "protos").rglob("*.proto"))
    includes = [f"-I{ROOT / 'protos'}", f"-I{ROOT / 'third_party/protos'}"]
    tool = [sys.executable, "-m", "grpc_tools.protoc", *includes]
    typed = [f"--python_out={out}", f"--mypy_out=quiet:{out}"]
    subprocess.run(
        [*tool, *typed, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *map(str, protos)],
        check=True,
        env={"PATH": str(Path(sys.executable).parent)},
    )
    validate = ROOT / "third_party/protos/buf/validate/validate.proto"
    vendor = out / "predictive_scheduling/protovalidate_options"
    vendor.mkdir(parents=True)
    scratch = out / "scratch"
    scratch.mkdir()
    subprocess.run([*tool, f"--python_out={scratch}", str(validate)], check=True)
    shutil.move(scratch / "buf/validate/validate_pb2.py", vendor / "vendored_validate_pb2.py")
    shutil.rmtree(scratch)
    for stub in out.rglob("*_pb2.py"):
        stub.write_text(stub.read_text().replace(VENDORED, IMPORTED))
    return sorted(path.relative_to(out) for path in out.rglob("*.py*") if path.is_file())


def main() -> int:
    """Write the stubs, or with ``--check`` report those that differ; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        stubs = generate(out)
        if "--check" in sys.argv:
            stale = [str(p) for p in stubs if not (ROOT / p).exists() or not filecmp.cmp(out / p, ROOT / p, False)]
            if stale:
                sys.stderr.write(f"stale stubs, run 'make stubs': {', '.join(stale)}\n")
            return 1 if stale else 0
        for path in stubs:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / path, ROOT / path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
