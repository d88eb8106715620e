"""The home folder of a local stack: who runs it, where its parts listen, what they need to start again."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from closeloop.models.errors import Unavailable
from closeloop.models.status import WorkerEnds


class StackError(Unavailable):
    """The stack cannot do what was asked; the message is one sentence that says what to do."""


class StackState(BaseModel):
    """What ``stack.json`` holds: the addresses by which every other command finds the stack."""

    pid: int
    temporal_address: str
    temporal_namespace: str = "default"
    ui_url: str | None
    database_url: str
    postgres_data: str | None
    api_url: str | None = None


class Home:
    """Files under the home folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_file = path / "stack.json"
        self.logs = path / "logs"
        self.temporal_db = path / "temporal.db"
        self._worker_ends_file = path / "worker.json"
        self._password_file = path / "postgres.password"

    def create(self) -> None:
        """Make the folder. Raises StackError where that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise StackError(
                f"The home folder {self.path} cannot be used ({error.strerror}): choose another with --home."
            ) from None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the home for one stack. The lock ends with its process, so that a killed stack leaves none behind."""
        with (self.path / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(
                    f"A stack is running already in {self.path}: stop it, or choose another folder with --home."
                ) from None
            yield

    def is_claimed(self) -> bool:
        """Whether a stack runs here."""
        if not (self.path / "lock").exists():
            return False
        with (self.path / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def state(self) -> StackState | None:
        """Where the parts of the running stack listen, or of the last one listened; None before the first.

        Raises StackError where the file cannot be read.
        """
        try:
            return StackState.model_validate_json(self.state_file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise StackError(f"{self.state_file} cannot be read: delete it and start the stack again.") from None

    def save(self, state: StackState) -> None:
        """Replace ``stack.json`` at once; it holds the database's password, so only its owner may read it."""
        write_private(self.state_file, json.dumps(state.model_dump(), indent=1))

    def save_worker_ends(self, ends: WorkerEnds | None) -> None:
        """Replace what is told of a worker that keeps ending; None: it runs well, or no stack runs."""
        if ends is None:
            self._worker_ends_file.unlink(missing_ok=True)
        else:
            write_private(self._worker_ends_file, ends.model_dump_json(indent=1))

    def worker_ends(self) -> WorkerEnds | None:
        """What is told of a worker that keeps ending; None where it runs well, or where that cannot be read."""
        try:
            return WorkerEnds.model_validate_json(self._worker_ends_file.read_bytes())
        except (OSError, ValidationError):
            return None

    def password(self) -> str:
        """The password of the local PostgreSQL, made once."""
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_urlsafe(24))
        return self._password_file.read_text()


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner can read, never half."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
