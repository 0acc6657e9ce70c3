"""Prompts are followed to the step that computes their last token, however the scheduler cuts, caches and preempts."""

from hypothesis import given
from hypothesis import strategies as st
from predictive_scheduling_vllm.destinations import Address, Wanted
from predictive_scheduling_vllm.tracking import Prompts, Ready

WANTED = Wanted("0123456789abcdef", Address("unix", path="/run/a.sock"), (16,))


def wanted(number):
    return Wanted(f"{number:016}", Address("unix", path="/run/a.sock"), (16,))


class Engine:
    """One request as vLLM's scheduler runs it: blocks are given as tokens need them, and other ones after a preemption.

    ``ready``: what the tracking said, with the step's range of tokens and the blocks the request had then.
    """

    def __init__(self, prompts, name, prompt_tokens, block_size, first_block):
        self.prompts, self.name, self.prompt_tokens, self.size = prompts, name, prompt_tokens, block_size
        self.blocks, self.computed, self.next_block = [], 0, first_block
        self.seen, self.preempted = False, False
        self.found, self.should = [], 0

    def step(self, tokens, hit=0):
        """Compute so many tokens; a prefix of ``hit`` blocks is in the cache where the request begins."""
        if not self.blocks and not self.computed:
            self.computed = min(hit * self.size, (self.prompt_tokens - 1) // self.size * self.size)
        before, needed = self.computed, -(-(self.computed + tokens) // self.size)
        added = list(range(self.next_block, self.next_block + max(0, needed - len(self.blocks))))
        self.next_block += len(added) + 1
        self.blocks += added
        if not self.seen:
            self.prompts.began(self.name, wanted(int(self.name)), self.prompt_tokens, list(self.blocks))
        elif self.preempted:
            self.prompts.went_on(self.name, list(self.blocks), anew=True)
        else:
            self.prompts.went_on(self.name, added or None, anew=False)
        self.seen, self.preempted = True, False
        ready = self.prompts.ready(self.name, before, tokens)
        self.computed += tokens
        last = self.prompt_tokens - 1
        first_time = before <= last < self.computed and not self.should
        self.should += first_time
        assert (ready is not None) == first_time
        if ready is not None:
            assert ready == Ready(
                wanted(int(self.name)), self.blocks[last // self.size], last % self.size, self.prompt_tokens
            )

    def preempt(self):
        self.blocks, self.computed, self.preempted = [], 0, self.seen
        self.next_block += 100


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["step", "step", "step", "preempt", "abort"]), st.integers(1, 40),
              st.integers(0, 5)),
    max_size=60,
)  # fmt: skip


@given(st.integers(1, 20), st.lists(st.integers(1, 60), min_size=3, max_size=3), STEPS)
def test_each_prompt_is_ready_once_in_the_step_and_block_of_its_last_token_and_never_after_an_abort(
    block_size, lengths, steps
):
    prompts = Prompts(block_size)
    engines = [Engine(prompts, str(at), tokens, block_size, 1000 * at) for at, tokens in enumerate(lengths)]
    aborted = set()
    for at, what, tokens, hit in steps:
        engine = engines[at]
        if at in aborted:
            assert prompts.ready(engine.name, 0, 10**6) is None
        elif what == "step":
            engine.step(tokens, hit)
        elif what == "preempt":
            engine.preempt()
        else:
            prompts.ended([engine.name])
            aborted.add(at)
    for at, engine in enumerate(engines):  # and whoever was left in the middle ends
        while at not in aborted and not engine.should:
            engine.step(7)
    assert len(prompts) == 0


@given(st.integers(1, 64), st.integers(1, 300), st.integers(1, 300))
def test_a_prompt_in_chunks_ends_where_a_whole_one_does(block_size, tokens, chunk):
    def run(chunk):
        prompts = Prompts(block_size)
        prompts.began("r", WANTED, tokens, list(range(-(-tokens // block_size))))
        found = [
            (ready.block, ready.offset)
            for at in range(0, tokens, chunk)
            if (ready := prompts.ready("r", at, min(chunk, tokens - at)))
        ]
        assert len(prompts) == 0
        return found

    assert run(chunk) == run(tokens) == [((tokens - 1) // block_size, (tokens - 1) % block_size)]


def test_a_step_beyond_the_prompt_is_the_prompts_if_it_holds_its_last_token():
    """Draft tokens are scheduled with the prompt's end."""
    prompts = Prompts(4)
    prompts.began("r", WANTED, 6, [8, 9, 10])
    assert prompts.ready("r", 4, 4) == Ready(WANTED, 9, 1, 6)


def test_what_was_computed_unseen_is_never_ready():
    prompts = Prompts(4)
    prompts.began("r", WANTED, 6, [8, 9])
    assert prompts.ready("r", 6, 1) is None
    prompts.began("s", WANTED, 6, [8])  # its second block is not known
    assert prompts.ready("s", 0, 6) is None
    assert len(prompts) == 0


def test_a_name_that_comes_again_is_another_request():
    prompts = Prompts(4)
    prompts.began("r", wanted(1), 6, [1, 2])
    prompts.ended(["r", "unknown"])
    prompts.began("r", wanted(2), 3, [7])
    assert prompts.ready("r", 0, 3) == Ready(wanted(2), 7, 2, 3)


def test_unknown_requests_are_nobodys():
    prompts = Prompts(4)
    prompts.went_on("other", [1], anew=False)
    assert prompts.ready("other", 0, 9) is None
