"""Who sent a signal or an update, as Temporal reports it: read from the run's own history, where no sender writes."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from temporalio import activity
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop.models.approvals import SaidIn

UNKNOWN_SENDER = "unknown"
ANSWERS_WITHIN_SECONDS = 10.0
# No operator says the same a hundred times to one proposal: whoever does must not have its history read each time.
TIMES_THE_SAME = 100
EVENTS_READ = 2_000


async def sender_of(client: Client, said_in: SaidIn | None) -> str:
    """Who sent a word; ``unknown`` where the history cannot be read or has it no more: no decision waits for this.

    What Temporal reports is what the sender's client calls itself (``pid@host``, unless it was given another name), and
    before it, where the server authenticates, who it was (``type:name``).
    """
    return (await senders_of(client, [said_in]))[0]


async def senders_of(client: Client, words: Sequence[SaidIn | None]) -> list[str]:
    """Who sent each of these words; each run's history is read once. See :func:`sender_of`."""
    asked = [word for word in words if word is not None and word.number < TIMES_THE_SAME]
    found: dict[str, str] = {}
    for run in dict.fromkeys((word.workflow_id, word.run_id) for word in asked):
        names = {word.name for word in asked if (word.workflow_id, word.run_id) == run}
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_SECONDS):
                found |= await _senders_in(client, *run, names)
        except (RPCError, TimeoutError) as error:
            activity.logger.warning("who sent a word cannot be read", extra={"reason": type(error).__name__})
    return [found.get(word.name, UNKNOWN_SENDER) if word else UNKNOWN_SENDER for word in words]


async def _senders_in(client: Client, workflow_id: str, run_id: str, names: set[str]) -> dict[str, str]:
    """The senders of the words of these names (SaidIn.name) in a run, as far as it was read."""
    found: dict[str, str] = {}
    signals: Counter[str] = Counter()
    read = 0
    async for event in client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history_events():
        read += 1
        if read > EVENTS_READ:
            break
        # An event of another kind has empty attributes here.
        signal = event.workflow_execution_signaled_event_attributes
        update = event.workflow_execution_update_accepted_event_attributes.accepted_request.meta
        if signal.signal_name:
            number = signals[signal.signal_name]
            signals[signal.signal_name] += 1
            word = SaidIn(workflow_id=workflow_id, run_id=run_id, signal=signal.signal_name, number=number)
            sender = _readable(event, signal.identity)
        elif update.update_id:
            word = SaidIn(workflow_id=workflow_id, run_id=run_id, update_id=update.update_id)
            sender = _readable(event, update.identity)
        else:
            continue
        if word.name in names:
            found[word.name] = sender
        if len(found) == len(names):
            break
    return found


def _readable(event: HistoryEvent, identity: str) -> str:
    who = f"{event.principal.type}:{event.principal.name} " if event.principal.name else ""
    return "".join(c for c in f"{who}{identity}" if c.isprintable())[:200].strip() or UNKNOWN_SENDER
