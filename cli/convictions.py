"""Recording convictions ahead of their positions."""

import typer
from pydantic import ValidationError

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, err, out, print_json, run
from closeloop.cli.files import FileArgument, json_lines, open_input
from closeloop.models.positions import ConvictionsReport, RecordedConviction, RejectedConviction
from closeloop.models.refusals import TOO_LONG, describe
from closeloop.services import convictions

app = typer.Typer(help="Convictions.", no_args_is_help=True)


@app.command()
def add(file: FileArgument, as_json: AsJson = False) -> None:
    """Record convictions (JSON lines), so that a close need only name its conviction_id. Status 1 if any is refused."""
    readable: list[RecordedConviction] = []
    refused: list[RejectedConviction] = []
    for index, line in json_lines(open_input(file)):
        if line is None:
            refused.append(RejectedConviction(index=index, reason=TOO_LONG))
            continue
        try:
            readable.append(RecordedConviction.model_validate_json(line))
        except ValidationError as error:
            refused.append(RejectedConviction(index=index, reason=describe(error)))
    report = run(_record(readable)).model_copy(update={"rejected": refused})
    if as_json:
        print_json(report)
    else:
        out.print(f"{report.added} convictions recorded, {report.already_recorded} were on record")
    for item in refused:
        err.print(f"refused: line {item.index + 1}: {item.reason}")
    if refused:
        raise typer.Exit(1)


async def _record(readable: list[RecordedConviction]) -> ConvictionsReport:
    async with database() as session:
        return await convictions.record(session, readable)
