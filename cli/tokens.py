"""Tokens of operators and engines."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import ValidationError

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, at, book_name, err, out, print_json, run, table
from closeloop.cli.instants import instant
from closeloop.models.refusals import describe
from closeloop.models.tokens import NewToken, Scope, TokenRequest, TokenView
from closeloop.services import tokens

app = typer.Typer(help="Tokens: by which engines and operators are known.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: its name in the audit trail.")]


def _expiry(value: str | datetime | None) -> datetime | None:
    """A time, or how long from now, such as 90d."""
    if isinstance(value, str) and (given := re.fullmatch(r"([1-9][0-9]{0,7})([smhd])", value)):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[given[2]]
        try:
            return datetime.now(UTC) + timedelta(**{unit: int(given[1])})
        except OverflowError:
            raise typer.BadParameter("is too far away") from None
    return instant(value)


def _books(values: list[str] | None) -> list[str] | None:
    return [book for value in values or [] if (book := book_name(value))] or None


@app.command("create", hidden=True)  # its name in 0.1
@app.command()
def add(
    name: Name,
    scopes: Annotated[
        list[Scope],
        typer.Option(
            "--scope", help="What it is for: ingest, to send; read; operate, to decide on what waits. Repeatable."
        ),
    ],
    books: Annotated[
        list[str] | None,
        typer.Option("--book", help="Only for this book. Repeatable. Default: all.", callback=_books),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires",
            parser=_expiry,
            metavar="TIME",
            help="When it ends: a time, or 90d (s, m, h, d). Default: never.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is printed this once, and stored nowhere."""
    try:
        wanted = TokenRequest(name=name, scopes=list(dict.fromkeys(scopes)), books=books, expires_at=expires)
    except ValidationError as error:
        raise typer.BadParameter(describe(error)) from None

    async def made() -> tuple[NewToken, list[str]]:
        async with database() as session:
            token = await tokens.create(session, wanted)
            return token, await tokens.unknown_books(session, token)

    token, unknown = run(made())
    if unknown:
        err.print(f"There is no book {', '.join(unknown)} yet: the first message that names it makes it.")
    if as_json:
        return print_json(token)
    out.print(token.token, soft_wrap=True)
    return err.print(
        f"This is the token of {token.name}, shown this once: put it into CLOSELOOP_TOKEN, or into a file that only "
        "you can read and its name into CLOSELOOP_TOKEN_FILE."
    )


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every token, the oldest first: never a secret."""

    async def load() -> list[TokenView]:
        async with database() as session:
            return await tokens.listing(session)

    views = run(load())
    if as_json:
        return print_json(views)
    if not views:
        return out.print("No tokens yet: 'closeloop tokens add NAME --scope operate' makes one.")
    shown = table(
        "name", "id", "state", "scopes", "books", "made (UTC)", "expires (UTC)", "revoked (UTC)", "last used (UTC)"
    )
    for view in views:
        books = "all" if view.books is None else ", ".join(view.books)
        shown.add_row(
            view.name, view.token_id, view.state, ", ".join(view.scopes), books, at(view.created_at),
            at(view.expires_at), at(view.revoked_at), at(view.last_used_at),
        )  # fmt: skip
    return out.print(shown)


@app.command()
def revoke(name: Name, as_json: AsJson = False) -> None:
    """Revoke the token of this name, at once: what was decided with it and not carried out yet is refused, too."""

    async def revoked() -> TokenView:
        async with database() as session:
            return await tokens.revoke(session, name)

    view = run(revoked())
    if as_json:
        return print_json(view)
    return out.print(f"The token {view.name} ({view.token_id}) is revoked.")
