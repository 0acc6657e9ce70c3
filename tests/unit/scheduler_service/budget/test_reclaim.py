"""Where unspent tokens go."""

from dataclasses import replace

from scheduler_service.allocation.curve import Curve
from scheduler_service.budget.reclaim import Reclaimer, Running


def running(name, curve, budget, grown, cap=64, reasons=lambda: True):
    return Running(
        name, Curve((16, 32, 48, 64), curve), budget, cap, lambda tokens: grown.__setitem__(name, tokens), reasons
    )


def test_what_is_left_goes_where_the_next_gain_is_best():
    grown = {}
    reclaimer = Reclaimer()
    reclaimer.start(running("flat", (0.5, 0.5, 0.5, 0.5), 16, grown))
    reclaimer.start(running("good", (0.1, 0.2, 0.8, 0.8), 32, grown))
    reclaimer.start(running("fair", (0.1, 0.3, 0.4, 0.5), 16, grown))
    assert reclaimer.offer(40, lambda *_: True) == 32
    assert grown == {"good": 48, "fair": 32}


def test_nothing_goes_to_a_request_that_answers_already_or_below_the_price():
    grown = {}
    reclaimer = Reclaimer()
    reclaimer.start(running("answers", (0.1, 0.9, 0.9, 0.9), 16, grown, reasons=lambda: False))
    reclaimer.start(running("cheap", (0.1, 0.11, 0.12, 0.13), 16, grown))
    assert reclaimer.offer(64, lambda *_: True, least_slope=0.01) == 0
    reclaimer.stop("cheap")
    assert reclaimer.offer(64, lambda *_: True) == 0
    assert grown == {}


def test_a_gain_counts_by_the_weight_of_its_request():
    grown = {}
    reclaimer = Reclaimer()
    reclaimer.start(running("light", (0.1, 0.4, 0.4, 0.4), 16, grown))
    reclaimer.start(replace(running("heavy", (0.1, 0.3, 0.3, 0.3), 16, grown), weight=2.0))
    assert reclaimer.offer(16, lambda *_: True) == 16
    assert grown == {"heavy": 32}
    assert reclaimer.offer(16, lambda *_: True, least_slope=0.02) == 0  # 0.3 for 16 tokens are less
    assert grown == {"heavy": 32}
