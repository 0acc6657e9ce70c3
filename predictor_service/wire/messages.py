"""From messages to queries, and from answers to messages."""

from __future__ import annotations

import numpy as np

from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictor_service.abstention import Abstention
from predictor_service.inputs.features import Query
from predictor_service.predictions import Answer


def query_of(query: pb.Query) -> Query:
    """Read a query; what it may not be is for the proto's rules and for admission to say."""
    state = np.array(query.hidden_state.values, dtype=np.float32) if query.HasField("hidden_state") else None
    return Query(query.text, state)


def response_of(answer: Answer) -> pb.PredictResponse:
    """Write an answer; the curve of a query that the model abstains on is the mean curve of its training."""
    manifest, predicted, result = answer.manifest, answer.predicted, answer.predicted.result
    response = pb.PredictResponse(
        model=manifest.name,
        version=manifest.version,
        budget_window_tokens=manifest.budget_window_tokens,
        queue_seconds=predicted.queue_seconds,
        tokenize_seconds=result.tokenize_seconds,
        inference_seconds=result.inference_seconds,
        canary=answer.canary,
        budget_points=manifest.budget_points,
    )
    # Lists of all rows at once: protobuf takes a list several times as fast as an array's numbers.
    curves = result.curves.tolist()
    used = None if result.used is None else result.used.tolist()
    strange = None if result.unfamiliarity is None else result.unfamiliarity.tolist()
    for row, reason in enumerate(result.abstained.tolist()):
        sound = reason == Abstention.NONE
        prediction = response.predictions.add(
            status=pb.PREDICTION_STATUS_OK if sound else pb.PREDICTION_STATUS_ABSTAIN,
            curve=curves[row] if sound else manifest.mean_curve,
            uncertainty=manifest.uncertainty,
            used_tokens=(used and used[row]) if sound else manifest.mean_used_tokens,
            abstain_reason=reason,
            unfamiliarity=strange[row] if strange else 0,
        )
        if result.difficulty is not None and sound:
            easy, medium, hard = result.difficulty[row]
            prediction.difficulty.CopyFrom(pb.DifficultyProbabilities(easy=easy, medium=medium, hard=hard))
    return response
