"""Reading what a command is given: a file, or standard input for ``-``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from closeloop.models.values import MAX_MESSAGE_BYTES

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


def json_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(index from 0, line) of each line that is not blank; None for one over the size of a message.

    A line that is far too long is never held in memory.
    """
    limit = MAX_MESSAGE_BYTES + 2
    index = 0
    while piece := file.readline(limit):
        line: bytes | None = piece
        while not piece.endswith(b"\n") and (piece := file.readline(limit)):
            line = None
        if line is None or line.strip():
            yield index, None if line is None or len(line.strip()) > MAX_MESSAGE_BYTES else line.strip()
        index += 1
