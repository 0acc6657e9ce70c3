"""The hidden states file: an .npz with ``question_id`` and ``hidden_state``, one row per question of a curves file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.faults import CurvesFileError


def read_npz(path: Path) -> tuple[list[str], NDArray[np.floating[Any]]]:
    """Read a hidden states file as it is: ids and states (n, size), of one length.

    Raises CurvesFileError for a file that cannot be read (or is cut short), lacks a key, or has another number of rows
    than ids.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [key for key in ("question_id", "hidden_state") if key not in file.files]
            if missing:
                raise CurvesFileError(f"{path}: no key {', '.join(missing)}; found {', '.join(file.files)}")
            found, states = [str(name) for name in file["question_id"]], file["hidden_state"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CurvesFileError(f"{path}: not a readable .npz file: {error}") from error
    if states.ndim != 2 or len(states) != len(found):
        raise CurvesFileError(f"{path}: hidden_state: shape {states.shape} does not fit {len(found)} question ids")
    return found, states


def write_hidden_states(path: Path, ids: Sequence[str], states: NDArray[np.floating[Any]]) -> None:
    """Write a hidden states file, whole or not at all: a killed worker leaves none that looks finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez_compressed(unfinished, question_id=np.array(ids), hidden_state=states)
    unfinished.replace(path)


def write_layers(out: Path, ids: Sequence[str], layers: Sequence[int], states: NDArray[np.floating[Any]]) -> list[Path]:
    """Write ``out/layer-LL.npz`` for each layer, from ``states`` (layers, questions, size); returns the paths."""
    paths = [out / f"layer-{layer:02}.npz" for layer in layers]
    for path, state in zip(paths, states, strict=True):
        write_hidden_states(path, ids, state)
    return paths


def read_hidden_states(path: Path, ids: Sequence[str]) -> NDArray[np.float32]:
    """Read the hidden states of the questions ``ids``, in their order: (n, size) float32.

    Raises CurvesFileError for what ``read_npz`` refuses, a repeated id, one of ``ids`` missing, or a number that is not
    finite; with the row if there is one.
    """
    found, states = read_npz(path)
    places = {name: row for row, name in enumerate(found)}
    if len(places) != len(found):
        twice = next(name for row, name in enumerate(found) if places[name] != row)
        raise CurvesFileError(f"{path}: question_id: {twice} stands there twice")
    absent = [name for name in ids if name not in places]
    if absent:
        raise CurvesFileError(f"{path}: question_id: no row for {absent[0]} ({len(absent)} of {len(ids)} are missing)")
    chosen: NDArray[np.float32] = states[[places[name] for name in ids]].astype(np.float32)
    faulty = np.flatnonzero(~np.isfinite(chosen).all(axis=1))
    if len(faulty):
        name = ids[int(faulty[0])]
        raise CurvesFileError(f"{path}: row {places[name]} ({name}), hidden_state: holds a number that is not finite")
    return chosen
