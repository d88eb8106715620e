"""``closeloop-client``: look at a spool, and send what an engine left in it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from closeloop_client.sending import MOST_IN_A_BATCH, Next, send
from closeloop_client.spool import Spool, SpoolClosed, look
from closeloop_client.transport import Transport, Unanswered

PATIENCE_SECONDS = 60.0
"""Without a message sent for so long, draining gives up."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status: 0 done, 1 not, 2 called wrongly."""
    parser = argparse.ArgumentParser(prog="closeloop-client", description="The spool of an engine's closeloop client.")
    commands = parser.add_subparsers(dest="command", required=True)
    drain = commands.add_parser("drain", help="Send what is spooled; the token is read from CLOSELOOP_TOKEN.")
    drain.add_argument("spool", metavar="SPOOL", help="The spool's file; no engine may have it open.")
    drain.add_argument("--url", required=True, help="Where closeloop is, such as http://127.0.0.1:8234.")
    status = commands.add_parser("status", help="How many messages wait, and which were refused.")
    status.add_argument("spool", metavar="SPOOL", help="The spool's file; an engine may have it open.")
    status.add_argument("--json", action="store_true", help="Print one JSON document and nothing else.")
    told = parser.parse_args(arguments)
    try:
        if told.command == "status":
            return _status(told.spool, told.json)
        token = os.environ.get("CLOSELOOP_TOKEN", "").strip()
        if not token:
            return _fail("set CLOSELOOP_TOKEN to a token with the scope ingest ('closeloop tokens add' makes one).")
        return _drain(told.spool, told.url, token)
    except (SpoolClosed, ValueError) as error:
        return _fail(f"{error}.")


def _fail(sentence: str) -> int:
    print(f"closeloop-client: {sentence}", file=sys.stderr)
    return 1


def _status(path: str, as_json: bool) -> int:
    waiting, refused, newest = look(path)
    if as_json:
        shown = [{"kind": one.kind, "id": one.id, "reason": one.reason} for one in newest]
        print(json.dumps({"spooled": waiting, "refused": refused, "newest_refused": shown}))
        return 0
    print(f"{waiting} messages wait to be sent, {refused} were refused.")
    for one in newest:
        print(f"  {one.kind} {one.id}: {one.reason}")
    return 0


def _drain(path: str, url: str, token: str) -> int:
    if not os.path.exists(path):
        return _fail(f"there is no spool {path}.")
    transport = Transport(url, token)
    spool = Spool(path)
    most, done, refused, last, reason = MOST_IN_A_BATCH, 0, 0, time.monotonic(), ""
    while time.monotonic() - last < PATIENCE_SECONDS:
        try:
            sent = send(spool, transport, most)
        except Unanswered as error:
            reason = f"no answer ({error})"
            time.sleep(1)
            continue
        if sent is None:
            print(f"{done} messages are on record, {refused} were refused; none is left.", file=sys.stderr)
            return 0
        if sent.then is Next.GO_ON:
            done, refused = done + sent.done, refused + sent.refused
            most, last = MOST_IN_A_BATCH, time.monotonic()
            print(f"\r{done} sent, {spool.items} left ", end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
        elif sent.then is Next.FEWER:
            most = max(1, most // 2)
        else:
            reason = sent.reason
            if sent.then is Next.PAUSE and sent.pause is None:
                break  # a token that is not right does not become so by waiting
            time.sleep(min(sent.pause or 1.0, 30.0))
    return _fail(f"{spool.items} messages are left: {reason}. They stay in the spool.")


if __name__ == "__main__":
    raise SystemExit(main())
