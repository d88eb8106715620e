"""Every command that a document quotes exists, with its options; the README's table lists every command."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from closeloop.cli.main import app
from tests.docs.pages import NAMES, ROOT, fences, spans, table

PROGRAM = get_command(app)
_CONTEXT: Any = PROGRAM.make_context("closeloop", [], resilient_parsing=True)
_WORD = re.compile(r"[a-z][a-z-]*")
_OPTION = re.compile(r"\[?(--[a-z-]+)")


def child(command: Any, name: str) -> Any:
    """A group's command of this name; None if it has none."""
    return command.get_command(_CONTEXT, name) if isinstance(command, TyperGroup) else None


def runnable(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Paths of all commands that do something themselves and are not hidden."""
    if command.hidden:
        return
    if not isinstance(command, TyperGroup) or (path and command.invoke_without_command):
        yield path
    if isinstance(command, TyperGroup):
        for name in command.list_commands(_CONTEXT):
            yield from runnable(child(command, name), *path, name)


def wrong(line: str) -> str | None:
    """What is wrong with a quoted call of closeloop; None if nothing is, or if it is no call."""
    words = re.split(r"#|   ", line)[0].split()
    if words[:1] != ["closeloop"] or words[1:] in ([], ["..."]):
        return None
    command: Any = PROGRAM
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    rest = words[1:]
    while rest and (found := child(command, rest[0])) is not None:
        command, rest = found, rest[1:]
        options |= {option for parameter in command.params for option in parameter.opts}
    if isinstance(command, TyperGroup):
        if rest and _WORD.fullmatch(rest[0]):
            return f"{command.name} has no command {rest[0]}"
        if not rest and not command.invoke_without_command:
            return f"{command.name} needs a command"
    unknown = [found[1] for word in rest if (found := _OPTION.match(word)) and found[1] not in options]
    return f"{command.name} has no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("closeloop weight show", "closeloop has no command weight"),
        ("closeloop weights shew", "weights has no command shew"),
        ("closeloop weights", "weights needs a command"),
        ("closeloop weights show [--bok B]", "show has no option --bok"),
        ("closeloop weights show --book B --json   # what is in force", None),
        ("closeloop producers --asset ADA/BTC", None),
        ("closeloop --help", None),
        ("temporal workflow signal", None),
    ],
)
def test_what_is_wrong_is_seen(line: str, problem: str | None) -> None:
    assert wrong(line) == problem


@pytest.mark.parametrize("name", NAMES)
def test_quoted_commands(name: str) -> None:
    page = ROOT / name
    problems = [f"{line}: {problem}" for line in [*fences(page), *spans(page)] if (problem := wrong(line.strip()))]
    assert problems == []


def test_the_table_of_commands() -> None:
    """A row names a command by its whole path, or, after another one of its group, by its last word."""
    listed: set[tuple[str, ...]] = set()
    for row in table(ROOT / "README.md", "command"):
        group: tuple[str, ...] = ()
        for span in re.findall(r"`([^`]+)`", row[0]):
            words = [word for word in span.split() if _WORD.fullmatch(word)]
            path = (
                (*group, *words)
                if len(words) == 1 and group and child(child(PROGRAM, *group), words[0])
                else tuple(words)
            )
            group = path[:1]
            listed.add(path)
    assert listed == set(runnable(PROGRAM))
