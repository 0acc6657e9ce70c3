"""A learner whose curves come from the prompt, for the tests of the loop."""

import json

from exporters.learning.candidates import make
from exporters.learning.ledger import Ledger
from exporters.learning.loop import Learner, Rules
from exporters.learning.pool import Pool
from exporters.learning.samples import FileSource
from exporters.learning.store import FolderStore
from exporters.measure.collect import Measured

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


def write_prompts(path, prompts, tenants=5):
    rows = [{"prompt": prompt, "tenant": f"team-{at % tenants}"} for at, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def mean_only(examples, budget):
    return make(examples, budget, least_text=10**9)


def learner(folder, *, disk=None, key=KEY, measure=by_prompt, rules=None, make_candidate=mean_only):
    """A learner with its state and store below ``folder``, and the prompts of ``folder``/prompts.jsonl."""
    ledger = Ledger(folder / "state/ledger.jsonl", disk)
    return Learner(
        FileSource(folder / "prompts.jsonl", 0 if key else ledger.position),
        measure,
        Pool(folder / "state/samples", key, disk, ledger.last_number + 1),
        ledger,
        FolderStore(folder / "models", disk),
        folder / "state",
        rules or Rules(32, POINTS, least=8, look=4, tenant_share=0.4),
        disk,
        make_candidate,
    )
