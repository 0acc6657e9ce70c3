"""Model folders that change under load: exchanged without a dropped call, or refused while the old model goes on."""

import asyncio
import logging
import shutil

import numpy as np
import pytest

from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictor_service.artifact import ArtifactError
from predictor_service.batch_queue import BatchQueue
from predictor_service.batcher import Batcher
from predictor_service.catalog import Catalog
from predictor_service.features import Query
from predictor_service.model import LoadedModel
from tests.integration.models import hidden_state_model
from tests.integration.running import predictor

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


async def test_an_empty_folder_a_name_twice_and_a_missing_default_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no model folder"):
        await catalog(tmp_path).load()
    hidden_state_model(tmp_path / "a")
    wrong = catalog(tmp_path, "other")
    with pytest.raises(ArtifactError, match="default_model: 'other' is none of hidden"):
        await wrong.load()
    await wrong.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    twice = catalog(tmp_path)
    with pytest.raises(ArtifactError, match="another folder's model"):
        await twice.load()
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
        for version in ("8", "9"):
            await asyncio.sleep(0.05)
            hidden_state_model(folder / "a", version=version)
            await found.refresh()
        await asyncio.sleep(1.3)  # the old ones retire meanwhile
        stop.set()
    assert {"7", "8", "9"} >= set(served) >= {"7", "9"}
    assert served[-1] == "9"
    assert not found._retiring


async def test_a_folder_that_cannot_be_served_leaves_the_old_model_and_is_tried_again_when_mended(models, caplog):
    folder, found = models
    hidden_state_model(folder / "a", version="8")
    whole = (folder / "a" / "model.onnx").read_bytes()
    (folder / "a" / "model.onnx").write_bytes(whole[:-7])
    with caplog.at_level(logging.ERROR):
        await found.refresh()
        await found.refresh()
    assert found["hidden"].model.manifest.version == "7"
    assert caplog.text.count("what was served goes on") == 1
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


async def test_the_running_predictor_sees_a_new_version(tmp_path):
    import grpc.aio

    from predictive_scheduling.predictor.v1 import predictor_pb2_grpc

    hidden_state_model(tmp_path / "a")
    async with predictor(tmp_path, default_model="hidden", reload_seconds=0.05) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            query = pb.Query(hidden_state=pb.HiddenState(values=STATE))
            assert (await stub.Predict(pb.PredictRequest(queries=[query]))).version == "7"
            hidden_state_model(tmp_path / "a", version="8")
            async with asyncio.timeout(10):
                while (await stub.Predict(pb.PredictRequest(queries=[query]))).version != "8":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
