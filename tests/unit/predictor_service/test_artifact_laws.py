"""Whatever stands in a manifest, reading it gives one within its bounds, or an ArtifactError with a short reason."""

import json
import math
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictive_scheduling.budget_points import MOST_POINTS, MOST_TOKENS
from predictor_service.artifact import MOST_MANIFEST_BYTES, ArtifactError, Manifest, read_manifest
from predictor_service.settings import SHIPPED_MODELS

WHOLE = json.loads((SHIPPED_MODELS / "demo-text" / "manifest.json").read_text())
FIELDS = st.sampled_from([*Manifest.model_fields, *WHOLE, "surprise"])

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([10**11, -1, 0, 1e308, "4", "", "../../etc/passwd", "\ud800", "x" * 70_000, [0.5] * 6000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shutil.copytree(SHIPPED_MODELS / "demo-text", tmp_path_factory.mktemp("models") / "model")


def read(folder, text):
    """The manifest that ``text`` gives, or ``None`` where it is refused as it should be."""
    (folder / "manifest.json").write_bytes(text)
    try:
        return read_manifest(folder)
    except ArtifactError as error:
        reason = str(error)
    assert len(reason) < 2000
    return None


def dumped(value):
    return json.dumps(value).encode()


def check_bounds(manifest):
    assert 1 <= manifest.windows == len(manifest.mean_curve) == len(manifest.uncertainty) <= MOST_POINTS
    assert 0 <= manifest.budget_points[0] <= manifest.budget_points[-1] <= MOST_TOKENS
    assert len(manifest.mean_used_tokens) in (0, manifest.windows)
    assert 0 <= manifest.hidden_size <= 65536
    assert all(0 <= value <= 1 for curve in (manifest.mean_curve, manifest.uncertainty) for value in curve)
    assert manifest.takes_text or manifest.hidden_size
    assert (manifest.most_unfamiliarity is None) == (manifest.false_alarm_rate is None)
    assert manifest.most_unfamiliarity is None or 0 < manifest.most_unfamiliarity < math.inf


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=st.dictionaries(FIELDS, ANYTHING, min_size=1, max_size=3))
def test_fields_of_any_type_are_read_within_bounds_or_refused(folder, changed):
    manifest = read(folder, dumped(WHOLE | changed))
    if manifest is not None:
        check_bounds(manifest)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_fields_that_are_missing_renamed_or_cut_off_are_refused(folder, data):
    name = data.draw(
        st.sampled_from(
            [name for name in WHOLE if name not in Manifest.model_fields or Manifest.model_fields[name].is_required()]
        )
    )
    rest = {key: value for key, value in WHOLE.items() if key != name}
    assert read(folder, dumped(rest)) is None
    assert read(folder, dumped(rest | {name.upper(): WHOLE[name]})) is None
    text = dumped(WHOLE)
    assert read(folder, text[: data.draw(st.integers(0, len(text) - 1))]) is None


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200) | ANYTHING.map(dumped))
def test_bytes_that_are_no_manifest_are_refused(folder, raw):
    assert read(folder, raw) is None


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b'{"name": "' + b"a" * MOST_MANIFEST_BYTES])
def test_deep_and_huge_json_is_refused(folder, text):
    assert read(folder, text) is None


@settings(max_examples=100, deadline=None)
@given(
    windows=st.integers(1, 40), reliability=st.floats(-1, 1), name=st.from_regex(r"\A[a-z0-9][a-z0-9./-]{0,40}\Z"),
    value=st.floats(0, 1), prompt=st.text(max_size=30),
)  # fmt: skip
def test_what_exporters_write_is_what_the_predictor_reads(windows, reliability, name, value, prompt):
    manifest = Manifest(
        name=name, version="1", kind="text_curve", budget_window_tokens=16, windows=windows, takes_text=True,
        hidden_size=0, layer=0, max_text_bytes=100, training_data={}, validation={"pearson": value},
        reliability=reliability, mean_curve=[value] * windows, uncertainty=[value] * windows,
        prompt=prompt + "{prompt}", class_curves={"easy": [value] * windows},
    )  # fmt: skip
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
