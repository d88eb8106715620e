"""How commands run and print: one way to fail, one way to print JSON, one way to print tables."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer
import typer.core
from pydantic_core import to_json
from rich.console import Console
from rich.protocol import is_renderable
from rich.table import Table
from rich.text import Text
from temporalio.service import RPCError

from closeloop.cli.instants import instant
from closeloop.cli.visible import visible, visible_json
from closeloop.models.errors import ServiceError
from closeloop.models.values import BOOK_PATTERN
from closeloop.store.errors import DATABASE_ERRORS, is_unreachable, sqlstate
from closeloop.workers.settings import Settings, SettingsError

T = TypeVar("T")

REFUSALS_SHOWN = 20
"""How many refused rows a command prints one by one; ``--json`` has all of them."""

HINT_AFTER_SECONDS = 10
"""How long a command waits for a worker before it prints what may be the matter."""

HIDDEN_ALIASES = {"by": "--operator", "note": "--reason"}
"""By parameter, what the options of a decision were called in 0.1. They still work; help does not show them."""


class DecisionCommand(typer.core.TyperCommand):
    """A command with ``--by`` and ``--note``, which also understands the names that these had in 0.1."""

    def make_parser(self, ctx: Any) -> Any:
        """The parser that click makes, with the aliases."""
        parser = super().make_parser(ctx)
        for parameter in self.params:
            if isinstance(parameter, typer.core.TyperOption) and parameter.name in HIDDEN_ALIASES:
                parser.add_option(parameter, [HIDDEN_ALIASES[parameter.name]], dest=parameter.name)
        return parser


class _Plain(Console):
    """Prints text as it is: names in data may look like markup, like an emoji's name or like a terminal's escapes.

    With ``lines``, line breaks are those of our own layout; else they are spelled out too.
    """

    def __init__(self, lines: bool, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)
        self._lines = lines

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print, as Rich's console does."""
        super().print(*(one if is_renderable(one) else str(one) for one in objects), **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every text comes by here, be it a sentence or a cell of a table."""
        return super().render_str(visible(text, self._lines), **settings)


class _Rows(Table):
    """A table of which every row has one line of the data in a cell."""

    def add_row(self, *cells: Any, **settings: Any) -> None:
        """Add a row, as Rich's table does."""
        super().add_row(*(visible(cell) if isinstance(cell, str) else cell for cell in cells), **settings)


# Into a file or a pipe, tables are as wide as they need to be.
out = _Plain(lines=True, width=None if sys.stdout.isatty() else 160)
err = _Plain(lines=False, stderr=True, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def book_name(value: str | None) -> str | None:
    """A book's name from the command line; called wrongly (status 2) if it cannot be one."""
    if value is not None and not BOOK_PATTERN.fullmatch(value):
        raise typer.BadParameter("must be 1 to 64 of [A-Za-z0-9_.-]")
    return value


AsOfOption = Annotated[
    datetime | None,
    typer.Option(
        "--as-of", parser=instant, metavar="TIME", help="As of a time such as 2026-10-01T00:00:00Z. Default: now."
    ),
]
BookOption = Annotated[str | None, typer.Option("--book", help="Only this book. Default: all.", callback=book_name)]
Book = Annotated[str, typer.Option("--book", help="The book.", callback=book_name)]
LastOption = Annotated[int | None, typer.Option("--last", min=1, help="Only the newest N. Default: all.")]
BeforeOption = Annotated[
    str | None,
    typer.Option("--before", metavar="ID", help="Only what comes before this ID. Pages backwards, with --last."),
]
PositionKeyOption = Annotated[
    Literal["id", "id+opened_at"] | None,
    typer.Option(
        "--position-key",
        help="What identifies a position, where a line does not say: id+opened_at if ids are used again. Default: id.",
    ),
]
By = Annotated[str, typer.Option("--by", help="Who decides; stands in the audit trail.")]
ByOrToken = Annotated[
    str | None, typer.Option("--by", help="Who decides; stands in the audit trail. With a token: its name.")
]
Note = Annotated[str, typer.Option("--note", help="Why; stands in the audit trail.")]

_home: Path | None = None


def set_home(home: Path | None) -> None:
    """Remember ``--home`` of the command line."""
    global _home
    _home = home


def settings() -> Settings:
    """Settings of this process."""
    return Settings.load(_home)


Decider = tuple[str, str | None]
"""Who decides (empty: whose the token is), and the secret of the operator's token."""


def decider(by: str | None) -> Decider:
    """Who decides: a name, or the token of the settings, which has one; called wrongly (status 2) without both."""
    secret = own_secret()
    if by is None and secret is None:
        raise typer.BadParameter("say who decides, or set CLOSELOOP_TOKEN", param_hint="--by")
    return by or "", secret


def own_secret() -> str | None:
    """The secret of the operator's token, by which a proposal or decision is his; None without one."""
    try:
        token = settings().operator_token()
    except SettingsError as error:
        fail(str(error))
    return None if token is None else token.get_secret_value()


def fail(sentence: str) -> NoReturn:
    """Say what went wrong and what to do; exit status 1."""
    err.print(f"closeloop: {sentence}")
    raise typer.Exit(1)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; expected failures become one sentence."""
    try:
        return asyncio.run(main)
    except ServiceError as error:
        fail(str(error))
    except RPCError as error:
        fail(f"Temporal refused or does not answer ({error.message[:300]}): 'closeloop status' shows what is up.")
    except RuntimeError as error:
        if "Failed client connect" not in str(error):
            raise
        fail("Temporal does not answer: start the stack with 'closeloop dev', or check TEMPORAL_ADDRESS.")
    except BrokenPipeError:
        raise typer.Exit(0) from None  # the reader (head, less) had enough
    except DATABASE_ERRORS as error:
        state = sqlstate(error) or ""
        if state in ("42P01", "42703"):
            fail("The database's schema is not this version's: run 'closeloop db upgrade'.")
        if state.startswith(("28", "3D")):
            reason = str(getattr(error, "orig", error)).strip()
            fail(f"The database refuses the connection ({reason}): check DATABASE_URL.")
        if not is_unreachable(error):
            if isinstance(error, OSError):
                fail(str(error))
            raise
        fail("The database does not answer: start the stack with 'closeloop dev', or check DATABASE_URL.")


async def hinting(work: Awaitable[T]) -> T:
    """Wait for what a worker does; if that takes long, say what may be the matter."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait((task,), timeout=HINT_AFTER_SECONDS)
    if not done:
        err.print("Still waiting: is a worker running? 'closeloop status' shows it. Ctrl-C stops only the waiting.")
    return await task


def print_json(value: Any) -> None:
    """One JSON document on stdout: money as strings, instants in UTC, every other quantity a number."""
    sys.stdout.write(_json(value) + "\n")


async def print_json_list(items: AsyncIterator[Any]) -> None:
    """A JSON array, written as it is read: lists are whole, however long."""
    separator = "["
    async for item in items:
        sys.stdout.write(separator + _json(item))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[" else "]\n")


async def print_json_streamed(value: Any) -> None:
    """One JSON document of objects whose lists may be async iterators: they are written as they are read."""
    await _write(value)
    sys.stdout.write("\n")


async def _write(value: Any) -> None:
    if isinstance(value, dict):
        separator = "{"
        for key, item in value.items():
            sys.stdout.write(separator + _json(key) + ":")
            await _write(item)
            separator = ","
        sys.stdout.write("}" if value else "{}")
    elif isinstance(value, AsyncIterator):
        separator = "["
        async for item in value:
            sys.stdout.write(separator + _json(item))
            separator = ","
        sys.stdout.write("[]" if separator == "[" else "]")
    else:
        sys.stdout.write(_json(value))


def _json(value: Any) -> str:
    return visible_json(to_json(value, inf_nan_mode="null").decode())


def table(*columns: str, title: str | None = None, numbers: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """A table whose ``numbers`` columns are aligned to the right; ``whole`` ones are never broken: they are copied."""
    made = _Rows(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(
            column, justify="right" if column in numbers else "left", overflow="fold", no_wrap=column in whole
        )
    return made


def at(instant: datetime | None) -> str:
    """An instant for a person, in UTC."""
    return "-" if instant is None else instant.strftime("%Y-%m-%d %H:%M")


def p_value(value: float | None) -> str:
    """A p- or q-value for a person: one below 0.001 is said to be that, never 0."""
    return "<0.001" if value is not None and value < 0.001 else number(value)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a person; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
