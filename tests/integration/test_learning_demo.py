"""The story of 'demo --learn', from its first act to its last, on a scripted model."""

from dataclasses import replace
from itertools import islice

from rich.console import Console

from exporters.demo.tasks import FAMILIES, unique_tasks
from exporters.learning.measuring import Counting
from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling_cli.demo import learning
from tests.integration.running import predictor, scheduler
from tests.standins.backend import ScriptedBackend

# How many tokens a question of each kind needs; of the steep ones nothing but all of it helps.
NEEDS = {"sum": 60, "count": 60, "halve": 60, "countdown": 60, "until": 60, "parity": 60, "lookup": 4, "largest": 60}
SIX = {name: family for name, family in FAMILIES.items() if name not in learning.NEW_KINDS}
TASKS = {
    task.question: task
    for stream in (unique_tasks(11, SIX), unique_tasks(12), unique_tasks(13))
    for task in islice(stream, 900)
}


def script(prompt):
    head, _, thought = prompt.partition("\n")
    task = TASKS[head.removeprefix("Question: ")]
    need = NEEDS.get(task.family, 1000)
    if prompt.endswith("Final answer:"):
        return [f" {task.answer}" if thought.count("~") >= need else " no", "\n\n"]
    return [*["~"] * need, "Final answer:", f" {task.answer}", "\n\n"]


async def test_the_story_is_told_and_its_figures_hold_together(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "_MOST_ROUNDS", 4)
    monkeypatch.setattr(learning, "_SHOWN", 2)
    monkeypatch.setattr(learning, "_ROUND", 18)
    monkeypatch.setattr(learning, "_RULES", replace(learning._RULES, least=18, look=9, least_text=10**9))
    monkeypatch.setattr(learning, "_RELOAD_SECONDS", 0.05)
    (tmp_path / "models").mkdir()
    told = Console(record=True, width=300)
    flags = {name: value for name, value in learning._PREDICTOR.items() if name not in ("canary", "shadow")}
    settings = {name: value for name, value in learning._SCHEDULER.items() if name != "backend"}
    settings |= {"window_ms": 20.0}
    async with predictor(tmp_path / "models", **{**flags, "reload_seconds": 0.02}) as predictions:
        async with scheduler(ScriptedBackend(script), **{**settings, "predictor": predictions}) as address:
            async with AsyncSchedulerClient(address) as client:
                story = learning._Story(client, Counting(ScriptedBackend(script)), tmp_path, told)
                found = await story.tell()
    assert found["six_kinds"]["uniform"]["accuracy"] < found["six_kinds"]["learned"]["accuracy"]
    assert set(found["six_kinds"]["uniform"]["outcomes"]) == {"refused"}
    assert set(found["six_kinds"]["learned"]["outcomes"]) == {"fresh"}
    assert found["earned_back"]["requests"] > 0
    assert found["bad_candidate"].startswith(("undecided", "refused"))
    assert found["tokens_spent_on_learning"] == story._learner.ledger.tokens > 0
    text = told.export_text()
    assert "Traffic of six kinds" in text
    assert "is refused" in text
    assert not any(question in text for question in TASKS)
