"""The watched pools: 30 in a call, each in its turn, and what is gone is marked and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.rows import AnswerError
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket
from geckosched_geckoterminal.watched_pools import PoolTurns

from geckosched import Outcome
from geckosched.testing import FakeClock, SpeedClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

DAY = 86_400
START = datetime(2026, 9, 28, 20, 46, tzinfo=UTC)


def element(address: str, price: str = "0.5") -> dict[str, Any]:
    attributes = {"address": address, "name": f"{address} / SOL", "base_token_price_usd": price}
    return {"id": f"solana_{address}", "type": "pool", "attributes": attributes}


class Multi:
    """The API's answers to `/pools/multi/`: it knows the pools of `known`, and tells what it was asked."""

    def __init__(self, api: FakeApi, known: Iterable[str]) -> None:
        self.api, self.known = api, set(known)
        self.told: list[list[str]] = []
        self.answer: Answer | None = None
        multi = self

        class Paths(dict[str, Any]):
            def get(self, path: str, default: Any = None) -> Any:
                if not path.startswith("/pools/multi/"):
                    return super().get(path, default)
                asked = path.removeprefix("/pools/multi/").split(",")
                multi.told.append(asked)
                return multi.answer or (200, {"data": [element(pool) for pool in asked if pool in multi.known]})

        api.answers = Paths(api.answers)


def open_house(house: Open, pools: list[str], **more: Any) -> House:
    home = house(watchlist={"pools": pools}, **more)
    home.run("watchlist")
    return home


def gone(home: House) -> dict[str, str | None]:
    return {row["address"]: row["gone_at"] for row in home.rows("SELECT address, gone_at FROM gt_pools")}


def refusal(status: int) -> Answer:
    return status, {"errors": [{"status": str(status), "title": "no"}]}


NINETY = [f"P{place:02}" for place in range(90)]


def test_the_watched_pools_are_stored_with_a_snapshot_of_each_moment(house: Open, api: FakeApi) -> None:
    body = {
        "data": [element("A"), element("B")],
        "included": [{"id": "solana_T", "type": "token", "attributes": {"address": "T", "symbol": "TEE"}}],
    }
    api.answers["/pools/multi/A,B"] = (200, body)
    home = open_house(house, ["A", "B"])
    run = home.run("pools")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 1, 5)
    assert api.calls == [("/pools/multi/A,B", {"include": "base_token,quote_token,dex"})]
    home.advance(120)
    assert home.run("pools").rows == 2  # snapshots; nothing else changed
    rows = home.rows("SELECT address, at, base_token_price_usd AS price FROM gt_pool_snapshots ORDER BY at, address")
    assert rows == [
        {"address": pool, "at": f"2026-09-28T20:{minute}:00.000000Z", "price": "0.5"}
        for minute in (46, 48)
        for pool in "AB"
    ]
    assert home.rows("SELECT address, symbol FROM gt_tokens") == [{"address": "T", "symbol": "TEE"}]


def test_a_snapshot_bears_the_time_of_its_answer(house: Open, clock: FakeClock) -> None:
    """An answer that lay in a cache for 40 seconds shows prices of 40 seconds ago, and is no second snapshot."""
    market = SyntheticMarket(seed=1, pools=3, born=int(clock.now() // 1_000_000) - 600, births=0)
    with Simulator(market, clock, rate=0) as simulator:
        home = open_house(house, [pool.address for pool in market.founders], base_url=simulator.base_url)
        home.run("pools")
        home.advance(40)
        assert home.run("pools").rows == 0
    assert simulator.requests[0].path.count(",") == 2  # as the API's documentation writes them, and not %2C
    moments = home.rows("SELECT DISTINCT at FROM gt_pool_snapshots")
    assert moments == [{"at": "2026-09-28T20:46:00.000000Z"}]


def test_of_many_pools_those_have_their_turn_that_waited_longest(house: Open, api: FakeApi) -> None:
    """Four calls may follow each other, which leaves the last thirty of these to the next run."""
    pools = [f"P{place:03}" for place in range(150)]
    multi = Multi(api, pools)
    home = open_house(house, pools)
    assert home.run("pools").calls == 4
    assert [len(asked) for asked in multi.told] == [30] * 4
    home.advance(120)
    home.run("pools")
    assert multi.told[4] == pools[120:]
    assert set().union(*multi.told) == set(pools)
    assert len(home.rows("SELECT DISTINCT address FROM gt_pool_snapshots")) == 150


def test_further_calls_are_made_with_free_ones_only(house: Open, api: FakeApi) -> None:
    """And no pool is asked for twice in a run."""
    multi = Multi(api, [*NINETY, "A"])
    api.answers["/new_pools"] = (200, {"data": []})
    home = open_house(house, NINETY)
    for _ in range(3):
        home.run("new-pools")  # which leaves one free call
    home.run("pools")
    assert len(multi.told) == 1
    home.advance(120)
    home.run("pools")
    assert multi.told[1:] == [NINETY[30:60], NINETY[60:], NINETY[:30]]


def test_the_first_call_is_waited_for(house: Open, api: FakeApi) -> None:
    multi = Multi(api, NINETY)
    api.answers["/new_pools"] = (200, {"data": []})
    home = open_house(house, NINETY, clock=SpeedClock(START, 10))
    for _ in range(4):  # which leaves no free call for six seconds
        home.run("new-pools")
    assert home.run("pools").outcome == Outcome.SUCCEEDED
    assert multi.told[0] == NINETY[:30]


@pytest.mark.parametrize("answer", [refusal(400), (200, b"<html>"), refusal(401), (200, {"data": [None]})])
def test_a_call_that_fails_does_not_hold_up_the_others(house: Open, api: FakeApi, answer: Answer) -> None:
    multi = Multi(api, NINETY)
    api.answers["/new_pools"] = (200, {"data": []})
    home = open_house(house, NINETY)
    for _ in range(3):
        home.run("new-pools")
    multi.answer = answer
    failed = home.run("pools")
    assert failed.outcome == (Outcome.SUCCEEDED if answer[0] == 401 else Outcome.FAILED)
    multi.answer = None
    home.advance(120)
    home.run("pools")
    assert multi.told[:2] == [NINETY[:30], NINETY[30:60]]
    assert "gone" not in str(gone(home).values())


def test_a_pool_that_the_answer_leaves_out_is_gone_and_asked_once_a_day_until_it_is_back(
    house: Open, api: FakeApi
) -> None:
    multi = Multi(api, ["A"])
    home = open_house(house, ["A", "B"])
    run = home.run("pools")
    assert (run.outcome, multi.told[-1]) == (Outcome.SUCCEEDED, ["A", "B"])
    assert gone(home) == {"A": None, "B": "2026-09-28T20:46:00.000000Z"}
    home.advance(DAY - 120)
    home.run("pools")
    assert multi.told[-1] == ["A"]
    home.advance(120)
    home.run("pools")
    assert sorted(multi.told[-1]) == ["A", "B"]
    assert gone(home) == {"A": None, "B": "2026-09-28T20:46:00.000000Z"}
    multi.known.add("B")
    home.advance(120)
    home.run("pools")
    assert multi.told[-1] == ["A"]
    home.advance(DAY)
    home.run("pools")
    assert gone(home) == {"A": None, "B": None}
    home.advance(120)
    home.run("pools")
    assert sorted(multi.told[-1]) == ["A", "B"]


@pytest.mark.parametrize("answer", [(200, {"data": []}), refusal(404)])
def test_an_answer_without_any_of_several_pools_counts_the_second_time(
    house: Open, api: FakeApi, answer: Answer
) -> None:
    """One empty answer must not cost a day of all of them."""
    multi = Multi(api, ["A", "B"])
    multi.answer = answer
    home = open_house(house, ["A", "B"])
    run = home.run("pools")
    assert run.outcome == Outcome.FAILED
    assert "none of 2 pools is shown" in (run.detail or "")
    multi.answer = None
    home.advance(120)
    home.run("pools")
    assert gone(home) == {"A": None, "B": None}
    multi.answer = answer
    for outcome in (Outcome.FAILED, Outcome.SUCCEEDED, Outcome.SKIPPED):
        home.advance(120)
        assert home.run("pools").outcome == outcome
    assert set(gone(home).values()) == {"2026-09-28T20:52:00.000000Z"}
    assert len(multi.told) == 4


@pytest.mark.parametrize("answer", [(200, {"data": []}), refusal(404)])
def test_a_pool_that_was_asked_for_alone_is_gone_at_once(house: Open, api: FakeApi, answer: Answer) -> None:
    Multi(api, []).answer = answer
    home = open_house(house, ["A"])
    assert home.run("pools").outcome == Outcome.SUCCEEDED
    assert gone(home) == {"A": "2026-09-28T20:46:00.000000Z"}


def test_a_row_that_cannot_be_read_may_be_any_pool_so_nobody_is_gone(house: Open, api: FakeApi) -> None:
    api.answers["/pools/multi/A,B"] = (200, {"data": [element("A"), {"id": 17}]})
    home = open_house(house, ["A", "B"])
    run = home.run("pools")
    assert run.outcome == Outcome.PARTIAL
    assert "call 1 row 2" in (run.detail or "")
    assert gone(home) == {"A": None}


def test_a_pool_in_one_answer_twice_is_one_pool(house: Open, api: FakeApi) -> None:
    api.answers["/pools/multi/A"] = (200, {"data": [element("A"), element("A", "0.9")]})
    home = open_house(house, ["A"])
    assert home.run("pools").rows == 2
    assert home.rows("SELECT base_token_price_usd AS price FROM gt_pools") == [{"price": "0.5"}]


def test_a_hex_address_is_known_in_any_case(house: Open, api: FakeApi) -> None:
    """The API answers in lower case, whatever it was asked for."""
    address = "0x" + "aB" * 20
    api.answers[f"/api/v2/networks/eth/pools/multi/{address}"] = (200, {"data": [element(address.lower())]})
    home = open_house(house, [address], settings={"network": "eth"})
    assert home.run("pools").outcome == Outcome.SUCCEEDED
    assert gone(home) == {address.lower(): None}


def test_a_hex_address_that_comes_back_is_no_longer_gone(house: Open, api: FakeApi) -> None:
    address = "0x" + "aB" * 20
    path = f"/api/v2/networks/eth/pools/multi/{address}"
    api.answers[path] = (200, {"data": []})
    home = open_house(house, [address], settings={"network": "eth"})
    home.run("pools")
    assert gone(home) == {address: "2026-09-28T20:46:00.000000Z"}
    api.answers[path] = (200, {"data": [element(address.lower())]})
    home.advance(DAY)
    home.run("pools")
    assert gone(home) == {address: None, address.lower(): None}


def test_what_the_trades_found_gone_keeps_its_time_and_what_is_shown_is_not_gone(house: Open, api: FakeApi) -> None:
    multi = Multi(api, ["A"])
    home = open_house(house, ["A", "B"])
    home.run("trades")  # 404 for both
    marked = "2026-09-28T20:46:00.000000Z"
    assert gone(home) == {"A": marked, "B": marked}
    home.advance(120)
    home.run("pools")
    assert multi.told == [["A", "B"]]
    assert gone(home) == {"A": None, "B": marked}


def test_a_pool_that_somebody_else_has_seen_meanwhile_is_asked_for_again(house: Open, api: FakeApi) -> None:
    multi = Multi(api, ["A"])
    home = open_house(house, ["A", "B"])
    home.run("pools")
    api.answers["/dexes/pumpswap/pools"] = (200, {"data": [element("B")]})
    home.run("top-pools")
    multi.known.add("B")
    home.advance(120)
    home.run("pools")
    assert sorted(multi.told[-1]) == ["A", "B"]


def test_without_a_watchlist_it_skips_and_looks_again_soon(house: Open, api: FakeApi) -> None:
    home = house()
    run = home.run("pools")
    assert (run.outcome, run.calls) == (Outcome.SKIPPED, 0)
    (job,) = home.rows("SELECT next_run_at FROM geckosched_jobs WHERE job_id = 'geckoterminal-pools'")
    assert job["next_run_at"] == "2026-09-28T20:46:05.000000Z"


def test_429_ends_the_run_as_rate_limited(house: Open, api: FakeApi) -> None:
    Multi(api, []).answer = (429, {"status": {"error_code": 429}})
    run = open_house(house, ["A"]).run("pools")
    assert (run.outcome, run.calls, run.rows) == (Outcome.RATE_LIMITED, 1, 0)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": [1, 2]}'])
def test_garbage_is_a_problem_and_stores_nothing(house: Open, api: FakeApi, body: bytes) -> None:
    Multi(api, []).answer = (200, body)
    run = open_house(house, ["A", "B"]).run("pools")
    assert (run.outcome, run.rows) == (Outcome.FAILED, 0)
    assert "AnswerError" in (run.detail or "")


# PoolTurns


def test_turns_survive_their_state_and_forget_pools_that_are_not_watched() -> None:
    turns = PoolTurns(["A", "B", "C"])
    turns.asked(["A"], 50)
    turns.asked(["B", "C"], 40)
    assert turns.observe(["B", "C"], ["B"], whole=True) == ["C"]
    state: dict[str, Any] = {}
    turns.save(state)
    again = PoolTurns.restore(state, ["A", "C", "D"])
    assert again.due(60, marked=["C"]) == ["D", "A"]
    assert again.due(60, marked=[]) == ["D", "C", "A"]
    assert again.due(40 + DAY, marked=["C"]) == ["D", "C", "A"]
    saved: dict[str, Any] = {}
    again.save(saved)
    assert saved == {"asked": {"A": 50, "C": 40}, "gone": ["C"], "doubted": []}


def test_a_clock_that_was_set_back_makes_everybody_due() -> None:
    turns = PoolTurns(["A"])
    turns.asked(["A"], 9000)
    turns.observe(["A"], [], whole=True)
    assert turns.due(100, marked=["A"]) == ["A"]


def test_doubt_is_told_of_those_who_were_not_doubted_before() -> None:
    turns = PoolTurns(["A", "B", "C"])
    with pytest.raises(AnswerError):
        turns.observe(["A", "B"], [], whole=True)
    with pytest.raises(AnswerError):
        turns.observe(["A", "C"], [], whole=True)
    assert turns.observe(["A", "C"], [], whole=True) == ["A", "C"]
    assert turns.observe(["A", "B", "C"], ["A"], whole=False) == []


def test_pools_that_are_known_to_be_gone_may_all_be_missing() -> None:
    turns = PoolTurns(["A", "B"])
    assert turns.observe(["A"], [], whole=True) == ["A"]
    assert turns.observe(["B"], [], whole=True) == ["B"]
    assert turns.observe(["A", "B"], [], whole=True) == ["A", "B"]


def test_a_pool_that_came_back_does_not_rest_for_a_mark_of_somebody_elses() -> None:
    turns = PoolTurns(["A"])
    turns.asked(["A"], 50)
    turns.observe(["A"], [], whole=True)
    assert turns.due(60, marked=["A"]) == []
    turns.observe(["A"], ["A"], whole=True)
    assert turns.due(60, marked=["A"]) == ["A"]
