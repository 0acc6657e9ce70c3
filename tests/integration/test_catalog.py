"""Model folders that change under load: exchanged without a dropped call, or refused while the old model goes on."""

import asyncio
import logging
import os
import shutil
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, SpanKind

from predictive_scheduling.interceptors import StreamedCalls
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc
from predictor_service.artifact import ArtifactError, Manifest, digest
from predictor_service.batching.batch_queue import BatchQueue
from predictor_service.batching.batcher import Batcher
from predictor_service.catalog import Catalog, without_name_twice
from predictor_service.execution.providers import Execution
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from predictor_service.predictions import Predictions
from predictor_service.servicer import PredictorServicer
from tests.builders.model_folders import change
from tests.integration.models import hidden_state_model
from tests.integration.running import DOCUMENTED, bad_fields, predictor
from tests.waiting import eventually

STATE = [0.1, 0.2, 0.3, 0.4]


def catalog(folder, default="hidden"):
    return Catalog(folder, default, LoadedModel, lambda model: Batcher(model, BatchQueue(8, 0.0, 64)))


@pytest.fixture
async def models(tmp_path):
    hidden_state_model(tmp_path / "a")
    found = catalog(tmp_path)
    await found.load()
    yield tmp_path, found
    await found.close()


async def test_an_empty_folder_and_a_missing_default_are_refused_and_of_a_name_twice_the_first_is_served(
    tmp_path, caplog
):
    with pytest.raises(ArtifactError, match="no model folder"):
        await catalog(tmp_path).load()
    hidden_state_model(tmp_path / "a")
    wrong = catalog(tmp_path, "other")
    with pytest.raises(ArtifactError, match="default_model: 'other' is none of hidden"):
        await wrong.load()
    await wrong.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    twice = catalog(tmp_path)
    await twice.load()
    assert (set(twice), twice.refused) == ({"hidden"}, 1)
    assert "b: name: hidden is the name of another folder's model" in caplog.text
    await twice.close()


async def test_a_changed_folder_is_exchanged_under_load_without_a_dropped_call(models):
    folder, found = models
    stop = asyncio.Event()
    served, rounds = [], 0

    async def caller():
        nonlocal rounds
        while not stop.is_set():
            batcher = found["hidden"]
            result = await batcher.predict([Query(hidden_state=np.array(STATE, np.float32))])
            assert result.result.curves.shape == (1, 16)
            served.append(batcher.model.manifest.version)
            rounds += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(caller())
        for old, new in (("7", "8"), ("8", "9")):
            await eventually(lambda old=old: old in served)
            hidden_state_model(folder / "a", version=new)
            await found.refresh()
        await eventually(lambda: "9" in served and not found._retiring)  # the old ones retire meanwhile
        stop.set()
    assert set(served) == {"7", "8", "9"}
    assert served[-1] == "9"


async def test_a_folder_that_cannot_be_served_leaves_the_old_model_and_is_tried_again_when_mended(models, caplog):
    folder, found = models
    hidden_state_model(folder / "a", version="8")
    whole = (folder / "a" / "model.onnx").read_bytes()
    (folder / "a" / "model.onnx").write_bytes(whole[:-7])
    with caplog.at_level(logging.ERROR):
        await found.refresh()
        await found.refresh()
    assert found["hidden"].model.manifest.version == "7"
    assert caplog.text.count("the model that it served stays") == 1
    (folder / "a" / "model.onnx").write_bytes(whole)
    await found.refresh()
    assert found["hidden"].model.manifest.version == "8"


async def test_folders_come_and_go_but_the_default_stays(models):
    folder, found = models
    hidden_state_model(folder / "b", name="second")
    await found.refresh()
    assert set(found) == {"hidden", "second"}
    shutil.copytree(folder / "b", folder / "c")  # a name that another folder has
    await found.refresh()
    assert set(found) == {"hidden", "second"}
    for name in "abc":
        shutil.rmtree(folder / name)
    await found.refresh()
    assert set(found) == {"hidden"}


async def test_a_default_that_may_be_missing_comes_and_goes_with_its_folder(tmp_path, caplog):
    """As a learner publishes: nothing at first, then by a link that is exchanged, then taken back."""
    tmp_path = tmp_path / "models"
    found = Catalog(
        tmp_path, "hidden", LoadedModel, lambda model: Batcher(model, BatchQueue(8, 0.0, 64)),
        default_may_be_missing=True,
    )  # fmt: skip
    await found.load()  # there is not even a folder
    assert (set(found), found.refused) == (set(), 0)
    assert "hidden, the default, is not there yet" in caplog.text
    for version in ("7", "8"):
        hidden_state_model(tmp_path / ".kept" / version, version=version)
        (tmp_path / "link").symlink_to(f".kept/{version}")
        (tmp_path / "link").rename(tmp_path / "a")
        await found.refresh()
        assert found["hidden"].model.manifest.version == version
    (tmp_path / "a").unlink()
    await found.refresh()
    assert set(found) == set()
    await found.close()


BAD_FIELDS = [
    {"mean_curve": None}, {"files": ["model.onnx"]}, {"kind": 7}, {"prompt": 7}, {"name": ["hidden"]},
    {"mean_curve": "0.5"}, {"hidden_size": "4"}, {"hidden_size": 10**11}, {"version": 8}, {"max_text_bytes": "0"},
    {"budget_window_tokens": -16}, {"budget_window_tokens": 0}, {"windows": 1 << 40}, {"reliability": float("nan")},
    {"files": {"../a/model.onnx": "sha256:0"}}, {"name": "two words"}, {"layer": -1}, {"validation": None},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=str)
async def test_a_wrong_typed_field_in_a_served_folder_leaves_what_it_served(models, caplog, fields):
    folder, found = models
    hidden_state_model(folder / "b", name="second")
    await found.refresh()
    change(folder / "b", **fields)
    with caplog.at_level(logging.ERROR):
        await found.refresh()
        await found.refresh()
    assert set(found) == {"hidden", "second"}
    assert (found.refused, len(caplog.records)) == (1, 1), "it is logged once"


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=str)
async def test_a_start_with_a_wrong_typed_manifest_serves_the_other_folders(tmp_path, caplog, fields):
    hidden_state_model(tmp_path / "a")
    hidden_state_model(tmp_path / "b", name="second")
    change(tmp_path / "b", **fields)
    found = catalog(tmp_path)
    await found.load()
    assert (set(found), found.refused) == ({"hidden"}, 1)
    hidden_state_model(tmp_path / "b", name="second")
    await found.refresh()
    assert (set(found), found.refused) == ({"hidden", "second"}, 0)
    await found.close()


def deep(folder):
    (folder / "manifest.json").write_text("[" * 200_000)


def pipe(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def another_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": [[]]}}')
    files = {path.name: digest(path) for path in folder.iterdir() if path.name != "manifest.json"}
    change(folder, max_tokens=8, takes_text=True, max_text_bytes=8, files=files)


def graph_of_one_row(folder):
    """A graph that gives a single row, however many queries there are."""
    weights = numpy_helper.from_array(np.full((1, 16), 0.5, np.float32), "curve_")
    node = helper.make_node("Identity", ["curve_"], ["curve"])
    state = helper.make_tensor_value_info("hidden_state", TensorProto.FLOAT, ["n", 4])
    curve = helper.make_tensor_value_info("curve", TensorProto.FLOAT, ["n", 16])
    graph = helper.make_graph([node], "constant", [state], [curve], initializer=[weights])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "model.onnx"
    )
    change(folder, files={"model.onnx": digest(folder / "model.onnx")})


@pytest.mark.parametrize("damage", [deep, pipe, another_tokenizer, graph_of_one_row])
async def test_a_folder_that_fails_otherwise_fails_alone(models, damage):
    folder, found = models
    hidden_state_model(folder / "b", name="second")
    await found.refresh()
    before = found["second"]
    damage(folder / "b")
    await found.refresh()
    assert (found["second"], found.refused) == (before, 1)
    fresh = catalog(folder)
    await fresh.load()
    assert (set(fresh), fresh.refused) == ({"hidden"}, 1)
    await fresh.close()


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), OSError("away"), BaseException("panic")])
async def test_whatever_a_folder_raises_while_it_loads_stays_its_own(tmp_path, error):
    hidden_state_model(tmp_path / "a")
    hidden_state_model(tmp_path / "b", name="second")

    def load(folder):
        if folder.name == "b":
            raise error
        return LoadedModel(folder)

    found = Catalog(tmp_path, "hidden", load, lambda model: Batcher(model, BatchQueue(8, 0.0, 64)))
    await found.load()
    assert (set(found), found.refused) == ({"hidden"}, 1)
    await found.close()


async def test_a_changed_model_whose_provider_has_gone_is_not_taken_into_service(tmp_path, caplog):
    """As at a start: it does not run on the CPU unless that was allowed; what was served goes on."""
    hidden_state_model(tmp_path / "a")
    execution = Execution()
    found = Catalog(
        tmp_path,
        "hidden",
        lambda folder: LoadedModel(folder, execution),
        lambda model: Batcher(model, BatchQueue(8, 0.0, 64)),
    )
    await found.load()
    hidden_state_model(tmp_path / "a", version="8")
    hidden_state_model(tmp_path / "b", name="second")
    execution = Execution("cuda")
    await found.refresh()
    assert (set(found), found.refused) == ({"hidden"}, 2)
    assert found["hidden"].model.manifest.version == "7"
    assert "the model that it served stays: " in caplog.text
    assert "needs onnxruntime's CUDAExecutionProvider" in caplog.text
    execution = Execution("cuda", fallback=True)
    (tmp_path / "a/touched").touch()  # a refused folder is tried again when it changes
    await found.refresh()
    assert found["hidden"].model.manifest.version == "8"
    await found.close()


async def test_a_broken_default_is_told_and_the_others_are_served(tmp_path, caplog):
    hidden_state_model(tmp_path / "a")
    hidden_state_model(tmp_path / "b", name="second")
    change(tmp_path / "a", mean_curve=None)
    found = catalog(tmp_path)
    await found.load()
    assert set(found) == {"second"}
    assert "default_model: 'hidden' is none of second" in caplog.text
    hidden_state_model(tmp_path / "a")
    await found.refresh()
    assert set(found) == {"hidden", "second"}
    await found.close()


async def test_a_model_renamed_within_its_folder_is_served_by_its_new_name_alone(models):
    folder, found = models
    hidden_state_model(folder / "b", name="second")
    await found.refresh()
    change(folder / "b", name="third")
    await found.refresh()
    assert set(found) == {"hidden", "third"}


async def test_a_renamed_default_goes_on_until_a_folder_brings_it_again(models):
    folder, found = models
    change(folder / "a", name="other")
    await found.refresh()
    assert set(found) == {"hidden", "other"}
    hidden_state_model(folder / "b", version="9")
    await found.refresh()
    assert set(found) == {"hidden", "other"}
    assert found["hidden"].model.manifest.version == "9"


async def test_a_folder_whose_name_was_taken_is_served_once_the_name_is_free(models):
    folder, found = models
    hidden_state_model(folder / "b", name="second")
    hidden_state_model(folder / "c", name="second", version="9")
    await found.refresh()
    assert (found["second"].model.manifest.version, found.refused) == ("7", 1)
    shutil.rmtree(folder / "b")
    await found.refresh()
    assert (found["second"].model.manifest.version, found.refused) == ("9", 0)


async def test_two_folders_may_swap_their_names(models):
    folder, found = models
    hidden_state_model(folder / "b", name="second", version="8")
    await found.refresh()
    change(folder / "a", name="second")
    change(folder / "b", name="hidden")
    await found.refresh()
    assert {name: batcher.model.manifest.version for name, batcher in found.items()} == {"hidden": "8", "second": "7"}


FOLDERS = st.dictionaries(st.sampled_from("abcde").map(Path), st.sampled_from("uvwxyz"))


@given(held=FOLDERS, wanted=FOLDERS)
def test_no_name_is_given_twice_and_none_is_refused_without_need(held, wanted):
    held = {folder: name for at, (folder, name) in enumerate(held.items()) if name not in list(held.values())[:at]}
    allowed = without_name_twice(held, wanted)
    names = held | {folder: wanted[folder] for folder in allowed}
    assert len(set(names.values())) == len(names)
    for folder in wanted.keys() - allowed:
        assert wanted[folder] in {name for other, name in names.items() if other != folder}


async def test_a_graph_that_fails_later_ends_the_call_with_a_documented_status(tmp_path):
    hidden_state_model(tmp_path / "a")
    async with predictor(tmp_path, default_model="hidden") as address, grpc.aio.insecure_channel(address) as channel:
        stub = predictor_pb2_grpc.PredictorServiceStub(channel)
        query = pb.PredictRequest(queries=[pb.Query(hidden_state=pb.HiddenState(values=STATE))])
        await stub.Predict(query)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("predictor_service.model.LoadedModel._run", lambda *_: 1 / 0)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Predict(query)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert bad_fields(caught.value) == ["model"]
        await stub.Predict(query)


MUTATED = st.dictionaries(
    st.sampled_from([*Manifest.model_fields, "surprise"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.floats(), max_size=20)
    | st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
    | st.sampled_from(["1", "{prompt}", [0.5] * 16, {}, 16, 0, -1, 10**11]),
    min_size=1, max_size=3,
)  # fmt: skip


async def code_of(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@settings(max_examples=100, deadline=None)
@given(fields=MUTATED)
async def test_whatever_stands_in_a_manifest_calls_end_with_a_documented_status(tmp_path_factory, fields):
    folder = tmp_path_factory.mktemp("models")
    hidden_state_model(folder / "a")
    hidden_state_model(folder / "b", name="second")
    change(folder / "b", **fields)
    found = catalog(folder)
    await found.load()
    server = grpc.aio.server()
    query = pb.Query(text="q", hidden_state=pb.HiddenState(values=STATE, layer=3))
    try:
        async with asyncio.TaskGroup() as tasks:
            predictions = Predictions(found, "hidden", tasks)
            calls = StreamedCalls("a/b", SpanKind.SERVER, NoOpTracerProvider(), NoOpMeterProvider())
            servicer = PredictorServicer(predictions, calls, asyncio.Event())
            predictor_pb2_grpc.add_PredictorServiceServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = predictor_pb2_grpc.PredictorServiceStub(channel)
                names = [model.name for model in (await stub.ListModels(pb.ListModelsRequest())).models]
                assert "hidden" in names
                codes = {
                    name: await code_of(stub.Predict(pb.PredictRequest(model=name, queries=[query]))) for name in names
                }
        assert codes.pop("hidden") is grpc.StatusCode.OK
        assert set(codes.values()) <= {grpc.StatusCode.OK, *DOCUMENTED}
    finally:
        await server.stop(None)
        await found.close()


async def test_the_running_predictor_sees_a_new_version(tmp_path):
    hidden_state_model(tmp_path / "a")
    async with predictor(tmp_path, default_model="hidden", reload_seconds=0.05) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            query = pb.Query(hidden_state=pb.HiddenState(values=STATE))
            assert (await stub.Predict(pb.PredictRequest(queries=[query]))).version == "7"
            hidden_state_model(tmp_path / "a", version="8")

            async def exchanged():
                return (await stub.Predict(pb.PredictRequest(queries=[query]))).version == "8"

            await eventually(exchanged)
