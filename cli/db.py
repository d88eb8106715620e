"""The database: where it is, and its schema."""

import typer

from closeloop import store
from closeloop.cli.console import fail, out, run, settings
from closeloop.cli.visible import visible
from closeloop.store.schema import SchemaNewer
from closeloop.workers.addresses import database_url

app = typer.Typer(help="The database: where it is, and its schema.", no_args_is_help=True)


@app.command()
def url() -> None:
    """Print the DSN (with its password), for psql and the like."""

    async def find() -> str:
        return database_url(settings())

    print(visible(run(find())))


@app.command()
def upgrade() -> None:
    """Migrate the database to this version's schema."""

    async def migrate() -> tuple[str | None, str]:
        return await store.schema.upgrade(database_url(settings()))

    try:
        before, after = run(migrate())
    except SchemaNewer as error:
        fail(str(error))
    out.print(f"schema at {after}" + ("; nothing to do" if before == after else f", was {before or 'empty'}"))
