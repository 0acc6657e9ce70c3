"""Tensors of the Open Inference Protocol v2: read from a request, written to a response, as numbers or raw bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictive_scheduling.open_inference.v2 import open_inference_pb2 as pb
from predictor_service.admission import RefusedQueryError
from predictor_service.inputs.features import Query

_DATATYPES = {"text": "BYTES", "hidden_state": "FP32"}
_MOST_QUERIES = 4096
_MANY = f"must hold 1 to {_MOST_QUERIES} queries, as many in each"


def read_queries(request: pb.ModelInferRequest) -> list[Query]:
    """Return a request's queries. Raises RefusedQueryError naming the input that cannot be read.

    What is too much is refused before it is read: a message may hold millions of texts, dimensions and inputs.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise _refused("raw_input_contents", f"has {len(raw)} entries for {len(request.inputs)} inputs")
    texts: list[str] | None = None
    states: NDArray[np.float32] | None = None
    for at, tensor in enumerate(request.inputs):
        wanted = _DATATYPES.get(tensor.name)
        if wanted is None:
            raise _refused(f"inputs[{at}].name", f"{tensor.name!r} is none of {', '.join(_DATATYPES)}")
        if (texts if tensor.name == "text" else states) is not None:
            raise _refused(f"inputs[{at}].name", f"{tensor.name} is there twice")
        if not 1 <= len(tensor.shape) <= 2:
            raise _refused(f"inputs[{at}].shape", f"has {len(tensor.shape)} dimensions, not 1 or 2")
        if tensor.datatype != wanted:
            raise _refused(f"inputs[{at}].datatype", f"{tensor.name} is {wanted}, not {tensor.datatype}")
        data = raw[at] if raw else None
        if tensor.name == "text":
            texts = _texts(tensor, data, at)
        else:
            states = _states(tensor, data, at)
    count = len(texts if texts is not None else () if states is None else states)
    if not 1 <= count <= _MOST_QUERIES or (texts is not None and states is not None and len(texts) != len(states)):
        raise _refused("inputs", _MANY)
    return [Query("" if texts is None else texts[row], None if states is None else states[row]) for row in range(count)]


def _texts(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, at: int) -> list[str]:
    items = tensor.contents.bytes_contents if raw is None else _split(raw, at)
    if len(items) > _MOST_QUERIES:
        raise _refused("inputs", _MANY)
    if list(tensor.shape) not in ([len(items)], [len(items), 1]):
        raise _refused(f"inputs[{at}].shape", f"{list(tensor.shape)} does not fit {len(items)} texts")
    try:
        return [item.decode() for item in items]
    except UnicodeDecodeError:
        raise _refused(f"inputs[{at}].contents", "must be UTF-8") from None


def _split(raw: bytes, at: int) -> list[bytes]:
    """Take texts apart that each stand after their length; no more than one too many."""
    items: list[bytes] = []
    position = 0
    while position < len(raw) and len(items) <= _MOST_QUERIES:
        end = position + 4 + int.from_bytes(raw[position : position + 4], "little")
        if end > len(raw) or position + 4 > len(raw):
            raise _refused(f"raw_input_contents[{at}]", "ends within a text")
        items.append(raw[position + 4 : end])
        position = end
    return items


def _states(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, at: int) -> NDArray[np.float32]:
    if raw is not None and len(raw) % 4:
        raise _refused(f"raw_input_contents[{at}]", "ends within a number")
    values = (
        np.array(tensor.contents.fp32_contents, dtype=np.float32) if raw is None else np.frombuffer(raw, dtype="<f4")
    )
    shape = list(tensor.shape)
    if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != values.size:
        raise _refused(f"inputs[{at}].shape", f"{shape} does not fit {values.size} numbers; it is [queries, size]")
    return values.reshape(shape).astype(np.float32)


def write_outputs(
    response: pb.ModelInferResponse, tensors: dict[str, NDArray[np.float32]], wanted: Sequence[str], *, raw: bool
) -> None:
    """Add ``tensors`` to a response, those that are wanted (none: all).

    Raises RefusedQueryError for one it lacks, and for one that is wanted twice: a response could be of any size.
    """
    for at, name in enumerate(wanted):
        if name not in tensors:
            raise _refused(f"outputs[{at}].name", f"{name!r} is none of {', '.join(tensors)}")
        if name in wanted[:at]:
            raise _refused(f"outputs[{at}].name", f"{name} is wanted twice")
    for name in wanted or tensors:
        values = np.ascontiguousarray(tensors[name], dtype="<f4")
        output = response.outputs.add(name=name, datatype="FP32", shape=values.shape)
        if raw:
            response.raw_output_contents.append(values.tobytes())
        else:
            output.contents.fp32_contents.extend(values.ravel())


def _refused(field_name: str, description: str) -> RefusedQueryError:
    return RefusedQueryError(field_name, description, precondition=False)
