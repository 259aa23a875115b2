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
    """200 pools with births, bursts and deaths, a tenth of the answers spoiled; triggers in between, and kills."""
    verdict = collect(tmp_path, Stretch(seconds=600, speed=60, faults=0.1, kills=kills, triggers=4, seed=5 + kills))
    assert verdict.violations == []
    assert verdict.true > 1000
    assert verdict.candles > 1000
    assert verdict.statuses["200 truncated"] + verdict.statuses["200 nulls"] + verdict.statuses["0 reset"] > 0
    assert verdict.busiest_minute <= 10 < verdict.calls
