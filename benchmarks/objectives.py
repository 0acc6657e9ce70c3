"""Holding a latency objective: budgets that follow the load, against what gateways do, on simulated fleets.

    python -m benchmarks.objectives --json objectives.json --plot docs/plots/objectives.svg
    python -m benchmarks.objectives --curves CURVES --hidden-states STATES --model gsm8k-r1-1.5b-hidden --stretch 4

Engines and time are simulated (``exporters/replay/engine_simulation.py``); controller, price and ledger are the
service's. Without ``--curves`` the questions are the demo's 360 long ones, and the predictions of the shipped model
``demo-long-text`` are taken for their true curves: a predictor without error. With ``--curves`` measured curves say
what was right, and the ``--model``'s predictions decide; ``--stretch`` makes all budget points so many times as long.

Loads are in multiples of the capacity: the rate at which the largest mean budget takes all slots. Policies:

    fixed uniform, fixed price      the largest mean budget, whatever the load
    scaled uniform                  the same controller, the same mean budget, alike for all: the honest rival
    limited concurrency             fixed uniform budgets, requests in flight by AIMD, the others refused
    shedding, shedding by value     fixed uniform budgets, the same controller refuses: anybody, or the least valuable
    price                           ours: the price, with the controller's income
    oracle                          knows arrivals, engines and changes beforehand, tuned in hindsight

``outside_fraction``: the share of the windows of time in which more requests were late than the objective allows.
Requests that run when the load, or the fleet, changes at once for the worse, or come in the reaction after it, do not
count there; they do in ``late_fraction``. ``accuracy``: right answers by all requests, weighted; those refused are
none. ``gain_share_of_oracle``: of what the oracle gains over scaled uniform.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.callers import keep
from exporters.demo.long_tasks import split_long_tasks
from exporters.measure.curves import Curves, read_curves
from exporters.measure.hidden_states import read_hidden_states
from exporters.replay.engine_simulation import H100, VLLM_CPU
from exporters.replay.evaluate import predictions
from exporters.replay.load import Load, Shape, shapes
from exporters.replay.load_oracle import Oracle
from exporters.replay.load_policies import Even, Limited, Priced
from exporters.replay.load_simulation import BudgetPolicy, Outcome, Questions, Setup, outside, simulate_load
from predictor_service.model import LoadedModel
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.objectives import parse_objectives

_MODELS = Path(__file__).parents[1] / "predictor_service" / "models"
_PROMPT, _ANSWER = 250, 64  # tokens, on average
_RIVAL, _OURS, _ORACLE = "scaled uniform", "price", "oracle"
_DRAWN = "step"


@dataclass(frozen=True)
class Place:
    """A fleet under test. ``slowness``: how many times as long its scenarios, windows and reactions are.

    ``allowed``: the share of the time that the oracle may be outside.
    """

    setup: Setup
    slowness: float = 1.0
    window: float = 10.0
    reaction: float = 10.0
    allowed: float = 0.01

    def outside(self, load: Load, outcome: Outcome) -> float:
        """The share of the time in which the objective did not hold."""
        window, reaction = self.slowness * self.window, self.slowness * self.reaction
        return outside(load, outcome, self.setup.objective, window=window, reaction=reaction)


def demo_questions() -> Questions:
    """The demo's long questions, with the shipped model's predictions as their true curves."""
    model = LoadedModel(_MODELS / "demo-long-text")
    splits = split_long_tasks()
    questions = [task.question for task in (*splits.test, *splits.curves)]
    points = np.array(model.manifest.budget_points, np.int64)
    names = [str(at) for at in range(len(questions))]
    predicted = predictions(model, Curves.measured(names, questions, points, np.zeros((len(names), len(points)))), None)
    return Questions(Curves.measured(names, questions, points, predicted.accuracy, predicted.used), predicted)


def measured_questions(curves: Path, hidden_states: Path | None, model: str, stretch: int) -> Questions:
    """Questions of a curves file, predicted by a shipped model."""
    measured = read_curves(curves)
    states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
    predicted = predictions(LoadedModel(_MODELS / model), measured, states)
    measured = replace(
        measured, points=measured.points * stretch, used=None if measured.used is None else measured.used * stretch
    )
    used = None if predicted.used is None else predicted.used * stretch
    return Questions(measured, replace(predicted, used=used))


def places(questions: Questions) -> dict[str, Place]:
    """The fleets: two H100s, and two vLLM servers on CPUs, whose tokens take some twelve times as long.

    The largest mean budget uses half as much as the last budget point does; the least an eighth of that, and the floor
    half of the least.
    """
    cap = int(questions.measured.points[-1])
    most = float(round(questions.mean_use[-1] / 2))
    bounds, floor = Bounds(most / 8, most, cap), int(most / 16)
    (fast,), (slow,) = parse_objectives(["total p99 15s"]), parse_objectives(["total p95 120s"])
    return {
        "h100": Place(Setup(H100, 2, fast, bounds, floor)),
        "vllm-cpu": Place(Setup(VLLM_CPU, 2, slow, bounds, floor), slowness=8.0),
    }


def policies(questions: Questions, setup: Setup) -> dict[str, Callable[[], BudgetPolicy]]:
    """What is compared, by name; the oracle apart."""
    bounds, objective, floor = setup.bounds, setup.objective, setup.floor
    points, use = questions.measured.points.tolist(), questions.mean_use
    fixed = Bounds(bounds.most, bounds.most, bounds.cap)
    slots = float(setup.kind.slots * setup.replicas)
    return {
        "fixed uniform": lambda: Even(bounds, points, use),
        "fixed price": lambda: Priced(bounds, floor),
        _RIVAL: lambda: Even(bounds, points, use, [objective]),
        "limited concurrency": lambda: Limited(Even(bounds, points, use), objective, slots),
        "shedding": lambda: Even(fixed, points, use, [objective], blind=True),
        "shedding by value": lambda: Even(fixed, points, use, [objective]),
        _OURS: lambda: Priced(bounds, floor, [objective]),
    }


def compare(questions: Questions, place: Place, shape: Shape, seed: int) -> tuple[Load, dict[str, Outcome]]:
    """Replay one load through every policy; returns it and what became of it."""
    setup = place.setup
    capacity = setup.kind.capacity(setup.replicas, _PROMPT, setup.bounds.most + _ANSWER)
    load = shape.draw(capacity, len(questions.measured.ids), np.random.default_rng(seed))
    found = {name: simulate_load(load, questions, setup, make()) for name, make in policies(questions, setup).items()}
    found[_ORACLE] = Oracle(load, questions, setup).best(
        lambda plan: simulate_load(load, questions, setup, plan),
        lambda outcome: place.outside(load, outcome),
        place.allowed,
    )
    return load, found


def summary(place: Place, load: Load, outcomes: dict[str, Outcome]) -> dict[str, dict[str, Any]]:
    """The figures of one scenario, by policy."""
    rows: dict[str, dict[str, Any]] = {}
    for name, outcome in outcomes.items():
        taken = ~outcome.refused
        seconds = outcome.seconds[taken]
        rows[name] = {
            "outside_fraction": place.outside(load, outcome),
            "late_fraction": float((seconds > place.setup.objective.seconds).mean()),
            "seconds_at_quantile": float(np.quantile(seconds, place.setup.objective.quantile)),
            "accuracy": float(np.average(outcome.accuracy, weights=load.weights)),
            "refused": float(outcome.refused.mean()),
            "tokens": float(outcome.used[taken].mean()),
        }
    rival = rows[_RIVAL]["accuracy"]
    most = rows[_ORACLE]["accuracy"] - rival
    for row in rows.values():
        row["gain_share_of_oracle"] = (row["accuracy"] - rival) / most if most > 0 else None
    return rows


def over_time(place: Place, load: Load, outcomes: dict[str, Outcome]) -> list[plots.Course]:
    """What a picture shows of one scenario."""
    chosen = {name: outcomes[name] for name in ("fixed price", _RIVAL, _OURS, _ORACLE)}
    ours = outcomes[_OURS].trace
    inside = [second for second in ours if second.at <= load.seconds]
    window = 2 * place.slowness
    quantile = place.setup.objective.quantile
    latency = {}
    for name, outcome in chosen.items():
        line = []
        for second in inside:
            rows = (load.arrivals > second.at - window) & (load.arrivals <= second.at) & ~outcome.refused
            if rows.any():
                line.append((second.at, float(np.quantile(outcome.seconds[rows], quantile))))
        latency[name] = line
    objective = place.setup.objective
    return [
        plots.Course("Load", "requests a second", {"offered": [(one.at, one.offered) for one in inside]}),
        plots.Course(
            f"Latency, p{100 * quantile:g} of those that came", "s", latency, limit=objective.seconds, logarithmic=True
        ),
        plots.Course(
            "Mean budget, tokens used",
            "tokens",
            {
                name: [(one.at, one.mean) for one in outcome.trace if one.at <= load.seconds]
                for name, outcome in chosen.items()
            },
        ),
        plots.Course("Price", "points / 100 tokens", {_OURS: [(one.at, 1e4 * one.price) for one in inside]}),
    ]


def main() -> None:
    """Replay, print, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", type=Path, help="measured curves; without, the demo's long questions")
    parser.add_argument("--hidden-states", type=Path)
    parser.add_argument("--model", default="gsm8k-r1-1.5b-hidden", help="a shipped predictor, of --curves")
    parser.add_argument("--stretch", type=int, default=1, help="how many times as long the points of --curves are")
    parser.add_argument("--engines", nargs="*", default=["h100", "vllm-cpu"])
    parser.add_argument("--scenarios", nargs="*", help="some of them only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    questions = demo_questions()
    if given.curves:
        questions = measured_questions(given.curves, given.hidden_states, given.model, given.stretch)
    found: dict[str, Any] = {"questions": len(questions.measured.ids), "curves": str(given.curves or "demo-long")}
    courses: list[plots.Course] = []
    for engine in given.engines:
        place = places(questions)[engine]
        found[engine] = {"objective": str(place.setup.objective), "scenarios": {}}
        for shape in shapes(place.slowness):
            if given.scenarios and shape.name not in given.scenarios:
                continue
            load, outcomes = compare(questions, place, shape, given.seed)
            rows = found[engine]["scenarios"][shape.name] = summary(place, load, outcomes)
            for name, row in rows.items():
                share = row["gain_share_of_oracle"]
                print(  # noqa: T201
                    f"{engine} {shape.name:14} {name:20} outside {100 * row['outside_fraction']:5.1f} %, "
                    f"late {100 * row['late_fraction']:5.1f} %, {row['seconds_at_quantile']:6.1f} s, "
                    f"right {100 * row['accuracy']:5.1f} %, refused {100 * row['refused']:5.1f} %, "
                    f"{row['tokens']:5.0f} tokens, "
                    + ("" if share is None else f"{100 * share:4.0f} % of the oracle's"),
                    flush=True,
                )
            if shape.name == _DRAWN and not courses:
                courses = over_time(place, load, outcomes)
    keep(given, found, lambda path: plots.draw_over_time(path, courses))


if __name__ == "__main__":
    main()
