"""The loop: from samples to a served model, whatever happens in between."""

import json
import shutil
from dataclasses import replace

import pytest

from exporters.learning.disk import Disk
from exporters.learning.loop import Rules
from exporters.learning.promotion import Interval, Judged, Trained
from exporters.learning.store import SLOTS
from exporters.predictors.trained import manifest_of
from predictor_service.artifact import write_manifest
from predictor_service.model import LoadedModel
from tests.builders.learning import (
    KEY,
    POINTS,
    PROMPTS,
    STEEP,
    by_prompt,
    by_prompt_with_states,
    by_state,
    learner,
    mean_only,
    measured,
    write_prompts,
)


class Killed(BaseException):
    """The process is gone."""


def content(folder):
    """All that a folder's models and decisions are, without what differs from run to run (tokens of ciphers)."""
    found = {}
    for path in sorted((folder / "models").rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    lines = [json.loads(line) for line in (folder / "state/ledger.jsonl").read_text().splitlines()]
    found["ledger"] = [
        {name: value for name, value in row.items() if name != "step"} for row in lines if row["event"] != "measured"
    ]
    found["kept"] = sorted(path.name for path in (folder / "state/models").iterdir())
    return found


async def undisturbed(folder):
    write_prompts(folder / "prompts.jsonl", PROMPTS)
    loop = learner(folder)
    await loop.one_pass()
    return loop


async def test_a_pass_over_enough_traffic_leads_a_model_through_all_steps(tmp_path):
    loop = await undisturbed(tmp_path)
    words = [row["decision"] for row in loop.ledger.lines if "decision" in row]
    assert words[:4] == ["candidate", "promoted", "promoted", "promoted"]
    assert LoadedModel(tmp_path / "models/learned").manifest.kind == "mean_curve"
    assert not (tmp_path / "models/learned-canary").exists()
    card = json.loads((tmp_path / "models/cards/1.json").read_text())
    assert (card["now"], card["kind"], card["parent"]) == ("default", "mean_curve", 0)
    assert card["digest"] == LoadedModel(tmp_path / "models/learned").manifest.files["model.onnx"]
    assert [step["decision"] for step in card["evidence"]][:3] == ["promoted"] * 3
    assert card["evidence"][0]["gain"]["low"] > 0


async def test_a_second_pass_without_new_traffic_changes_nothing(tmp_path):
    await undisturbed(tmp_path)
    before = content(tmp_path)
    again = await learner(tmp_path).one_pass()
    assert (again.taken, again.measured, again.decisions) == (0, 0, [])
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "kind", [{}, {"measure": by_prompt_with_states, "make_candidate": by_state}], ids=["text", "states"]
)
async def test_killed_at_any_write_it_goes_on_and_ends_where_an_undisturbed_run_ends(kind, tmp_path, monkeypatch):
    """The process is killed, not the machine: what it wrote is there whether it was synced or not."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    rules = Rules(32, POINTS, least=4, look=2, tenant_share=0.5)
    (tmp_path / "whole").mkdir()
    write_prompts(tmp_path / "whole/prompts.jsonl", PROMPTS[:12])
    await learner(tmp_path / "whole", rules=rules, **kind).one_pass()
    wanted = content(tmp_path / "whole")
    at = 0
    while True:
        folder = tmp_path / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_prompts(folder / "prompts.jsonl", PROMPTS[:12])
        left = at

        def before(_operation):
            nonlocal left
            if not left:
                raise Killed
            left -= 1

        try:
            await learner(folder, disk=Disk(before), rules=rules, **kind).one_pass()
            break
        except Killed:
            models = folder / "models"
            for name in ("learned", "learned-canary", "learned-shadow"):
                if (models / name).exists():
                    LoadedModel(models / name)  # whole, or not there
        await learner(folder, rules=rules, **kind).one_pass()
        assert content(folder) == wanted, f"killed at write {at}"
        at += 1
    assert at >= 30  # every sample, measurement, decision, model and card was a write


async def test_without_a_key_nothing_of_a_prompt_is_written_and_the_models_stay(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    await learner(tmp_path, key="").one_pass()
    (tmp_path / "prompts.jsonl").rename(tmp_path.parent / "prompts.jsonl")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret" not in written
    assert b"team-" not in written
    (tmp_path.parent / "prompts.jsonl").rename(tmp_path / "prompts.jsonl")
    before = content(tmp_path)
    again = await learner(tmp_path, key="").one_pass()
    assert (again.taken, content(tmp_path)) == (0, before)  # the same lines are no newer traffic


async def test_with_a_key_prompts_are_on_disk_only_encrypted(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    await learner(tmp_path, key=KEY).one_pass()
    (tmp_path / "prompts.jsonl").unlink()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert (tmp_path / "state/samples").stat().st_size > 1000
    assert b"secret" not in written
    assert b"team-" not in written


async def test_a_model_that_gains_nothing_is_never_served(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", [f"flat {at}" for at in range(60)])
    loop = learner(tmp_path)
    await loop.one_pass()
    assert loop.ledger.standing.retired == {1}
    assert loop.ledger.standing.default == 0
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["cards"]
    assert json.loads((tmp_path / "models/cards/1.json").read_text())["now"] == "retired"


async def test_when_traffic_turns_the_default_is_rolled_back_to_uniform(tmp_path):
    """After the turn each question needs 32 tokens, which uniform gives to all and the model to half of them."""
    turned = (0.0, 1.0, 1.0, 1.0)

    async def measure(examples, on_measured):
        for example in examples:
            new = example.sample.prompt.startswith("new")
            on_measured(example.key, measured(example.key, turned if new else STEEP))
        return len(examples)

    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    loop = learner(tmp_path, measure=measure)
    await loop.one_pass()
    assert loop.ledger.standing.default == 1
    write_prompts(tmp_path / "prompts.jsonl", [*PROMPTS, *[f"new {at}" for at in range(4)]])
    loop = learner(tmp_path, measure=measure)
    found = await loop.one_pass()
    assert found.decisions[0].word == "rolled back"
    assert loop.ledger.standing.default == 0
    assert not (tmp_path / "models/learned").exists()
    assert json.loads((tmp_path / "models/cards/1.json").read_text())["now"] == "retired"


async def test_who_sends_most_has_no_more_than_its_share_of_what_is_measured_and_teaches(tmp_path):
    rows = [{"prompt": f"much {at}", "tenant": "loud"} for at in range(60)]
    rows += [{"prompt": f"little {at}", "tenant": f"quiet-{at % 4}"} for at in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, taught = [], []

    async def measure(examples, on_measured):
        asked.extend(examples)
        return await by_prompt(examples, on_measured)

    def spied(examples, budget):
        taught.append([example.tenant for example in examples])
        return mean_only(examples, budget)

    rules = Rules(32, POINTS, least=8, look=4, tenant_share=0.25)
    await learner(tmp_path, measure=measure, rules=rules, make_candidate=spied).one_pass()
    assert [example.tenant for example in asked].count("loud") == 8 == len(asked) / 4
    assert all(tenants.count("loud") <= 0.25 * len(tenants) for tenants in taught)
    assert taught


async def test_samples_beyond_what_is_kept_are_forgotten(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    await learner(tmp_path, rules=Rules(32, POINTS, least=8, look=4, tenant_share=0.4, keep=5)).one_pass()
    assert len(learner(tmp_path)._pool.all()) == 5


async def test_what_was_forgotten_of_a_file_does_not_come_again_as_newer_traffic(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    rules, asked = Rules(32, POINTS, least=8, look=4, tenant_share=0.4, per_pass=6, keep=8), []

    async def measure(examples, on_measured):
        asked.extend(example.sample.prompt for example in examples)
        return await by_prompt(examples, on_measured)

    for _run in range(6):
        await learner(tmp_path, measure=measure, rules=rules).one_pass()
    assert asked == PROMPTS


async def test_curves_at_other_points_are_left_out(tmp_path):
    """After the points were changed, what was measured before does not mix with what is measured now."""
    await undisturbed(tmp_path)
    rules = Rules(32, (16, 64), least=8, look=4, tenant_share=0.4)
    assert (await learner(tmp_path, rules=rules).one_pass()).decisions == []


async def test_after_a_change_of_points_models_at_the_former_ones_gain_nothing_and_are_followed_by_others(tmp_path):
    """The default at the former points stays until one at the new ones is better; there is no trial beside it."""
    points, published = (16, 48, 64), []

    async def at_new_points(examples, on_measured):
        for example in examples:
            found = replace(measured(example.key, (0.0, 0.0, 1.0)), budget_tokens=list(points), used_tokens=points)
            on_measured(example.key, found)
        return 1

    await undisturbed(tmp_path)
    served = tmp_path / "models/learned"
    assert LoadedModel(served).manifest.budget_points == POINTS
    write_prompts(tmp_path / "prompts.jsonl", [*PROMPTS, *[f"later {at}" for at in range(100)]])
    rules = Rules(32, points, least=8, look=4, tenant_share=0.4)
    loop = learner(tmp_path, rules=rules, measure=at_new_points)
    real = loop._store.publish

    def publish(slot, model):
        published.append((slot, int(model.name)))
        real(slot, model)

    loop._store.publish = publish
    found = await loop.one_pass()
    assert "rolled back" not in {decision.word for decision in found.decisions}
    assert LoadedModel(served).manifest.budget_points == points
    new = next(version for slot, version in published if slot == "default" and version > 1)
    before = published[: published.index(("default", new))]
    assert before == [("default", 1)] * len(before)


@pytest.mark.parametrize("name", ["learned", "learned-shadow"])
async def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path, name):
    (tmp_path / "models" / name).mkdir(parents=True)
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    with pytest.raises(ValueError, match="somebody else's"):
        await learner(tmp_path).one_pass()
    assert (tmp_path / "models" / name).is_dir()


MIXED = [f"{'flat' if at % 3 else 'steep'} {at}" for at in range(96)]
LOOKS = Rules(32, POINTS, least=12, look=16, tenant_share=0.4)  # enough of them for an interval


async def test_a_model_that_reads_states_becomes_the_default_and_its_card_says_what_it_reads(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", MIXED)
    loop = learner(tmp_path, measure=by_prompt_with_states, make_candidate=by_state, rules=LOOKS)
    await loop.one_pass()
    assert loop.ledger.standing.default == 1
    manifest = LoadedModel(tmp_path / "models/learned").manifest
    assert (manifest.kind, manifest.hidden_size, manifest.layer) == ("hidden_state_mlp", 2, 3)
    card = json.loads((tmp_path / "models/cards/1.json").read_text())
    assert (card["kind"], card["hidden_size"], card["layer"]) == ("hidden_state_mlp", 2, 3)
    # Which of the two it is, the state alone tells: a third of the questions gain all that is to be had.
    assert card["evidence"][0]["gain"]["mean"] == pytest.approx(1 / 3, abs=0.1)


async def test_where_no_state_comes_any_more_a_model_of_states_gains_nothing_and_is_refused(tmp_path):
    async def measure(examples, on_measured):
        await by_prompt_with_states(examples[:48], on_measured)
        await by_prompt(examples[48:], on_measured)
        return 1

    write_prompts(tmp_path / "prompts.jsonl", MIXED)
    loop = learner(tmp_path, measure=measure, make_candidate=by_state, rules=LOOKS)
    await loop.one_pass()
    assert loop.ledger.standing.default == 0
    assert 1 in loop.ledger.standing.retired


@pytest.mark.parametrize(
    ("default", "candidate", "on_trial"),
    [
        (None, "text", True),
        (None, 3, False),
        ("text", "text", True),
        ("text", 3, False),
        (3, "text", True),
        (3, 3, True),
        (3, 4, False),
    ],
)
async def test_a_model_of_states_is_on_trial_only_where_schedulers_send_them_for_the_default(
    default, candidate, on_trial, tmp_path
):
    """``default``, ``candidate``: one that reads the text, or the layer whose states it reads; ``None`` for none."""
    write_prompts(tmp_path / "prompts.jsonl", MIXED)
    loop = learner(tmp_path)
    added = [loop._pool.add(sample) for sample in await loop._source.take(24)]
    await by_prompt_with_states(added, loop._pool.measured)
    steps = [(default, 3), (candidate, 1)] if default is not None else [(candidate, 1)]
    for version, (reads, looks) in enumerate(steps, start=1):
        made = mean_only(loop._pool.all(), 32) if reads == "text" else by_state(loop._pool.all(), 32)
        if reads != "text":
            made = replace(made, trained=replace(made.trained, layer=reads))
        loop._models.mkdir(parents=True, exist_ok=True)
        made.trained.write(loop._models, "float32")
        (loop._models / str(version)).mkdir()
        (loop._models / "model.onnx").rename(loop._models / str(version) / "model.onnx")
        write_manifest(loop._models / str(version), manifest_of(made.trained, "learned", str(version)))
        loop.ledger.record(Trained(version, 8, 8))
        for at in range(looks):
            loop.ledger.record(Judged(version, 8, 9 + at, Interval(0.1, 0.05, 0.15, 10)))
    loop.publish()
    served = {name for name in SLOTS.values() if (tmp_path / "models" / name).exists()}
    assert served == {name for name, there in (("learned", default), ("learned-shadow", on_trial)) if there}
