"""Where served models lie: the predictor's own models folder, under three names that never change.

``learned`` is the default, ``learned-canary`` and ``learned-shadow`` are on trial beside it, so that the predictor's
settings stay as they are whatever is promoted. In a folder a model is written beside, under a hidden name, and a link
is exchanged: a reader sees the old model or the new one, never a part of one. In an object store, which has no links,
the manifest is written last and removed first: what lies there meanwhile does not fit its digests, and is not served.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from exporters.learning.disk import Disk
from predictor_service.artifact import ArtifactError, read_manifest, write_manifest

SLOTS = {"default": "learned", "canary": "learned-canary", "shadow": "learned-shadow"}


class StoreUnreachableError(OSError):
    """An object store cannot be reached, or its client cannot say who asks."""


class Store(Protocol):
    """Holds one model a slot, and a card for each version. Doing again what was done in part does no harm.

    All of it raises OSError where it cannot be done; it may be tried again.
    """

    def publish(self, slot: str, model: Path) -> None:
        """Let a slot hold the model folder ``model``, from one moment to the next."""
        ...

    def withdraw(self, slot: str) -> None:
        """Let a slot hold nothing."""
        ...

    def write_card(self, version: int, card: bytes) -> None:
        """Keep a version's card."""
        ...


class FolderStore:
    """A folder, on a disk or a volume that the predictor sees."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        """Publish into ``root``."""
        self._root, self._disk = root, disk or Disk()
        self._hidden = root / ".learned"

    def publish(self, slot: str, model: Path) -> None:
        """Write the model beside, exchange the slot's link, and remove what it pointed at.

        Raises ValueError where the name is taken by a folder that is not of this store.
        """
        name = SLOTS[slot]
        link = self._link(name)
        manifest = read_manifest(model)
        target = self._hidden / f"{name}@{manifest.version}"
        if link.is_symlink() and link.readlink().name == target.name and _graph(link) == manifest.files["model.onnx"]:
            self._tidy(name, target.name)
            return
        staged = self._hidden / f".{target.name}.new"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for file in manifest.files:
            shutil.copyfile(model / file, staged / file)
        write_manifest(staged, manifest.model_copy(update={"name": name}))
        self._disk.place(staged, target)
        self._disk.link(link, f"{self._hidden.name}/{target.name}")
        self._tidy(name, target.name)

    def withdraw(self, slot: str) -> None:
        """Remove the slot's link, and what it pointed at."""
        link = self._link(SLOTS[slot])
        if link.is_symlink():
            self._disk.remove(link)
        self._tidy(SLOTS[slot], "")

    def write_card(self, version: int, card: bytes) -> None:
        """Write ``cards/VERSION.json``."""
        path = self._root / "cards" / f"{version}.json"
        if not path.exists() or path.read_bytes() != card:
            self._disk.write(path, card)

    def _link(self, name: str) -> Path:
        link = self._root / name
        if link.exists() and not link.is_symlink():
            raise ValueError(f"{link}: is a folder of somebody else's; the loop would replace it")
        return link

    def _tidy(self, name: str, kept: str) -> None:
        for folder in sorted(self._hidden.glob(f"{name}@*")):
            if folder.name != kept:
                self._disk.remove(folder)


class ObjectStore:
    """A prefix of an object store that ``fsspec`` reaches, such as ``s3://bucket/models``, for who mounts it.

    Whoever reads a model while it is replaced sees one whose digests do not fit, and tries again.
    """

    def __init__(self, url: str) -> None:
        """Publish below ``url``. Raises ValueError where ``fsspec`` cannot reach such an address."""
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"--store: {url.partition('://')[0]}: cannot be reached: {error}") from None

    def publish(self, slot: str, model: Path) -> None:
        """Write the model's files, and its manifest last."""
        name = SLOTS[slot]
        manifest = read_manifest(model).model_copy(update={"name": name})
        text = (manifest.model_dump_json(indent=1) + "\n").encode()
        with _reached():
            if self._read(f"{name}/manifest.json") == text:
                return
            for file in manifest.files:
                self._files.pipe_file(f"{self._root}/{name}/{file}", (model / file).read_bytes())
            self._files.pipe_file(f"{self._root}/{name}/manifest.json", text)

    def withdraw(self, slot: str) -> None:
        """Remove the manifest, and then the rest."""
        folder = f"{self._root}/{SLOTS[slot]}"
        with _reached():
            if self._files.exists(f"{folder}/manifest.json"):
                self._files.rm_file(f"{folder}/manifest.json")
            if self._files.exists(folder):
                self._files.rm(folder, recursive=True)

    def write_card(self, version: int, card: bytes) -> None:
        """Write ``cards/VERSION.json``."""
        with _reached():
            if self._read(f"cards/{version}.json") != card:
                self._files.pipe_file(f"{self._root}/cards/{version}.json", card)

    def _read(self, name: str) -> bytes:
        try:
            found: Any = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return b""
        return bytes(found)


def store_of(address: str, disk: Disk | None = None) -> Store:
    """Return the store of a folder, or of an address such as ``s3://bucket/models``."""
    return ObjectStore(address) if "://" in address else FolderStore(Path(address), disk)


@contextmanager
def _reached() -> Iterator[None]:
    """Raise OSError, whatever a store's client raises: without a connection or credentials, S3's has its own errors."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise StoreUnreachableError(f"the store cannot be reached: {type(error).__name__}: {error}") from None


def _graph(folder: Path) -> str:
    """The digest of a folder's graph; empty where it could not be served."""
    try:
        return read_manifest(folder).files["model.onnx"]
    except ArtifactError:
        return ""
