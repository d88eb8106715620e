"""Books: one for each strategy, with its preset of domain weights."""

from difflib import get_close_matches

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.gateways.presets import UnknownPreset, load_preset, names
from closeloop.learning.weights import InfeasibleBounds, preset_weights
from closeloop.models.books import BookSetUp, BookSummary, BookView
from closeloop.models.errors import BookArchived, NotAcceptable, NotOnRecord, NotPossibleNow
from closeloop.models.policy import LearningPolicy
from closeloop.models.weights import Cadence, Preset

NEAREST_NAMED = 5
BOOKS_COMPARED = 1_000
_WHERE = "'closeloop books list' shows them, 'closeloop books add' sets one up."


async def set_up(
    session: AsyncSession, policy: LearningPolicy, name: str, preset: Preset | None, cadence: Cadence | None
) -> BookSetUp:
    """Set up a book, or choose another preset or cadence for one. None leaves what is chosen, else the default.

    Raises NotAcceptable where the preset cannot be used with this policy, NotPossibleNow where the book has learned
    from another one, BookArchived where it was removed. Writes in the caller's transaction.
    """
    chosen = preset or preset_named(policy.weights.default_preset)
    try:
        weights = preset_weights(chosen, policy.weights)
    except InfeasibleBounds as error:
        raise NotAcceptable(f"The preset {chosen.name} cannot be used with this policy: {error}.") from None
    book = await store.books.hold(session, name)
    if book.archived_at is not None:
        raise BookArchived(archived_sentence(book))
    if preset is None and book.preset is not None and book.preset_weights is not None:
        await store.books.set_preset(session, name, book.preset, book.preset_weights, cadence)
        sentence = f"book {name} keeps the preset {book.preset}, {cadence or book.cadence}"
    elif book.preset_weights == weights and cadence in (None, book.cadence):
        sentence = f"book {name} has the preset {chosen.name} already"
    elif book.preset_weights != weights and await store.weights.last_cycle(session, name) is not None:
        raise NotPossibleNow(
            f"Book {name} has learned from preset {book.preset}, which stays: set up a new book for another preset."
        )
    else:
        await store.books.set_preset(session, name, chosen.name, weights, cadence)
        sentence = f"book {name} starts with the preset {chosen.name}"
    return BookSetUp(sentence=sentence, book=await find(session, name))


async def find(session: AsyncSession, name: str) -> BookView:
    """A book. Raises NotOnRecord, which names the books that there are, those with the most similar names first.

    Whatever only reads or decides asks here first: a name that was typed wrong must not look like an empty book.
    """
    found = await store.books.find(session, name)
    if found is None:
        there_are = await store.books.names(session, BOOKS_COMPARED)
        nearest = get_close_matches(name, there_are, n=NEAREST_NAMED, cutoff=0)
        named = ", ".join(nearest) + (" and more" if len(there_are) > len(nearest) else "")
        raise NotOnRecord(
            f"There is no book {name}. " + (f"There are: {named}. " if nearest else "There are none yet. ") + _WHERE
        )
    return found


async def find_open(session: AsyncSession, name: str) -> BookView:
    """A book that takes in and decides, and does so until the transaction ends.

    Raises NotOnRecord as ``find`` does, BookArchived where it was removed.
    """
    found = await find(session, name)
    await refuse_archived(session, name)
    return found


async def refuse_archived(session: AsyncSession, name: str) -> None:
    """For what a book takes in, which may be its first: see ``store.books.archived``. Raises BookArchived."""
    if found := await store.books.archived(session, [name]):
        raise BookArchived(archived_sentence(found[name]))


def archived_sentence(book: BookView) -> str:
    """Why a removed book takes nothing in, and how it is brought back."""
    assert book.archived_at is not None, "it was removed"
    return (
        f"book {book.book} was removed by {book.archived_by} on {book.archived_at:%Y-%m-%d %H:%M} UTC: it takes in "
        f"nothing and decides nothing. 'closeloop books restore {book.book} --by NAME' brings it back"
    )


async def find_if_named(session: AsyncSession, name: str | None) -> None:
    """Refuse a book of which nothing is on record, where one was named at all. Raises NotOnRecord, as ``find`` does.

    Forecasts, heartbeats and closes set their book up. What an engine writes into the database ahead of a close does
    not yet: such a book has nothing to decide on, and can be asked about.
    """
    if name is not None and not await store.books.on_record(session, name):
        await find(session, name)


async def listing(session: AsyncSession, last: int | None = None, before: str | None = None) -> list[BookSummary]:
    """Books by name; at most the ``last`` ones of those that come before the book ``before``. Raises NotOnRecord."""
    if before is not None:
        await find(session, before)
    return await store.books.listing(session, last, before)


def preset_named(name: str) -> Preset:
    """A preset that comes with closeloop, or a YAML file's. Raises NotAcceptable."""
    try:
        return load_preset(name)
    except UnknownPreset as error:
        raise NotAcceptable(str(error)) from None


def presets() -> list[Preset]:
    """The presets that come with closeloop."""
    return [load_preset(name) for name in names()]
