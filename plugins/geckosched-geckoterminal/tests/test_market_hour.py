"""The whole plugin against a market: nothing is doubled, nothing is lost unseen, whatever the answers and the kills.

Ten minutes of what `market_hour.py` does for an hour when it is run by hand. Nothing here depends on the
machine's speed: a slow one loses more trades, and says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from market_hour import Stretch, collect


@pytest.mark.parametrize("kills", [0, 6])
def test_every_trade_is_stored_once_or_within_the_span_of_a_loss(tmp_path: Path, kills: int) -> None:
    """60 pools with births, bursts and deaths, a tenth of the answers spoiled; triggers in between, and kills."""
    ten_minutes = Stretch(60, seconds=600, speed=100, faults=0.1, kills=kills, triggers=4, seed=5 + kills)
    verdict = collect(tmp_path, ten_minutes)
    assert verdict.violations == []
    assert min(verdict.true, verdict.candles, verdict.calls) > 0  # how many is a matter of the machine
    assert verdict.busiest_minute <= 10
