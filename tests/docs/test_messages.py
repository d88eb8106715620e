"""Every message that a document shows is accepted as it stands."""

import re

import pytest

from closeloop.models.forecasts import Forecast
from closeloop.models.positions import ClosedPosition
from tests.docs.pages import ROOT
from tests.models.test_closed_position import DOCUMENTED


@pytest.mark.parametrize(("name", "message"), [("README.md", ClosedPosition), ("docs/forecasts.md", Forecast)])
def test_messages(name: str, message: type[ClosedPosition | Forecast]) -> None:
    shown = re.findall(r"```json\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert len(shown) == 1
    assert message.model_validate_json(shown[0]).book == "default"


def test_the_message_of_a_close_is_the_one_that_is_tested() -> None:
    assert DOCUMENTED.strip() in (ROOT / "README.md").read_text()
