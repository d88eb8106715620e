"""Overlay files: the learned weights of each book, as YAML that an engine reads.

``learned_weights.yaml`` is the default book's, ``learned_weights.<book>.yaml`` another's. A file is replaced at once,
never half-written, also if the process is killed there.
"""

import os
import uuid
from datetime import datetime
from pathlib import Path

import yaml

from closeloop.models.weights import ActiveWeights

DEFAULT_BOOK = "default"


class OverlayFolder:
    """The folder of the overlay files."""

    def __init__(self, folder: Path, mode: int | None = None) -> None:
        """``mode``: who may read the files, such as 0o640; None: whatever the umask of this process says."""
        self._folder = folder
        self._mode = mode

    def path(self, book: str) -> Path:
        """Where a book's file is."""
        return self._folder / ("learned_weights.yaml" if book == DEFAULT_BOOK else f"learned_weights.{book}.yaml")

    def identity(self) -> str | None:
        """The random id stored in the folder, which another machine's folder or an empty mount has not; None: no id."""
        try:
            return (self._folder / ".overlays").read_text().strip() or None
        except FileNotFoundError:
            return None

    def ensure_identity(self) -> str:
        """The folder's identity, made the first time."""
        if found := self.identity():
            return found
        self._folder.mkdir(parents=True, exist_ok=True)
        self._replace(self._folder / ".overlays", uuid.uuid4().hex + "\n")
        return self.ensure_identity()

    def exists(self, book: str) -> bool:
        """Whether the book's file is there. Raises OSError where something else is in its place, such as a folder."""
        path = self.path(book)
        if path.exists() and not path.is_file():
            raise OSError(f"{path} is no file: move it away")
        return path.exists()

    def write(self, active: ActiveWeights) -> None:
        """Replace the book's file. Raises OSError where that cannot be done: what is there stays as it is."""
        since: datetime | None = active.since
        content = {
            "book": active.book,
            "version": active.version,
            "source": active.source,
            "since": since.isoformat() if since else None,
            "policy_hash": active.policy_hash,
            "weights": active.weights,
        }
        header = "# Written by closeloop. Deleting this file reverts the adjustment within five minutes.\n"
        self._replace(self.path(active.book), header + yaml.safe_dump(content, sort_keys=False))

    def remove(self, book: str) -> None:
        """Delete the book's file: the preset is in force. Raises OSError where that cannot be done."""
        self.path(book).unlink(missing_ok=True)

    def _replace(self, path: Path, content: str) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with temporary.open("w") as file:
                if self._mode is not None:
                    os.fchmod(file.fileno(), self._mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
