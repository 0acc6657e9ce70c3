"""What the loop says of itself."""

from collections import Counter

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from exporters.learning.idle import IdleAccount
from exporters.learning.measuring import Counting, Measuring, Unused
from exporters.learning.metrics import watch
from exporters.measure.collect import Plan
from exporters.measure.judging import judge_of
from scheduler_service.generation.templates import TEMPLATES
from tests.builders.learning import PROMPTS, by_prompt, learner, write_prompts
from tests.standins.backend import ScriptedBackend


def watched(loop, clock):
    """What a scrape reads: by name, the values by label (the label alone, where there is one)."""
    measuring = Measuring(
        Counting(ScriptedBackend(lambda _: [])), Plan(TEMPLATES["demo"]), judge_of("agreement:exact", lambda _: None),
        Unused(8), IdleAccount(1.0),
    )  # fmt: skip
    page = InMemoryMetricReader()
    watch(MeterProvider([page]), loop, measuring, clock)

    def read():
        return {
            metric.name.removeprefix("predictive_scheduling.learn."): {
                "".join(point.attributes.values()): point.value for point in metric.data.data_points
            }
            for resource in page.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    return read, measuring


async def test_before_the_first_pass_nothing_is_done_and_no_gain_is_known(tmp_path):
    now = 1000.0
    read, _ = watched(learner(tmp_path), lambda: now)
    now += 7
    found = read()
    assert found["samples"] == found["tokens"] == {"": 0}
    assert found["questions"] == {"measured": 0, "given_up": 0, "refused": 0}
    assert found["version"] == {"default": 0, "canary": 0, "shadow": 0}
    assert set(found["decisions"].values()) == {0}
    assert found["pass.age"] == {"": 7}
    assert not {"gain", "gain.low"} & set(found)


async def test_a_pass_is_seen_with_what_it_led_to(tmp_path):
    now = 1000.0
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS[:20])
    loop = learner(tmp_path, clock=lambda: now)
    read, measuring = watched(loop, lambda: now)
    await loop.one_pass()
    measuring.given_up, measuring.backend.tokens = 3, 700
    measuring.unmeasurable.add("x")
    now += 60
    found = read()
    assert found["samples"] == {"": 20}
    assert found["questions"] == {"measured": 20, "given_up": 3, "refused": 1}
    assert found["tokens"] == {"": 700}
    counts = Counter(row["decision"] for row in loop.ledger.lines if "decision" in row)
    assert set(found["decisions"]) == {"candidate", "promoted", "undecided", "refused", "stays", "rolled back"}
    assert {word: count for word, count in found["decisions"].items() if count} == counts
    assert found["version"] == {"default": 1, "canary": 0, "shadow": 0}
    assert set(found["gain"]) == set(found["gain.low"]) == {"candidate"}
    latest = loop.ledger.latest_gain("judged")
    assert (found["gain.low"]["candidate"], found["gain"]["candidate"]) == (latest.low, latest.mean)
    assert found["pass.age"] == {"": 60}


async def test_gain_and_last_pass_are_known_after_a_restart_and_a_pass_that_fails_is_none(tmp_path):
    now = 1000.0
    for more in (0, 8):
        write_prompts(tmp_path / "prompts.jsonl", [*PROMPTS, *[f"later {at}" for at in range(more)]])
        await learner(tmp_path, clock=lambda: now).one_pass()
    now += 100

    async def fails(examples, on_measured):
        await by_prompt(examples, on_measured)
        raise ConnectionError

    loop = learner(tmp_path, measure=fails, clock=lambda: now)
    read, _ = watched(loop, lambda: now)
    try:
        await loop.one_pass()
    except ConnectionError:
        now += 11
    found = read()
    assert found["pass.age"] == {"": 111}
    assert found["version"]["default"] == 1
    assert found["gain"]["default"] == loop.ledger.latest_gain("watched").mean > 0
    assert set(found["gain"]) == {"candidate", "default"}


async def test_a_pass_that_measures_none_of_the_prompts_that_came_does_not_count(tmp_path):
    now = 1000.0

    async def nothing(examples, on_measured):
        return 0

    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    loop = learner(tmp_path, measure=nothing, clock=lambda: now)
    read, _ = watched(loop, lambda: now)
    now += 60
    await loop.one_pass()
    assert read()["pass.age"] == {"": 60}  # since the process began
    await loop.one_pass()  # nobody has come since
    assert read()["pass.age"] == {"": 0}
