"""Tests stand where their modules stand, and no folder of the services is too full to find one's way."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MIRROR = ROOT / "tests/unit"
SERVICES = ("scheduler_service", "predictor_service")
MIRRORED = (*SERVICES, "predictive_scheduling", "predictive_scheduling_cli", "exporters", "benchmarks")
CONNECTOR = "engines_vllm"  # of engines/vllm, a package of its own
MOST_MODULES = 14

# Modules that only a running service, server or connection shows at work, and where that is tested.
ELSEWHERE = {
    "scheduler_service/server.py": "tests/integration/test_serving.py",
    "scheduler_service/assembly.py": "tests/integration/test_scheduler.py",
    "scheduler_service/grants.py": "tests/integration/test_grants.py",
    "scheduler_service/generation/no_backend.py": "tests/integration/test_grants.py",
    "scheduler_service/api/servicer.py": "tests/integration/test_scheduler.py",
    "scheduler_service/api/guarded_site.py": "tests/integration/test_http_edge.py",
    "scheduler_service/api/openai/front.py": "tests/integration/test_openai_front.py",
    "scheduler_service/api/status.py": "tests/integration/test_status.py",
    "scheduler_service/api/status_page.py": "tests/integration/test_status.py",
    "scheduler_service/budget/shared_budget.py": "tests/integration/test_shared_budget.py",
    "scheduler_service/generation/backends/embedded.py": "tests/e2e/test_embedded.py",
    "scheduler_service/generation/backends/openai.py": "tests/integration/test_openai_backend.py",
    "scheduler_service/generation/backends/pool.py": "tests/integration/test_openai_backend.py",
    "scheduler_service/prediction/client.py": "tests/integration/test_predictor_client.py",
    "scheduler_service/prediction/stream.py": "tests/integration/test_prediction_streams.py",
    "predictor_service/wire/messages.py": "tests/integration/test_predictor.py",
    "predictor_service/wire/stream.py": "tests/integration/test_predict_stream.py",
    "predictor_service/server.py": "tests/integration/test_serving.py",
    "predictor_service/servicer.py": "tests/integration/test_predictor.py",
    "predictor_service/catalog.py": "tests/integration/test_catalog.py",
    "predictor_service/open_inference.py": "tests/integration/test_open_inference.py",
    "predictor_service/predictions.py": "tests/integration/test_trials.py",
}


def modules(packages):
    """Their modules, as paths in the repository."""
    return [
        path.relative_to(ROOT)
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py" and not path.stem.endswith(("_pb2", "_pb2_grpc"))
    ]


def places_of(module):
    """Where a module's tests may stand: ``test_x.py`` and, for its laws, ``test_x_laws.py``."""
    name = module.stem.strip("_")
    return [MIRROR / module.parent / f"test_{name}{end}.py" for end in ("", "_laws")]


@pytest.mark.parametrize("module", modules(SERVICES), ids=str)
def test_a_module_of_the_services_is_tested_by_a_file_of_its_name(module):
    own = any(path.exists() for path in places_of(module))
    assert own != (str(module) in ELSEWHERE), f"{module}: one of a test file of its name and a line in ELSEWHERE"


def test_a_test_file_of_the_mirror_has_a_module_of_its_name():
    known = {path for module in modules(MIRRORED) for path in places_of(module)}
    found = {path for package in MIRRORED for path in (MIRROR / package).rglob("test_*.py")}
    assert {str(path.relative_to(ROOT)) for path in found - known} == set()


def test_the_mirror_holds_nothing_but_packages_and_the_repositorys_own_tests():
    folders = {path.name for path in MIRROR.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= {*MIRRORED, "repository", CONNECTOR}
    assert not list(MIRROR.glob("test_*.py"))


@pytest.mark.parametrize(("module", "where"), ELSEWHERE.items(), ids=ELSEWHERE)
def test_what_is_tested_elsewhere_is_there_and_so_are_its_tests(module, where):
    assert (ROOT / module).exists()
    assert (ROOT / where).exists()


@pytest.mark.parametrize("package", SERVICES)
def test_no_folder_of_the_services_has_too_many_modules(package):
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > MOST_MODULES} == {}


def test_every_folder_of_tests_is_a_package():
    """Else two files of one name in two folders would be one module. What vLLM loads is none of ours."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")} - {ROOT / "tests/engines/plugin"}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
