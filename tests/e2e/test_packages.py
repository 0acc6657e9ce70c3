"""What people install: the wheel's content, a client with nothing but its two dependencies, extras that go together."""

import asyncio
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.integration.running import scheduler
from tests.integration.test_scheduler import thinker
from tests.standins.backend import ScriptedBackend

ROOT = Path(__file__).resolve().parents[2]
UV = str(Path(sys.executable).parent / "uv")
EXTRAS = ("scheduler", "predictor", "predictor-gpu", "train", "embedded", "ray", "shared", "demo")


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, built from the source distribution, as an index would do it; and that."""
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--out-dir", str(folder), str(ROOT))
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_the_wheel_holds_models_protos_and_types_and_nothing_that_only_developers_need(built):
    wheel, _ = built
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "predictive_scheduling/py.typed",
        "predictive_scheduling/scheduler/v1/scheduler_pb2.pyi",
        "predictive_scheduling/protos/predictive_scheduling/scheduler/v1/scheduler.proto",
        "predictor_service/models/demo-text/model.onnx",
        "predictor_service/models/gsm8k-r1-1.5b-hidden/manifest.json",
        "scheduler_service/generation/backends/demo_model/adapter.gguf",
        "scheduler_service/generation/backends/demo_model/long-adapter.gguf",
        "scheduler_service/api/status_page.html",
    ):
        assert wanted in names
    assert {name.split("/")[0] for name in names} == {
        "predictive_scheduling", "predictive_scheduling_cli", "predictor_service", "scheduler_service", "exporters",
        next(name for name in names if name.endswith("METADATA")).split("/")[0],
    }  # fmt: skip
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_the_source_distribution_has_what_its_tests_need_and_no_leftovers(built):
    _, source = built
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "README.md",
        "tests/unit/repository/test_locks.py",
        "protos/released.binpb",
        "k8s/schemas.yaml",
    } <= names
    assert not [name for name in names if name.startswith(("out/", ".venv/", "dist/")) or "node_modules" in name]


async def test_a_client_needs_grpcio_and_protobuf_and_nothing_else(built, tmp_path):
    python = tmp_path / "venv/bin/python"
    run(UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv"))
    run(UV, "pip", "install", "--quiet", "--python", str(python), str(built[0]))
    listed = run(UV, "pip", "list", "--python", str(python), "--format=freeze").split()
    assert {line.partition("==")[0] for line in listed} == {
        "grpcio", "protobuf", "predictive-scheduling", "typing-extensions",
    }  # fmt: skip
    code = (
        "from predictive_scheduling import SchedulerClient, extract_answer\n"
        "import sys\n"
        "with SchedulerClient(sys.argv[1], timeout=60) as client:\n"
        "    print(extract_answer(client.complete('What is 6 * 7?').answer))\n"
    )
    async with scheduler(ScriptedBackend(thinker)) as address:
        process = await asyncio.create_subprocess_exec(
            python, "-I", "-c", code, address, stdout=asyncio.subprocess.PIPE, cwd=tmp_path
        )
        out, _ = await process.communicate()
    assert out.decode().split() == ["42"]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_all_extras_resolve_together(python):
    asked = [flag for extra in EXTRAS for flag in ("--extra", extra)]
    resolved = run(
        UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python,
        "--python-platform", "x86_64-unknown-linux-gnu", *asked, "pyproject.toml",
    )  # fmt: skip
    assert {"torch", "onnxruntime-gpu", "xllamacpp", "ray", "redis"} <= {
        line.partition("==")[0] for line in resolved.split()
    }
