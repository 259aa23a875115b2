"""Tokens that lack something are looked up, and those that can't be helped less and less often."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.tokens import TokensOptions

from geckosched import ConfigError, Outcome

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

HOUR, DAY = 3600, 86_400


def pool(address: str, base: str, quote: str = "So11") -> dict[str, Any]:
    relations = {"base_token": base, "quote_token": quote}
    return {
        "id": f"solana_{address}",
        "type": "pool",
        "attributes": {"address": address, "name": "?"},
        "relationships": {name: {"data": {"id": f"solana_{token}"}} for name, token in relations.items()},
    }


def token(address: str, symbol: str | None = "TEE", decimals: int | None = 6, **more: Any) -> dict[str, Any]:
    attributes = {"address": address, "name": "Tee", "symbol": symbol, "decimals": decimals}
    return {"id": f"solana_{address}", "type": "token", "attributes": attributes | more}


class Lookups:
    """The API's answers to `/tokens/multi/`, and what it was asked."""

    def __init__(self, api: FakeApi) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.asked: list[list[str]] = []
        self.answer: Answer | None = None
        lookups = self

        class Paths(dict[str, Any]):
            def get(self, path: str, default: Any = None) -> Any:
                if not path.startswith("/tokens/multi/"):
                    return super().get(path, default)
                asked = path.removeprefix("/tokens/multi/").split(",")
                lookups.asked.append(asked)
                known = [lookups.known[each] for each in asked if each in lookups.known]
                return lookups.answer or (200, {"data": known})

        api.answers = Paths(api.answers)

    def know(self, *tokens: dict[str, Any]) -> None:
        self.known.update({each["attributes"]["address"]: each for each in tokens})


@pytest.fixture
def lookups(api: FakeApi) -> Lookups:
    return Lookups(api)


def collected(house: Open, api: FakeApi, pools: Iterable[dict[str, Any]], included: Iterable[dict[str, Any]]) -> House:
    """Return a house whose store has these pools and the tokens that came with them."""
    api.answers["/new_pools"] = (200, {"data": list(pools), "included": list(included)})
    home = house()
    home.run("new-pools")
    return home


def rows(home: House, address: str) -> dict[str, Any]:
    (row,) = home.rows("SELECT * FROM gt_tokens WHERE address = ?", address)
    return row


def waits(home: House, seconds: float) -> None:
    """Assert that the next lookup is made after so many seconds, and not an hour before."""
    home.advance(seconds - HOUR)
    run = home.run("tokens")
    assert (run.outcome, run.calls) == (Outcome.SKIPPED, 0)
    home.advance(HOUR)


def test_only_what_lacks_symbol_or_decimals_is_asked_for(house: Open, api: FakeApi, lookups: Lookups) -> None:
    """Of the stored tokens, and of the pools' tokens that nobody has told of."""
    included = [token("So11"), token("A"), token("B", symbol=""), token("C", decimals=None)]
    pools = [pool("1", "A"), pool("2", "B"), pool("3", "C"), pool("4", "D"), pool("5", "A", "E")]
    home = collected(house, api, pools, included)
    lookups.know(*(token(address) for address in "BCDE"))
    run = home.run("tokens")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 1, 4)
    assert [sorted(asked) for asked in lookups.asked] == [["B", "C", "D", "E"]]
    assert home.rows("SELECT address FROM gt_tokens WHERE symbol IS NULL OR decimals IS NULL") == []
    home.advance(HOUR)
    run = home.run("tokens")
    assert (run.outcome, run.calls) == (Outcome.SKIPPED, 0)
    assert "no token of solana lacks symbol or decimals" in (run.detail or "")


def test_all_that_a_token_shows_is_stored_as_text(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "A")], [token("So11")])
    shown = token(
        "A",
        total_supply="999922842480187.0",
        normalized_total_supply="999922842.480187",
        price_usd="0.00004764845427",
        fdv_usd="NaN",
        total_reserve_in_usd="17177.0163064019881364397",
        volume_usd={"h24": "124737.925416128"},
        market_cap_usd=None,
        launchpad_details={"graduation_percentage": 2.16, "completed": False, "completed_at": None},
        last_trade_timestamp="1779897731",
        unheard_of="x",
    )
    shown["relationships"] = {"top_pools": {"data": [{"id": "solana_P1", "type": "pool"}, {"id": "solana_P2"}]}}
    lookups.know(shown)
    run = home.run("tokens")
    told = {name: value for name, value in rows(home, "A").items() if value is not None}
    assert told == {
        "network": "solana",
        "address": "A",
        "name": "Tee",
        "symbol": "TEE",
        "decimals": 6,
        "total_supply": "999922842480187.0",
        "normalized_total_supply": "999922842.480187",
        "price_usd": "0.00004764845427",
        "total_reserve_in_usd": "17177.0163064019881364397",
        "volume_usd_h24": "124737.925416128",
        "launchpad_details_graduation_percentage": 2.16,
        "launchpad_details_completed": 0,
        "last_trade_timestamp": "1779897731",
        "top_pools": '["P1", "P2"]',
        "run_id": run.id,
    }


def test_a_token_that_stays_without_symbol_is_asked_for_less_and_less(
    house: Open, api: FakeApi, lookups: Lookups
) -> None:
    home = collected(house, api, [pool("1", "A")], [token("So11"), token("A", symbol=None)])
    lookups.know(token("A", symbol=None))
    home.run("tokens")
    for hours in (1, 2, 4, 8):
        waits(home, hours * HOUR)
        assert home.run("tokens").calls == 1
    lookups.know(token("A"))
    waits(home, 16 * HOUR)
    assert home.run("tokens").rows == 1
    row = rows(home, "A")
    assert (row["symbol"], row["lookups"], row["lookup_after"]) == ("TEE", None, None)


def test_a_token_that_the_api_does_not_know_is_marked_and_asked_for_after_days(
    house: Open, api: FakeApi, lookups: Lookups
) -> None:
    home = collected(house, api, [pool("1", "A"), pool("2", "B")], [token("So11")])
    lookups.know(token("A"))
    home.run("tokens")
    assert rows(home, "B")["gone_at"] == "2026-09-28T20:46:00.000000Z"
    assert rows(home, "A")["gone_at"] is None
    for days in (1, 2):
        waits(home, days * DAY)
        assert home.run("tokens").calls == 1
        assert rows(home, "B")["gone_at"] == "2026-09-28T20:46:00.000000Z"
    lookups.know(token("B"))
    waits(home, 4 * DAY)
    home.run("tokens")
    assert (rows(home, "B")["symbol"], rows(home, "B")["gone_at"]) == ("TEE", None)


def test_no_wait_is_longer_than_a_month(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "A")], [token("So11")])
    for _ in range(9):
        home.run("tokens")
        home.advance(30 * DAY)
    assert len(lookups.asked) == 9


def test_a_token_that_a_list_shows_is_not_gone(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "A")], [token("So11")])
    home.run("tokens")
    api.answers["/trending_pools"] = (200, {"data": [pool("1", "A")], "included": [token("A")]})
    home.run("trending")
    assert (rows(home, "A")["symbol"], rows(home, "A")["gone_at"]) == ("TEE", None)


def test_a_wait_from_a_clock_that_was_wrong_is_not_kept(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "A", "A")], [])
    home.run("tokens")
    with closing(sqlite3.connect(home.database)) as store, store:
        store.execute("UPDATE gt_tokens SET lookup_after = '2029-06-01T00:00:00.000000Z'")
    home.advance(HOUR)
    assert home.run("tokens").calls == 1


@pytest.mark.parametrize("columns", ["gone", "bare"])
def test_what_nobody_has_stored_yet_is_lacking(house: Open, api: FakeApi, lookups: Lookups, columns: str) -> None:
    """Neither a table that isn't there nor one without the columns hides a token."""
    included = [] if columns == "gone" else [{"id": "solana_A", "type": "token", "attributes": {"address": "A"}}]
    home = collected(house, api, [pool("1", "A", "A")], included)
    lookups.know(token("A"))
    assert home.run("tokens").calls == 1
    assert rows(home, "A")["decimals"] == 6


def test_without_any_pool_there_is_nothing_to_look_up(house: Open, api: FakeApi, lookups: Lookups) -> None:
    run = house().run("tokens")
    assert (run.outcome, run.calls) == (Outcome.SKIPPED, 0)


def test_a_run_takes_thirty_at_a_time_and_so_many_calls_as_it_may(house: Open, api: FakeApi, lookups: Lookups) -> None:
    names = [f"T{place:03}" for place in range(100)]
    pages = [[pool(f"P{name}", name) for name in names[first : first + 20]] for first in range(0, 100, 20)]
    home = house(tokens={"max_calls": 2})
    for page in pages:
        api.answers["/new_pools"] = (200, {"data": page, "included": [token("So11")]})
        home.run("new-pools")
        home.advance(60)
    lookups.know(*map(token, names))
    assert home.run("tokens").calls == 2
    assert [len(asked) for asked in lookups.asked] == [30, 30]
    home.advance(HOUR)
    for _ in range(3):
        home.run("new-pools")  # which leaves one free call
    home.run("tokens")
    assert [len(asked) for asked in lookups.asked] == [30, 30, 30]
    home.advance(HOUR)
    home.run("tokens")
    assert sorted(each for asked in lookups.asked for each in asked) == names


def test_a_bad_row_is_a_problem_and_makes_nobody_gone(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "A"), pool("2", "B")], [token("So11")])
    lookups.answer = (200, {"data": [token("A"), {"id": "solana_B", "attributes": None}]})
    run = home.run("tokens")
    assert run.outcome == Outcome.PARTIAL
    assert "call 1 row 2" in (run.detail or "")
    assert rows(home, "B")["gone_at"] is None
    waits(home, HOUR)
    assert home.run("tokens").calls == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((400, {"errors": [{"title": "maximum 30 addresses allowed"}]}), Outcome.FAILED),
        ((200, {"data": [None]}), Outcome.FAILED),
        ((401, {"errors": [{"title": "Upgrade"}]}), Outcome.SUCCEEDED),
        ((404, {"errors": [{"title": "Not Found"}]}), Outcome.SUCCEEDED),
        ((200, {"data": []}), Outcome.SUCCEEDED),
    ],
)
def test_tokens_that_the_api_does_not_tell_of_do_not_hold_up_the_others(
    house: Open, api: FakeApi, lookups: Lookups, answer: Answer, outcome: Outcome
) -> None:
    names = [f"T{place:03}" for place in range(40)]
    home = collected(house, api, [pool(f"P{name}", name, name) for name in names], [])
    home.advance(HOUR)
    for _ in range(3):
        home.run("new-pools")  # which leaves one free call
    lookups.answer = answer
    assert home.run("tokens").outcome == outcome
    lookups.answer = None
    lookups.know(*map(token, names))
    home.advance(HOUR)
    home.run("tokens")
    assert lookups.asked[0] == names[:30]
    assert lookups.asked[1][:10] == names[30:]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": [1, 2]}'])
def test_garbage_is_a_problem_and_the_token_is_asked_for_again(
    house: Open, api: FakeApi, lookups: Lookups, body: bytes
) -> None:
    home = collected(house, api, [pool("1", "A")], [token("So11")])
    lookups.answer = (200, body)
    run = home.run("tokens")
    assert run.outcome == Outcome.FAILED
    assert "AnswerError" in (run.detail or "")
    lookups.answer = None
    lookups.know(token("A"))
    home.advance(HOUR)
    home.run("tokens")
    assert rows(home, "A")["symbol"] == "TEE"


def test_429_ends_the_run_and_costs_no_token_its_turn(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "A")], [token("So11")])
    lookups.answer = (429, {"status": {"error_code": 429}})
    run = home.run("tokens")
    assert (run.outcome, run.calls, run.rows) == (Outcome.RATE_LIMITED, 1, 0)
    home.advance(timedelta(minutes=10).total_seconds())
    lookups.answer = None
    assert home.run("tokens").calls == 1


def test_a_hex_address_is_known_in_any_case(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "0xAb", "0xAb")], [])
    lookups.answer = (200, {"data": [token("0xab")]})
    home.run("tokens")
    assert rows(home, "0xAb")["symbol"] == "TEE"


def test_an_address_with_a_comma_is_not_asked_for_in_pieces(house: Open, api: FakeApi, lookups: Lookups) -> None:
    home = collected(house, api, [pool("1", "A,B", "C,D")], [token("C,D", symbol=None)])
    assert home.run("tokens").outcome == Outcome.SKIPPED


@pytest.mark.parametrize("calls", [0, -1, 1.5, "2", None])
def test_a_number_of_calls_that_makes_no_sense_is_refused(calls: Any) -> None:
    with pytest.raises(ConfigError, match="max_calls"):
        TokensOptions(max_calls=calls)
