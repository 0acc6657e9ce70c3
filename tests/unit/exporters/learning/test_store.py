"""A slot holds a whole model or none."""

import fsspec
import pytest

from exporters.learning.store import FolderStore, ObjectStore, store_of
from predictor_service.model import LoadedModel
from tests.builders.learning import mean_model


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "models")


def test_the_name_stays_and_the_model_changes(store, tmp_path):
    for version in (1, 2):
        store.publish("canary", mean_model(tmp_path / str(version), version))
        served = LoadedModel(tmp_path / "models/learned-canary")
        assert (served.name, served.manifest.version) == ("learned-canary", str(version))
    assert [path.name for path in (tmp_path / "models/.learned").iterdir()] == ["learned-canary@2"]
    store.withdraw("canary")
    store.withdraw("canary")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".learned"]
    assert list((tmp_path / "models/.learned").iterdir()) == []


def test_publishing_again_touches_nothing_and_mends_what_is_damaged(store, tmp_path):
    folder = mean_model(tmp_path / "1", 1)
    store.publish("default", folder)
    graph = tmp_path / "models/learned/model.onnx"
    before = graph.stat()
    store.publish("default", folder)
    assert graph.stat() == before
    graph.write_bytes(b"damaged")
    store.publish("default", folder)
    assert LoadedModel(tmp_path / "models/learned").manifest.version == "1"


def test_one_version_may_be_in_two_slots(store, tmp_path):
    folder = mean_model(tmp_path / "1", 1)
    store.publish("default", folder)
    store.publish("shadow", folder)
    store.withdraw("shadow")
    assert LoadedModel(tmp_path / "models/learned").name == "learned"


def test_cards_are_written_where_they_changed(store, tmp_path):
    store.write_card(3, b"{}")
    before = (tmp_path / "models/cards/3.json").stat()
    store.write_card(3, b"{}")
    assert (tmp_path / "models/cards/3.json").stat() == before
    store.write_card(3, b"[]")
    assert (tmp_path / "models/cards/3.json").read_bytes() == b"[]"


@pytest.fixture
def objects():
    files = fsspec.filesystem("memory")
    files.store.clear()
    return files


def test_in_an_object_store_the_manifest_comes_last_and_goes_first(objects, tmp_path, monkeypatch):
    store, written = store_of("memory://bucket/models"), []
    for name in ("pipe_file", "rm_file"):
        real = getattr(type(objects), name)

        def noted(self, path, *rest, real=real, name=name, **more):
            written.append((name, path.rpartition("/")[2]))
            return real(self, path, *rest, **more)

        monkeypatch.setattr(type(objects), name, noted)
    for version in (1, 2):
        for _again in range(2):
            store.publish("default", mean_model(tmp_path / str(version), version))
    assert written == [("pipe_file", "model.onnx"), ("pipe_file", "manifest.json")] * 2
    objects.get("/bucket/models/learned", str(tmp_path / "copy"), recursive=True)
    assert LoadedModel(tmp_path / "copy").manifest.version == "2"
    written.clear()
    store.withdraw("default")
    store.withdraw("default")
    assert written[0] == ("rm_file", "manifest.json")
    assert not objects.exists("/bucket/models/learned")


def test_cards_lie_in_an_object_store_too(objects):
    store = ObjectStore("memory://bucket/models")
    store.write_card(3, b"{}")
    store.write_card(3, b"{}")
    assert objects.cat_file("/bucket/models/cards/3.json") == b"{}"


def test_an_address_that_cannot_be_reached_is_named_without_what_it_may_hold():
    with pytest.raises(ValueError, match="--store: nowhere: cannot be reached") as caught:
        store_of("nowhere://user:secret@bucket")
    assert "secret" not in str(caught.value)
