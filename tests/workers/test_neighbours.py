"""Who else has an account: a note where somebody has, and no noise otherwise."""

from pwd import struct_passwd

import pytest

from closeloop.workers.stack.neighbours import note_about, people_beside


def account(name: str, uid: int, shell: str = "/bin/bash") -> struct_passwd:
    return struct_passwd((name, "x", uid, uid, "", f"/home/{name}", shell))


SYSTEM = [
    account("root", 0),
    account("daemon", 1, "/usr/sbin/nologin"),
    account("postgres", 105),
    account("nobody", 65534, "/usr/sbin/nologin"),
    account("container", 100_000),
]


@pytest.mark.parametrize(
    ("accounts", "ours", "people"),
    [
        ([], 1000, []),
        (SYSTEM, 0, []),
        ([*SYSTEM, account("ann", 1000)], 1000, []),
        ([*SYSTEM, account("ann", 1000)], 0, ["ann"]),
        ([account("cid", 1002), account("ann", 1000), account("bob", 1001, "/usr/bin/zsh")], 1000, ["bob", "cid"]),
        ([account("git", 1001, "/usr/sbin/nologin"), account("ftp", 1002, "/bin/false")], 1000, []),
        ([account("sh", 1001, "")], 1000, ["sh"]),  # no shell named is the system's
    ],
)
def test_people_beside(accounts: list[struct_passwd], ours: int, people: list[str]) -> None:
    assert people_beside(accounts, ours) == people


def test_the_note_says_who_and_what_to_do() -> None:
    assert note_about([]) is None
    note = note_about(["ann", "bob"])
    assert note is not None
    assert "(ann, bob)" in note
    assert "approvals.require_token" in note
    many = note_about([f"u{n}" for n in range(9)])
    assert many is not None
    assert "(u0, u1, u2 and 6 more)" in many
