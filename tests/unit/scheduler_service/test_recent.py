"""The last values by tenant and id: an id is its tenant's own, and the oldest are forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.recent import Recent


def test_two_tenants_may_use_the_same_id_and_the_newest_is_found_by_who_sees_all():
    recent = Recent(9)
    recent.put("a", "id", 1)
    recent.put("b", "id", 2)
    assert (recent.get("a", "id"), recent.get("b", "id"), recent.get(None, "id")) == (1, 2, 2)
    recent.put("a", "id", 3)
    assert (recent.get("a", "id"), recent.get(None, "id"), len(recent)) == (3, 3, 2)
    assert recent.pop(None, "id") == 3
    assert recent.get(None, "id") == 2
    assert recent.get("c", "id") is None


def test_what_is_not_remembered_is_none():
    recent = Recent(9)
    assert recent.get(None, "id") is recent.get("a", "id") is None
    assert recent.pop(None, "id") is recent.pop("a", "id") is None


def test_nothing_is_kept_where_nothing_may_be():
    recent = Recent(0)
    recent.put("a", "id", 1)
    assert (len(recent), recent.get("a", "id")) == (0, None)


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b"]), st.sampled_from("xyz")), max_size=40),
)
def test_it_is_a_list_that_forgets_its_oldest(keep, steps):
    """Against a plain list of (tenant, id, value), the newest at the end."""
    recent, model = Recent(keep), []
    for at, (puts, tenant, name) in enumerate(steps):
        known = next((value for *key, value in model if key == [tenant, name]), None)
        model = [entry for entry in model if entry[:2] != (tenant, name)]
        if puts:
            recent.put(tenant, name, at)
            model = [*model, (tenant, name, at)][-keep:] if keep else []
        else:
            assert recent.pop(tenant, name) == known
        assert list(recent.newest_first()) == [value for *_, value in reversed(model)]
        assert len(recent) == len(model)
        for wanted in "xyz":
            newest = [value for _, one, value in model if one == wanted]
            assert recent.get(None, wanted) == (newest[-1] if newest else None)
    assert sum(map(len, recent._tenants.values())) == len(model)  # nothing of the forgotten is left
