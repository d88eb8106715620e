"""Tokens of operators."""

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

app = typer.Typer(help="Tokens: by which operators are known who decide.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: the operator's name in the audit trail.")]


def _expiry(value: str | datetime | None) -> datetime | None:
    """A time, or days from now such as 90d."""
    if isinstance(value, str) and (days := re.fullmatch(r"([1-9][0-9]{0,3})d", value)):
        return datetime.now(UTC) + timedelta(days=int(days[1]))
    return instant(value)


def _books(values: list[str] | None) -> list[str] | None:
    return [book for value in values or [] if (book := book_name(value))] or None


@app.command()
def create(
    name: Name,
    scopes: Annotated[list[Scope], typer.Option("--scope", help="What it is for: operate, to decide. Repeatable.")],
    books: Annotated[
        list[str] | None,
        typer.Option("--book", help="Only for this book. Repeatable. Default: all.", callback=_books),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option("--expires", parser=_expiry, metavar="TIME", help="When it ends: a time, or 90d. Default: never."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Its secret is printed once, and stored nowhere."""
    try:
        wanted = TokenRequest(name=name, scopes=list(dict.fromkeys(scopes)), books=books, expires_at=expires)
    except ValidationError as error:
        raise typer.BadParameter(describe(error)) from None

    async def made() -> NewToken:
        async with database() as session:
            return await tokens.create(session, wanted)

    token = run(made())
    if as_json:
        return print_json(token)
    out.print(token.secret, soft_wrap=True)
    return err.print(
        f"This is the secret of {token.name}, shown this once: put it into CLOSELOOP_TOKEN, or into a file that only "
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
        return out.print("No tokens yet: 'closeloop tokens create NAME --scope operate' makes one.")
    shown = table("name", "id", "state", "scopes", "books", "made (UTC)", "expires (UTC)", "revoked (UTC)")
    for view in views:
        books = "all" if view.books is None else ", ".join(view.books)
        shown.add_row(
            view.name, view.token_id, view.state, ", ".join(view.scopes), books, at(view.created_at),
            at(view.expires_at), at(view.revoked_at),
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
