"""TGI's request parameters."""

from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.tgi import parameters
from scheduler_service.generation.forcing import Call

CALL = Call("p", 10, ("a", "b", "c", "d", "e"))


def test_sampling_is_switched_on_because_tgi_switches_it_off():
    assert parameters(CALL, Sampling(temperature=0.6))["do_sample"] is True
    assert parameters(CALL, Sampling())["do_sample"] is True


def test_a_temperature_of_zero_means_no_sampling_since_tgi_refuses_it():
    wanted = parameters(CALL, Sampling(temperature=0.0, top_p=0.9, top_k=5))
    assert wanted["do_sample"] is False
    assert not {"temperature", "top_p", "top_k"} & wanted.keys()


def test_a_top_p_of_one_is_left_out_since_tgi_refuses_it():
    assert "top_p" not in parameters(CALL, Sampling(top_p=1.0))
    assert parameters(CALL, Sampling(top_p=0.9))["top_p"] == 0.9


def test_at_most_four_stops_are_sent():
    assert parameters(CALL, Sampling())["stop"] == ["a", "b", "c", "d"]
