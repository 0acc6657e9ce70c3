"""Prompts for a learner: of tenants that have agreed only, each once, and none drives out the others."""

import pickle
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.domain import OverloadedError
from scheduler_service.telemetry.prompt_samples import MOST_SAMPLES, PromptSamples, Sample
from tests.builders.jobs import JOB, used
from tests.builders.jobs import given as allocation

# (tenant, prompt) as they are answered: one tenant may send nearly everything, prompts repeat, some are very long.
TRAFFIC = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "a", "a", "b", "c"]), st.sampled_from(["p", "q", "", "ü" * 16_384, "x" * 16_385])
    )
)


def sampler(*tenants, most=4):
    return PromptSamples(tenants, most=most, rng=random.Random(0))


def answer(samples, tenant, prompt):
    job = replace(JOB, tenant=tenant, prompt=prompt)
    samples.finished(job, allocation(job), used(16))


@given(TRAFFIC, st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=200)
def test_only_answered_prompts_of_those_who_agreed_are_handed_out_each_once(traffic, room, most):
    samples = sampler("a", "b", most=room)
    for tenant, prompt in traffic:
        answer(samples, tenant, prompt)
    fitting = [Sample(prompt, tenant) for tenant, prompt in traffic if tenant in ("a", "b") and len(prompt) <= 16_384]
    taken, seen = samples.take(most)
    assert seen == len(fitting)
    assert not Counter(taken) - Counter(fitting)
    assert len(taken) == min(most, room, len(fitting))
    assert samples.take(most) == ([], 0)


@pytest.mark.parametrize("prompt", ["x", "ü" * 16_384, "漢" * 16_384, "𝄞" * 16_384])
def test_what_is_handed_out_at_once_fits_into_a_message(prompt):
    samples = sampler("*", most=MOST_SAMPLES)
    for at in range(MOST_SAMPLES):
        answer(samples, f"tenant {at % 7}", prompt)
    taken, seen = samples.take(MOST_SAMPLES)
    message = pb.TakeSamplesResponse(
        samples=[pb.PromptSample(prompt=one.prompt, tenant=one.tenant) for one in taken], seen=seen
    )
    assert message.ByteSize() < 4 << 20
    assert len(taken) >= min(MOST_SAMPLES, 47)
    assert {one.tenant for one in taken} == {f"tenant {at}" for at in range(7)}


@given(TRAFFIC, st.integers(2, 6))
def test_where_room_is_short_the_tenants_share_it(traffic, room):
    samples = sampler("*", most=room)
    for tenant, prompt in [*traffic, *[("flood", f"{at}") for at in range(50)]]:
        answer(samples, tenant, prompt)
    asked = Counter(tenant for tenant, prompt in traffic if len(prompt) <= 16_384) + Counter(flood=50)
    kept = Counter(sample.tenant for sample in samples.take(room)[0])
    assert kept.total() == room
    for tenant, count in asked.items():
        # Who has fewer than another, and has lost some, has at most one fewer.
        assert kept[tenant] == count or kept[tenant] >= max(kept.values()) - 1


def test_every_prompt_of_a_tenant_has_the_same_chance():
    counts = Counter()
    for seed in range(2000):
        samples = PromptSamples("*", most=2, rng=random.Random(seed))
        for prompt in "abcdefgh":
            answer(samples, "t", prompt)
        counts.update(sample.prompt for sample in samples.take(2)[0])
    assert all(abs(counts[prompt] - 500) < 100 for prompt in "abcdefgh")  # five deviations


def test_of_tenants_without_end_no_more_are_remembered_than_there_is_room_for():
    samples = sampler("*")
    for at in range(1000):
        answer(samples, f"tenant {at}", "p")
    assert len(pickle.dumps(samples)) < len(pickle.dumps(sampler("*"))) + 500
    taken, seen = samples.take(9)
    assert [sample.tenant for sample in taken] == [f"tenant {at}" for at in range(4)]
    assert seen == 1000


def test_what_was_not_answered_is_not_kept():
    samples = sampler("*")
    samples.rejected(JOB, OverloadedError("full", 1.0))
    samples.allocated(JOB, allocation(JOB))
    samples.failed(JOB, None, "cancelled")
    samples.wasted(JOB, 3)
    assert samples.take(9) == ([], 0)
