"""The bundle's container: one zip file in which every byte is accounted for.

Members are stored uncompressed; tensors are safetensors files named by their content, so each
is there once.  The manifest holds a SHA-256 of every other member, and the zip's comment one of
the whole file, so that damage is found wherever it is, and named.

A seal is no signature: whoever made the file sealed it.  So nothing in it is believed: memory is
taken only for what the file really holds, and the manifest is checked as a whole
(:mod:`tapml_nb.carve.manifest`).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from tapml_nb import tensorfile
from tapml_nb.carve.manifest import Malformed, check, tensor_member

SCHEMA = 1
"""Version of the manifest; a reader refuses any other."""

MANIFEST = "manifest.json"
_MARK = b"tapml-bundle sha256:"
_HEX = 64

CODING = "# -*- coding: utf-8 -*-\n"
"""The first line of every file of Python: a comment in the first two could say something else."""

_LARGEST_MANIFEST = 256 << 20
"""Bytes of a manifest: what is read of it takes many times as much memory."""


class BundleError(ValueError):
    """A file that is no bundle, a damaged or malformed one, or one of another version.

    Whatever is wrong with a bundle is one of these, when it is opened and whenever something is
    read of it later.

    Example:
        >>> tapml.Bundle.open("/dev/null")
        Traceback (most recent call last):
        tapml_nb.carve.archive.BundleError: ...
    """


def check_writable(path: Path, example: str = "model.tapml") -> None:
    """Find out before any work that a file cannot be written there: a ValueError says why."""
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"path: {path} is a folder; name a file such as {path / example}")
    if not folder.is_dir():
        raise ValueError(f"path: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"path: the folder {folder} cannot be written")


def write_archive(
    path: Path, manifest: dict[str, Any], members: Iterable[tuple[str, bytes]]
) -> None:
    """Write a bundle of a manifest, to which the members' digests and who writes it are added, and
    of all other members; it replaces ``path`` only when it is complete.

    Raises:
        ValueError: if there is more to say of it than a manifest may hold.
    """
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        digests: dict[str, str] = {}
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content)
                digests[name] = hashlib.sha256(content).hexdigest()
            whole = {"schema": SCHEMA, "versions": versions(), **manifest, "members": digests}
            text = json.dumps(whole, indent=1)
            if len(text) > _LARGEST_MANIFEST:
                raise ValueError(
                    f"ops: a bundle of {len(manifest['tests'])} tests is too large; carve fewer "
                    f"operators or steps into each of several"
                )
            archive.writestr(zipfile.ZipInfo(MANIFEST), text)
            archive.comment = _MARK + b"0" * _HEX
        with open(scratch, "r+b") as file:
            digest = _digest_but_seal(file)
            file.seek(-_HEX, os.SEEK_END)
            file.write(digest.encode())
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def versions() -> dict[str, str]:
    """What a bundle that is written now depends on, and is read by now."""
    from tapml_nb import __version__

    return {"tapml_nb": __version__, "apache-tvm": version("apache-tvm")}


def _digest_but_seal(file: IO[bytes]) -> str:
    """SHA-256 of all but the digest itself, which are the file's last bytes."""
    hasher = hashlib.sha256()
    left = file.seek(0, os.SEEK_END) - _HEX
    file.seek(0)
    while left > 0 and (chunk := file.read(min(left, 1 << 20))):
        hasher.update(chunk)
        left -= len(chunk)
    return hasher.hexdigest()


class Archive:
    """A bundle opened for reading, checked from end to end before anything is used.

    All its methods raise a :class:`BundleError` if something is wrong with the file: it is missing,
    no bundle, damaged (with the member's name), malformed, of another schema, or what is asked for
    is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self._zip = self._directory()
            self.manifest = self._check()
        except BaseException:
            self._file.close()
            raise
        self._tensors: dict[str, np.ndarray] = {}

    def close(self) -> None:
        """Close the file; tensors that were read stay."""
        self._zip.close()
        self._file.close()

    def text(self, name: str) -> str:
        """A text member."""
        try:
            return self._read(name).decode()
        except UnicodeDecodeError as error:
            raise BundleError(f"{self.path}: {name!r} is no text: {error}") from None

    def tensor(self, digest: str) -> np.ndarray:
        """A tensor by its content digest; read-only."""
        if digest not in self._tensors:
            name = tensor_member(digest)
            try:
                self._tensors[digest] = tensorfile.parse(self._read(name))["data"]
            except KeyError:
                raise BundleError(f"{self.path}: {name!r} holds no tensor 'data'") from None
            except BundleError:
                raise
            except ValueError as error:
                raise BundleError(f"{self.path}: {name!r} is {error}") from None
        return self._tensors[digest]

    def exact(self, output: dict[str, Any]) -> np.ndarray | None:
        """The float64 result of an output of a test; None if it has none."""
        if output["delta"] is None:
            return None
        source, delta = self.tensor(output["tensor"]), self.tensor(output["delta"])
        if delta.dtype.kind != "f" or delta.shape != source.shape:
            raise BundleError(
                f"{self.path}: {tensor_member(output['delta'])!r} is {delta.dtype.name}"
                f"{list(delta.shape)}, and no difference to {source.dtype.name}"
                f"{list(source.shape)}"
            )
        return np.asarray(source.astype(np.float64) + delta)

    # -- checks --------------------------------------------------------------------------------

    def _directory(self) -> zipfile.ZipFile:
        """The zip's directory, whose members can be read without surprise.

        Sizes are checked against the file's own: a member that is compressed, or overlaps others,
        would take more memory than the file has bytes.
        """
        try:
            archive = zipfile.ZipFile(self._file)
        except Exception as error:  # zipfile raises a dozen kinds, and MemoryError is one of them
            why = f"is not a bundle, or its directory is damaged: {_words(error)}"
            raise BundleError(f"{self.path} {why}") from None
        sealed = archive.comment.startswith(_MARK)
        left = self._file.seek(0, os.SEEK_END)
        names: set[str] = set()
        for info in archive.infolist():
            name, why = info.filename, ""
            left -= info.file_size
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                why = "is compressed"
            elif left < 0:
                why = "is larger than the file"
            elif info.flag_bits & 1:
                why = "is encrypted"
            elif name in names:
                why = "is there twice"
            if why and not sealed:
                raise BundleError(f"{self.path} is not a tapml bundle (it has no seal)")
            if why:
                raise BundleError(
                    f"{self.path} is malformed, or damaged in the archive directory: "
                    f"{_short(name)} {why}"
                )
            names.add(name)
        return archive

    def _check(self) -> dict[str, Any]:
        self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - _HEX))
        sealed = self._file.read().decode("ascii", "replace")
        if sealed != _digest_but_seal(self._file):
            damaged = self._damaged()
            if not damaged and not self._zip.comment.startswith(_MARK):
                raise BundleError(f"{self.path} is not a tapml bundle (it has no seal)")
            raise BundleError(
                f"{self.path} is damaged in {damaged or 'the archive directory'}; "
                f"carve or copy it again"
            )
        return self._read_manifest()

    def _read_manifest(self) -> dict[str, Any]:
        names = set(self._zip.namelist())
        if MANIFEST not in names:
            raise BundleError(f"{self.path} has no {MANIFEST}")
        if self._zip.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
            raise BundleError(f"{self.path}: its {MANIFEST} is too large")
        try:
            manifest = json.loads(self._content(MANIFEST).decode())
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self.path}: its {MANIFEST} is no JSON: {_words(error)}") from None
        found: dict[str, Any] = manifest if isinstance(manifest, dict) else {}
        schema, writers = found.get("schema"), found.get("versions")
        if type(schema) is not int or schema != SCHEMA:
            by = f"; it was written by {_writers(writers)}" if writers else ""
            raise BundleError(
                f"{self.path} has schema {_short(schema)}, this version reads {SCHEMA}{by}"
            )
        try:
            check(found, names - {MANIFEST})
        except Malformed as error:
            raise BundleError(f"{self.path}: its {MANIFEST} is malformed: {error}") from None
        return found

    def _damaged(self) -> str | None:
        """The first member whose content does not match its checksum."""
        for info in self._zip.infolist():
            try:
                self._content(info.filename)
            except BundleError:
                return repr(info.filename)
        return None

    def _read(self, name: str) -> bytes:
        """A member's content, which must be what was written."""
        content = self._content(name)
        if hashlib.sha256(content).hexdigest() != self.manifest["members"].get(name):
            raise BundleError(
                f"{self.path} is damaged in {name!r}: it is not what the manifest says; "
                f"carve or copy it again"
            )
        return content

    def _content(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except Exception as error:  # of the many kinds that zipfile raises
            why = f"{_short(name)} cannot be read: {_words(error)}"
            raise BundleError(f"{self.path}: {why}") from None


def _open(path: Path) -> IO[bytes]:
    """Open a file, and no pipe, which would never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BundleError(f"{path} is not a bundle: it is no file")
        return path.open("rb")
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 100 else f"{words[:100]}…"


def _writers(versions: Any) -> str:
    """Versions in words, whatever stands in their place."""
    if not isinstance(versions, dict):
        return _short(versions)
    return _short(", ".join(f"{package} {number}" for package, number in versions.items()))[1:-1]
