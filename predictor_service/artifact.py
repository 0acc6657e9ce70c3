"""A model folder: ``model.onnx`` and the ``manifest.json`` that says what it is. Checked before it is served.

The manifest is one schema for both sides: exporters make a ``Manifest`` and write it, the predictor reads it into one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from predictive_scheduling.budget_points import (
    MOST_POINTS,
    MOST_TOKENS,
    CurveError,
    check_points,
    checked_usage,
    evenly_spaced,
    spacing,
)

MOST_MANIFEST_BYTES = 1 << 20
_MOST_REASON = 600  # characters of what is said about a bad manifest, whatever stands in it
_MOST_FAULTS = 3


class ArtifactError(ValueError):
    """A model folder cannot be served; the message says which file and why."""


def _plain_file_name(name: str) -> str:
    if Path(name).name != name or not name.isprintable():
        raise ValueError("must be the name of a file in the folder")
    return name


def _has_a_place_for_the_prompt(template: str) -> str:
    if "{prompt}" not in template:
        raise ValueError("must contain {prompt}")
    return template


def _rise(points: tuple[int, ...]) -> tuple[int, ...]:
    check_points(points)
    return points


Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# The sequence itself is not strict, so that Python callers may give lists; its numbers are.
Curve = Annotated[tuple[Annotated[Fraction, Field(strict=True)], ...], Field(max_length=MOST_POINTS, strict=False)]
Points = Annotated[
    tuple[Annotated[int, Field(strict=True)], ...], Field(max_length=MOST_POINTS, strict=False), AfterValidator(_rise)
]
Tokens = Annotated[float, Field(ge=0, le=MOST_TOKENS, allow_inf_nan=False, strict=True)]
Identifier = Annotated[str, Field(pattern=r"^\w[\w./+:~-]{0,127}$")]
FileName = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_plain_file_name)]


class Manifest(BaseModel):
    """What a model folder holds. Raises pydantic's ValidationError, a ValueError, for a field that it may not have.

    ``kind``: how it was made; a server serves any that has a predictor's inputs and outputs. ``budget_points``: budgets
    in reasoning tokens, at which its curves are known; manifests of before version 0.2 have ``windows`` and
    ``budget_window_tokens`` instead, the number of evenly spaced points and their distance. ``hidden_size``: components
    of the hidden state that the model takes, 0 for none. ``mean_curve``: mean accuracy of the training data at each
    point; ``mean_used_tokens``: mean tokens used at each, empty where it is not known; ``uncertainty``: standard
    deviation of the accuracy's error at each on validation data. ``files``: name → ``sha256:…``. ``max_tokens``: where
    above 0, text goes through ``tokenizer.json``, within ``prompt``, and is cut after so many tokens. ``class_curves``:
    the mean curve of each difficulty class, for models that classify. ``most_unfamiliarity``: where the graph says how
    far a query lies from its training (``unfamiliarity``), the model abstains above it; ``false_alarm_rate``: the share
    of queries like those of its training that lie above it, too. Without them it never abstains for that.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Identifier
    version: Identifier
    kind: str = Field(pattern="^[a-z][a-z0-9_]{0,63}$")
    budget_points: Points
    takes_text: bool
    hidden_size: int = Field(ge=0, le=65536)
    layer: int = Field(ge=0, le=65536)
    max_text_bytes: int = Field(ge=0, le=1 << 20)
    training_data: dict[str, str]
    validation: dict[str, Finite]
    reliability: float = Field(ge=-1, le=1, allow_inf_nan=False)
    mean_curve: Curve
    uncertainty: Curve
    mean_used_tokens: Annotated[tuple[Tokens, ...], Field(max_length=MOST_POINTS, strict=False)] = ()
    files: dict[FileName, Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]] = Field(default_factory=dict)
    max_tokens: int = Field(0, ge=0, le=1 << 20)
    prompt: Annotated[str, Field(max_length=65536), AfterValidator(_has_a_place_for_the_prompt)] = "{prompt}"
    class_curves: dict[str, Curve] = Field(default_factory=dict)
    most_unfamiliarity: float | None = Field(None, gt=0, allow_inf_nan=False)
    false_alarm_rate: float | None = Field(None, gt=0, lt=1, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _points_of_steps(cls, raw: Any) -> Any:
        """Read the points of a manifest that has their number and distance."""
        if not isinstance(raw, dict) or "budget_points" in raw or not raw.keys() & {"windows", "budget_window_tokens"}:
            return raw
        rest = dict(raw)
        count, step = rest.pop("windows", None), rest.pop("budget_window_tokens", None)
        if not all(type(value) is int and 1 <= value <= MOST_TOKENS for value in (count, step)):
            raise ValueError(f"windows, budget_window_tokens: must be whole numbers from 1 to {MOST_TOKENS}")
        return {**rest, "budget_points": evenly_spaced(min(count, MOST_POINTS + 1), step)}

    @property
    def windows(self) -> int:
        """How many points a curve has."""
        return len(self.budget_points)

    @property
    def budget_window_tokens(self) -> int:
        """The distance W of points at W, 2W, …; 0 for others."""
        return spacing(self.budget_points)

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        """Refuse what no single field shows."""
        curves = {f"class_curves.{name}": curve for name, curve in self.class_curves.items()}
        for name, curve in {"mean_curve": self.mean_curve, "uncertainty": self.uncertainty, **curves}.items():
            if len(curve) != self.windows:
                raise ValueError(f"{name}: must be {self.windows} numbers from 0 to 1, one for each of budget_points")
        if self.mean_used_tokens:
            try:
                checked_usage(self.budget_points, self.mean_used_tokens)
            except CurveError as error:
                raise ValueError(f"mean_used_tokens: {error}") from None
        if not self.takes_text and not self.hidden_size:
            raise ValueError("takes_text, hidden_size: the model takes no input at all")
        if self.takes_text and not self.max_text_bytes:
            raise ValueError("max_text_bytes: must be above 0 for a model that takes text")
        if (self.most_unfamiliarity is None) != (self.false_alarm_rate is None):
            raise ValueError("most_unfamiliarity, false_alarm_rate: both or neither must be there")
        return self


def digest(path: Path) -> str:
    """Return a file's ``sha256:…``."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def manifest_digest(folder: Path) -> str:
    """Return the ``sha256:…`` of a folder's manifest. Raises ArtifactError, or OSError where it cannot be read."""
    return f"sha256:{hashlib.sha256(_read(folder / 'manifest.json')).hexdigest()}"


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the digests of the folder's other files; returns what was written."""
    files = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
    complete = Manifest(**{**manifest.model_dump(), "files": files})
    (folder / "manifest.json").write_text(complete.model_dump_json(indent=1) + "\n")
    return complete


def read_manifest(folder: Path) -> Manifest:
    """Read a model folder's manifest and check the folder against it. Raises ArtifactError."""
    path = folder / "manifest.json"
    try:
        manifest = Manifest.model_validate_json(_read(path))
        _check_files(folder, manifest)
    except OSError as error:
        raise ArtifactError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: {_faults(error)}") from None  # its context holds the whole input
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> None:
    path = folder / "manifest.json"
    if manifest.max_tokens and "tokenizer.json" not in manifest.files:
        raise ArtifactError(f"{path}: files: tokenizer.json is not listed, though max_tokens says that it is needed")
    if "model.onnx" not in manifest.files:
        raise ArtifactError(f"{path}: files: model.onnx is not listed")
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file}: missing, though the manifest lists it")
        if digest(file) != expected:
            raise ArtifactError(f"{file}: its digest is not the manifest's; export the model again")


def _read(path: Path) -> bytes:
    """Read a file that is as small as manifests are; a pipe or a device would be read for ever."""
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path}: is no file")
    with path.open("rb") as file:
        raw = file.read(MOST_MANIFEST_BYTES + 1)
    if len(raw) > MOST_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: larger than {MOST_MANIFEST_BYTES} bytes")
    return raw


def _faults(error: ValidationError) -> str:
    """The first faults as ``field: what would be accepted``, without what stood there."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    words = []
    for fault in found[:_MOST_FAULTS]:
        place = ".".join(str(part) for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        reason = reason.replace("Invalid JSON", "not JSON") if fault["type"] == "json_invalid" else reason
        words.append(f"{place}: {reason}" if place else reason)
    more = f" (and {len(found) - _MOST_FAULTS} more)" if len(found) > _MOST_FAULTS else ""
    text = "; ".join(words)
    return (text if len(text) <= _MOST_REASON else text[:_MOST_REASON] + "…") + more
