"""A loaded model: an onnxruntime session and its manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor_service.abstention import abstentions
from predictor_service.artifact import ArtifactError, Manifest, read_manifest
from predictor_service.execution.binding import BoundGraph
from predictor_service.execution.providers import Execution, open_graph
from predictor_service.inputs.features import GraphInputs, Query

log = logging.getLogger(__name__)

_CLASSES = 3  # easy, medium, hard

_ON_CPU = Execution()


@dataclass(frozen=True, eq=False)
class BatchResult:
    """A batch's predictions: ``curves`` (n, K) float32, ``difficulty`` (n, 3) or ``None``; times in seconds.

    ``used``: expected tokens used at each point, (n, K), or ``None``. ``abstained``: an ``Abstention`` for each query,
    (n,). ``unfamiliarity``: how far each lies from the model's training, (n,), or ``None`` where it does not know.
    """

    curves: NDArray[np.float32]
    difficulty: NDArray[np.float32] | None
    tokenize_seconds: float
    inference_seconds: float
    abstained: NDArray[np.int8]
    used: NDArray[np.float32] | None = None
    unfamiliarity: NDArray[np.float32] | None = None


class ModelFailedError(Exception):
    """A graph cannot run a batch that its manifest says it takes."""


class _WrongOutputError(Exception):
    """A graph gives what no predictor gives."""


class LoadedModel:
    """Runs batches of checked queries; safe to call from one thread at a time."""

    def __init__(self, folder: Path, execution: Execution = _ON_CPU) -> None:
        """Check the folder, load its graph onto ``execution``'s provider and warm it up.

        Raises ArtifactError with the reason where it cannot.
        """
        self.manifest: Manifest = read_manifest(folder)
        self._inputs = GraphInputs(folder, self.manifest)
        try:
            self._session = open_graph(folder / "model.onnx", execution, self.manifest)
        except Exception as error:  # onnxruntime raises its own types, without a common base
            raise ArtifactError(f"{folder / 'model.onnx'}: onnxruntime cannot load it: {error}") from error
        outputs = [output.name for output in self._session.get_outputs()]
        if "curve" not in outputs:
            raise ArtifactError(f"{folder / 'model.onnx'}: no output named curve, found {', '.join(outputs)}")
        most, windows = self.manifest.most_unfamiliarity, self.manifest.windows
        if most is not None and "unfamiliarity" not in outputs:
            raise ArtifactError(f"{folder / 'model.onnx'}: no output named unfamiliarity, which the manifest limits")
        self._widths = {"curve": windows, "difficulty": _CLASSES, "used_tokens": windows}
        if most is not None:
            self._widths["unfamiliarity"] = 1
        self._outputs = [name for name in self._widths if name in outputs]
        self._points = np.array(self.manifest.budget_points, np.float32)
        self._failure = ""
        self._bound: BoundGraph | None = None
        provider = self._session.get_providers()[0]
        if provider != "CPUExecutionProvider":
            self._bind()
        self._warm_up(folder)
        if read_manifest(folder) != self.manifest:
            raise ArtifactError(f"{folder}: has changed while it was loaded")  # the graph may be another one's
        log.info("model %s@%s (%s) on %s", self.name, self.manifest.version, self.manifest.kind, provider)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    def run(self, queries: Sequence[Query]) -> BatchResult:
        """Predict a batch; curves are clipped to 0…1 (rounding may leave them a little outside).

        Raises ModelFailedError where the graph fails, or gives anything but one row of numbers for each query.
        """
        try:
            return self._run(queries)
        except (KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # onnxruntime's errors have no common base, and tokenizers panics by BaseException
            # A foreign message may quote what was asked, which no log may hold.
            reason = str(error) if isinstance(error, _WrongOutputError) else type(error).__name__
            if reason != self._failure:
                self._failure = reason
                log.error("model %s@%s cannot run a batch: %s", self.name, self.manifest.version, reason)
            raise ModelFailedError(reason) from error

    def _run(self, queries: Sequence[Query]) -> BatchResult:
        started = time.perf_counter()
        runs = self._inputs.runs(queries)
        ready = time.perf_counter()
        outputs: dict[str, NDArray[np.float32]] = {}
        for rows, inputs in runs:
            for name, values in zip(self._outputs, self._run_graph(inputs, len(rows)), strict=True):
                self._check(name, values, len(rows))
                if len(runs) == 1:
                    outputs[name] = values
                else:
                    outputs.setdefault(name, np.empty((len(queries), *values.shape[1:]), values.dtype))[rows] = values
        done = time.perf_counter()
        curves = np.clip(outputs["curve"], 0.0, 1.0)
        used = outputs.get("used_tokens")
        if used is not None:  # no budget uses more than itself, nor less than a smaller one
            used = np.maximum.accumulate(np.clip(used, 0.0, self._points), axis=1)
        strange = outputs["unfamiliarity"][:, 0] if "unfamiliarity" in outputs else None
        abstained = abstentions(curves, used, strange, self.manifest.most_unfamiliarity)
        times = ready - started, done - ready
        return BatchResult(curves, outputs.get("difficulty"), *times, abstained, used, strange)

    def _run_graph(self, inputs: dict[str, NDArray[Any]], rows: int) -> list[Any]:
        if self._bound is not None:
            return self._bound.run(inputs, rows)
        found: list[Any] = self._session.run(self._outputs, inputs)
        return found

    def _bind(self) -> None:
        """Keep the buffers on the device, unless the graph takes strings, which are never there, or it cannot be."""
        if any(given.type == "tensor(string)" for given in self._session.get_inputs()):
            return
        try:
            self._bound = BoundGraph(self._session, {name: self._widths[name] for name in self._outputs})
            self._try()
        except Exception as error:  # as above; a graph that is wrong itself is refused by the trial that follows
            self._bound = None
            log.warning("model %s: its buffers on the device are allocated for each batch: %s", self.name, error)

    def _check(self, name: str, values: object, rows: int) -> None:
        """Raise _WrongOutputError for an output of another shape than the manifest says, or of no such numbers."""
        width = self._widths[name]
        if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.floating):
            raise _WrongOutputError(f"the graph's {name} is no tensor of floating-point numbers")
        if values.shape != (rows, width):
            windows = f"gives curves of {values.shape[-1]} points, the manifest says {width}"
            shapes = f"gives {name} of shape {values.shape} for {rows} queries, not ({rows}, {width})"
            only_length = name == "curve" and values.ndim == 2 and len(values) == rows
            raise _WrongOutputError(f"the graph {windows if only_length else shapes}")

    def _warm_up(self, folder: Path) -> None:
        """Run batches of one and two queries, so that a graph made for one size only is found before it serves."""
        try:
            self._try()
        except Exception as error:  # as above: onnxruntime's errors have no common base
            raise ArtifactError(f"{folder / 'model.onnx'}: a trial run failed: {error}") from error

    def _try(self) -> None:
        size = self.manifest.hidden_size
        query = Query("warm up", np.zeros(size, np.float32) if size else None)
        for count in (1, 2):
            self._run([query] * count)
