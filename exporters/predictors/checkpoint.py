"""A trained predictor on disk, before it is exported: a folder with ``checkpoint.json`` and its weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from exporters.faults import CurvesFileError
from exporters.measure.curves import window_points
from exporters.predictors.kinds import module_of
from exporters.predictors.trained import Calibration, Trained


def save_checkpoint(trained: Trained, folder: Path) -> None:
    """Write a checkpoint, from which a model folder of any precision can be exported."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = trained.save(folder)
    text = json.dumps({**saved, "calibration": asdict(trained.calibration)}, indent=1)
    (folder / "checkpoint.json").write_text(text + "\n")


def load_checkpoint(folder: Path) -> Trained:
    """Read a checkpoint. Raises CurvesFileError, with the file, where it is none."""
    path = folder / "checkpoint.json"
    try:
        saved = json.loads(path.read_text())
        known = saved["calibration"]
        # Checkpoints of before 0.2 have points at 16, 32, … tokens and do not say so.
        points = window_points(len(known["mean_curve"])).tolist()
        calibration = Calibration(**{"points": points, **known})
        return module_of(saved["kind"]).load(folder, saved, calibration)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CurvesFileError(f"{path}: not a checkpoint: {error!r}") from None
