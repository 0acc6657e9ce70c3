"""The learner's models in an S3-compatible store, over HTTP, as those who mount the bucket find them."""

import subprocess
import sys
from uuid import uuid4

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from exporters.learning.store import StoreUnreachableError, store_of
from predictor_service.artifact import ArtifactError
from predictor_service.model import LoadedModel
from tests.builders.learning import mean_model


@pytest.fixture(scope="module", autouse=True)
def server():
    """A server that speaks S3 over HTTP; clients keep the address that they first had."""
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    started.start()
    host, port = started.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    started.stop()


@pytest.fixture
def url():
    bucket = f"models-{uuid4()}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/learned/here"


def mounted(url, folder):
    """What somebody sees who mounts the bucket now: a copy by a client of its own."""
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    if files.exists(url):
        files.get(url, str(folder), recursive=True)
    return folder


def test_models_are_published_exchanged_and_withdrawn(url, tmp_path):
    store = store_of(url)
    for version in (1, 2):
        store.publish("default", mean_model(tmp_path / str(version), version))
        store.publish("shadow", tmp_path / str(version))
        seen = mounted(url, tmp_path / f"seen-{version}")
        assert LoadedModel(seen / "learned").manifest.version == str(version)
        assert LoadedModel(seen / "learned-shadow").name == "learned-shadow"
    store.write_card(2, b"{}")
    store.withdraw("shadow")
    store.withdraw("shadow")
    seen = mounted(url, tmp_path / "after")
    assert {path.name for path in seen.iterdir()} == {"learned", "cards"}
    assert (seen / "cards/2.json").read_bytes() == b"{}"


def test_what_another_process_published_is_exchanged_as_well(url, tmp_path):
    store = store_of(url)
    store.withdraw("default")  # from here on this one has seen an empty bucket
    other = (
        "import sys; from pathlib import Path; from exporters.learning.store import store_of;"
        "store_of(sys.argv[1]).publish('default', Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", other, url, str(mean_model(tmp_path / "1", 1))], check=True)
    store.withdraw("default")
    assert not (mounted(url, tmp_path / "gone") / "learned").exists()
    store.publish("default", mean_model(tmp_path / "2", 2))
    assert LoadedModel(mounted(url, tmp_path / "back") / "learned").manifest.version == "2"


def test_a_part_of_a_model_is_not_served(url, tmp_path):
    store, files = store_of(url), fsspec.filesystem("s3", skip_instance_cache=True)
    store.publish("default", mean_model(tmp_path / "1", 1))
    files.pipe_file(f"{url}/learned/model.onnx", b"half of the next one")
    with pytest.raises(ArtifactError):
        LoadedModel(mounted(url, tmp_path / "seen") / "learned")


@pytest.mark.parametrize("credentials", [True, False])
def test_a_store_that_is_away_or_knows_nobody_raises_what_the_loop_goes_on_after(tmp_path, monkeypatch, credentials):
    model = mean_model(tmp_path / "1", 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not credentials else ():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setattr("fsspec.config.conf", {"s3": {**options, "skip_instance_cache": True}})
    store = store_of("s3://away/models")
    for ask in (
        lambda: store.withdraw("default"),
        lambda: store.publish("default", model),
        lambda: store.write_card(1, b"{}"),
    ):
        with pytest.raises(StoreUnreachableError, match="cannot be reached"):
            ask()


def test_a_bucket_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="bucket"):
        store_of("s3://not-here/models").publish("default", mean_model(tmp_path / "1", 1))
