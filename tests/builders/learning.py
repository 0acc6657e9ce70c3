"""A learner whose curves come from the prompt, for the tests of the loop."""

import json
import time
from dataclasses import dataclass

import numpy as np
import onnx

from exporters.learning.candidates import Made, curves_of, make
from exporters.learning.ledger import Ledger
from exporters.learning.loop import Learner, Rules
from exporters.learning.pool import Pool
from exporters.learning.samples import FileSource
from exporters.learning.states import PromptState
from exporters.learning.store import FolderStore
from exporters.measure.collect import Measured
from exporters.measure.curves import Curves
from exporters.predictors.export import export
from exporters.predictors.kinds import Training
from exporters.predictors.mean import fit
from exporters.predictors.onnx_graph import GraphBuilder, hidden_state_input
from exporters.predictors.trained import Calibration, Interface

POINTS = (16, 32, 48, 64)
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
PROMPTS = [f"secret prompt number {at}" for at in range(24)]
# All or nothing at 64 tokens: with 32 on average, half of the requests can have 64, and uniform gets nothing.
STEEP, FLAT = (0.0, 0.0, 0.0, 1.0), (0.5, 0.5, 0.5, 0.5)


def measured(key, accuracy, tokens=10):
    return Measured(
        key, "", "", list(POINTS), list(accuracy), [float(point) for point in POINTS], 64.0, 2, [], tokens, "agreement"
    )


async def by_prompt(examples, on_measured):
    """Measure: a prompt that begins with "flat" gains nothing by tokens, any other all at 64."""
    for example in examples:
        curve = FLAT if example.sample.prompt.startswith("flat") else STEEP
        on_measured(example.key, measured(example.key, curve))
    return 10 * len(examples)


STATE_OF_STEEP, STATE_OF_FLAT = (1.0, 0.0), (0.0, 1.0)


def state(values, layer=3):
    return PromptState(layer, np.array(values, np.float16))


async def by_prompt_with_states(examples, on_measured):
    """As ``by_prompt``, with a state that tells which of the two curves a prompt has."""
    states = {}
    await by_prompt(examples, lambda key, found: states.__setitem__(key, found))
    for key, found in states.items():
        on_measured(key, found, state(STATE_OF_STEEP if found.accuracy == list(STEEP) else STATE_OF_FLAT))
    return 10 * len(examples)


@dataclass(frozen=True)
class ByState:
    """A trained predictor that needs no training: it reads off the state which of the two curves it is."""

    calibration: Calibration
    layer: int = 3
    _curves = np.array([STEEP, FLAT], np.float32)

    @property
    def interface(self):
        return Interface(kind="hidden_state_mlp", takes_text=False, hidden_size=2, layer=self.layer)

    def write(self, folder, precision):
        build = GraphBuilder([hidden_state_input(2)])
        build.constant("curves", self._curves)
        build.add("MatMul", ["hidden_state", "curves"], "curve")
        onnx.save(build.model({"curve": len(POINTS)}), folder / "model.onnx")

    def reference(self, texts, hidden):
        return (hidden @ self._curves).astype(np.float64)

    def unfamiliarity(self, texts, hidden):
        return None


def by_state(examples, budget):
    curves = curves_of(examples)
    held_out = np.tile(curves.accuracy.mean(axis=0), (len(examples), 1))
    return Made("hidden_state_mlp", ByState(Calibration.of(held_out, curves, {})), {"hidden_state_mlp": 0.1})


def mean_model(folder, version):
    """A mean curve's model in ``folder``, another one for each version; returns the folder."""
    curves = Curves.measured(["a"], ["one"], np.array([16, 32]), np.array([[0.1 * version, 0.5]]))
    export(fit("mean_curve", Training(curves)), folder, ["one"], None, name="learned", version=str(version))
    return folder


def write_prompts(path, prompts, tenants=5):
    rows = [{"prompt": prompt, "tenant": f"team-{at % tenants}"} for at, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def mean_only(examples, budget):
    return make(examples, budget, least_text=10**9)


def learner(folder, *, disk=None, key=KEY, measure=by_prompt, rules=None, make_candidate=mean_only, clock=time.time):
    """A learner with its state and store below ``folder``, and the prompts of ``folder``/prompts.jsonl."""
    ledger = Ledger(folder / "state/ledger.jsonl", disk)
    return Learner(
        FileSource(folder / "prompts.jsonl", ledger.position),
        measure,
        Pool(folder / "state/samples", key, disk, ledger.last_number + 1),
        ledger,
        FolderStore(folder / "models", disk),
        folder / "state",
        rules or Rules(32, POINTS, least=8, look=4, tenant_share=0.4),
        disk,
        make_candidate,
        clock,
    )
