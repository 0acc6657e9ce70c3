"""llama.cpp's request parameters, and what its server says of itself."""

import pytest

from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.base import BackendConfiguration, Limits
from scheduler_service.generation.backends.llama_cpp import make, parameters
from scheduler_service.generation.forcing import Call


def test_token_ids_are_asked_for_so_that_they_can_be_counted():
    wanted = parameters(Call("p", 10, ("a", "b")), Sampling())
    assert (wanted["prompt"], wanted["n_predict"], wanted["stop"]) == ("p", 10, ["a", "b"])
    assert wanted["return_tokens"] is wanted["stream"] is True


def test_only_sampling_that_is_set_is_sent():
    plain = parameters(Call("p", 10), Sampling())
    given = parameters(Call("p", 10), Sampling(temperature=0.0, top_k=5))
    assert given == plain | {"temperature": 0.0, "top_k": 5}


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        (
            {"model_alias": "m", "total_slots": 4, "default_generation_settings": {"n_ctx": 2048}},
            Limits("m", 2048, 2048, 4),
        ),
        ({"model_path": "/models/deep/some-model.gguf"}, Limits("some-model")),
        ({"model_alias": "org/model"}, Limits("org/model")),
        ({}, Limits("")),
        ({"total_slots": -1, "default_generation_settings": {"n_ctx": -5}}, Limits("")),
    ],
)
async def test_limits_are_what_the_server_says_as_far_as_it_can_be_true(said, limits, monkeypatch):
    backend = make("http://h:1", BackendConfiguration("llama_cpp"))

    async def get(path, kind):
        assert path == "/props"
        return kind.model_validate(said)

    monkeypatch.setattr(backend._server, "get", get)
    assert await backend.limits() == limits
