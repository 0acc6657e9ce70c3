"""The samples that the loop works with: in memory for one run, or encrypted on disk for all.

On disk each line is a token of Fernet (AES-128-CBC with HMAC-SHA-256): a sample as it came, or its measurement with the
hidden state that came beside it; a state says much of its prompt, and is kept as the prompt is. Without a key nothing
of a prompt is written anywhere. A prompt is known by a keyed digest, so that it counts once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from exporters.learning.disk import Disk, whole_lines
from exporters.learning.samples import Example, Sample
from exporters.learning.states import PromptState
from exporters.measure.collect import Measured


class KeyFault(ValueError):
    """A key is none, or not the one that the samples were encrypted with."""


class Cipher(Protocol):
    """Encrypts lines."""

    def encrypt(self, data: bytes) -> bytes:
        """Return one line of ASCII."""
        ...

    def decrypt(self, token: bytes) -> bytes:
        """Return what was encrypted. Raises where it was not by this key."""
        ...


def cipher_of(key: str) -> Cipher:
    """Return the cipher of a key (32 bytes in URL-safe base64). Raises KeyFault."""
    try:
        from cryptography.fernet import Fernet
    except ImportError:
        raise KeyFault("a key needs the extra: pip install 'predictive-scheduling[learn]'") from None
    try:
        return Fernet(key.strip().encode())
    except ValueError:
        raise KeyFault("the key is none: make one by 'openssl rand -base64 32 | tr +/ -_'") from None


class Pool:
    """Samples by the order in which they came. ``first``: the number of the next one, where none are on disk."""

    def __init__(self, path: Path | None = None, key: str = "", disk: Disk | None = None, first: int = 1) -> None:
        """Keep samples in ``path``, encrypted by ``key``; without them in memory. Raises KeyFault."""
        self._disk, self._path = disk or Disk(), path if key else None
        self._cipher = cipher_of(key) if key else None
        # A file's key has an end of line, which a variable's has not.
        bare = key.strip().encode()
        self._secret = hashlib.blake2b(bare, digest_size=32).digest() if key else secrets.token_bytes(32)
        self._examples: dict[str, Example] = {}
        self._next = first
        if self._path is not None:
            for line in whole_lines(self._path):
                self._read(line)

    def add(self, sample: Sample) -> Example | None:
        """Take a sample in; ``None`` where its prompt is known."""
        key = hashlib.blake2b(sample.prompt.encode(), key=self._secret, digest_size=16).hexdigest()
        if key in self._examples:
            return None
        example = Example(self._next, key, sample)
        self._write(_sample_row(example))
        self._next += 1
        self._examples[key] = example
        return example

    def measured(self, key: str, measured: Measured, state: PromptState | None = None) -> None:
        """Keep what was measured of a sample, and its prompt's state where it is known."""
        self._write(_measured_row(key, measured, state))
        self._examples[key] = replace(self._examples[key], measured=measured, state=state)

    def all(self) -> list[Example]:
        """Return all samples, oldest first."""
        return sorted(self._examples.values(), key=lambda example: example.number)

    def forget(self, most: int) -> None:
        """Keep the latest ``most`` only, on disk as well."""
        if len(self._examples) <= most:
            return
        kept = self.all()[-most:] if most else []
        if self._path is not None and self._cipher is not None:
            lines = [self._cipher.encrypt(json.dumps(row).encode()) for example in kept for row in _rows(example)]
            self._disk.write(self._path, b"".join(line + b"\n" for line in lines))
        self._examples = {example.key: example for example in kept}

    def _write(self, row: dict[str, object]) -> None:
        if self._path is not None and self._cipher is not None:
            self._disk.append(self._path, self._cipher.encrypt(json.dumps(row).encode()))

    def _read(self, line: bytes) -> None:
        assert self._cipher is not None  # noqa: S101  (for the type checker: there is a path only with a key)
        try:
            row = json.loads(self._cipher.decrypt(line))
        except Exception:  # the cipher's own error, whatever library makes it
            raise KeyFault(f"{self._path}: encrypted by another key; give that one, or move the file away") from None
        if "measured" in row:
            known = self._examples[row["key"]]
            measured = Measured(**{**row["measured"], "question": known.sample.prompt})
            self._examples[row["key"]] = replace(known, measured=measured, state=_state(row.get("state")))
        else:
            sample = Sample(row["prompt"], row["tenant"])
            self._examples[row["key"]] = Example(row["number"], row["key"], sample)
            self._next = max(self._next, row["number"] + 1)


def _rows(example: Example) -> list[dict[str, object]]:
    measured = example.measured
    return [_sample_row(example), *([] if measured is None else [_measured_row(example.key, measured, example.state)])]


def _sample_row(example: Example) -> dict[str, object]:
    sample = example.sample
    return {"number": example.number, "key": example.key, "prompt": sample.prompt, "tenant": sample.tenant}


def _measured_row(key: str, measured: Measured, state: PromptState | None) -> dict[str, object]:
    """What was measured, without the question, which the sample's row has."""
    row: dict[str, object] = {"key": key, "measured": {**asdict(measured), "question": ""}}
    if state is not None:
        values = base64.b64encode(state.values.astype("<f2").tobytes()).decode()
        row["state"] = {"layer": state.layer, "values": values}
    return row


def _state(row: dict[str, Any] | None) -> PromptState | None:
    if row is None:
        return None
    return PromptState(row["layer"], np.frombuffer(base64.b64decode(row["values"]), "<f2").astype(np.float16))
