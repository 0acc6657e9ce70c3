"""A model folder: ``model.onnx`` and the ``manifest.json`` that says what it is. Checked before it is served."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


class ArtifactError(ValueError):
    """A model folder cannot be served; the message says which file and why."""


@dataclass(frozen=True)
class Manifest:
    """What a model folder holds.

    ``kind``: how it was made; a server serves any that has a predictor's inputs and outputs. ``windows`` and
    ``budget_window_tokens``: the length and the step of a curve. ``hidden_size``: components of the hidden state that
    the model takes, 0 for none. ``mean_curve``: mean accuracy of the training data per window; ``uncertainty``:
    standard deviation of the error per window on validation data. ``files``: name → ``sha256:…``. ``max_tokens``: where
    above 0, text goes through ``tokenizer.json``, within ``prompt``, and is cut after so many tokens. ``class_curves``:
    the mean curve of each difficulty class, for models that classify.
    """

    name: str
    version: str
    kind: str
    budget_window_tokens: int
    windows: int
    takes_text: bool
    hidden_size: int
    layer: int
    max_text_bytes: int
    training_data: dict[str, str]
    validation: dict[str, float]
    reliability: float
    mean_curve: list[float]
    uncertainty: list[float]
    files: dict[str, str] = field(default_factory=dict)
    max_tokens: int = 0
    prompt: str = "{prompt}"
    class_curves: dict[str, list[float]] = field(default_factory=dict)


def digest(path: Path) -> str:
    """Return a file's ``sha256:…``."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the digests of the folder's other files; returns what was written."""
    files = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
    complete = Manifest(**{**asdict(manifest), "files": files})
    (folder / "manifest.json").write_text(json.dumps(asdict(complete), indent=1) + "\n")
    return complete


def read_manifest(folder: Path) -> Manifest:
    """Read a model folder's manifest and check the folder against it. Raises ArtifactError."""
    path = folder / "manifest.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    try:
        manifest = Manifest(**raw)
    except TypeError as error:
        raise ArtifactError(f"{path}: {str(error).replace('Manifest.__init__() ', '')}") from error
    _check(path, manifest)
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file}: missing, though the manifest lists it")
        if digest(file) != expected:
            raise ArtifactError(f"{file}: its digest is not the manifest's; export the model again")
    return manifest


def _check(path: Path, manifest: Manifest) -> None:
    curves = {"mean_curve": manifest.mean_curve, "uncertainty": manifest.uncertainty}
    for name, curve in curves.items():
        if len(curve) != manifest.windows or not all(0 <= value <= 1 for value in curve):
            raise ArtifactError(f"{path}: {name}: must be {manifest.windows} numbers from 0 to 1")
    if not _KIND.fullmatch(manifest.kind):
        raise ArtifactError(f"{path}: kind: {manifest.kind!r} is no name of small letters, digits and underscores")
    if not manifest.takes_text and manifest.hidden_size < 1:
        raise ArtifactError(f"{path}: takes_text, hidden_size: the model takes no input at all")
    if manifest.max_tokens and "tokenizer.json" not in manifest.files:
        raise ArtifactError(f"{path}: files: tokenizer.json is not listed, though max_tokens says that it is needed")
    if "{prompt}" not in manifest.prompt:
        raise ArtifactError(f"{path}: prompt: must contain {{prompt}}")
    if "model.onnx" not in manifest.files:
        raise ArtifactError(f"{path}: files: model.onnx is not listed")
