"""The models that are served, kept as their folders are: a folder that changes is loaded beside and then exchanged.

A call that began on the old model ends on it. A folder that cannot be served is logged, and what was served before goes
on; so does the model of a folder that vanished, if it is the default.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from predictor_service.artifact import ArtifactError, digest
from predictor_service.batcher import Batcher
from predictor_service.model import LoadedModel

log = logging.getLogger(__name__)

_RETIRE_SECONDS = 1.0


@dataclass(eq=False)
class _Served:
    """A model in service: what its manifest was, and the task that runs its batches."""

    folder: Path
    digest: str
    batcher: Batcher
    task: asyncio.Task[None]


class Catalog(Mapping[str, Batcher]):
    """Batchers by model name. ``load``, then ``watch``; ``close`` ends them all."""

    def __init__(
        self, folder: Path, default: str, load: Callable[[Path], LoadedModel], batch: Callable[[LoadedModel], Batcher]
    ) -> None:
        """Serve the model folders below ``folder``; ``load`` and ``batch`` make a model and its batcher."""
        self._folder, self._default = folder, default
        self._load, self._batch = load, batch
        self._served: dict[str, _Served] = {}
        self._refused: dict[Path, str] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def __getitem__(self, name: str) -> Batcher:
        """The batcher of a model."""
        return self._served[name].batcher

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._served)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._served)

    async def load(self) -> None:
        """Load every folder. Raises ArtifactError for none, a bad one, a name twice, or no default."""
        for path in self._manifests():
            model = await asyncio.to_thread(self._load, path.parent)
            if model.name in self._served:
                raise ArtifactError(f"{path}: name: {model.name} is the name of another folder's model")
            self._serve(model, path, digest(path))
        if not self._served:
            raise ArtifactError(f"{self._folder}: no model folder (one with a manifest.json) in it")
        if self._default not in self._served:
            raise ArtifactError(f"default_model: {self._default!r} is none of {', '.join(self._served)}")

    async def watch(self, seconds: float) -> None:
        """Look for changes every so many seconds until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.refresh()

    async def refresh(self) -> None:
        """Bring what is served up to what the folders hold now."""
        found = self._manifests()
        for path in found:
            await self._refresh(path)
        for name, served in list(self._served.items()):
            if served.folder / "manifest.json" not in found and name != self._default:
                log.info("model %s: its folder is gone, it is served no more", name)
                self._retire(self._served.pop(name))

    async def close(self) -> None:
        """End all batchers."""
        tasks = [served.task for served in self._served.values()] + list(self._retiring)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _manifests(self) -> list[Path]:
        return sorted(self._folder.glob("*/manifest.json"))

    async def _refresh(self, path: Path) -> None:
        try:
            now, state = await asyncio.to_thread(lambda: (digest(path), _state(path.parent)))
        except OSError:  # it vanished between the look and the read
            return
        served = (one for one in self._served.values() if one.folder == path.parent)
        if state == self._refused.get(path) or any(one.digest == now for one in served):
            return
        try:
            model = await asyncio.to_thread(self._load, path.parent)
            old = self._served.get(model.name)
            if old is not None and old.folder != path.parent:
                raise ArtifactError(f"{path}: name: {model.name} is the name of another folder's model")
        except ArtifactError as error:
            self._refused[path] = state
            log.error("a changed model folder is not served, what was served goes on: %s", error)
            return
        self._refused.pop(path, None)
        self._serve(model, path, now)
        if old is not None:
            self._retire(old)

    def _serve(self, model: LoadedModel, path: Path, manifest: str) -> None:
        batcher = self._batch(model)
        task = asyncio.get_running_loop().create_task(batcher.run())
        self._served[model.name] = _Served(path.parent, manifest, batcher, task)

    def _retire(self, served: _Served) -> None:
        """End a batcher once the calls that reached it are done."""

        async def end() -> None:
            await asyncio.sleep(_RETIRE_SECONDS)
            while served.batcher.busy:  # noqa: ASYNC110  # it has nobody to tell
                await asyncio.sleep(0.05)
            served.task.cancel()

        task = asyncio.get_running_loop().create_task(end())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _state(folder: Path) -> str:
    """What the files of a folder look like from outside: tells whether a refused one is worth another try."""
    return repr([(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.iterdir())])
