"""What servers say of their load, as they write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scheduler_service.generation.engine_signals import Signals, signals_of, together

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="a b"} 9.0
vllm:generation_tokens_total{engine="0",model_name="m {}"} 1234.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
"""
TGI = "tgi_batch_current_size 4\ntgi_queue_size 1\ntgi_request_generated_tokens_sum 99\n"
LLAMA = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\nllamacpp:tokens_predicted_total 77\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VLLM, Signals(3, 2, 1234)),
        (VLLM + VLLM.replace('engine="0"', 'engine="1"'), Signals(6, 4, 2468)),
        (TGI, Signals(4, 1)),
        (LLAMA, Signals(2, 5)),
        ("vllm:num_requests_running 0", Signals(0, 0)),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting 2", None),
        ("vllm:num_requests_running -1", None),
        ("vllm:num_requests_running many", None),
        ("process_cpu_seconds_total 3", None),
        ("<html>no metrics</html>", None),
        ("", None),
    ],
)
def test_a_page_says_how_many_run_and_wait(text, said):
    assert signals_of(text) == said


@given(some.text(max_size=200))
def test_any_page_can_be_read(text):
    signals_of(text)


def test_several_servers_are_one_and_one_that_says_nothing_hides_all():
    assert together([Signals(1, 2, 3), Signals(4, 5, 6)]) == Signals(5, 7, 9)
    assert together([Signals(1, 2, 3), Signals(4, 5)]) == Signals(5, 7)
    assert together([Signals(1, 2, 3), None]) is None
    assert together([]) is None
