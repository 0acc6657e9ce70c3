"""Which queries a model takes, and that what it does not take is refused by its field."""

import numpy as np
import pytest

from predictor_service.admission import RefusedQueryError, admit
from predictor_service.artifact import read_manifest
from predictor_service.inputs.features import Query
from predictor_service.settings import SHIPPED_MODELS

TEXT = read_manifest(SHIPPED_MODELS / "demo-text")
STATE = TEXT.model_copy(update={"takes_text": False, "hidden_size": 4, "layer": 7, "name": "states"})
BOTH = STATE.model_copy(update={"takes_text": True})
FOUR = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("manifest", "query", "layer"),
    [
        (TEXT, Query("q"), 0),
        (TEXT, Query("q", FOUR), 3),  # what it does not read does not matter
        (STATE, Query("", FOUR), 0),
        (STATE, Query("q", FOUR), 7),
        (BOTH, Query("q", FOUR), 7),
        (STATE.model_copy(update={"layer": 0}), Query("", FOUR), 3),  # a model that does not say its layer
    ],
)
def test_what_fits_is_taken_as_it_is(manifest, query, layer):
    assert admit(manifest, 0, query, layer) is query


@pytest.mark.parametrize(
    ("manifest", "query", "layer", "field", "precondition"),
    [
        (TEXT, Query(""), 0, "text", True),
        (TEXT, Query("", FOUR), 0, "text", True),
        (TEXT, Query("é" * TEXT.max_text_bytes), 0, "text", True),  # bytes, not characters
        (STATE, Query("q"), 0, "hidden_state", True),
        (STATE, Query("", np.ones(5, np.float32)), 0, "hidden_state.values", True),
        (STATE, Query("", FOUR), 3, "hidden_state.layer", True),
        (BOTH, Query("", FOUR), 0, "text", True),
        (STATE, Query("", np.array([1, 1, np.nan, np.inf], np.float32)), 0, "hidden_state.values[2]", False),
        (TEXT, Query("q", np.array([np.inf], np.float32)), 0, "hidden_state.values[0]", False),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(manifest, query, layer, field, precondition):
    with pytest.raises(RefusedQueryError) as caught:
        admit(manifest, 5, query, layer)
    assert caught.value.field_name == f"queries[5].{field}"
    assert caught.value.precondition is precondition


def test_a_text_at_the_limit_is_taken():
    assert admit(TEXT, 0, Query("x" * TEXT.max_text_bytes), 0)
