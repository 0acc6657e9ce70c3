"""What one call may bring: text in proportion to its tokens, counts that can be true, and an end that came late."""

import pytest

from scheduler_service.generation.backends.base import Ended, Piece
from scheduler_service.generation.backends.bounds import CallBounds
from scheduler_service.generation.backends.faults import ServerFault
from scheduler_service.generation.backends.sse import StreamFormatError
from scheduler_service.generation.forcing import Call, CallEnd


def bounds(tokens=10, prompt="a prompt", idle=60.0):
    return CallBounds(Call(prompt, tokens), idle)


@pytest.mark.parametrize(
    ("told", "text", "tokens"),
    [(None, "abc", 1), (None, "", 0), (3, "abc", 3), (0, "abc", 1), (-5, "abc", 1), (11, "abc", 1), (10**30, "", 0)],
)
def test_a_count_that_cannot_be_true_is_dropped_and_the_text_counts_as_one(told, text, tokens):
    assert bounds().tokens(told, text) == tokens


def test_a_count_since_the_call_began_is_told_apart():
    one = bounds()
    for told, tokens in ((1, 1), (4, 3), (4, 0), (2, 0), (9, 5)):
        assert one.tokens(told, "x") == tokens
        assert one.piece("x", tokens) == Piece("x", tokens)
    assert one.counted == 9


def test_more_text_than_tokens_can_be_is_refused():
    with pytest.raises(StreamFormatError, match="more text than its tokens"):
        bounds().piece("x" * (17 << 10), 1)
    assert bounds().piece("x" * (17 << 10), 2).tokens == 2


def test_all_pieces_together_are_bounded_too():
    one = bounds(tokens=10)
    for _ in range(74):  # 64 KiB, and 1 KiB for each of ten tokens
        one.piece("x" * 1024, 0)
    with pytest.raises(StreamFormatError, match="more text than its tokens"):
        one.piece("x", 0)


def test_room_for_an_event_grows_with_the_prompt_and_the_tokens():
    assert bounds(prompt="x" * 1000).event_bytes - bounds(prompt="").event_bytes == 6000
    assert bounds(tokens=1000).event_bytes > bounds(tokens=10).event_bytes


def test_a_token_moves_a_call_and_text_without_one_does_not():
    one = bounds()
    one.piece("x", 0)
    assert not one.moved
    one.piece("x", 1)
    assert one.moved


def test_what_comes_after_the_end_is_not_waited_for_long():
    one, hurried = bounds(idle=60.0), bounds(idle=1.0)
    one.ending()
    hurried.ending()
    assert (one.idle_seconds, hurried.idle_seconds) == (5.0, 1.0)


def test_a_call_that_was_cut_before_its_first_token_is_the_servers_fault():
    with pytest.raises(ServerFault, match="without a token"):
        bounds().ended(CallEnd.LENGTH, 3)
    assert bounds().ended(CallEnd.MODEL, 3) == Ended(CallEnd.MODEL, 3)  # a model may have nothing to say


@pytest.mark.parametrize(("told", "kept"), [(7, 7), (None, 0), (-1, 0), (10**9, 0)])
def test_an_absurd_number_of_prompt_tokens_is_dropped(told, kept):
    assert bounds().ended(CallEnd.MODEL, told).prompt_tokens == kept


def test_tokens_that_nobody_counted_are_what_the_call_was_asked_for():
    silent, telling = bounds(), bounds()
    assert silent.uncounted == 0
    silent.piece("many words at once", silent.tokens(None, "many words at once"))
    telling.piece("x", telling.tokens(2, "x"))
    assert (silent.uncounted, telling.uncounted) == (9, 0)
