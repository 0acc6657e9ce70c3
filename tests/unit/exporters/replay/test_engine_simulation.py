"""The simulated engines: what batching, prompts, memory, speed and loss do to requests."""

import pytest

from exporters.replay.engine_simulation import H100, VLLM_CPU, EngineKind, Fleet, Running

KIND = EngineKind("plain", alone=0.01, each=0.001, prefill=1000.0, slots=2, memory=1000.0)


def request(size=100, prompt=100, came=0.0):
    return Running(prompt, size, came, float(size))


def served(requests, kind=KIND, replicas=1, until=1e4):
    fleet = Fleet(kind, replicas)
    for one in requests:
        fleet.advance(one.came)
        fleet.put(one, one.came)
    return fleet, fleet.advance(until)


def test_a_lone_request_takes_its_prompt_and_a_step_for_each_token():
    _, (one,) = served([request()])
    assert one.first == pytest.approx(0.1 + 0.011)
    assert one.total == pytest.approx(0.1 + 100 * 0.011)


def test_two_requests_share_a_step_and_a_prompt_stalls_the_other():
    first, second = request(), request(came=0.5)
    served([first, second])
    assert first.total > 0.1 + 100 * 0.011 + 0.1
    assert second.first == pytest.approx(0.5 + 0.1 + 0.012)


def test_requests_beyond_the_slots_wait_in_order():
    three = [request(), request(), request()]
    fleet = Fleet(KIND, 1)
    for one in three:
        fleet.put(one, 0.0)
    assert (fleet.running, fleet.waiting) == (2, 1)
    assert fleet.outstanding == 300
    fleet.advance(1e4)
    assert three[2].slot == pytest.approx(min(one.ended for one in three[:2]))


def test_a_request_waits_for_memory_and_one_that_is_larger_than_all_of_it_runs_alone():
    first, second = request(size=500, prompt=300), request(size=300, prompt=100)
    served([first, second])
    assert second.slot == first.ended
    _, ended = served([request(size=5000)])
    assert len(ended) == 1


def test_a_slow_replica_takes_longer_by_its_speed():
    fleet = Fleet(KIND, 1)
    fleet.replicas[0].speed = 0.5
    one = request()
    fleet.put(one, 0.0)
    fleet.advance(100)
    assert one.total == pytest.approx(2 * (0.1 + 100 * 0.011))


def test_requests_go_where_the_fewest_are_and_on_elsewhere_when_their_replica_is_lost():
    fleet, ones = Fleet(KIND, 2), [request(), request(), request()]
    for one in ones:
        fleet.put(one, 0.0)
    assert sorted(replica.present for replica in fleet.replicas) == [1, 2]
    fleet.advance(0.6)
    written = fleet.generated
    fleet.lose(0, 0.6)
    assert fleet.slots == 2
    assert len(fleet.alive) == 1
    ended = fleet.advance(1e4)
    assert len(ended) == 3
    assert all(one.first < 0.6 for one in ones[:2])
    assert fleet.generated == pytest.approx(300, abs=2)
    assert written > 0


def test_what_is_outstanding_is_what_was_expected_less_what_was_written():
    fleet = Fleet(KIND, 1)
    fleet.put(Running(100, 100, 0.0, 60.0), 0.0)
    assert fleet.outstanding == 60
    fleet.advance(0.1 + 30 * 0.011)
    assert fleet.outstanding == pytest.approx(30)
    fleet.advance(0.1 + 80 * 0.011)
    assert fleet.outstanding == 0
    assert fleet.generated == pytest.approx(80)


@pytest.mark.parametrize("kind", [H100, VLLM_CPU])
def test_the_capacity_takes_all_slots(kind):
    rate = kind.capacity(2, 250, 320)
    busy = rate * 250 / kind.prefill / 2
    pace = (kind.alone + kind.each * kind.slots) / (1 - busy)
    assert rate * 320 * pace == pytest.approx(2 * kind.slots)


def test_the_h100_is_as_published_within_a_tenth():
    for running, milliseconds in {1: 4.63, 5: 4.58, 25: 5.19, 50: 5.91, 100: 7.57, 150: 9.81}.items():
        assert 1e3 * (H100.alone + H100.each * running) == pytest.approx(milliseconds, rel=0.1)
