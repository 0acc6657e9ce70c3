"""Jobs and predictions."""

from hypothesis import strategies as st

from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.allocation import Curve
from scheduler_service.domain import Job, Prediction, PredictionOutcome

JOB = Job("r", "prompt", "", 16, 64)


def fresh(*curve):
    """A prediction of this accuracy after 16, 32, … tokens."""
    return Prediction(PredictionOutcome.FRESH, Curve(evenly_spaced(len(curve), 16), curve), "p@1")


RISING = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(lambda values: tuple(sorted(values)))
