"""A group of commands each of which is imported when it is used: ``closeloop --help`` needs none of what they need."""

import importlib
from collections.abc import Iterator, MutableMapping
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperGroup


class LazyCommand(NamedTuple):
    """Where a command is, as ``module:attribute`` (a Typer application or a function), and its one line of help."""

    place: str
    help: str


class LazyGroup(TyperGroup):
    """A subclass names its ``table``; the order of the table is the order of the help."""

    table: ClassVar[dict[str, LazyCommand]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Loaded(self.table)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, without importing anything."""
        return list(self.table)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The lines of the help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self.table.items()])


class _Loaded(MutableMapping[str, Any]):
    """Commands by name; one is imported when it is asked for."""

    def __init__(self, table: dict[str, LazyCommand]) -> None:
        self._table = table
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self._table[name].place)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def _load(name: str, place: str) -> Any:
    module, attribute = place.split(":")
    found = getattr(importlib.import_module(module), attribute)
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.callback()(lambda: None)  # with it, a single command stays a command of a group
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    return typer.main.get_command(holder).commands[name]  # type: ignore[attr-defined]
