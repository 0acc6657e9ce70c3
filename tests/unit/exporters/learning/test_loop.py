"""The loop: from samples to a served model, whatever happens in between."""

import json
import shutil

import pytest

from exporters.learning.disk import Disk
from exporters.learning.loop import Rules
from predictor_service.model import LoadedModel
from tests.builders.learning import KEY, POINTS, PROMPTS, STEEP, by_prompt, learner, mean_only, measured, write_prompts


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


async def test_killed_at_any_write_it_goes_on_and_ends_where_an_undisturbed_run_ends(tmp_path, monkeypatch):
    """The process is killed, not the machine: what it wrote is there whether it was synced or not."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    rules = Rules(32, POINTS, least=4, look=2, tenant_share=0.5)
    (tmp_path / "whole").mkdir()
    write_prompts(tmp_path / "whole/prompts.jsonl", PROMPTS[:12])
    await learner(tmp_path / "whole", rules=rules).one_pass()
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
            await learner(folder, disk=Disk(before), rules=rules).one_pass()
            break
        except Killed:
            models = folder / "models"
            for name in ("learned", "learned-canary", "learned-shadow"):
                if (models / name).exists():
                    LoadedModel(models / name)  # whole, or not there
        await learner(folder, rules=rules).one_pass()
        assert content(folder) == wanted, f"killed at write {at}"
        at += 1
    assert at >= 40  # every sample, measurement, decision, model and card was a write


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


async def test_curves_at_other_points_are_left_out(tmp_path):
    """After the points were changed, what was measured before does not mix with what is measured now."""
    await undisturbed(tmp_path)
    rules = Rules(32, (16, 64), least=8, look=4, tenant_share=0.4)
    assert (await learner(tmp_path, rules=rules).one_pass()).decisions == []


@pytest.mark.parametrize("name", ["learned", "learned-shadow"])
async def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path, name):
    (tmp_path / "models" / name).mkdir(parents=True)
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    with pytest.raises(ValueError, match="somebody else's"):
        await learner(tmp_path).one_pass()
    assert (tmp_path / "models" / name).is_dir()
