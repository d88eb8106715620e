"""Every command explains itself, and the program's own help needs none of what the commands need."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from closeloop.cli.main import Commands, app
from tests.faults.stack_process import StackProcess

# Packages that take long to import, or bring others that do.
HEAVY = {"alembic", "anthropic", "asyncpg", "httpx", "matplotlib", "numpy", "opentelemetry", "pydantic", "rich"}
HEAVY |= {"scipy", "sqlalchemy", "sqlmodel", "temporalio", "yaml"}


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


@pytest.mark.parametrize("name", Commands.table)
def test_the_line_in_the_programs_help_is_the_commands_own(name: str) -> None:
    assert Commands.table[name].help == EVERY[(name,)].get_short_help_str(300)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_is_imported(option: str) -> None:
    """In a process of its own, as the installed program is: what is not imported takes no time."""
    program = f"""
import sys
from closeloop.cli.main import app
try:
    app(["{option}"])
except SystemExit as left:
    assert not left.code, left.code
print("imported", *{{name.split(".")[0] for name in sys.modules}})
"""
    told = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout
    *_, imported = told.splitlines()
    assert {"imported", "closeloop", "typer"} <= set(imported.split())
    assert HEAVY & set(imported.split()) == set()


async def test_help_of_the_installed_program(no_stack: StackProcess) -> None:
    result = await no_stack.cli("--help")
    assert (result.status, result.err) == (0, "")
    lines = [line.split()[0] for line in result.out.split("Commands:")[1].splitlines() if line[:3].strip()]
    assert lines == list(Commands.table)
    assert not no_stack.home.exists()


async def test_version(no_stack: StackProcess) -> None:
    result = await no_stack.cli("--version")
    assert (result.status, result.err) == (0, "")
    assert result.out == f"closeloop {version('closeloop')}\n"
