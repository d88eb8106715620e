"""What came from outside, as it may be printed: a terminal shows it and obeys none of it."""

import re
from unicodedata import category

# Spaces of other widths, characters of private use, and those that this Python's Unicode does not know yet.
_HARMLESS = frozenset(("Zs", "Co", "Cn"))


def visible(text: str, lines: bool = False) -> str:
    r"""The text with its terminal escapes, controls, marks that turn the direction and halves of pairs spelled out.

    An escape becomes the four characters ``\x1b``. Line breaks stay where ``lines`` says that they are ours.
    """
    if text.isprintable():
        return text
    return "".join(
        one if _is_harmless(one) or (lines and one == "\n") else one.encode("unicode_escape").decode() for one in text
    )


def visible_json(document: str) -> str:
    r"""A JSON document whose strings have what ``visible`` spells out as JSON's own ``\u`` escapes: the same values."""
    if document.isascii() and "\x7f" not in document:
        return document
    return re.sub(r"[^\x20-\x7e\n]", _escaped, document)


def _is_harmless(one: str) -> bool:
    return one.isprintable() or category(one) in _HARMLESS


def _escaped(found: re.Match[str]) -> str:
    one = found.group()
    if _is_harmless(one):
        return one
    units = one.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
