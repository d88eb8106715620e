"""Reading what a command is given: a file, or standard input for ``-``."""

import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from closeloop.gateways.json_messages import JsonMessages, NotMessages
from closeloop.models.errors import NotAcceptable
from closeloop.models.refusals import TOO_LONG, describe

FileArgument = Annotated[str, typer.Argument(metavar="FILE|-", help="A file, or - for standard input.")]


def open_input(name: str) -> BinaryIO:
    """Open for reading bytes; a usage error (status 2) if there is no such file."""
    if name == "-":
        return sys.stdin.buffer
    path = Path(name)
    if path.is_dir():
        raise typer.BadParameter(f"{name} is a folder")
    try:
        return path.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{name} cannot be read: {error.strerror}") from None


def file_or_input(name: str) -> Path | BinaryIO:
    """A file or folder by its path, anything else (standard input, a pipe) open for reading bytes.

    A usage error (status 2) if there is no such file.
    """
    path = Path(name)
    if name != "-" and path.is_dir():
        return path
    opened = open_input(name)
    if name == "-" or not path.is_file():
        return opened
    opened.close()
    return path


def written_at(file: BinaryIO) -> datetime | None:
    """When a file was last written, to the second below; None of what is no file, as a pipe."""
    try:
        found = os.fstat(file.fileno())
    except OSError:
        return None
    return datetime.fromtimestamp(int(found.st_mtime), UTC) if stat.S_ISREG(found.st_mode) else None


M = TypeVar("M", bound=BaseModel)


def json_messages(name: str) -> JsonMessages:
    """The messages of a file of JSON, one a line or in an array; a usage error (status 2) if there is no such file."""
    return JsonMessages(open_input(name))


def read_messages(messages: JsonMessages, kind: type[M]) -> Iterator[tuple[int, M | str]]:
    """(index, message) of each message of a kind; of one that is refused, the reason.

    Raises NotAcceptable where the file cannot be read to its end.
    """
    for index, content in json_lines(messages):
        if content is None:
            yield index, TOO_LONG
            continue
        try:
            yield index, kind.model_validate_json(content)
        except ValidationError as error:
            yield index, describe(error)


def json_lines(messages: JsonMessages) -> Iterator[tuple[int, bytes | None]]:
    """(index, JSON) of each message, None for one that is too long. Raises NotAcceptable as ``read_messages`` does."""
    try:
        yield from messages
    except NotMessages as error:
        raise NotAcceptable(f"The input cannot be read to its end: {error}.") from None
