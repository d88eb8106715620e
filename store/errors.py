"""Which database errors a retry can mend, and which it cannot: decided here for the whole project."""

import errno
import socket

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

# Connecting raises the driver's own errors; whatever happens on a connection, SQLAlchemy's.
DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

# Classes of SQLSTATE that no retry mends: a value that does not fit (22), a broken constraint (23), a limit of
# PostgreSQL (54). The errors of a restart, a deadlock, a full disk or a migration under way are not among them: the
# same statement may succeed later.
_PERMANENT = ("22", "23", "54")
# No connection (08), too many of them (53), shutting down or starting up (57P).
_AWAY = ("08", "53", "57P")
# A deadlock or a failure to serialize: the whole transaction is to be tried again.
_LOST_TO_OTHERS = ("40",)
LOST_TO_OTHERS_TRIES = 5
"""How often a transaction is tried that is lost to others."""


def is_permanent(error: BaseException) -> bool:
    """Whether the same statement with the same values would fail for ever."""
    return (sqlstate(error) or "").startswith(_PERMANENT)


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of what happened (its manual, appendix A); None if it is not PostgreSQL's error."""
    found = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None)
    return found if isinstance(found, str) else None


def is_passing(error: BaseException) -> bool:
    """Whether this is a database error that a retry may mend: any but a permanent one. False for errors of our own."""
    return isinstance(error, DATABASE_ERRORS) and not is_permanent(error)


def ends_transaction(error: BaseException) -> bool:
    """Whether a database error ends the whole transaction, not only the savepoint in which it was raised."""
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or (sqlstate(error) or "").startswith(_AWAY + _LOST_TO_OTHERS)


def is_lost_to_others(error: BaseException) -> bool:
    """Whether the transaction was ended for another one's sake (a deadlock): tried again, it will succeed."""
    return (sqlstate(error) or "").startswith(_LOST_TO_OTHERS)


def is_unreachable(error: BaseException) -> bool:
    """Whether the database is away (down, restarting, refusing connections), as opposed to having refused something."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (sqlstate(error) or "").startswith(_AWAY)
    away = (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError, TimeoutError, socket.gaierror)
    return isinstance(error, away) or (isinstance(error, OSError) and error.errno in (None, errno.EHOSTUNREACH))
