"""A minute of the fault campaign (``make chaos``)."""

from tests.faults.campaign import FAULTS, campaign


async def test_a_minute_of_faults() -> None:
    """It fails by itself where anything is lost, doubled or different; here, that it did what it is for."""
    figures = await campaign(seed=11, seconds=60)
    assert figures.faults.keys() == FAULTS.keys()
    assert min(figures.closes[door] for door in ("Temporal", "positions", "import", "again")) > 0, figures.told()
    assert figures.late_convictions > 0, figures.told()
    assert figures.forecasts > 0, figures.told()
    assert figures.cycles["approve"] + figures.cycles["reject"] > 0, figures.told()
