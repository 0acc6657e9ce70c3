"""Which queries a model takes: everything that is refused is refused here, with the field's name."""

from __future__ import annotations

import numpy as np

from predictor_service.artifact import Manifest
from predictor_service.inputs.features import Query


class RefusedQueryError(Exception):
    """A query does not fit. ``precondition``: the request is well-formed, but not for this model."""

    def __init__(self, field_name: str, description: str, *, precondition: bool) -> None:
        """Name the field as the API writes it, and say what would be accepted."""
        super().__init__(f"{field_name}: {description}")
        self.field_name = field_name
        self.description = description
        self.precondition = precondition


def admit(manifest: Manifest, position: int, query: Query, layer: int) -> Query:
    """Return the query if the model takes it, else raise RefusedQueryError. ``layer``: of the state, 0 unsaid."""
    at = f"queries[{position}]"
    state = query.hidden_state
    if state is not None and not (finite := np.isfinite(state)).all():  # the proto's rules would ask value by value
        raise RefusedQueryError(f"{at}.hidden_state.values[{finite.argmin()}]", "must be finite", precondition=False)
    if manifest.takes_text and not query.text:
        raise RefusedQueryError(f"{at}.text", f"model {manifest.name} needs text", precondition=True)
    if manifest.takes_text and len(query.text.encode()) > manifest.max_text_bytes:
        raise RefusedQueryError(f"{at}.text", f"longer than {manifest.max_text_bytes} bytes", precondition=True)
    if manifest.hidden_size and state is None:
        raise RefusedQueryError(f"{at}.hidden_state", f"model {manifest.name} needs one", precondition=True)
    if manifest.hidden_size and state is not None and len(state) != manifest.hidden_size:
        wrong = f"has {len(state)} components, model {manifest.name} takes {manifest.hidden_size}"
        raise RefusedQueryError(f"{at}.hidden_state.values", wrong, precondition=True)
    if manifest.hidden_size and layer and manifest.layer and layer != manifest.layer:
        wrong = f"{layer}, model {manifest.name} was trained on layer {manifest.layer}"
        raise RefusedQueryError(f"{at}.hidden_state.layer", wrong, precondition=True)
    if not manifest.hidden_size and not query.text:
        raise RefusedQueryError(f"{at}.hidden_state", f"model {manifest.name} takes text only", precondition=True)
    return query
