"""Numbers as a person reads them."""

import pytest

from closeloop.cli.console import p_value


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "<0.001"), (0.00099, "<0.001"), (0.001, "0.001"), (0.25, "0.250"), (None, "-")]
)
def test_a_small_p_value_is_never_shown_as_none(value: float | None, shown: str) -> None:
    assert p_value(value) == shown
