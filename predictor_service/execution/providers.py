"""On what graphs run: onnxruntime's execution providers, their options, and what is said where one cannot be had.

onnxruntime itself goes on without a provider that it lacks or cannot start, and says so in a line of its log at most. A
predictor that was put on a GPU and runs on the CPU misses its latency without anybody knowing why, so here that is an
error, unless the settings allow it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import onnxruntime as ort

from predictor_service.artifact import Manifest

log = logging.getLogger(__name__)

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_PROVIDERS = {"cpu": (), "cuda": (CUDA,), "tensorrt": (TENSORRT, CUDA)}  # best first; the CPU comes after all of them
_LOWER = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}
_DRIVER, _TENSORRT_LIBRARY = "libcuda.so.1", "libnvinfer.so.10"  # the latter as onnxruntime-gpu 1.31 is linked
_INSTALL = "pip install 'predictive-scheduling[predictor-gpu]' in an environment without the package onnxruntime"
_INSTALL_TENSORRT = "pip install 'tensorrt-cu13-libs>=10,<11' beside predictive-scheduling[predictor-gpu]"
_ELSE = "or choose --provider cpu, or allow the CPU instead with --provider-fallback"
_USUAL_TOKENS = 128  # of a text, for which TensorRT picks its kernels; questions are shorter than the longest text
_MOST_REASON = 600  # characters of what onnxruntime says
_IN_SOURCE = re.compile(r"^\S+\.(?:cc|h):\d+ .*?\) ")
_WARM_UP_QUERIES = 2  # a model is tried with so many, whatever the largest batch is

# y = Identity(x), x float32 (n,): what is opened on a provider to see whether it starts.
_TRIAL_GRAPH = (
    b'\x08\t:=\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x05trialZ\x10\n\x01x\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01n'
    b"b\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01nB\x04\n\x00\x10\x14"
)


class ProviderError(RuntimeError):
    """An execution provider that was asked for cannot be had; the message says why, and what may be done."""


@dataclass(frozen=True)
class Execution:
    """On what graphs run.

    ``provider``: cpu, cuda or tensorrt; ``fallback``: whether a graph may run on a lesser one where it cannot be had;
    ``threads``: of one inference on the CPU, 0 for one per core; ``most_queries``: of a batch; ``engines``: folder
    where TensorRT keeps what it built, which takes it minutes.
    """

    provider: str = "cpu"
    fallback: bool = False
    threads: int = 1
    most_queries: int = 64
    engines: Path | None = None


class GraphInput(Protocol):
    """An input of a graph as onnxruntime describes it; a dimension that is no number is known only when it runs."""

    name: str
    type: str
    shape: list[int | str | None]


def available(execution: Execution) -> Execution:
    """Return ``execution`` with the provider that can be had here, having started it.

    Raises ProviderError where that is not the one that was asked for, and no other is allowed.
    """
    _, provider = _open(_TRIAL_GRAPH, execution, None)
    if provider == "tensorrt" and execution.engines is None:
        log.warning("engines: no folder is set, so TensorRT builds its engines anew at every start")
    return replace(execution, provider=provider)


def open_graph(path: Path, execution: Execution, manifest: Manifest) -> ort.InferenceSession:
    """Return a session of a model's graph.

    Raises ProviderError where a provider cannot be had, and whatever onnxruntime raises for a graph that is broken.
    """
    session, _ = _open(path, execution, manifest)
    return session


def _open(graph: Path | bytes, execution: Execution, manifest: Manifest | None) -> tuple[ort.InferenceSession, str]:
    reasons: list[str] = []
    for provider in _LOWER[execution.provider] if execution.fallback else (execution.provider,):
        if reasons:
            log.warning("%s; falling back to %s, which is slower", reasons[-1], provider)
        session, reason = _open_on(provider, graph, execution, manifest)
        if session is not None:
            return session, provider
        reasons.append(reason)
    raise ProviderError(f"{reasons[-1]}; {_ELSE}")


def _open_on(
    provider: str, graph: Path | bytes, execution: Execution, manifest: Manifest | None
) -> tuple[ort.InferenceSession | None, str]:
    """A session on this provider, or why there is none; on the CPU, what onnxruntime raises is raised."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = execution.threads
    options.inter_op_num_threads = 1
    source = graph if isinstance(graph, bytes) else str(graph)
    if provider == "cpu":
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0), ""
    if missing := lacking(provider, ort.get_available_providers(), ort.__version__):
        return None, missing
    _load_libraries(provider)
    wanted: list[tuple[str, dict[str, str]]] = [(name, {}) for name in _PROVIDERS[provider]]
    if manifest is not None:
        inputs = _inputs_of(source) if provider == "tensorrt" else []
        wanted = providers_with_options(replace(execution, provider=provider), inputs, manifest)
        _make_folders(wanted)
    try:
        session = ort.InferenceSession(source, options, providers=[*wanted, "CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime raises its own types, without a common base
        return None, f"provider: {provider} failed: {_first_line(error)}; {_hint(provider)}"
    if not_started := [name for name, _ in wanted if name not in session.get_providers()]:
        running = ", ".join(session.get_providers())
        does = f"onnxruntime cannot start its {not_started[0]} and would run on {running}"
        return None, f"provider: {provider}: {does}; {_hint(provider)}"
    return session, ""


def lacking(provider: str, have: Sequence[str], version: str) -> str:
    """Return why onnxruntime ``version``, built with the providers ``have``, cannot do it; empty where it may."""
    if all(name in have for name in _PROVIDERS[provider]):
        return ""
    missing = next(name for name in _PROVIDERS[provider] if name not in have)
    return (
        f"provider: {provider} needs onnxruntime's {missing}, and onnxruntime {version} here has "
        f"{', '.join(sorted(have))} only: {_INSTALL}"
    )


def providers_with_options(
    execution: Execution, inputs: Sequence[GraphInput], manifest: Manifest
) -> list[tuple[str, dict[str, str]]]:
    """Return the providers before the CPU, best first, each with its options.

    TensorRT has no strings, so what it could take of a graph for plain text is the part behind them; for that part's
    inputs nobody can name shapes, and it would build an engine for each new one. Such graphs are CUDA's.
    """
    takes_strings = any(given.type == "tensor(string)" for given in inputs)
    names = [name for name in _PROVIDERS[execution.provider] if name != TENSORRT or not takes_strings]
    return [(name, tensorrt_options(execution, inputs, manifest) if name == TENSORRT else {}) for name in names]


def tensorrt_options(execution: Execution, inputs: Sequence[GraphInput], manifest: Manifest) -> dict[str, str]:
    """Return TensorRT's options: the shapes that one engine must serve, and where it is kept.

    From one query of one token to the largest batch of the longest texts; so no batch makes TensorRT build another
    engine, which takes seconds to minutes while calls wait. Kernels are picked for full batches, since time counts most
    under load. An engine is found again by the names in its graph, not by its weights: so each graph's digest has a
    folder of its own, or an exchanged model would be served with the old one's weights.
    """
    most = max(execution.most_queries, _WARM_UP_QUERIES)
    queries, states = (1, most, most), (manifest.hidden_size,) * 3
    tokens = (1, min(_USUAL_TOKENS, manifest.max_tokens), manifest.max_tokens)
    axes = {"input_ids": (queries, tokens), "attention_mask": (queries, tokens), "hidden_state": (queries, states)}
    shapes = {
        given.name: [
            tuple(bounds) if isinstance(size, str | None) else (size,) * 3
            for size, bounds in zip(given.shape, axes[given.name], strict=True)
        ]
        for given in inputs
        if given.name in axes and len(given.shape) == 2 and not all(isinstance(size, int) for size in given.shape)
    }
    found = {}
    for at, which in enumerate(("min", "opt", "max") if shapes else ()):
        profile = [f"{name}:{'x'.join(str(bounds[at]) for bounds in shape)}" for name, shape in shapes.items()]
        found[f"trt_profile_{which}_shapes"] = ",".join(profile)
    if execution.engines is not None:
        folder = str(execution.engines / manifest.files["model.onnx"].removeprefix("sha256:")[:16])
        found |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
        found |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(execution.engines)}
    return found


def _make_folders(wanted: Sequence[tuple[str, dict[str, str]]]) -> None:
    for _, options in wanted:
        if "trt_engine_cache_path" in options:
            Path(options["trt_engine_cache_path"]).mkdir(parents=True, exist_ok=True)


def _inputs_of(graph: str | bytes) -> list[GraphInput]:
    """A graph's inputs, from a session that is made for nothing else: TensorRT's options are needed before its own."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    inputs: list[GraphInput] = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).get_inputs()
    return inputs


@functools.cache
def _load_libraries(provider: str) -> None:
    """Load CUDA's and TensorRT's libraries that were installed as packages, where the loader would not find them."""
    ort.preload_dlls()
    if provider == "tensorrt" and importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")  # loads them when it is imported


def _hint(provider: str) -> str:
    """What is known to be missing, to go behind a reason."""
    missing = []
    if not _loads(_DRIVER):
        there = f"there is no NVIDIA driver here ({_DRIVER} cannot be loaded)"
        missing.append(f"{there}: run it where a GPU is, and give its container one (nvidia.com/gpu: 1)")
    if provider == "tensorrt" and not _loads(_TENSORRT_LIBRARY):
        missing.append(f"TensorRT's libraries are not here ({_TENSORRT_LIBRARY} cannot be loaded): {_INSTALL_TENSORRT}")
    return "; ".join(missing) or "its own lines above say which library or device it misses"


def _first_line(error: Exception) -> str:
    """What an error of onnxruntime says, without the line of its source that comes before."""
    return _IN_SOURCE.sub("", str(error).strip().partition("\n")[0])[:_MOST_REASON]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
