"""Runs a graph on a GPU over buffers that stay there from batch to batch.

``InferenceSession.run`` allocates a device's buffers for every batch's inputs and outputs. Here each input and output
has a few buffers, one for each power of two of numbers, made when first needed and kept; a batch takes the smallest
that holds it. What is copied to the device is the whole buffer, at most twice what the batch has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class BoundGraph:
    """A session with its inputs and outputs bound to kept buffers; for one thread at a time."""

    def __init__(self, session: ort.InferenceSession, widths: Mapping[str, int], device: str = "cuda") -> None:
        """Bind ``session``'s outputs of ``widths``, each (n, width), and all its inputs, on a ``device``: cuda or cpu.

        Raises KeyError for an output of a type that has no buffers.
        """
        self._session, self._device = session, device
        self._binding = session.io_binding()
        types = {output.name: output.type for output in session.get_outputs()}
        self._outputs = [(name, width, _TYPES[types[name]]) for name, width in widths.items()]
        self._kept: dict[tuple[str, int], tuple[NDArray[Any], ort.OrtValue]] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]], rows: int) -> list[NDArray[Any]]:
        """Return the outputs in the order of ``widths``, new arrays each time. Raises what onnxruntime raises."""
        for name, values in inputs.items():
            staged, buffer = self._buffer(name, values.size, values.dtype.type)
            staged[: values.size] = values.reshape(-1)
            buffer.update_inplace(staged)
            self._binding.bind_input(name, self._device, 0, values.dtype.type, values.shape, buffer.data_ptr())
        given = []
        for name, width, kind in self._outputs:
            _, buffer = self._buffer(name, rows * width, kind)
            self._binding.bind_output(name, self._device, 0, kind, (rows, width), buffer.data_ptr())
            given.append((buffer, width))
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return [np.array(buffer.numpy()[: rows * width]).reshape(rows, width) for buffer, width in given]

    def _buffer(self, name: str, numbers: int, kind: type[np.generic]) -> tuple[NDArray[Any], ort.OrtValue]:
        """The smallest buffer of an input or output that holds so many numbers, here and on the device."""
        size = 1 << (max(numbers, 1) - 1).bit_length()
        if (name, size) not in self._kept:
            buffer = ort.OrtValue.ortvalue_from_shape_and_type([size], kind, self._device, 0)
            self._kept[name, size] = (np.zeros(size, kind), buffer)
        return self._kept[name, size]
