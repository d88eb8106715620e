"""Parameters that engines read, and who gets learned ones."""

from typing import Annotated

import typer
from pydantic import ValidationError

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, at, book_name, out, print_json, run
from closeloop.models.parameters import ModeRequest, ModeView, ParameterMode
from closeloop.models.refusals import describe
from closeloop.services import parameters

app = typer.Typer(help="Parameters that engines read, and who gets learned ones.", no_args_is_help=True)

BookArgument = Annotated[str, typer.Argument(metavar="BOOK", help="The book.", callback=book_name)]


@app.command()
def mode(
    book: BookArgument,
    wanted: Annotated[
        ParameterMode | None, typer.Argument(metavar="[shadow|ab|live]", help="Default: tell the mode in force.")
    ] = None,
    share: Annotated[
        float | None, typer.Option("--share", help="Of symbol-days that get learned parameters: of ab, such as 0.1.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who decides; stands in the audit trail.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell or set who gets learned parameters: nobody (shadow), a share of symbol-days (ab), everybody (live)."""
    if wanted is None and (share is not None or by is not None):
        raise typer.BadParameter("say which mode: shadow, ab or live", param_hint="MODE")
    if wanted is not None and by is None:
        raise typer.BadParameter("say who decides", param_hint="--by")

    async def told() -> ModeView:
        async with database() as session:
            if wanted is None or by is None:
                return await parameters.mode(session, book)
            return await parameters.set_mode(session, ModeRequest(book=book, mode=wanted, share=share, operator=by))

    try:
        view = run(told())
    except ValidationError as error:
        raise typer.BadParameter(describe(error)) from None
    if as_json:
        return print_json(view)
    who = {
        ParameterMode.shadow: "engines get the defaults",
        ParameterMode.ab: f"{view.share:.0%} of symbol-days get learned parameters",
        ParameterMode.live: "engines get learned parameters",
    }[view.mode]
    since = "" if view.since is None else f", since {at(view.since)} UTC by {view.operator}"
    return out.print(f"Book {view.book} is in mode {view.mode}: {who}{since}.")
