"""Who else has an account on this machine: whoever has one reaches what listens on loopback."""

from collections.abc import Iterable
from pwd import struct_passwd

FIRST_PERSON = 1000  # user ids below are of the system
LAST_PERSON = 60_000  # those of containers, of directories' helpers and of nobody lie above
_NO_LOGIN = ("nologin", "false", "sync", "true")
_NAMED = 3


def people_beside(accounts: Iterable[struct_passwd], ours: int) -> list[str]:
    """Accounts of people, by name, who can log in and are not ``ours`` (a user id): those of passwd, no directory's."""
    return sorted(
        account.pw_name
        for account in accounts
        if FIRST_PERSON <= account.pw_uid <= LAST_PERSON
        and account.pw_uid != ours
        and account.pw_shell.rsplit("/", 1)[-1] not in _NO_LOGIN
    )


def note_about(people: list[str]) -> str | None:
    """What the stack says of them, and what to do; None where there is nobody."""
    if not people:
        return None
    more = f" and {len(people) - _NAMED} more" if len(people) > _NAMED else ""
    return (
        f"note      others have accounts here ({', '.join(people[:_NAMED])}{more}): Temporal on loopback asks nobody "
        "who he is, so they could decide under your name. Set approvals.require_token in the policy: docs/operating.md."
    )
