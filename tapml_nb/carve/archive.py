"""The bundle's container: one zip file in which every byte is accounted for.

Members are stored uncompressed; tensors are safetensors files named by their content, so each
is there once.  The manifest holds a SHA-256 of every other member, and the zip's comment one of
the whole file, so that damage is found wherever it is, and named.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb import tensorfile

SCHEMA = 1
"""Version of the manifest; a reader refuses any other."""

MANIFEST = "manifest.json"
_MARK = b"tapml-bundle sha256:"
_HEX = 64


class BundleError(ValueError):
    """A file that is no bundle, a damaged one, or one of another version."""


def write_archive(
    path: Path, manifest: dict[str, Any], members: Iterable[tuple[str, bytes]]
) -> None:
    """Write a bundle; it replaces ``path`` only when it is complete.

    Args:
        path: the file to write.
        manifest: JSON data; the members' digests are added.
        members: name and content of every other member.
    """
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        digests: dict[str, str] = {}
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content)
                digests[name] = hashlib.sha256(content).hexdigest()
            text = json.dumps(manifest | {"schema": SCHEMA, "members": digests}, indent=1)
            archive.writestr(zipfile.ZipInfo(MANIFEST), text)
            archive.comment = _MARK + b"0" * _HEX
        _seal(Path(scratch))
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _seal(path: Path) -> None:
    with path.open("r+b") as file:
        digest = _digest_but_seal(path)
        file.seek(-_HEX, os.SEEK_END)
        file.write(digest.encode())


def _digest_but_seal(path: Path) -> str:
    """SHA-256 of all but the digest itself, which are the file's last bytes."""
    hasher = hashlib.sha256()
    left = path.stat().st_size - _HEX
    with path.open("rb") as file:
        while left > 0:
            chunk = file.read(min(left, 1 << 20))
            hasher.update(chunk)
            left -= len(chunk)
    return hasher.hexdigest()


class Archive:
    """A bundle opened for reading, checked from end to end before anything is used."""

    def __init__(self, path: Path) -> None:
        """Open and check.

        Raises:
            BundleError: if the file is missing, no bundle, damaged (with the member's name), or
                of another schema.
        """
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise BundleError(f"{path} does not exist") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{path} is not a bundle, or its directory is damaged: {error}"
            ) from None
        self.manifest = self._check()
        self._tensors: dict[str, np.ndarray] = {}

    def close(self) -> None:
        """Close the file; tensors that were read stay."""
        self._zip.close()

    def text(self, name: str) -> str:
        """A text member."""
        return self._zip.read(name).decode()

    def tensor(self, digest: str) -> np.ndarray:
        """A tensor by its content digest; read-only."""
        if digest not in self._tensors:
            self._tensors[digest] = tensorfile.parse(self._zip.read(tensor_member(digest)))["data"]
        return self._tensors[digest]

    def _check(self) -> dict[str, Any]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            file.seek(max(0, size - _HEX - len(_MARK)))
            tail = file.read()
        sealed = tail[len(_MARK) :].decode("ascii", "replace")
        if sealed != _digest_but_seal(self.path):
            if not self._zip.comment.startswith(_MARK) and not self._damaged():
                raise BundleError(f"{self.path} is not a tapml bundle (it has no seal)")
            raise BundleError(
                f"{self.path} is damaged in {self._damaged() or 'the archive directory'}; "
                f"carve or copy it again"
            )
        manifest: dict[str, Any] = json.loads(self._zip.read(MANIFEST))
        if manifest.get("schema") != SCHEMA:
            raise BundleError(
                f"{self.path} has schema {manifest.get('schema')}, this version reads {SCHEMA}"
            )
        return manifest

    def _damaged(self) -> str | None:
        """The first member whose content does not match its checksum."""
        for info in self._zip.infolist():
            try:
                self._zip.read(info)
            except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
                return repr(info.filename)
        return None


def tensor_member(digest: str) -> str:
    """The name of a tensor's member."""
    return f"tensors/{digest}.safetensors"


def unit_member(key: str) -> str:
    """The name of a compilable unit's member."""
    return f"units/{key}.json"
