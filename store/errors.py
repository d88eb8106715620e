"""Database errors sorted, in one place, into those worth a retry and those that never will be."""

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

# Connecting raises the driver's own errors; whatever happens on a connection, SQLAlchemy's.
DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

# Classes of SQLSTATE that no retry mends: a value that does not fit (22), a broken constraint (23), a limit of
# PostgreSQL (54). What a restart, a deadlock, a full disk or a pending migration raises can pass.
_PERMANENT = ("22", "23", "54")


def is_permanent(error: BaseException) -> bool:
    """Whether the same statement with the same values would fail for ever."""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return isinstance(state, str) and state.startswith(_PERMANENT)


def is_unreachable(error: BaseException) -> bool:
    """Whether the database is away (down, restarting, refusing connections), as opposed to having refused something."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error, DATABASE_ERRORS) and not isinstance(error, SQLAlchemyError)
