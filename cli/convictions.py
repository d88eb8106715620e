"""Recording convictions, before their positions close or after."""

import typer

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, err, out, print_json, run
from closeloop.cli.files import FileArgument, json_messages, read_messages
from closeloop.gateways.json_messages import JsonMessages
from closeloop.models.convictions import ConvictionsReport, RecordedConviction, RejectedConviction
from closeloop.services import convictions

app = typer.Typer(help="Convictions.", no_args_is_help=True)


@app.command()
def add(file: FileArgument, as_json: AsJson = False) -> None:
    """Record convictions (JSON, one a line or in an array), so that a close need only name its conviction_id.

    Closes on record that named one of them are completed with it. Status 1 if any is refused. Rows are counted from 0:
    row 0 is the first line, or the first element of an array.
    """
    report = run(_record(json_messages(file)))
    if as_json:
        print_json(report)
    else:
        out.print(f"{report.added} convictions recorded, {report.already_recorded} were on record")
        if report.completed:
            out.print(f"completed {report.completed} positions that had closed before their conviction came")
    for item in report.rejected:
        err.print(f"refused: row {item.index}: {item.reason}")
    if report.rejected:
        raise typer.Exit(1)


async def _record(messages: JsonMessages) -> ConvictionsReport:
    readable: list[RecordedConviction] = []
    refused: list[RejectedConviction] = []
    for index, message in read_messages(messages, RecordedConviction):
        if isinstance(message, str):
            refused.append(RejectedConviction(index=index, reason=message))
        else:
            readable.append(message)
    async with database() as session, session.begin():
        report = await convictions.record(session, readable)
    return report.model_copy(update={"rejected": refused})
