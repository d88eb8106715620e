"""What a question or a command can be refused for, the same through every door.

The sentence of an error is for a person: it says what was asked, and what is wrong. The class is for the door: the CLI
leaves with status 1, an HTTP door answers with ``http_status``.
"""

from typing import ClassVar


class ServiceError(Exception):
    """A service could not do what it was asked. Raised only as one of its subclasses; ``str()`` is the sentence."""

    http_status: ClassVar[int] = 500


class NotAuthenticated(ServiceError):
    """The token is unknown, has expired, or was revoked."""

    http_status = 401


class NotAllowed(ServiceError):
    """The token may not do this: it has not the scope, or is for other books."""

    http_status = 403


class NotOnRecord(ServiceError):
    """There is no such book, position, proposal, lesson, ... on record."""

    http_status = 404


class NotPossibleNow(ServiceError):
    """What is on record prevents it: it was decided already, or other content has the same id."""

    http_status = 409


class BookArchived(NotPossibleNow):
    """The book was removed: it takes in nothing and decides nothing until it is restored."""


class ChangedSince(ServiceError):
    """What was asked for rests on something that has changed since it was looked at."""

    http_status = 412


class NotAcceptable(ServiceError):
    """The request can never be done as it was said: a value outside its limits, a policy or preset that cannot hold."""

    http_status = 422


class RunFailed(ServiceError):
    """A workflow that was started for the request ended without a result; the sentence says why."""

    http_status = 502


class Unavailable(ServiceError):
    """What every request needs is not there or cannot be used: the stack, a server, a setting; says what to do."""

    http_status = 503
