"""Where the database and Temporal are: the environment's, else those of the local stack of the same home."""

from temporalio.envconfig import ClientConnectConfig

from closeloop.workers.settings import Settings
from closeloop.workers.stack.home import Home, StackError


def database_url(settings: Settings) -> str:
    """The DSN. Raises StackError if there is no database to speak of."""
    if settings.database_url:
        return settings.database_url
    state = Home(settings.home).state()
    if state is None:
        raise StackError(
            f"There is no stack in {settings.home}: start one with 'closeloop dev', "
            "or set DATABASE_URL and TEMPORAL_ADDRESS."
        )
    return state.database_url


def temporal_config(settings: Settings) -> ClientConnectConfig:
    """How to connect to Temporal. Raises StackError if there is no server to speak of."""
    config = settings.temporal()
    if not config.get("target_host"):
        state = Home(settings.home).state()
        if state is None:
            raise StackError(
                f"There is no stack in {settings.home}: start one with 'closeloop dev', or set TEMPORAL_ADDRESS."
            )
        config["target_host"] = state.temporal_address
    return config


def ui_url(settings: Settings) -> str | None:
    """Where the local stack's Temporal UI is."""
    state = Home(settings.home).state()
    return state.ui_url if state else None
