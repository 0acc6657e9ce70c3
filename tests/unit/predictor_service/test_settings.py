"""The predictor's settings."""

import pytest
from pydantic import ValidationError

from predictor_service.settings import PredictorSettings


def test_settings_cannot_be_changed_once_made():
    settings = PredictorSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.threads = 3
