"""Every command explains itself."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from closeloop.cli.main import app
from tests.faults.stack_process import StackProcess


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, groups included."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *path, name)


EVERY = dict(commands(get_command(app)))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert EVERY[path].help, "it has no description"


async def test_help_of_the_installed_program(no_stack: StackProcess) -> None:
    result = await no_stack.cli("--help")
    assert (result.status, result.err) == (0, "")
    for name in ("dev", "status", "positions", "import", "outcomes", "karma", "events", "db"):
        assert f"  {name} " in result.out
    assert not no_stack.home.exists()
