"""Archives on the disk: compressed JSON lines, a file for each batch, written once and never changed."""

import contextlib
import errno
import gzip
import os
from collections.abc import Sequence
from pathlib import Path


class ArchiveFile:
    """A file that is being written, under a name of its own until it is complete. Methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = _partial(path)
        # Exclusively: no other attempt writes into this one's file, however long it hangs.
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        self._lines = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)

    def write(self, lines: Sequence[str]) -> None:
        """Append lines of JSON."""
        self._lines.write("".join(f"{line}\n" for line in lines).encode())

    def complete(self) -> int:
        """Bring the file to the disk, under its name; returns its size (bytes)."""
        self._lines.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        size = os.fstat(self._raw.fileno()).st_size
        self._raw.close()
        self._partial.rename(self._path)
        _sync_folder(self._path.parent)
        return size

    def close(self) -> None:
        """Let go of the file, complete or not."""
        with contextlib.suppress(OSError, ValueError):  # the disk may be full, what was written counts for nothing
            self._lines.close()
        with contextlib.suppress(OSError):
            self._raw.close()


class ArchiveFolder:
    """The folder of the archives; made where it is missing, for its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, name: str) -> ArchiveFile:
        """Begin a file. Raises OSError, also where a file has the name."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (self.path / name).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        return ArchiveFile(self.path / name)

    def delete_unfinished(self, name: str) -> None:
        """Delete a file of which nothing has left the database, if it is in this folder. Raises OSError."""
        for path in (self.path / name, _partial(self.path / name)):
            path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
