"""A loaded model: an onnxruntime session and its manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from predictor_service.artifact import ArtifactError, Manifest, read_manifest
from predictor_service.features import GraphInputs, Query

log = logging.getLogger(__name__)

if (
    "CUDAExecutionProvider" in ort.get_available_providers()
):  # CUDA's libraries that were installed as packages beside onnxruntime-gpu
    ort.preload_dlls()

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


def _options(provider: str, engines: Path | None) -> dict[str, str]:
    """Options of an execution provider."""
    if provider != "TensorrtExecutionProvider" or engines is None:
        return {}
    return {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1", "trt_engine_cache_path": str(engines)}


@dataclass(frozen=True, eq=False)
class BatchResult:
    """A batch's predictions. ``curves``: (n, K) float32; ``difficulty``: (n, 3) or ``None``; times in seconds."""

    curves: NDArray[np.float32]
    difficulty: NDArray[np.float32] | None
    tokenize_seconds: float
    inference_seconds: float


class LoadedModel:
    """Runs batches of checked queries; safe to call from one thread at a time."""

    def __init__(self, folder: Path, *, threads: int = 1, provider: str = "cpu", engines: Path | None = None) -> None:
        """Check the folder, load its graph and warm it up. Raises ArtifactError with the reason where it cannot.

        ``engines``: where TensorRT keeps what it built, which takes it minutes.
        """
        self.manifest: Manifest = read_manifest(folder)
        self._inputs = GraphInputs(folder, self.manifest)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        wanted = [
            (name, _options(name, engines)) for name in PROVIDERS[provider] if name in ort.get_available_providers()
        ]
        try:
            self._session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=wanted)
        except Exception as error:  # onnxruntime raises its own types, without a common base
            raise ArtifactError(f"{folder / 'model.onnx'}: onnxruntime cannot load it: {error}") from error
        got = self._session.get_providers()
        if got[0] != PROVIDERS[provider][0]:
            log.warning("model %s: provider %s is not available, running on %s", self.name, provider, got[0])
        outputs = [output.name for output in self._session.get_outputs()]
        if "curve" not in outputs:
            raise ArtifactError(f"{folder / 'model.onnx'}: no output named curve, found {', '.join(outputs)}")
        self._outputs = [name for name in ("curve", "difficulty") if name in outputs]
        self._warm_up(folder)
        log.info("model %s@%s (%s) on %s", self.name, self.manifest.version, self.manifest.kind, got[0])

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    def run(self, queries: Sequence[Query]) -> BatchResult:
        """Predict a batch; curves are clipped to 0…1 (rounding may leave them a little outside)."""
        started = time.perf_counter()
        runs = self._inputs.runs(queries)
        ready = time.perf_counter()
        outputs: dict[str, NDArray[np.float32]] = {}
        for rows, inputs in runs:
            for name, values in zip(self._outputs, self._session.run(self._outputs, inputs), strict=True):
                if len(runs) == 1:
                    outputs[name] = values
                else:
                    outputs.setdefault(name, np.empty((len(queries), *values.shape[1:]), values.dtype))[rows] = values
        done = time.perf_counter()
        curves = np.clip(outputs["curve"], 0.0, 1.0)
        return BatchResult(curves, outputs.get("difficulty"), ready - started, done - ready)

    def _warm_up(self, folder: Path) -> None:
        size = self.manifest.hidden_size
        query = Query("warm up", np.zeros(size, np.float32) if size else None)
        try:
            shape = self.run([query, query]).curves.shape
        except Exception as error:  # as above: onnxruntime's errors have no common base
            raise ArtifactError(f"{folder / 'model.onnx'}: a trial run failed: {error}") from error
        if shape != (2, self.manifest.windows):
            raise ArtifactError(
                f"{folder}: the graph gives curves of {shape[-1]} windows, the manifest says {self.manifest.windows}"
            )
