"""Candles: the head of each pair, holes that are paged back, and the quiet and the gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.candle_plan import Ask, CandlePlan
from geckosched_geckoterminal.faults import Fault, Faults
from geckosched_geckoterminal.ohlcv import Ohlcv, OhlcvOptions
from geckosched_geckoterminal.rows import TIMEFRAMES, CandlePage, candle_page
from geckosched_geckoterminal.stretches import Stretch
from geckosched_geckoterminal.watchlist import WatchlistOptions

from geckosched import ConfigError, Outcome, Setup
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House, Series

    Open = Callable[..., House]

DAY = 86_400


def refusal(status: int, title: str) -> Answer:
    return status, {"errors": [{"status": str(status), "title": title}]}


def traded(time: float) -> Answer:
    """Answer that a pool's newest trade is of `time`."""
    stamp = f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%SZ}"
    attributes = {"block_timestamp": stamp, "tx_hash": stamp, "volume_in_usd": "1"}
    return 200, {"data": [{"id": f"solana_1_{stamp}_0_1", "attributes": attributes}]}


def candles(*rows: Sequence[float]) -> Answer:
    return 200, {"data": {"attributes": {"ohlcv_list": list(rows)}}, "meta": {}}


def test_candles_are_stored_with_final_and_asked_for_again_until_they_are(
    house: Open, api: FakeApi, clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000  # 20:46:00
    before, running = now - 120, now - 60
    api.answers["/pools/A/ohlcv/minute"] = candles(
        [running, 1, 2, 0.5, 1.5, 10.0], [running, 1, 3, 0.5, 2.5, 20.0], [before, 1, 1, 1, 1, 5]
    )
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m"]})
    home.run("watchlist")
    run = home.run("ohlcv")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 1, 2)
    assert api.calls == [("/pools/A/ohlcv/minute", {"aggregate": "1", "limit": "1000"})]
    rows = home.rows("SELECT * FROM gt_ohlcv ORDER BY ts DESC")
    assert rows[0] == {
        "network": "solana",
        "pool": "A",
        "timeframe": "1m",
        "ts": running,
        "open": 1,
        "high": 3,
        "low": 0.5,
        "close": 2.5,
        "volume": 20.0,
        "final": 0,
        "run_id": run.id,
    }
    assert rows[1]["final"] == 1
    home.advance(3540)
    assert home.run("ohlcv").calls == 0
    home.advance(60)
    api.answers["/pools/A/ohlcv/minute"] = candles([running, 1, 4, 0.5, 3.5, 30.0])
    again = home.run("ohlcv")
    assert (again.calls, again.rows) == (1, 1)
    assert api.calls[-1][1]["limit"] == "63"  # 62 since the newest final one, and that itself
    (now_final,) = home.rows("SELECT * FROM gt_ohlcv WHERE ts = ?", running)
    assert (now_final["close"], now_final["volume"], now_final["final"]) == (3.5, 30.0, 1)
    assert now_final["run_id"] == again.id


def test_timeframes_are_asked_with_their_path_and_aggregate(house: Open, api: FakeApi) -> None:
    timeframes = ["15m", "4h", "1d"]
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": timeframes})
    for unit in ("minute", "hour", "day"):
        api.answers[f"/pools/A/ohlcv/{unit}"] = candles()
    home.run("watchlist")
    home.run("ohlcv")
    assert [(path.rpartition("/")[2], query["aggregate"]) for path, query in api.calls] == [
        ("minute", "15"),
        ("hour", "4"),
        ("day", "1"),
    ]


def test_the_budget_limits_a_run_and_the_next_one_goes_on(house: Open, api: FakeApi) -> None:
    pools = [f"P{place}" for place in range(6)]
    for pool in pools:
        api.answers[f"/pools/{pool}/ohlcv/day"] = candles()
    home = house(watchlist={"pools": pools}, ohlcv={"timeframes": ["1d"]})
    home.run("watchlist")
    assert home.run("ohlcv").calls == 4
    home.advance(60)
    assert home.run("ohlcv").calls == 2
    home.advance(60)
    assert home.run("ohlcv").calls == 0
    assert sorted(path for path, _ in api.calls) == [f"/pools/{pool}/ohlcv/day" for pool in pools]


def test_one_timeframes_error_is_a_problem_and_is_asked_again_when_due(house: Open, api: FakeApi) -> None:
    api.answers["/pools/A/ohlcv/minute"] = refusal(422, "Pools with >2 tokens")
    api.answers["/pools/A/ohlcv/hour"] = candles([1790625600, 1, 1, 1, 1, 1], [1, 2, 3])
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m", "1h"]})
    home.run("watchlist")
    run = home.run("ohlcv")
    assert (run.outcome, run.calls, run.rows) == (Outcome.PARTIAL, 2, 1)
    assert run.detail is not None
    assert "A 1m: ApiError: 422 Pools with >2 tokens" in run.detail
    assert "A 1h row 2" in run.detail
    home.advance(600)
    assert home.run("ohlcv").calls == 0
    home.advance(3000)
    assert home.run("ohlcv").calls == 2


def test_a_pool_without_candles_is_gone_for_all_timeframes(house: Open, api: FakeApi) -> None:
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m", "1h"]})
    home.run("watchlist")
    run = home.run("ohlcv")
    assert (run.outcome, run.calls) == (Outcome.SUCCEEDED, 1)
    assert home.rows("SELECT address, gone_at FROM gt_pools") == [
        {"address": "A", "gone_at": "2026-09-28T20:46:00.000000Z"}
    ]
    home.advance(DAY - 60)
    assert home.run("ohlcv").calls == 0
    home.advance(60)
    assert home.run("ohlcv").calls == 1
    api.answers["/pools/A/ohlcv/minute"] = candles()
    api.answers["/pools/A/ohlcv/hour"] = candles()
    home.advance(DAY)
    assert home.run("ohlcv").calls == 2
    assert home.rows("SELECT gone_at FROM gt_pools") == [{"gone_at": None}]


def test_a_quiet_pool_is_asked_once_a_day_until_it_trades(house: Open, api: FakeApi, clock: FakeClock) -> None:
    old = clock.now() // 1_000_000 - 7200
    api.answers["/pools/A/ohlcv/minute"] = candles([old, 1, 1, 1, 1, 1])
    home = house(watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1m"]})
    home.run("watchlist")
    assert home.run("ohlcv").calls == 1  # its only candle is new to us
    home.advance(3600)
    assert home.run("ohlcv").calls == 1  # nothing new
    home.advance(3600)
    assert home.run("ohlcv").calls == 0
    api.answers["/pools/A/trades"] = traded(clock.now() / 1e6)
    home.run("trades")
    assert home.run("ohlcv").calls == 1
    home.advance(DAY)
    assert home.run("ohlcv").calls == 1


# Holes

MINUTE = {"pools": ["A"]}
ONE = {"timeframes": ["1m"]}


def stored(home: House, timeframe: str = "1m") -> dict[int, float]:
    """Return volume by ts of the final candles."""
    rows = home.rows("SELECT ts, volume FROM gt_ohlcv WHERE timeframe = ? AND final = 1 ORDER BY ts", timeframe)
    return {row["ts"]: row["volume"] for row in rows}


def truth(candles: Series, since: float, until: float) -> dict[int, float]:
    return {ts: candles.candle(ts)[5] for ts in candles.final(since, until)}


def holes(home: House, timeframe: str = "1m") -> list[Any]:
    return list(home.state("ohlcv")["pairs"]["A"][timeframe]["holes"])


def until_quiet(home: House, most: int = 60) -> int:
    """Run the collector each minute until it has nothing to ask; return how many calls that took."""
    calls = 0
    for _ in range(most):
        home.advance(60)  # for the budget: nobody else would move the clock while a run waits for a call
        run = home.run("ohlcv")
        calls += run.calls
        if not run.calls:
            return calls
    raise AssertionError("the collector finds no end")


def test_a_downtime_leaves_a_hole_that_later_runs_and_restarts_close(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 3600)
    house(watchlist=MINUTE).run("watchlist")
    house(ohlcv=ONE).run("ohlcv")
    clock.advance(5 * 1000 * 60)
    house(ohlcv=ONE).run("ohlcv")  # a burst of four calls: the head, and three of the hole
    assert [call.get("before_timestamp") for call in candles.calls[1:]] == [
        None,
        *(str(now + 300_000 - n * 60_000 + 60) for n in (1, 2, 3)),
    ]
    (hole,) = holes(house(ohlcv=ONE))
    assert hole["before"] == now + 300_000 - 4 * 60_000 + 60
    clock.advance(60)
    home = house(ohlcv=ONE)
    run = home.run("ohlcv")
    assert (run.calls, run.outcome, run.lost) == (2, Outcome.SUCCEEDED, 0)
    assert candles.calls[-1]["limit"] == "3"  # what is missing still, and the last final one
    assert holes(home) == []
    assert stored(home) == truth(candles, 0, now + 300_000)
    clock.advance(60)
    assert home.run("ohlcv").calls == 0


def test_a_quiet_pools_hole_is_closed_by_a_short_answer(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """Its last final candle lies before the hole; what isn't full reaches as far as there is something."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 86_400, gap=50)
    home = house(watchlist=MINUTE, ohlcv=ONE)
    home.run("watchlist")
    home.run("ohlcv")
    candles.gap = 60
    candles.since = now + 500_000 // 60 * 60
    clock.advance(600_000)
    assert until_quiet(home) == 2
    assert [call["limit"] for call in candles.calls[1:]] == ["1000", "1000"]
    assert holes(home) == []
    assert set(truth(candles, candles.since, now + 600_000)) <= set(stored(home))


def test_the_state_never_passes_what_is_stored_whenever_the_process_is_killed(
    house: Open,
    api: FakeApi,
    series: Callable[..., Series],
    clock: FakeClock,
    commits: Callable[[House], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the store as it was after each commit all is found again."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 3600)
    home = house(watchlist=MINUTE, ohlcv=ONE)
    home.run("watchlist")
    home.run("ohlcv")
    clock.advance(3500 * 60)
    copies = commits(home)
    assert until_quiet(home) == 4
    monkeypatch.undo()
    assert stored(home).items() >= truth(candles, 0, now + 3500 * 60).items()
    assert len(copies) >= 4
    for copy in copies:
        again = type(home)(copy, api.base_url, {"watchlist": MINUTE, "ohlcv": ONE}, clock)
        until_quiet(again)
        assert stored(again).items() >= stored(home).items()


def test_a_killed_process_leaves_a_hole_to_the_next_one(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock, tmp_path: Path
) -> None:
    now = clock.now() // 1_000_000
    candles = series(60, now - 3600)
    home = house(watchlist=MINUTE, ohlcv=ONE)
    home.run("watchlist")
    api.answers["/pools/A/ohlcv/minute"] = candles
    home.run("ohlcv")
    clock.advance(3500 * 60)
    child: subprocess.Popen[bytes]

    def answer(query: Mapping[str, str]) -> Answer:
        if len(candles.calls) == 3:  # the head and one page of the hole are stored
            child.kill()
        return candles(query)

    api.answers["/pools/A/ohlcv/minute"] = answer
    code = (
        "import sys; from datetime import datetime, UTC; from pathlib import Path\n"
        "from conftest import House; from geckosched.testing import FakeClock\n"
        f"clock = FakeClock(datetime.fromtimestamp({now + 3500 * 60}, UTC))\n"
        f"House(Path({str(home.database)!r}), {api.base_url!r}, {{'ohlcv': {ONE!r}}}, clock).run('ohlcv')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment)
    assert child.wait(60) == -signal.SIGKILL
    (hole,) = holes(home)
    assert hole["before"] == now + 3500 * 60 - 2000 * 60 + 60
    api.answers["/pools/A/ohlcv/minute"] = candles
    clock.advance(120)
    until_quiet(home)
    assert stored(home) == truth(candles, 0, now + 3500 * 60)


def test_a_hole_older_than_the_plan_reaches_is_a_loss_with_count_and_span(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """After 230 days without a run five pages go back 208 days, and the sixth is refused."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/hour"] = candles = series(3600, now - 86_400, gap=1)
    home = house(watchlist=MINUTE, ohlcv={"timeframes": ["1h"]})
    home.run("watchlist")
    home.run("ohlcv")
    last = max(stored(home, "1h"))
    clock.advance(230 * DAY)
    assert until_quiet(home) == 6
    (loss,) = home.rows('SELECT job_id, target, count, since, "until" FROM geckosched_losses')
    missing = sorted(set(truth(candles, 0, now + 230 * DAY)) - set(stored(home, "1h")))
    assert (loss["job_id"], loss["target"]) == ("geckoterminal-ohlcv", "A 1h")
    assert missing[0] == last + 3600
    assert loss["count"] == len(missing) > 500
    assert loss["since"] == f"{datetime.fromtimestamp(missing[0], UTC):%Y-%m-%dT%H:%M:%S.000000Z}"
    assert loss["until"] == f"{datetime.fromtimestamp(missing[-1] + 3600, UTC):%Y-%m-%dT%H:%M:%S.000000Z}"
    assert holes(home, "1h") == []


def test_a_day_candles_answer_that_is_cut_by_its_span_is_no_end(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """184 rows of a limit of 301: what is older can't be had, and is a loss, not nothing."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/day"] = candles = series(DAY, now - 10 * DAY)
    home = house(watchlist=MINUTE, ohlcv={"timeframes": ["1d"]})
    home.run("watchlist")
    home.run("ohlcv")
    clock.advance(300 * DAY)
    assert until_quiet(home) == 2
    assert int(candles.calls[1]["limit"]) > 300
    (loss,) = home.rows("SELECT count FROM geckosched_losses")
    assert loss["count"] == len(set(truth(candles, 0, now + 300 * DAY)) - set(stored(home, "1d"))) > 100


def test_a_server_that_heeds_no_before_timestamp_costs_one_call_and_a_loss(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    candles = series(60, now - 3600, gap=2)
    api.answers["/pools/A/ohlcv/minute"] = lambda query: candles({"limit": query["limit"]})
    home = house(watchlist=MINUTE, ohlcv=ONE)
    home.run("watchlist")
    home.run("ohlcv")
    clock.advance(3000 * 60)
    assert until_quiet(home) == 2
    (loss,) = home.rows("SELECT target, count FROM geckosched_losses")
    missing = set(truth(candles, 0, now + 3000 * 60)) - set(stored(home))
    assert loss == {"target": "A 1m", "count": pytest.approx(len(missing), rel=0.02)}


def test_the_running_candle_twice_takes_a_place_and_hides_nothing(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """Full is what has as many elements as the limit asked for, however few candles these are."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 3600)
    home = house(watchlist=MINUTE, ohlcv={"timeframes": ["1m"], "refresh": "10m"})
    home.run("watchlist")
    home.run("ohlcv")

    def twice(listed: list[Any]) -> list[Any]:
        return [[*listed[0][:5], 0.1], [*listed[0][:5], 0.2], *listed][: max(len(listed), 3)]

    candles.spoil = twice
    clock.advance(600)
    run = home.run("ohlcv")
    assert (run.calls, candles.calls[1]["limit"]) == (2, "13")
    assert "before_timestamp" in candles.calls[2]  # two of the thirteen were missing
    candles.spoil = None
    until_quiet(home)
    assert stored(home) == truth(candles, 0, now + 600)
    assert holes(home) == []


def test_a_pool_that_is_watched_again_gets_what_it_missed(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """Its state is forgotten; the store knows where it ended. A hole that was open stays known."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 3600)
    api.answers["/pools/B/ohlcv/minute"] = series(60, now)
    home = house(watchlist={"pools": ["A", "B"]}, ohlcv=ONE)
    home.run("watchlist")
    home.run("ohlcv")
    house(watchlist={"pools": ["B"]}).run("watchlist")
    clock.advance(1500 * 60)
    house(ohlcv=ONE).run("ohlcv")
    assert set(home.state("ohlcv")["pairs"]) == {"B"}
    house(watchlist={"pools": ["A"]}).run("watchlist")
    clock.advance(4500 * 60)
    house(ohlcv=ONE).run("ohlcv")
    (hole,) = holes(home)
    house(watchlist={"pools": ["B"]}).run("watchlist")
    clock.advance(3600)
    house(ohlcv=ONE).run("ohlcv")
    assert holes(home) == [hole]
    home = house(watchlist={"pools": ["A"]}, ohlcv=ONE)
    home.run("watchlist")
    until_quiet(home)
    assert stored(home).items() >= truth(candles, 0, now + 6000 * 60 + 3600).items()


# Candles that can't be read


def test_an_unreadable_candle_is_asked_for_again_with_the_head(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 3600)
    candles.spoil = lambda listed: [*listed[:20], [*listed[20][:5], None], *listed[21:]]
    home = house(watchlist=MINUTE, ohlcv=ONE)
    home.run("watchlist")
    run = home.run("ohlcv")
    assert run.outcome == Outcome.PARTIAL
    assert run.detail is not None
    assert "A 1m row 21" in run.detail
    assert len(stored(home)) == len(truth(candles, 0, now)) - 1
    candles.spoil = None
    clock.advance(3600)
    assert home.run("ohlcv").calls == 1
    assert stored(home) == truth(candles, 0, now + 3600)


def test_an_unreadable_candle_of_a_hole_stays_a_hole_and_is_asked_for_ever_more_seldom(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 3600)
    home = house(watchlist=MINUTE, ohlcv=ONE)
    home.run("watchlist")
    home.run("ohlcv")
    clock.advance(2500 * 60)
    bad = now + 1000 * 60

    def spoil(listed: list[Any]) -> list[Any]:
        return [[*candle[:3], None, *candle[4:]] if candle[0] == bad else candle for candle in listed]

    candles.spoil = spoil
    until_quiet(home)
    whole = truth(candles, 0, now + 2500 * 60)
    assert whole.keys() - stored(home).keys() == {bad}
    (hole,) = holes(home)
    assert (hole["after"], hole["before"]) == (bad - 60, bad + 61)
    asked = []
    for hour in range(14):
        clock.advance(3600)
        before = len(candles.calls)
        home.run("ohlcv")
        if any("before_timestamp" in call for call in candles.calls[before:]):
            asked.append(hour)
    assert asked == [0, 2, 6]
    candles.spoil = None
    clock.advance(12 * 3600)
    until_quiet(home)
    assert holes(home) == []
    assert stored(home).keys() >= whole.keys()


def test_a_candle_whose_right_element_could_not_be_read_is_not_stored_wrong() -> None:
    """Of two elements the later is right; where that is unreadable there is none, until it is asked for again."""
    old, right = [600, 1, 1, 1, 1, 1], [600, 1, 2, 1, None, 2]
    body = {"data": {"attributes": {"ohlcv_list": [[660, 1, 1, 1, 1, 1], old, right, [540, 1, 1, 1, 1, 1]]}}}
    found = candle_page(body, network="solana", pool="A", timeframe=TIMEFRAMES["1m"], at=9000, run_id=1)
    assert [row["ts"] for row in found.rows] == [660, 540]
    assert (found.newest_final, found.unread, found.listed) == (540, (540, 660), 4)


def test_faults_leave_no_hole_and_nothing_wrong(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """Half of the answers hold nulls or duplicates or are cut off, through runs and standstills of many hours.

    Once they are well again, every candle is there and right.
    """
    begins = clock.now() // 1_000_000
    kinds = (Fault.NULLS, Fault.DUPLICATES, Fault.TRUNCATED)
    faults, met = Faults(0.5, 3, kinds), list[Fault | None]()
    pairs = {
        (pool, unit): series(step, begins - 3000 * step, gap=gap)
        for pool, gap in (("A", 1), ("B", 7))
        for unit, step in (("minute", 60), ("hour", 3600))
    }

    def spoilt(candles: Series) -> Callable[[Mapping[str, str]], Answer]:
        def answer(query: Mapping[str, str]) -> Answer:
            status, body = candles(query)
            met.append(faults.meets(len(met), "/ohlcv/"))
            content = json.dumps(body).encode()
            kind = met[-1]
            return status, (faults.spoiled(kind, len(met), content) if kind else None) or content

        return answer

    home = house(watchlist={"pools": ["A", "B"]}, ohlcv={"timeframes": ["1m", "1h"]})
    home.run("watchlist")
    for (pool, unit), candles in pairs.items():
        api.answers[f"/pools/{pool}/ohlcv/{unit}"] = spoilt(candles)
    for pause in (60, 3600, 7200, 90_000, 60, 60, 3600, 150_000, 60, 60, 60, 3600, 60, 7200, 60, 60):
        home.run("ohlcv")
        clock.advance(pause)
    assert set(met) >= set(kinds)
    for (pool, unit), candles in pairs.items():
        api.answers[f"/pools/{pool}/ohlcv/{unit}"] = candles
    for _ in range(2):
        clock.advance(DAY)
        until_quiet(home)
    for (pool, unit), candles in pairs.items():
        name = {"minute": "1m", "hour": "1h"}[unit]
        rows = home.rows("SELECT * FROM gt_ohlcv WHERE pool = ? AND timeframe = ? ORDER BY ts", pool, name)
        final = {row["ts"]: [row[key] for key in ("ts", "open", "high", "low", "close", "volume")] for row in rows}
        until = clock.now() // 1_000_000 - 3600  # what was asked for in the last hour, and is final
        expected = {ts: candles.candle(ts) for ts in candles.final(rows[0]["ts"], until)}
        assert {ts: each for ts, each in final.items() if ts in expected} == expected
        assert len(expected) > 300


# Quiet pools


def test_a_trade_that_was_learnt_of_late_wakes_a_quiet_pool(
    house: Open, api: FakeApi, series: Callable[..., Series], clock: FakeClock
) -> None:
    """A quiet pool's trades are asked every few hours, so that the newest may be older than one when it is seen."""
    now = clock.now() // 1_000_000
    api.answers["/pools/A/ohlcv/minute"] = candles = series(60, now - 7200, until=now - 7200)
    home = house(watchlist=MINUTE, ohlcv=ONE)
    home.run("watchlist")
    home.run("ohlcv")
    clock.advance(3600)
    home.run("ohlcv")
    clock.advance(3600)
    assert home.run("ohlcv").calls == 0
    candles.since = candles.until = now + 3660
    clock.advance(2 * 3600)
    api.answers["/pools/A/trades"] = traded(now + 3670)
    home.run("trades")
    assert home.run("ohlcv").calls == 1
    assert now + 3660 in stored(home)
    clock.advance(3600)
    assert home.run("ohlcv").calls == 1  # that was news; from now on it sleeps again
    clock.advance(DAY - 3600)
    assert home.run("ohlcv").calls == 0
    clock.advance(3600)
    assert home.run("ohlcv").calls == 1


# The plan


def page(timeframe: str, at: float, *openings: float) -> CandlePage:
    rows = [[ts, 1, 1, 1, 1, 1] for ts in openings]
    body = {"data": {"attributes": {"ohlcv_list": rows}}}
    return candle_page(body, network="solana", pool="A", timeframe=TIMEFRAMES[timeframe], at=at, run_id=1)


def never(_pool: str, _since: float) -> bool:
    return False


def answered(plan: CandlePlan, ask: Ask, at: float, *openings: float) -> None:
    """Let a plan ask, and get these candles."""
    limit = plan.limit(ask, at)
    plan.defer(ask, at)
    assert plan.observe(ask, at, at, limit, page(ask.timeframe, at, *openings)) is None


def test_the_most_overdue_pair_comes_first() -> None:
    """1m is due every `refresh`, an hour; 1d every day."""
    plan = CandlePlan(["A", "B"], ["1m", "1d"])
    asked = []
    for moment in range(4):
        ask = plan.next(moment, never)
        assert ask is not None
        asked.append((ask.pool, ask.timeframe))
        answered(plan, ask, moment)
    assert asked == [("A", "1m"), ("B", "1m"), ("A", "1d"), ("B", "1d")]
    assert plan.next(3599, never) is None
    for pool in ("A", "B"):
        answered(plan, Ask(pool, "1m"), DAY - 3599, DAY - 3660)
    assert plan.next(DAY + 2, never) == Ask("A", "1m")  # since 1 s; ("A", "1d") since 0 s


def test_a_failed_pair_waits_longer_each_time_and_holds_up_no_other() -> None:
    plan = CandlePlan(["A", "B"], ["1m"])
    plan.defer(Ask("A", "1m"), 0)
    assert plan.next(0, never) == Ask("B", "1m")
    answered(plan, Ask("B", "1m"), 0)
    assert plan.next(299, never) is None
    assert plan.next(300, never) == Ask("A", "1m")
    plan.defer(Ask("A", "1m"), 300)
    assert plan.next(899, never) is None
    assert plan.next(900, never) == Ask("A", "1m")
    for _ in range(50):
        plan.defer(Ask("A", "1m"), 900)
    assert plan.next(900 + 3600, never) is not None  # never longer than `refresh`


def test_a_hole_that_fails_waits_longer_each_time_but_never_longer_than_refresh() -> None:
    plan, ask = CandlePlan(["A"], ["1m"]), Ask("A", "1m")
    answered(plan, ask, 600, 480)
    answered(plan, ask, 120_000, *range(119_940, 59_940, -60))
    hole = plan.next(120_000, never)
    assert hole is not None
    for waits in (300, 600):
        plan.defer(hole, 120_000)
        assert plan.next(120_000 + waits - 1, never) is None
        assert plan.next(120_000 + waits, never) == hole
    for _ in range(20):
        plan.defer(hole, 120_000)
    answered(plan, ask, 120_600, *range(120_540, 119_820, -60))  # the head isn't due before 124,200
    assert plan.next(123_599, never) is None
    assert plan.next(123_600, never) == hole


def test_what_is_missing_reaches_from_the_newest_final_candle_to_now() -> None:
    plan, ask = CandlePlan(["A"], ["1m"]), Ask("A", "1m")
    assert plan.limit(ask, 6000) == 1000
    answered(plan, ask, 6000, 5940, 5880, 5820)
    assert plan.limit(ask, 6000) == 3  # 5880, which is final, 5940 and 6000
    assert plan.limit(ask, 6000 + 60 * 5000) == 1000
    assert plan.limit(ask, 0) == 1


def test_a_plan_survives_its_state() -> None:
    plan = CandlePlan(["A", "B"], ["1m", "1h"])
    answered(plan, Ask("A", "1m"), 6000, 5940, 5880)
    answered(plan, Ask("A", "1m"), 600_000, *range(599_940, 599_940 - 60_000, -60))  # leaves a hole
    plan.gone.mark("B", 600_000)
    state: dict[str, Any] = {}
    plan.save(state)
    again = CandlePlan.restore(json.loads(json.dumps(state)), ["A", "B"], ["1m", "1h"])
    saved: dict[str, Any] = {}
    again.save(saved)
    assert saved == json.loads(json.dumps(state))
    assert again.next(600_000, never) == Ask("A", "1h")
    other = CandlePlan.restore(state, ["A", "C"], ["1m"])
    assert other.next(600_000, never) == Ask("C", "1m")


def test_a_clock_that_was_set_back_makes_candles_and_holes_due() -> None:
    plan = CandlePlan(["A"], ["1m"])
    answered(plan, Ask("A", "1m"), 50_000, 49_800)
    assert plan.next(40_000, never) == Ask("A", "1m")
    answered(plan, Ask("A", "1m"), 500_000, *range(499_920, 499_920 - 60_000, -60))
    answered(plan, Ask("A", "1m"), 100_000, 99_960)  # due in an hour, the hole was in 400,000 s
    ask = plan.next(100_000, never)
    assert ask is not None
    assert ask.hole is not None


def test_a_hole_takes_its_turn_after_what_is_overdue_for_longer() -> None:
    """A long hole takes a call now and then, and holds up nobody."""
    plan = CandlePlan(["A", "B"], ["1m"])
    for pool in ("A", "B"):
        answered(plan, Ask(pool, "1m"), 0)
    answered(plan, Ask("A", "1m"), 60, 0)
    answered(plan, Ask("A", "1m"), 300_000, *range(299_940, 239_940, -60))
    order = []
    for moment in (300_001, 300_002, 300_003):
        ask = plan.next(moment, never)
        assert ask is not None
        order.append((ask.pool, ask.hole is not None))
        before = 300_000 if ask.hole is None else ask.hole.before
        answered(plan, ask, moment, *range(before - 60, before - 60_060, -60))
    assert order == [("B", False), ("A", True), ("A", True)]


def test_two_holes_of_one_pair_are_both_kept_and_closed() -> None:
    plan, ask = CandlePlan(["A"], ["1m"]), Ask("A", "1m")
    answered(plan, ask, 600, 480)
    answered(plan, ask, 120_000, *range(119_940, 59_940, -60))
    answered(plan, ask, 240_000, *range(239_940, 179_940, -60))
    holes = plan.holes("A", "1m")
    assert [(hole.after, hole.before) for hole in holes] == [(480, 60_000), (119_880, 180_000)]
    for hole in holes:
        answered(plan, Ask("A", "1m", hole), 240_000, *range(hole.before - 60, hole.after, -60))
    assert plan.holes("A", "1m") == []


def test_a_pool_that_wakes_after_a_year_has_no_hole_of_a_year() -> None:
    """It was asked each day, so that nothing can be missing but what is younger than the last answer."""
    year = 365 * DAY
    plan, ask = CandlePlan(["A"], ["1d"]), Ask("A", "1d")
    answered(plan, ask, 3 * DAY, DAY, 0)
    answered(plan, ask, year)
    now = year + 2 * DAY + 60
    answered(plan, ask, now, year + DAY)
    assert plan.holes("A", "1d") == []
    assert plan.limit(ask, now) == 2


def test_what_was_not_asked_for_half_a_year_is_a_hole_though_the_answer_is_short() -> None:
    """One answer spans half a year, whatever its limit."""
    plan, ask = CandlePlan(["A"], ["1d"]), Ask("A", "1d")
    answered(plan, ask, 3 * DAY, DAY, 0)
    now = 300 * DAY
    answered(plan, ask, now, *range(now, now - 184 * DAY, -DAY))
    (hole,) = plan.holes("A", "1d")
    assert (hole.after, hole.before) == (DAY, 117 * DAY)


def test_an_answer_that_gets_no_further_is_not_asked_for_at_once_again() -> None:
    """Else a candle that always comes twice before one that can never be read would take call after call."""
    rows = [[600, 1, 1, 1, 1, 1], [600, 1, 1, 1, 1, 1], [540, None, 1, 1, 1, 1]]
    body = {"data": {"attributes": {"ohlcv_list": rows}}}
    answer = candle_page(body, network="solana", pool="A", timeframe=TIMEFRAMES["1m"], at=9000, run_id=1)
    stretch = Stretch(0, 601)
    stretch.defer(9000)
    left = stretch.take(answer, 60, 9000, full=True, retry=3600)
    assert [(each.after, each.before, each.due_at) for each in left.stretches] == [(0, 601, 12_600)]


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeframes": ["1m", "2m"]}, "timeframes: '2m' is none of 1m 5m 15m 1h 4h 12h 1d"),
        ({"timeframes": []}, "timeframes"),
        ({"timeframes": "1m"}, "timeframes: '1m' is no list"),
        ({"refresh": "10s"}, "refresh: 0:00:10 is less than 1m"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        OhlcvOptions(**options)


def test_options_are_read() -> None:
    options = OhlcvOptions(["1h", "1m", "1h"], "2h")  # type: ignore[arg-type]
    assert options.timeframes == ["1h", "1m"]
    assert options.refresh.total_seconds() == 7200


def test_an_estimate_of_calls_counts_each_timeframe_as_often_as_it_is_due() -> None:
    setup = Setup({}, {"geckoterminal-watchlist": WatchlistOptions(pools=["A", "B"])})
    assert Ohlcv.calls_per_run(OhlcvOptions(), setup) == pytest.approx(2 * (3 + 1 / 24) / 60)
    assert Ohlcv.calls_per_run(OhlcvOptions(["1d"]), setup) == pytest.approx(2 / 24 / 60)
    assert Ohlcv.calls_per_run(OhlcvOptions(["1m"], "1m"), setup) == pytest.approx(2)  # type: ignore[arg-type]
