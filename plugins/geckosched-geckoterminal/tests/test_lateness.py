"""What a full answer hides: trades from before its oldest that were shown only after the answer before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.lateness import Sight, hidden
from geckosched_geckoterminal.rotation import LATE, PAGE
from geckosched_geckoterminal.rows import TradePage, trade_page

from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import FakeApi, House

NOW = 1_790_000_000.0


def page(gap: float, lags: Sequence[float], rows: int = PAGE) -> TradePage:
    """Return an answer with a trade every `gap` seconds, the newest at `NOW`."""
    times = [NOW - gap * number for number in range(rows)]
    return TradePage(times=times, lags=[lags[number % len(lags)] for number in range(rows)], seen=NOW)


def test_what_is_hidden_is_the_part_of_the_lag_that_reaches_beyond_the_overlap() -> None:
    """A tenth of the trades is 50 s late; of those in the 30 s that the overlap falls short, all of them are hidden."""
    lags = [2.0] * 9 + [50.0]
    assert hidden(seen=NOW, oldest=NOW - 20, lags=lags, rate=2.0) == pytest.approx(0.1 * 2.0 * 30)
    assert hidden(seen=NOW, oldest=NOW - 50, lags=lags, rate=2.0) == 0
    assert hidden(seen=NOW, oldest=NOW - 20, lags=[], rate=2.0) == 0


def test_an_answer_that_reaches_back_beyond_all_lags_hides_nothing() -> None:
    full = page(1.0, [2.0, 60.0])
    assert Sight(full.times[-1] + 61).loss(full) is None


def test_an_answer_that_just_reaches_back_hides_late_trades_and_says_where() -> None:
    full = page(1.0, [2.0] * 9 + [60.0])
    oldest = full.times[-1]
    loss = Sight(oldest + 10).loss(full)
    assert loss is not None
    assert loss.count == 5  # a tenth of the trades of 50 s
    assert loss.since <= oldest + 10 - 60
    assert loss.until == oldest


def test_trades_that_are_never_late_are_never_hidden() -> None:
    """An answer that reaches back by a single trade is no loss, then."""
    full = page(1.0, [3.0])
    assert Sight(full.times[-1] + 3).loss(full) is None


def test_an_answer_with_room_left_hides_nothing_whatever_the_lags() -> None:
    assert Sight(NOW - PAGE).loss(page(1.0, [60.0], rows=PAGE - 1)) is None


def test_a_first_answer_hides_nothing_that_is_known_of() -> None:
    assert Sight().loss(page(1.0, [60.0])) is None


def test_a_pool_that_was_late_once_may_be_late_again() -> None:
    """What an answer before showed counts, although this one has no late trade."""
    sight, full = Sight(), page(1.0, [2.0])
    sight.observe(page(1.0, [2.0, 60.0]))
    sight.seen = full.times[-1] + 10
    loss = sight.loss(full)
    assert loss is not None
    assert loss.count == 1


def test_a_trade_that_was_taken_in_again_is_no_late_one() -> None:
    full = page(1.0, [2.0, LATE + 3600.0])
    assert Sight(full.times[-1] + 10).loss(full) is None


def test_lags_and_the_last_first_sight_come_from_the_ids() -> None:
    def trade(second: int, shown: str) -> dict[str, object]:
        attributes = {"tx_hash": f"tx{second}", "block_timestamp": f"2026-09-28T20:45:{second:02}Z", "kind": "buy"}
        return {"id": f"solana_1_tx{second}_3_{shown}", "type": "trade", "attributes": attributes}

    at = 1790628300  # 20:45:00
    body = {"data": [trade(9, str(at + 12)), trade(5, str(at + 40)), trade(1, "later")]}
    found = trade_page(body, network="solana", pool="A", run_id=1)
    assert found.lags == [3, 35]
    assert found.seen == at + 40


@pytest.mark.parametrize(("late", "lost"), [(60, [0, 1]), (3, [0, 0])])
def test_an_answer_that_just_reaches_back_is_a_loss_in_the_store_if_trades_come_late(
    house: Callable[..., House], api: FakeApi, clock: FakeClock, late: int, lost: list[int]
) -> None:
    """What is known of a pool's lags is kept from run to run; the last known trade is among those shown again."""
    begins = clock.now() // 1_000_000 - 900

    def element(number: int) -> dict[str, Any]:
        block = begins + 3 * number
        moment = f"{datetime.fromtimestamp(block, UTC):%Y-%m-%dT%H:%M:%SZ}"
        shown = block + (late if number == 150 else 3)
        attributes = {"tx_hash": f"tx{number}", "block_timestamp": moment, "kind": "buy"}
        return {"id": f"solana_1_tx{number}_1_{shown}", "type": "trade", "attributes": attributes}

    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    found = []
    for newest in (299, 598):
        api.answers["/pools/A/trades"] = (200, {"data": [element(newest - place) for place in range(PAGE)]})
        found.append(home.run("trades").lost)
        home.advance(900)
    assert found == lost
    losses = home.rows('SELECT target, since, "until" FROM geckosched_losses')
    oldest = f"{datetime.fromtimestamp(begins + 3 * 299, UTC):%Y-%m-%dT%H:%M:%S}.000000Z"
    assert [(loss["target"], loss["until"]) for loss in losses] == [("A", oldest)] * sum(lost)
    assert all(loss["since"] < oldest for loss in losses)
