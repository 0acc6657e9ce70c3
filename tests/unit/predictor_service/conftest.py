"""A model folder that tests may change."""

import shutil

import pytest

from predictor_service.settings import SHIPPED_MODELS


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SHIPPED_MODELS / "demo-text", tmp_path / "model")
