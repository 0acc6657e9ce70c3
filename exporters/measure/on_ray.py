"""Run the shards of ``collect`` or ``features`` on a Ray cluster, and merge what they wrote.

A shard is the very command that a Kubernetes Indexed Job would run, in a process of its own on some node. What goes in
(the questions) and what comes out (its part) travel through Ray, so that the nodes need no shared disk. A shard whose
node died is run again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from exporters.measure.merge import merge
from exporters.measure.questions import Shard, read_questions

COMMANDS = ("collect", "features")
_RETRIES = 3


def run_shard(command: Sequence[str], questions: bytes, shard: Shard) -> dict[str, bytes]:
    """Run one shard of a command here; returns the files that it wrote, by name. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "questions.jsonl").write_bytes(questions)
        out = folder / "out"
        target = out / "part.parquet" if command[0] == "collect" else out
        done = subprocess.run(  # noqa: S603  # our own command line
            [
                sys.executable, "-m", "predictive_scheduling_cli", *command, "--questions",
                str(folder / "questions.jsonl"), "--out", str(target), "--shard", f"{shard.index}/{shard.count}",
            ],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"shard {shard.index} of {shard.count}: {done.stderr.strip()[-2000:]}")
        return {path.name: path.read_bytes() for path in out.iterdir()}


def run_on_ray(
    command: Sequence[str],
    questions: Path,
    out: Path,
    shards: int,
    *,
    address: str = "",
    cpus: float = 1.0,
    on_done: Callable[[], None] = lambda: None,
) -> None:
    """Run ``command`` (collect or features, with its own options) over ``shards`` parts, and write what they merge to.

    ``address``: the cluster's, ``auto`` for the one of this node, empty for one that is started here. ``cpus``: what a
    shard takes of a node. Raises CurvesFileError for a questions file or parts that do not fit, RuntimeError for a
    shard that failed on every try, ValueError for another command.
    """
    if not command or command[0] not in COMMANDS:
        raise ValueError(f"on-ray runs {' or '.join(COMMANDS)}, not {' '.join(command[:1]) or 'nothing'}")
    asked = read_questions(questions)
    if not 1 <= shards <= len(asked):
        raise ValueError(f"--shards: {shards} is not from 1 to {len(asked)}, the number of questions")
    import ray  # the extra "ray"

    ray.init(address=address or None, log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(num_cpus=cpus, max_retries=_RETRIES, retry_exceptions=True)(run_shard)
        text = ray.put(questions.read_bytes())
        waiting = {remote.remote(list(command), text, Shard(index, shards)): index for index in range(shards)}
        with tempfile.TemporaryDirectory() as scratch:
            parts = [Path(scratch) / f"part-{index}" for index in range(shards)]
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                part = parts[waiting.pop(ready)]
                part.mkdir()
                for name, content in ray.get(ready).items():
                    (part / name).write_bytes(content)
                on_done()
            files = [part / "part.parquet" for part in parts] if command[0] == "collect" else parts
            merge(files, asked, out)
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"on-ray: {error}") from None
    finally:
        ray.shutdown()
