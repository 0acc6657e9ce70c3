"""What is trained, and that one tenant cannot spoil it for the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exporters.demo
from exporters.learning.candidates import contradicting, curves_of, held, make
from exporters.learning.samples import Example, Sample, fair
from exporters.learning.scoring import gains
from exporters.measure.collect import Measured
from exporters.measure.curves import read_curves
from exporters.predictors.export import export
from exporters.replay.evaluate import Predicted
from tests.builders.learning import state

BUDGET = 32
DEMO = read_curves(Path(exporters.demo.__file__).parent / "data/curves.parquet")
ORDER = np.random.default_rng(0).permutation(len(DEMO.ids))
SCORED = DEMO.chosen(ORDER[300:])
ATTACKS = {
    "never": lambda accuracy: 0 * accuracy,
    "at once": lambda accuracy: 0 * accuracy + 1,
    "inverted": lambda accuracy: 1 - accuracy,
    "reversed": lambda accuracy: accuracy[::-1],
    "at the end only": lambda accuracy: np.where(DEMO.points < DEMO.points[-1], 0.0, 1.0),
}


def example(number, row, tenant, attack=lambda accuracy: accuracy):
    curve = attack(DEMO.accuracy[row]).tolist()
    measured = Measured(
        "", "", "", DEMO.points.tolist(), curve, DEMO.used[row].tolist(), 0.0, 3, [], 1, "agreement"
    )  # fmt: skip
    return Example(number, str(number), Sample(DEMO.questions[row], tenant), measured)


HONEST = [example(number, row, f"team-{number % 9}") for number, row in enumerate(ORDER[:270])]


def poisoned(attack, count=30):
    """The honest teams' questions, and one's beside, whose curves are false: a tenth of all, unless it sends more."""
    rows = ORDER[270 + np.arange(count) % 30]
    bad = [example(1000 + at, row, "bad", ATTACKS[attack]) for at, row in enumerate(rows)]
    return fair([*HONEST, *bad], 0.2)


def gain(made):
    """The gain of a trained predictor on questions of honest teams."""
    predicted = made.trained.reference(SCORED.questions, None)
    used = np.tile(DEMO.used.mean(axis=0), (len(predicted), 1))
    return float(gains(Predicted(predicted, used), SCORED, BUDGET).gains.mean())


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("count", [30, 300])
def test_of_a_mean_curve_one_tenant_takes_less_than_a_tenth_of_the_gain(attack, count):
    clean = gain(make(HONEST, BUDGET, least_text=10**9))
    assert clean > 0.05
    assert gain(make(poisoned(attack, count), BUDGET, least_text=10**9)) > 0.9 * clean


@pytest.mark.parametrize("attack", ["inverted", "reversed"])
def test_of_a_predictor_that_reads_one_tenant_takes_less_than_a_tenth_of_the_gain(attack):
    """Means over three trainings: one differs from another by more than that."""
    clean, spoilt = (
        np.mean([gain(make(taught, BUDGET, least_text=60, kinds=["text_curve"], seed=100 * at)) for at in range(3)])
        for taught in (HONEST, poisoned(attack))
    )
    assert clean > 0.1
    assert spoilt > 0.9 * clean


def test_who_teaches_the_contrary_is_found_and_nobody_else():
    taught = poisoned("inverted")
    curves, tenants = curves_of(taught), [one.tenant for one in taught]
    honest = DEMO.accuracy[[DEMO.questions.index(question) for question in curves.questions]]
    assert contradicting(honest, curves, tenants) == {"bad"}
    assert contradicting(honest, curves, ["bad" if tenant == "bad" else "all" for tenant in tenants]) == set()


@pytest.mark.parametrize("each", [1, 2, 4])
def test_tenants_with_a_few_questions_each_do_not_contradict_by_chance(each):
    """What is foretold is better than the mean curve, but not of each question."""
    curves = DEMO.chosen(ORDER[:120])
    noise = np.random.default_rng(0).normal(0, 0.3, (120, 1))
    held_out = np.clip(curves.accuracy + noise, 0, 1)
    by_mean = (curves.accuracy - curves.accuracy.mean(axis=0)) ** 2
    assert ((curves.accuracy - held_out) ** 2).mean() < 0.8 * by_mean.mean()
    assert contradicting(held_out, curves, [f"t{at // each}" for at in range(120)]) == set()
    assert contradicting(1 - held_out, curves, [f"t{at // 20}" for at in range(120)]) != set()


@given(st.integers(0, 10_000), st.integers(4, 8), st.integers(2, 12))
def test_however_far_off_one_tenant_is_the_mean_moves_no_farther_than_others_differ(seed, tenants, each):
    rng = np.random.default_rng(seed)
    names = [f"t{at % tenants}" for at in range(tenants * each)]
    values = rng.random((len(names), 3))
    values[[at for at, name in enumerate(names) if name == "t0"]] = rng.choice([0.0, 1.0])
    means = np.stack([values[[name == one for name in names]].mean(axis=0) for one in sorted(set(names))])
    moved = held(values, names).mean(axis=0)
    others = np.delete(means, 0, axis=0)
    slack = 4 * (np.abs(others - np.median(means, axis=0)).max(axis=0) + values.std(axis=0) / np.sqrt(each)) / tenants
    low, high = others.mean(axis=0) - slack - 0.2, others.mean(axis=0) + slack + 0.2
    assert ((low <= moved) & (moved <= high)).all()


def test_tenants_that_differ_as_chance_makes_them_are_left_as_they_are():
    values = np.tile([[0.2, 0.6], [0.4, 0.8]], (8, 1))
    names = [f"t{at // 4}" for at in range(16)]
    assert held(values, names) == pytest.approx(values)
    assert held(values, ["a", "b"] * 8) is values  # too few tenants to have a middle


def test_with_few_questions_no_predictor_that_reads_is_tried():
    made = make(HONEST[:40], BUDGET, least_text=60)
    assert (made.kind, set(made.held_out)) == ("mean_curve", {"mean_curve"})


@pytest.mark.parametrize("kind", ["mean_curve", "text_curve"])
def test_a_model_holds_no_word_of_a_single_prompt(kind, tmp_path):
    told = replace(HONEST[7].sample, prompt=f"{HONEST[7].sample.prompt} My key is hunterswordfish, says Zebedee.")
    made = make([*HONEST[:7], replace(HONEST[7], sample=told), *HONEST[8:64]], BUDGET, least_text=0, kinds=[kind])
    manifest, _ = export(made.trained, tmp_path / "m", DEMO.questions[:20], None, name="m", version="1")
    written = (tmp_path / "m/model.onnx").read_bytes()
    assert manifest.most_unfamiliarity
    assert b"many" in written  # as these words stand in many
    assert not any(word in written for word in (b"hunterswordfish", b"Zebedee"))


def test_of_several_kinds_the_one_that_is_best_on_held_out_questions_is_taken():
    made = make(HONEST, BUDGET, least_text=60)
    assert set(made.held_out) == {"mean_curve", "text_curve"}
    assert made.kind == max(made.held_out, key=made.held_out.get) == "text_curve"


def test_one_question_makes_a_mean_of_itself():
    made = make(HONEST[:1], BUDGET, least_text=60)
    assert made.trained.reference(["any"], None)[0] == pytest.approx(HONEST[0].measured.accuracy)


def with_states(examples, tells, layer=8):
    """The examples with a state of 24 numbers in which the curve is hidden, where it ``tells``; else with noise."""
    rng = np.random.default_rng(5)
    mixed = rng.normal(size=(len(DEMO.points), 24))
    found = []
    for one in examples:
        values = rng.normal(0, 0.05, 24) + (np.array(one.measured.accuracy) @ mixed if tells else 0)
        found.append(replace(one, state=state(values, layer)))
    return found


def test_where_the_state_tells_more_than_the_text_the_kind_that_reads_it_is_taken():
    taught = with_states(HONEST[:120], tells=True)
    made = make(taught, BUDGET, least_text=60)
    assert set(made.held_out) == {"mean_curve", "text_curve", "hidden_state_mlp"}
    assert made.kind == max(made.held_out, key=made.held_out.get) == "hidden_state_mlp"
    assert (made.trained.interface.hidden_size, made.trained.interface.layer) == (24, 8)
    assert not made.trained.interface.takes_text


def test_where_the_state_tells_nothing_the_text_is_read():
    made = make(with_states(HONEST, tells=False), BUDGET, least_text=60)
    assert made.kind == "text_curve"


def test_an_engine_that_sends_the_same_state_of_all_prompts_is_not_learned_from():
    same = [replace(one, state=state(np.ones(24))) for one in HONEST[:80]]
    assert set(make(same, BUDGET, least_text=60, kinds=("mean_curve", "hidden_state_mlp")).held_out) == {"mean_curve"}


def test_states_are_read_where_enough_are_of_the_origin_of_the_latest():
    """Of 100 questions the first 40 have states of another layer, and 10 none: 50 are left."""
    taught = [*with_states(HONEST[:40], True, layer=4), *HONEST[40:50], *with_states(HONEST[50:100], True)]
    kinds = ("mean_curve", "hidden_state_mlp")
    assert set(make(taught, BUDGET, least_text=51, kinds=kinds).held_out) == {"mean_curve"}
    made = make(taught, BUDGET, least_text=50, kinds=kinds)
    assert set(made.held_out) == set(kinds)
    whole = make(with_states(HONEST[:100], True), BUDGET, least_text=50, kinds=kinds)
    assert made.held_out["hidden_state_mlp"] < whole.held_out["hidden_state_mlp"]  # half get the uniform budget by it


def test_a_tenant_that_teaches_the_contrary_is_left_out_of_what_reads_states():
    bad = with_states([example(2000 + at, ORDER[270 + at], "bad") for at in range(28)], True)
    inverted = [[1 - value for value in one.measured.accuracy] for one in bad]
    false = [
        replace(one, measured=replace(one.measured, accuracy=curve)) for one, curve in zip(bad, inverted, strict=True)
    ]
    taught = [*with_states(HONEST[:140], True), *false]
    made = make(taught, BUDGET, least_text=60, kinds=("hidden_state_mlp",))
    assert made.trained.calibration.validation["questions"] == 140
