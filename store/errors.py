"""Database errors sorted, in one place, into those worth a retry and those that never will be."""

import asyncpg
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

# Connecting raises the driver's own errors; whatever happens on a connection, SQLAlchemy's.
DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

# A serialisation failure or a deadlock arrives as one of SQLAlchemy's other classes, a missing table (not migrated
# yet) as ProgrammingError: all of these can pass. A value that does not fit, or a broken constraint, cannot.
_PERMANENT = (DataError, IntegrityError)


def is_permanent(error: BaseException) -> bool:
    """Whether the same statement with the same values would fail for ever."""
    return isinstance(error, _PERMANENT)


def is_unreachable(error: BaseException) -> bool:
    """Whether the database is away (down, restarting, refusing connections), as opposed to having refused something."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error, DATABASE_ERRORS) and not isinstance(error, SQLAlchemyError)
