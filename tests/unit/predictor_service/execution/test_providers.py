"""On what graphs run: a provider that cannot be had is refused with why, and TensorRT's options fit the graph."""

from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor_service import model as of_model
from predictor_service.artifact import ArtifactError, read_manifest
from predictor_service.execution import providers
from predictor_service.execution.binding import BoundGraph
from predictor_service.execution.providers import (
    Execution,
    ProviderError,
    available,
    lacking,
    open_graph,
    providers_with_options,
    tensorrt_options,
)
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from predictor_service.settings import SHIPPED_MODELS
from tests.integration.models import hidden_state_model

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
HIDDEN, TEXT = SHIPPED_MODELS / "gsm8k-r1-1.5b-hidden", SHIPPED_MODELS / "demo-text"
ENCODER = [
    SimpleNamespace(name="input_ids", type="tensor(int64)", shape=["rows", "length"]),
    SimpleNamespace(name="attention_mask", type="tensor(int64)", shape=["rows", "length"]),
]


def inputs_of(folder):
    return ort.InferenceSession(str(folder / "model.onnx"), providers=[CPU]).get_inputs()


def an_encoder(max_tokens=512, **fields):
    return read_manifest(TEXT).model_copy(update={"max_tokens": max_tokens, **fields})


@pytest.fixture
def gpu_wheel(monkeypatch):
    """An onnxruntime that was built with these providers, of which it starts only some; says what was asked of it."""
    real = ort.InferenceSession
    asked = []

    class Session:
        def __init__(self, starts, graph, options, providers):
            self._session = real(graph, options, providers=[CPU])
            names = [name if isinstance(name, str) else name[0] for name in providers]
            self.started = [name for name in names if name in (*starts, CPU)]

        def get_providers(self):
            return self.started

        def __getattr__(self, name):
            return getattr(self._session, name)

    def install(*starts, built=(TENSORRT, CUDA, CPU), raising=None):
        def make(graph, options=None, providers=(), enable_fallback=1):
            asked.append((providers, enable_fallback))
            if raising is not None and providers[0] not in (CPU, "CPUExecutionProvider"):
                raise raising
            return Session(starts, graph, options, providers)

        monkeypatch.setattr(ort, "get_available_providers", lambda: list(built))
        monkeypatch.setattr(ort, "InferenceSession", make)
        monkeypatch.setattr(ort, "preload_dlls", lambda: None)
        return asked

    yield install
    providers._load_libraries.cache_clear()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_onnxruntime_was_built_without_is_refused_with_what_to_install(provider):
    with pytest.raises(ProviderError) as refused:
        available(Execution(provider))
    said = str(refused.value)
    assert f"provider: {provider} needs onnxruntime's" in said
    assert CPU in said
    assert ort.__version__ in said
    assert "predictive-scheduling[predictor-gpu]" in said
    assert "--provider-fallback" in said


def test_only_a_provider_that_is_not_built_in_is_lacking():
    assert lacking("cuda", [CUDA, CPU], "1.0") == ""
    assert TENSORRT in lacking("tensorrt", [CUDA, CPU], "1.0")
    assert lacking("cpu", [CPU], "1.0") == ""


def test_a_provider_that_onnxruntime_leaves_out_in_silence_is_refused(gpu_wheel, monkeypatch):
    asked = gpu_wheel()
    monkeypatch.setattr(providers, "_loads", lambda library: False)
    with pytest.raises(
        ProviderError, match=f"cannot start its {CUDA} and would run on {CPU}; there is no NVIDIA driver"
    ):
        available(Execution("cuda"))
    assert [fallback for _, fallback in asked] == [0], "onnxruntime must not fall back by itself"


def test_tensorrt_that_is_left_to_cuda_is_refused_with_the_package_that_holds_it(gpu_wheel, monkeypatch):
    gpu_wheel(CUDA)
    monkeypatch.setattr(providers, "_loads", lambda library: library == "libcuda.so.1")
    with pytest.raises(ProviderError, match=f"would run on {CUDA}, {CPU}; TensorRT's libraries .*tensorrt-cu13-libs"):
        available(Execution("tensorrt"))


@pytest.mark.parametrize("place", ["", "/src/onnxruntime/python/state.cc:729 void Register(Options&, const Map&) "])
def test_what_onnxruntime_says_of_a_provider_is_passed_on_in_one_line(gpu_wheel, place):
    gpu_wheel(raising=RuntimeError(f"{place}CUDA failure 35: the driver is too old\nStacktrace:\n…"))
    with pytest.raises(
        ProviderError, match="provider: cuda failed: CUDA failure 35: the driver is too old; "
    ) as refused:
        available(Execution("cuda"))
    assert "Stacktrace" not in str(refused.value)


def test_it_runs_on_the_cpu_where_that_is_allowed_and_says_so_once(caplog):
    found = available(Execution("cuda", fallback=True, threads=3))
    assert found == Execution("cpu", fallback=True, threads=3)
    assert [record.message.partition(";")[2] for record in caplog.records] == [" falling back to cpu, which is slower"]


@pytest.mark.parametrize(("starts", "provider"), [((CUDA,), "cuda"), ((), "cpu"), ((TENSORRT, CUDA), "tensorrt")])
def test_the_best_provider_that_starts_is_taken_where_lesser_ones_are_allowed(gpu_wheel, starts, provider):
    gpu_wheel(*starts)
    assert available(Execution("tensorrt", fallback=True)).provider == provider


def test_tensorrt_without_a_folder_for_its_engines_is_told_of(gpu_wheel, caplog, tmp_path):
    gpu_wheel(TENSORRT, CUDA)
    available(Execution("tensorrt", engines=tmp_path))
    assert not caplog.records
    available(Execution("tensorrt"))
    assert "engines: no folder is set" in caplog.text


def test_the_cpu_needs_nothing():
    assert available(Execution()) == Execution()


def test_a_model_that_loses_its_provider_is_not_loaded_but_for_the_fallback(gpu_wheel, tmp_path):
    folder = hidden_state_model(tmp_path / "m")
    gpu_wheel()
    with pytest.raises(ArtifactError, match=f"model.onnx: .*cannot start its {CUDA}"):
        LoadedModel(folder, Execution("cuda"))
    assert LoadedModel(folder, Execution("cuda", fallback=True)).name == "hidden"


def test_a_model_on_a_gpu_predicts_over_kept_buffers_what_it_predicts_without(gpu_wheel, monkeypatch, caplog):
    folder = SHIPPED_MODELS / "gsm8k-r1-1.5b-hidden-difficulty"
    draw = np.random.default_rng(0)
    batches = [[Query(hidden_state=state) for state in draw.normal(size=(n, 1536)).astype(np.float32)] for n in (1, 5)]
    without = LoadedModel(folder)
    expected = [without.run(batch) for batch in batches]
    bound = []

    def in_memory(session, widths):
        bound.append(BoundGraph(session, widths, "cpu"))
        return bound[-1]

    monkeypatch.setattr(of_model, "BoundGraph", in_memory)
    gpu_wheel(CUDA)
    model = LoadedModel(folder, Execution("cuda"))
    for batch, wanted in zip(batches, expected, strict=True):
        found = model.run(batch)
        np.testing.assert_allclose(found.curves, wanted.curves, atol=1e-6)
        np.testing.assert_allclose(found.difficulty, wanted.difficulty, atol=1e-6)
    assert len(bound) == 1
    assert "allocated for each batch" not in caplog.text


def test_a_graph_for_strings_is_not_bound(gpu_wheel, monkeypatch):
    monkeypatch.setattr(of_model, "BoundGraph", None)
    gpu_wheel(CUDA)
    assert LoadedModel(TEXT, Execution("cuda")).run([Query("What is 1 + 1?")]).curves.shape == (1, 16)


def test_a_model_whose_buffers_cannot_be_kept_on_the_device_runs_without_them(gpu_wheel, tmp_path, caplog):
    gpu_wheel(CUDA)  # which has no memory to bind here
    model = LoadedModel(hidden_state_model(tmp_path / "m"), Execution("cuda"))
    states = np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]], np.float32)
    curves = model.run([Query(hidden_state=state) for state in states]).curves
    np.testing.assert_allclose(curves[:, 0], 1 / (1 + np.exp(-states.sum(axis=1))), atol=1e-6)
    assert "model hidden: its buffers on the device are allocated for each batch" in caplog.text


def test_a_broken_graph_is_no_matter_of_the_provider(gpu_wheel, tmp_path):
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"no graph")
    gpu_wheel(CUDA)
    with pytest.raises(Exception, match=r"INVALID_PROTOBUF|Protobuf parsing failed"):
        open_graph(graph, Execution("cuda", fallback=True), read_manifest(HIDDEN))


def test_tensorrt_gets_the_batches_of_a_graph_for_hidden_states():
    options = tensorrt_options(Execution("tensorrt", most_queries=48), inputs_of(HIDDEN), read_manifest(HIDDEN))
    assert options == {
        "trt_profile_min_shapes": "hidden_state:1x1536",
        "trt_profile_opt_shapes": "hidden_state:48x1536",
        "trt_profile_max_shapes": "hidden_state:48x1536",
    }


def test_tensorrt_gets_the_batches_and_the_longest_text_of_a_graph_for_tokens():
    options = tensorrt_options(Execution("tensorrt"), ENCODER, an_encoder(512))
    assert options == {
        "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1",
        "trt_profile_opt_shapes": "input_ids:64x128,attention_mask:64x128",
        "trt_profile_max_shapes": "input_ids:64x512,attention_mask:64x512",
    }


def test_a_graph_for_strings_is_left_to_cuda():
    given = providers_with_options(Execution("tensorrt"), inputs_of(TEXT), read_manifest(TEXT))
    assert given == [(CUDA, {})]
    for_states = providers_with_options(Execution("tensorrt"), inputs_of(HIDDEN), read_manifest(HIDDEN))
    assert [name for name, _ in for_states] == [TENSORRT, CUDA]
    assert providers_with_options(Execution("cuda"), inputs_of(HIDDEN), read_manifest(HIDDEN)) == [(CUDA, {})]


def test_dimensions_that_the_graph_fixes_stay_and_an_unnamed_one_is_open():
    mixed = [
        SimpleNamespace(name="input_ids", type="tensor(int64)", shape=[None, 40]),
        SimpleNamespace(name="hidden_state", type="tensor(float)", shape=["n", "size"]),
        SimpleNamespace(name="attention_mask", type="tensor(int64)", shape=[8, 40]),
    ]
    options = tensorrt_options(Execution("tensorrt", most_queries=8), mixed, an_encoder(512, hidden_size=96))
    assert options["trt_profile_min_shapes"] == "input_ids:1x40,hidden_state:1x96"
    assert options["trt_profile_max_shapes"] == "input_ids:8x40,hidden_state:8x96"


def test_a_graph_of_one_shape_needs_no_profile():
    fixed = [SimpleNamespace(name="hidden_state", type="tensor(float)", shape=[2, 1536])]
    assert tensorrt_options(Execution("tensorrt"), fixed, read_manifest(HIDDEN)) == {}


@given(st.integers(1, 4096), st.integers(1, 1 << 20))
def test_a_profile_rises_from_one_query_to_the_largest_batch(most_queries, max_tokens):
    options = tensorrt_options(Execution("tensorrt", most_queries=most_queries), ENCODER, an_encoder(max_tokens))

    def shape(which):
        first = options[f"trt_profile_{which}_shapes"].partition(",")[0].removeprefix("input_ids:")
        return [int(size) for size in first.split("x")]

    least, usual, most = shape("min"), shape("opt"), shape("max")
    assert least == [1, 1]
    assert all(low <= middle <= high for low, middle, high in zip(least, usual, most, strict=True))
    assert most == [max(most_queries, 2), max_tokens], "a model is tried with two queries, whatever the limit is"


def test_engines_of_graphs_with_other_weights_are_kept_apart(tmp_path):
    """TensorRT's cache knows a graph by the names in it: a new version of a model would get the old one's engine."""
    folders = [hidden_state_model(tmp_path / name, scale=scale) for name, scale in (("a", 1.0), ("b", 2.0))]
    execution = Execution("tensorrt", engines=tmp_path / "engines")
    options = [tensorrt_options(execution, inputs_of(folder), read_manifest(folder)) for folder in folders]
    assert [one["trt_engine_cache_enable"] for one in options] == ["1", "1"]
    first, second = (one["trt_engine_cache_path"] for one in options)
    assert first != second
    assert {one["trt_timing_cache_path"] for one in options} == {str(tmp_path / "engines")}


def test_the_folder_of_engines_is_made_before_tensorrt_writes_to_it(gpu_wheel, tmp_path):
    folder = hidden_state_model(tmp_path / "m")
    asked = gpu_wheel(TENSORRT, CUDA)
    open_graph(folder / "model.onnx", Execution("tensorrt", engines=tmp_path / "engines"), read_manifest(folder))
    (name, options), *_ = asked[-1][0]
    assert name == TENSORRT
    assert [str(path) for path in (tmp_path / "engines").iterdir()] == [options["trt_engine_cache_path"]]
