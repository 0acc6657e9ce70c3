"""Which predictions a model does not stand by, and why."""

import numpy as np
import pytest

from predictor_service.abstention import Abstention, abstentions

SOUND = np.full((1, 4), 0.5, np.float32)
BROKEN = np.array([[0.5, np.nan, 0.5, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("curves", "used", "distance", "most", "reason"),
    [
        (SOUND, None, None, None, Abstention.NONE),
        (SOUND, SOUND, 2.0, 2.0, Abstention.NONE),
        (SOUND, None, 2.1, 2.0, Abstention.UNFAMILIAR),
        (SOUND, None, np.inf, 2.0, Abstention.UNFAMILIAR),
        (SOUND, None, np.nan, 2.0, Abstention.UNFAMILIAR),
        (SOUND, None, 1e9, None, Abstention.NONE),
        (BROKEN, None, None, None, Abstention.NOT_FINITE),
        (SOUND, BROKEN, None, None, Abstention.NOT_FINITE),
        (BROKEN, None, 1e9, 2.0, Abstention.NOT_FINITE),
    ],
)
def test_a_query_is_abstained_on_for_its_distance_or_for_what_is_no_number(curves, used, distance, most, reason):
    strange = None if distance is None else np.array([distance], np.float32)
    assert abstentions(curves, used, strange, most).tolist() == [reason]


def test_each_query_is_judged_by_itself():
    curves = np.concatenate([SOUND, BROKEN, SOUND])
    found = abstentions(curves, None, np.array([0, 0, 9], np.float32), 1.0)
    assert found.tolist() == [Abstention.NONE, Abstention.NOT_FINITE, Abstention.UNFAMILIAR]
