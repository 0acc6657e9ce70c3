"""The models that are served, kept as their folders are: a folder that changes is loaded beside and then exchanged.

A call that began on the old model ends on it. A folder that cannot be served, for whatever reason, is logged, and what
it served before stays served; other folders are not affected. The default model stays, too, where its folder has
vanished or now holds a model of another name, until a folder brings one of its name; unless it may be missing, which is
how a learner takes back what it served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from predictor_service.artifact import ArtifactError, manifest_digest
from predictor_service.batching.batcher import Batcher
from predictor_service.model import LoadedModel

log = logging.getLogger(__name__)

_RETIRE_SECONDS = 1.0


@dataclass(eq=False)
class _Served:
    """A model in service: what its manifest was, and the task that runs its batches."""

    digest: str
    batcher: Batcher
    task: asyncio.Task[None]

    @property
    def name(self) -> str:
        return self.batcher.model.name


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A model that was loaded beside what is served: its manifest's digest, and what its folder looked like."""

    model: LoadedModel
    manifest: str
    state: str


@dataclass(frozen=True)
class _Refused:
    """A folder that is not served as it is: what its files looked like, and why; tried again when they change."""

    state: str
    reason: str
    name_taken: bool = False


_AS_SERVED, _AS_REFUSED = object(), object()


class Catalog(Mapping[str, Batcher]):
    """Batchers by model name. ``load``, then ``watch``; ``close`` ends them all."""

    def __init__(
        self,
        folder: Path,
        default: str,
        load: Callable[[Path], LoadedModel],
        batch: Callable[[LoadedModel], Batcher],
        *,
        default_may_be_missing: bool = False,
    ) -> None:
        """Serve the model folders below ``folder``; ``load`` and ``batch`` make a model and its batcher.

        ``default_may_be_missing``: start without the default model, or any, and let it go with its folder.
        """
        self._folder, self._default, self._may_be_missing = folder, default, default_may_be_missing
        self._load, self._batch = load, batch
        self._served: dict[Path, _Served] = {}  # by folder
        self._kept: _Served | None = None  # the default model, where no folder holds it any more
        self._names: dict[str, Batcher] = {}
        self._refused: dict[Path, _Refused] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def __getitem__(self, name: str) -> Batcher:
        """Return the batcher of a model. Raises KeyError for a name that no model has."""
        return self._names[name]

    @property
    def refused(self) -> int:
        """How many folders cannot be served as they are."""
        return len(self._refused)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the served models."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of served models."""
        return len(self._names)

    async def load(self) -> None:
        """Load every folder that can be served; the others are logged.

        Raises ArtifactError where there is none, or where all are well and none has the default's name, unless the
        default may be missing.
        """
        try:
            await self._bring_up_to_date()
        except OSError as error:
            raise ArtifactError(f"{self._folder}: no model folder can be seen: {error.strerror or error}") from error
        if self._may_be_missing:
            if self._default not in self._names:
                log.warning(
                    "model %s, the default, is not there yet; calls that name no model are refused", self._default
                )
            return
        reasons = "; ".join(refused.reason for refused in self._refused.values())
        if not self._names:
            raise ArtifactError(reasons or f"{self._folder}: no model folder (one with a manifest.json) in it")
        if self._default not in self._names:
            wrong = f"default_model: {self._default!r} is none of {', '.join(self._names)}"
            if not reasons:
                raise ArtifactError(wrong)
            log.error("%s; calls that name no model are refused until its folder is mended", wrong)

    async def watch(self, seconds: float) -> None:
        """Look for changes every so many seconds until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.refresh()

    async def refresh(self) -> None:
        """Bring what is served up to what the folders hold now."""
        try:
            await self._bring_up_to_date()
        except OSError as error:  # of the folder of folders: a network file system that is away for a moment
            log.warning("%s cannot be listed, the models that are served stay: %s", self._folder, error)

    async def close(self) -> None:
        """Cancel every batcher, and wait for their ends."""
        kept = [self._kept] if self._kept is not None else []
        tasks = [served.task for served in (*self._served.values(), *kept)] + list(self._retiring)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring_up_to_date(self) -> None:
        found = await asyncio.to_thread(_model_folders, self._folder, self._may_be_missing)
        gone = self._served.keys() - set(found)
        for folder in gone:
            log.info("model %s: its folder is gone", self._served[folder].name)
            self._leave(self._served.pop(folder))
        for folder in self._refused.keys() - set(found):
            del self._refused[folder]
        loaded = await self._load_changed(found)
        if loaded or gone:  # a name that another folder had may be free now
            again = [folder for folder, refused in self._refused.items() if refused.name_taken]
            loaded |= await self._load_changed(again, even_unchanged=True)
        held = {folder: served.name for folder, served in self._served.items()}
        allowed = without_name_twice(held, {folder: new.model.name for folder, new in loaded.items()})
        for folder, new in loaded.items():
            if folder in allowed:
                self._refused.pop(folder, None)
                self._serve(folder, new)
            else:
                reason = f"{folder}: name: {new.model.name} is the name of another folder's model"
                self._refuse(folder, _Refused(new.state, reason, name_taken=True))
        self._name_all()

    async def _load_changed(self, folders: Sequence[Path], *, even_unchanged: bool = False) -> dict[Path, _Loaded]:
        """The models of folders that have changed; a failure is its folder's alone."""
        loaded = {}
        for folder in folders:
            result = await asyncio.to_thread(self._look, folder, even_unchanged)
            if isinstance(result, _Refused):
                self._refuse(folder, result)
            elif isinstance(result, _Loaded):
                loaded[folder] = result
            elif result is _AS_SERVED:
                self._refused.pop(folder, None)
        return loaded

    def _look(self, folder: Path, even_unchanged: bool) -> _Loaded | _Refused | object:
        """Load a folder, or say that it is as it is served, was refused as it is, or why it is refused now."""
        state = ""
        try:
            state = _state(folder)
            refused, served = self._refused.get(folder), self._served.get(folder)
            if refused is not None and refused.state == state and not even_unchanged:
                return _AS_REFUSED
            manifest = manifest_digest(folder)
            if served is not None and served.digest == manifest:
                return _AS_SERVED
            return _Loaded(self._load(folder), manifest, state)
        except ArtifactError as error:
            return _Refused(state, str(error))
        except BaseException as error:  # a thread gets no signals; tokenizers panics by BaseException
            return _Refused(state, f"{folder}: {type(error).__name__}: {error}")

    def _refuse(self, folder: Path, refused: _Refused) -> None:
        before = self._refused.get(folder)
        if before is None or before.reason != refused.reason:
            going_on = ", the model that it served stays" if folder in self._served else ""
            log.error("a model folder is not served%s: %s", going_on, refused.reason)
        self._refused[folder] = refused

    def _serve(self, folder: Path, new: _Loaded) -> None:
        batcher = self._batch(new.model)
        task = asyncio.get_running_loop().create_task(batcher.run())
        old = self._served.get(folder)
        self._served[folder] = _Served(new.manifest, batcher, task)
        if old is not None and old.name != new.model.name:
            log.info("model %s: its folder now holds %s", old.name, new.model.name)
            self._leave(old)
        elif old is not None:
            self._retire(old)

    def _leave(self, served: _Served) -> None:
        """End a model that no folder holds any more, but keep the default one."""
        if served.name == self._default and self._kept is None and not self._may_be_missing:
            log.warning("model %s, the default, stays served without a folder", served.name)
            self._kept = served
        else:
            self._retire(served)

    def _name_all(self) -> None:
        """Bring the names up to date. The kept default leaves as soon as a folder brings one of its name."""
        self._names = {served.name: served.batcher for _, served in sorted(self._served.items())}
        if self._kept is not None and self._kept.name in self._names:
            self._retire(self._kept)
            self._kept = None
        elif self._kept is not None:
            self._names[self._kept.name] = self._kept.batcher

    def _retire(self, served: _Served) -> None:
        """End a batcher once the calls that reached it are done."""

        async def end() -> None:
            await asyncio.sleep(_RETIRE_SECONDS)
            while served.batcher.busy:  # noqa: ASYNC110  # a batcher has no event for it
                await asyncio.sleep(0.05)
            served.task.cancel()

        task = asyncio.get_running_loop().create_task(end())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def without_name_twice(held: Mapping[Path, str], wanted: Mapping[Path, str]) -> set[Path]:
    """Return the folders that may take the names that they want, beside what all the others hold. Pure.

    Of several folders of one name the one that has it stays, else the first takes it. Folders may swap names.
    """
    allowed = set(wanted)
    while True:
        owners: dict[str, Path] = {}
        refused = set()
        # Those that keep their name, or get no other one, come first; then by path.
        keeping = [folder for folder in held if folder not in allowed or wanted[folder] == held[folder]]
        changing = sorted(allowed.difference(keeping))
        for folder in (*sorted(keeping), *changing):
            name = wanted[folder] if folder in allowed else held[folder]
            if owners.setdefault(name, folder) != folder:
                refused.add(folder)
        if not refused & allowed:
            return allowed
        allowed -= refused


def _model_folders(folder: Path, may_be_missing: bool) -> list[Path]:
    """The folders that have a manifest, but for hidden ones. Raises OSError where ``folder`` cannot be listed.

    ``may_be_missing``: where there is no such folder, there are no models.
    """
    if may_be_missing and not folder.exists():
        return []
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and _has_manifest(path)]


def _has_manifest(folder: Path) -> bool:
    try:
        return (folder / "manifest.json").exists()
    except OSError:  # it is there, but may not be looked into: refused when it is read
        return folder.is_dir()


def _state(folder: Path) -> str:
    """What the files of a folder look like from outside: tells whether a refused one is worth another try."""
    return repr([(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.iterdir())])
