"""Writes that survive a kill: each is on the disk as a whole, or has not happened.

Whatever the loop writes goes through here, so that a test can end it between any two writes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


class Disk:
    """Appends lines, and replaces files, folders and links. ``before``: is told of every write before it happens."""

    def __init__(self, before: Callable[[str], None] = lambda _: None) -> None:
        """Tell ``before``, which may raise to stop everything there."""
        self._before = before

    def append(self, path: Path, line: bytes) -> None:
        """Add one line to a file; what a kill left of an unfinished last line is cut off first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._before(f"append {path.name}")
        with path.open("a+b") as file:
            size = _end_of_whole_lines(file.tell(), path)
            file.truncate(size)
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def write(self, path: Path, content: bytes) -> None:
        """Replace a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._before(f"write {path.name}")
        beside = path.with_name(f".{path.name}.new")
        beside.write_bytes(content)
        _sync(beside)
        beside.replace(path)
        _sync(path.parent)

    def place(self, staged: Path, folder: Path) -> None:
        """Move a finished folder to where nothing is yet; what stands there already is replaced."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        for path in (*staged.iterdir(), staged):
            _sync(path)
        self._before(f"place {folder.name}")
        shutil.rmtree(folder, ignore_errors=True)
        staged.rename(folder)
        _sync(folder.parent)

    def link(self, path: Path, target: str) -> None:
        """Let ``path`` point at ``target``, which is relative to it, from one moment to the next."""
        self._before(f"link {path.name}")
        beside = path.with_name(f".{path.name}.new")
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(path)
        _sync(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a link, or a folder with all that is in it."""
        self._before(f"remove {path.name}")
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
        _sync(path.parent)


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that were written to their ends; none where there is no file."""
    if not path.exists():
        return []
    *lines, _unfinished = path.read_bytes().split(b"\n")
    return lines


def _end_of_whole_lines(size: int, path: Path) -> int:
    if size == 0:
        return 0
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return size
    return path.read_bytes().rfind(b"\n") + 1


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
