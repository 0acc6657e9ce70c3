"""What holds for admission whatever comes and goes: its sums are those of who is inside, and no limit is passed."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.admission.admission import Admission
from scheduler_service.domain import Job, SchedulingError

STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from(["a", "b", ""]), st.integers(0, 50)), max_size=60
)


def job(number, tenant, cap):
    return Job(str(number), "q", tenant, floor_tokens=0, cap_tokens=cap)


@given(STEPS, st.integers(1, 5), st.integers(0, 120), st.integers(0, 3))
def test_sums_are_those_of_who_is_inside_and_limits_hold(steps, most, most_tokens, most_of_tenant):
    admission, inside = Admission(most, most_tokens, most_of_tenant), {}
    for comes, number, tenant, cap in steps:
        if not comes:
            if (number, tenant) in inside:
                admission.leave(inside[number, tenant])
                del inside[number, tenant]
            continue
        new = job(number, tenant, cap)
        own = sum(other.tenant == tenant for other in inside.values())
        tokens = sum(other.cap_tokens for other in inside.values())
        fits = (
            (number, tenant) not in inside
            and len(inside) < most
            and (not most_tokens or tokens + cap <= most_tokens)
            and (not most_of_tenant or own < most_of_tenant)
        )
        try:
            admission.enter(new, 0.0)
        except SchedulingError:
            assert not fits
        else:
            assert fits
            inside[number, tenant] = new
        assert len(admission) == len(inside)
