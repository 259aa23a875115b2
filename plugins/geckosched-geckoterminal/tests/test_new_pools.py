"""New pools: each one that the list shows is stored, and each one that it no longer shows is in a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.new_pools import Birth, Descent, Known, NewPools, NewPoolsOptions
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket
from geckosched_geckoterminal.tokens import Tokens
from geckosched_geckoterminal.top_pools import TopPools
from geckosched_geckoterminal.trending import Trending
from geckosched_geckoterminal.watched_pools import WatchedPools
from hypothesis import given, settings
from hypothesis import strategies as st

from geckosched import Collector, ConfigError, Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

DAY = 86_400
START = datetime(2026, 9, 28, 20, 46, tzinfo=UTC).timestamp()


def iso(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%SZ}"


def element(address: str, created: object, price: str = "0.5") -> dict[str, Any]:
    attributes = {"address": address, "name": f"{address} / SOL", "pool_created_at": created}
    token = {"data": {"id": f"solana_T{address}", "type": "token"}}
    return {
        "id": f"solana_{address}",
        "type": "pool",
        "attributes": attributes | {"base_token_price_usd": price, "transactions": {"m5": {"buys": 3}}},
        "relationships": {
            "base_token": token,
            "quote_token": {"data": {"id": "solana_So11", "type": "token"}},
            "dex": {"data": {"id": "pump-fun", "type": "dex"}},
        },
    }


class Newborns:
    """A pool every `gap` seconds since `start`, numbered from 0: the list's answers by page, newest first."""

    def __init__(self, clock: FakeClock, gap: float) -> None:
        self.clock, self.gap, self.start = clock, gap, clock.now() / 1e6 - 3600
        self.refused: dict[str, Answer] = {}  # by page
        self.passes = 0.0  # seconds, after each answer

    def born(self, number: int) -> float:
        return self.start + number * self.gap

    @property
    def newest(self) -> int:
        return int((self.clock.now() / 1e6 - self.start) // self.gap)

    def __call__(self, query: Mapping[str, str]) -> Answer:
        page = query["page"]
        if page in self.refused:
            return self.refused[page]
        first = self.newest - 20 * (int(page) - 1)
        numbers = range(first, max(first - 20, -1), -1)
        self.clock.advance(self.passes)
        return 200, {"data": [element(f"P{number}", iso(self.born(number))) for number in numbers]}


@pytest.fixture
def newborns(api: FakeApi, clock: FakeClock) -> Newborns:
    """A birth every two seconds: 30 a minute."""
    api.answers["/new_pools"] = found = Newborns(clock, 2)
    return found


def pages(api: FakeApi) -> list[str]:
    return [query["page"] for _, query in api.calls]


def losses(home: House) -> list[dict[str, Any]]:
    return home.rows('SELECT run_id, target, count, since, "until" FROM geckosched_losses ORDER BY rowid')


def stored(home: House) -> int:
    (row,) = home.rows("SELECT count(*) AS pools FROM gt_new_pools")
    return int(row["pools"])


REFUSED: Answer = (401, {"errors": [{"status": "401", "title": "Upgrade to Analyst plan"}]})
GARBAGE: Answer = (200, b"<html>no JSON</html>")
LIMITED: Answer = (429, {"status": {"error_code": 429}})
MISSING: Answer = (404, {"errors": [{"status": "404", "title": "Not Found"}]})


# What is stored


def test_a_pool_is_kept_as_it_was_first_seen_and_known_as_it_is(house: Open, api: FakeApi, clock: FakeClock) -> None:
    token = {"id": "solana_TA", "type": "token", "attributes": {"address": "TA", "symbol": "A", "decimals": 6}}
    body = {"data": [element("A", "2026-09-28T20:45:50Z")], "included": [token]}
    api.answers["/new_pools"] = (200, body)
    home = house()
    first = home.run("new-pools")
    assert (first.outcome, first.calls, first.rows, first.lost) == (Outcome.SUCCEEDED, 1, 3, 0)
    home.advance(60)
    api.answers["/new_pools"] = (200, {"data": [element("A", "2026-09-28T20:45:50Z", "0.9")], "included": [token]})
    assert home.run("new-pools").rows == 1
    (new,) = home.rows("SELECT * FROM gt_new_pools")
    told = {name: value for name, value in new.items() if value is not None}
    assert told == {
        "network": "solana",
        "address": "A",
        "first_seen_at": "2026-09-28T20:46:00.000000Z",
        "pool_created_at": "2026-09-28T20:45:50Z",
        "name": "A / SOL",
        "base_token": "TA",
        "quote_token": "So11",
        "dex": "pump-fun",
        "base_token_price_usd": "0.5",
        "transactions_m5_buys": 3,
        "run_id": first.id,
    }
    assert home.rows("SELECT base_token_price_usd AS price FROM gt_pools") == [{"price": "0.9"}]
    assert home.rows("SELECT address, symbol, decimals FROM gt_tokens") == [
        {"address": "TA", "symbol": "A", "decimals": 6}
    ]


def test_it_asks_for_tokens_and_exchanges_too(house: Open, api: FakeApi, newborns: Newborns) -> None:
    house().run("new-pools")
    ((path, query),) = api.calls
    assert path == "/new_pools"
    assert set(query["include"].split(",")) == {"base_token", "quote_token", "dex"}


def test_a_pool_that_is_shown_twice_is_stored_as_it_was_shown_first(house: Open, api: FakeApi) -> None:
    """On one page, or on the next one, which may have lain in a cache and be older."""
    api.answers["/new_pools"] = (200, {"data": [element("known", iso(START - 60))]})
    home = house()
    home.run("new-pools")
    first = [element(f"P{place}", iso(START - place)) for place in range(20)]
    pages = {
        "1": [*first, element("P0", iso(START), "0.9")],
        "2": [element("P19", iso(START - 19), "0.9"), element("P20", iso(START - 20))],
    }
    api.answers["/new_pools"] = lambda query: (200, {"data": pages[query["page"]]})
    home.advance(60)
    assert home.run("new-pools").rows == 2 * 21
    for table in ("gt_pools", "gt_new_pools"):
        rows = home.rows(f"SELECT DISTINCT base_token_price_usd AS price FROM {table}")
        assert rows == [{"price": "0.5"}]


# How far a run reads


def test_a_run_reads_down_to_what_the_last_one_showed(house: Open, api: FakeApi, newborns: Newborns) -> None:
    home = house()
    home.run("new-pools")
    for seconds in (30, 60, 78):  # 15, 30 and 39 births
        home.advance(seconds)
        home.run("new-pools")
    assert pages(api) == ["1", "1", "1", "2", "1", "2"]
    assert stored(home) == 20 + 15 + 30 + 39
    assert losses(home) == []


def test_the_first_run_has_nothing_to_reach(house: Open, api: FakeApi, newborns: Newborns) -> None:
    run = house().run("new-pools")
    assert (pages(api), run.lost) == (["1"], 0)


def test_what_the_pages_do_not_reach_is_a_loss_with_its_span(
    house: Open, api: FakeApi, newborns: Newborns, clock: FakeClock
) -> None:
    home = house()
    home.run("new-pools")
    before = newborns.newest
    home.advance(200)  # 100 births, of which two pages show 40
    run = home.run("new-pools")
    assert stored(home) == 60
    (loss,) = losses(home)
    assert (loss["run_id"], loss["target"], run.lost) == (run.id, "new_pools", loss["count"])
    assert loss["since"][:19] + "Z" == iso(newborns.born(before))
    assert loss["until"][:19] + "Z" == iso(newborns.born(newborns.newest - 39))
    assert 57 <= loss["count"] <= 63  # 60 in truth
    home.advance(60)
    assert home.run("new-pools").lost == 0


def test_more_pages_reach_further_and_no_further_than_they_are_wanted(
    house: Open, api: FakeApi, newborns: Newborns
) -> None:
    home = house(new_pools={"max_pages": 10})
    home.run("new-pools")
    home.advance(200)
    newest, newborns.passes = newborns.newest, 7  # more than four calls take their time
    run = home.run("new-pools")
    assert (run.calls, run.lost) == (6, 0)
    rows = home.rows("SELECT address FROM gt_new_pools")
    assert {int(row["address"][1:]) for row in rows} >= set(range(newest - 119, newest + 1))


def test_hours_of_standstill_are_one_loss(house: Open, api: FakeApi, newborns: Newborns) -> None:
    home = house()
    home.run("new-pools")
    home.advance(6 * 3600)
    home.run("new-pools")
    home.advance(60)
    home.run("new-pools")
    (loss,) = losses(home)
    assert 10_000 <= loss["count"] <= 11_500  # 10,760 in truth
    assert loss["since"] < "2026-09-28T20:46:01"
    assert loss["until"] > "2026-09-29T02:44"


def test_an_answer_that_repeats_itself_is_no_news_and_no_loss(house: Open, api: FakeApi, newborns: Newborns) -> None:
    """The CDN may keep a page for a minute; the same pools with more of them above are reached by the next run."""
    home = house()
    home.run("new-pools")
    api.answers["/new_pools"] = kept = newborns({"page": "1"})
    home.advance(30)
    run = home.run("new-pools")
    assert (run.outcome, run.calls, run.rows, run.lost) == (Outcome.SUCCEEDED, 1, 0, 0)
    assert api.answers["/new_pools"] is kept
    api.answers["/new_pools"] = newborns
    home.advance(40)
    run = home.run("new-pools")
    assert (run.calls, run.lost, stored(home)) == (2, 0, 20 + 35)


def test_the_list_moves_while_it_is_read_and_nobody_is_stored_twice(
    house: Open, api: FakeApi, newborns: Newborns
) -> None:
    newborns.passes = 8  # four births before the next page
    home = house()
    home.run("new-pools")
    home.advance(60)
    newest = newborns.newest
    run = home.run("new-pools")
    assert (run.calls, run.lost) == (2, 0)
    rows = home.rows("SELECT address FROM gt_new_pools")
    assert len(rows) == len({row["address"] for row in rows}) == 20 + 34
    assert max(int(row["address"][1:]) for row in rows) == newest


# What may go wrong on the way


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (GARBAGE, Outcome.PARTIAL),
        ((422, {"errors": [{"title": "no"}]}), Outcome.PARTIAL),
        ((200, {"data": None}), Outcome.PARTIAL),
        (LIMITED, Outcome.RATE_LIMITED),  # which ends a run on the spot, as a kill would
    ],
)
def test_a_run_that_fails_on_page_2_keeps_page_1_and_leaves_the_rest_to_the_next(
    house: Open, api: FakeApi, newborns: Newborns, answer: Answer, outcome: Outcome
) -> None:
    """Page 1 alone must not make the next run believe that it has reached what is known."""
    home = house()
    home.run("new-pools")
    home.advance(50)  # 25 births
    newborns.refused["2"] = answer
    run = home.run("new-pools")
    assert (run.outcome, stored(home), run.lost) == (outcome, 40, 0)
    newborns.refused.clear()
    home.advance(20)  # 10 more; page 1 shows ten that the failed run has stored
    run = home.run("new-pools")
    assert pages(api) == ["1", "1", "2", "1", "2"]
    assert (run.outcome, stored(home), losses(home)) == (Outcome.SUCCEEDED, 20 + 35, [])


def test_what_failed_runs_have_stored_of_a_gap_is_not_lost(house: Open, api: FakeApi, newborns: Newborns) -> None:
    """Three runs in a row store page 1 and fail; the next can't reach what is known, and misses what lies between."""
    home = house()
    home.run("new-pools")
    newborns.refused["2"] = GARBAGE
    for _ in range(3):
        home.advance(60)
        assert home.run("new-pools").lost == 0
    newborns.refused.clear()
    home.advance(60)
    run = home.run("new-pools")
    assert stored(home) == 20 + 3 * 20 + 40 - 10  # its page 2 shows ten of the last failed run's
    (loss,) = losses(home)
    assert run.lost == loss["count"]
    assert 27 <= loss["count"] <= 33  # 120 births, 90 stored


def test_a_server_that_fails_on_page_1_changes_nothing(house: Open, api: FakeApi, newborns: Newborns) -> None:
    home = house()
    home.run("new-pools")
    before = home.state("new-pools")
    newborns.refused["1"] = GARBAGE
    home.advance(60)
    run = home.run("new-pools")
    assert run.outcome == Outcome.FAILED
    assert "page 1" in (run.detail or "")
    assert home.state("new-pools") == before


@pytest.mark.parametrize("answer", [REFUSED, MISSING, (200, {"data": []})])
def test_where_the_list_ends_before_it_meets_what_is_known_the_rest_is_lost(
    house: Open, api: FakeApi, newborns: Newborns, answer: Answer
) -> None:
    """The plan's limit is no error, and neither is a page past the end."""
    newborns.refused["2"] = answer
    home = house(new_pools={"max_pages": 5})
    home.run("new-pools")
    home.advance(60)
    run = home.run("new-pools")
    assert (run.outcome, run.calls, stored(home)) == (Outcome.SUCCEEDED, 2, 40)
    (loss,) = losses(home)
    assert 9 <= loss["count"] <= 12
    home.advance(20)
    assert home.run("new-pools").lost == 0


def test_an_empty_list_is_not_taken_for_what_is_known(house: Open, api: FakeApi, newborns: Newborns) -> None:
    home = house()
    home.run("new-pools")
    newborns.refused["1"] = (200, {"data": []})
    home.advance(30)
    run = home.run("new-pools")
    assert (run.outcome, run.calls, run.rows, run.lost) == (Outcome.SUCCEEDED, 1, 0, 0)
    newborns.refused.clear()
    home.advance(45)
    run = home.run("new-pools")
    assert (run.calls, run.lost, stored(home)) == (2, 0, 20 + 37)


def test_a_first_list_may_be_empty(house: Open, api: FakeApi, newborns: Newborns) -> None:
    newborns.refused["1"] = (200, {"data": []})
    home = house()
    assert home.run("new-pools").outcome == Outcome.SUCCEEDED
    newborns.refused.clear()
    home.advance(60)
    run = home.run("new-pools")
    assert (run.calls, run.rows, run.lost) == (1, 40, 0)  # 20 in each of two tables


@pytest.mark.parametrize("created", [None, "", "NaN"])
def test_pools_of_unknown_age_are_stored_and_a_gap_is_still_a_loss(
    house: Open, api: FakeApi, created: str | None
) -> None:
    def shown(*numbers: int) -> Answer:
        return 200, {"data": [element(f"P{number}", created) for number in numbers]}

    api.answers["/new_pools"] = shown(*range(20))
    home = house(new_pools={"max_pages": 1})
    home.run("new-pools")
    home.advance(60)
    api.answers["/new_pools"] = shown(25, *range(19))
    assert home.run("new-pools").lost == 0
    home.advance(60)
    api.answers["/new_pools"] = shown(*range(40, 60))
    home.run("new-pools")
    (loss,) = losses(home)
    assert loss["count"] == 1
    assert (loss["since"][11:19], loss["until"][11:19]) == ("20:47:00", "20:48:00")
    assert stored(home) == 41


def test_one_bad_row_is_one_problem_and_a_bad_time_keeps_its_pool(house: Open, api: FakeApi) -> None:
    body = {"data": [element("A", "2026-09-28T20:45:50Z"), {"id": "x"}, element("B", "yesterday")]}
    api.answers["/new_pools"] = (200, body)
    home = house()
    run = home.run("new-pools")
    assert run.outcome == Outcome.PARTIAL
    assert "page 1 row 2" in (run.detail or "")
    assert "page 1 B" in (run.detail or "")
    rows = home.rows("SELECT address, pool_created_at FROM gt_new_pools ORDER BY address")
    assert [row["pool_created_at"] for row in rows] == ["2026-09-28T20:45:50Z", "yesterday"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": [1, 2]}'])
def test_garbage_is_a_problem_and_stores_nothing(house: Open, api: FakeApi, body: bytes) -> None:
    api.answers["/new_pools"] = (200, body)
    run = house().run("new-pools")
    assert (run.outcome, run.rows) == (Outcome.FAILED, 0)
    assert "AnswerError" in (run.detail or "")


def test_a_network_that_is_gone_is_marked_and_asked_once_a_day(
    house: Open, api: FakeApi, newborns: Newborns
) -> None:
    newborns.refused["1"] = MISSING
    home = house()
    assert home.run("new-pools").outcome == Outcome.SUCCEEDED
    gone = [{"id": "solana", "gone_at": "2026-09-28T20:46:00.000000Z"}]
    assert home.rows("SELECT id, gone_at FROM gt_networks") == gone
    home.advance(DAY - 60)
    run = home.run("new-pools")
    assert (run.outcome, run.calls) == (Outcome.SKIPPED, 0)
    home.advance(60)
    assert home.run("new-pools").calls == 1
    assert home.rows("SELECT id, gone_at FROM gt_networks") == gone
    newborns.refused.clear()
    home.advance(DAY)
    assert home.run("new-pools").calls == 1
    assert home.rows("SELECT id, gone_at FROM gt_networks") == [{"id": "solana", "gone_at": None}]


# A market of 25 births a minute, behind a CDN that keeps each answer for a minute


class Minutes:
    """Runs of the collector, a minute apart, over a simulated market; what was born, what was stored, what is lost."""

    def __init__(self, home: House, market: SyntheticMarket) -> None:
        self.home, self.market, self.ends = home, market, list[int]()

    def pass_by(self, count: int, seconds: float = 60) -> None:
        for _ in range(count):
            assert self.home.run("new-pools").outcome == Outcome.SUCCEEDED
            assert isinstance(self.home.clock, FakeClock)
            self.ends.append(self.home.clock.now() // 1_000_000)
            self.home.advance(seconds)

    @property
    def unseen(self) -> list[str]:
        """Times at which pools were born between the first and the last run that are not stored."""
        seen = {row["address"] for row in self.home.rows("SELECT address FROM gt_new_pools")}
        born = self.market.pools("solana", self.ends[-1]).values()
        return [
            f"{iso(pool.created_at)[:-1]}.000000Z"
            for pool in born
            if pool.created_at and self.ends[0] <= pool.created_at and pool.address not in seen
        ]


@pytest.fixture
def market(clock: FakeClock) -> SyntheticMarket:
    return SyntheticMarket(seed=3, pools=2, born=int(clock.now() // 1_000_000) - 600, births=1500)


def test_no_birth_escapes_a_run_a_minute(house: Open, market: SyntheticMarket, clock: FakeClock) -> None:
    """Although what the CDN keeps is as old as the last run by then, and would hide a minute of births."""
    clock.advance(300)
    with Simulator(market, clock, rate=0) as simulator:
        minutes = Minutes(house(base_url=simulator.base_url), market)
        minutes.pass_by(10, 59.5)
        assert losses(minutes.home) == []
        assert minutes.unseen == []
        assert len(simulator.requests) <= 20
    assert stored(minutes.home) > 200


def test_every_birth_that_escapes_lies_in_a_loss(house: Open, market: SyntheticMarket, clock: FakeClock) -> None:
    clock.advance(300)
    with Simulator(market, clock, rate=0) as simulator:
        minutes = Minutes(house(base_url=simulator.base_url, new_pools={"max_pages": 1}), market)
        minutes.pass_by(6)
        minutes.pass_by(2, 600)
        minutes.pass_by(2)
    unseen, known = minutes.unseen, losses(minutes.home)
    assert len(unseen) > 400
    for time in unseen:
        assert any(loss["since"] <= time <= loss["until"] for loss in known), time
    assert 0.75 < sum(loss["count"] for loss in known) / len(unseen) < 1.25


# Descent


def births(*times: float | None, names: str = "") -> list[Birth]:
    return [Birth(f"{names}{place}" if time is None else f"{time:g}", time) for place, time in enumerate(times)]


def known(*times: float, at: float = 100) -> Known:
    return Known([f"{time:g}" for time in times], max(times), at)


def test_a_page_older_than_the_one_above_leaves_a_hole() -> None:
    """The CDN's page 2 shows what is known, but was made before page 1: what moved down meanwhile is on neither."""
    descent = Descent(known(90, 89), 5, 160)
    descent.take(births(155, 150, 145, 140), 160, full=True)
    descent.take(births(110, 105, 90, 89), 120, full=True)
    assert descent.ended
    assert descent.gap == (90, 140)
    assert descent.missed(["100"]) == round(3 / 15 * 50) - 2 - 1
    assert descent.reached == Known(["155", "150", "145", "140"], 155, 160)


def test_a_page_that_shows_only_younger_pools_leaves_a_hole() -> None:
    """So long after page 1 that all of it has moved past page 2: what lies between is on neither."""
    descent = Descent(known(90), 5, 160)
    descent.take(births(155, 150), 160, full=True)
    descent.take(births(400, 390), 420, full=True)
    assert descent.ended
    assert descent.reached == Known(["155", "150"], 155, 160)
    assert descent.gap == (90, 150)


def test_a_page_joins_the_one_above_by_a_common_pool_or_by_beginning_where_that_ends() -> None:
    pages = (births(150, 145), 170), (births(145, 90), 160), (births(160, 155, 150, 145), 170), (births(150, 90), 120)
    for page, at in pages:
        descent = Descent(known(90), 3, 160)
        descent.take(births(155, 150), 160, full=True)
        descent.take(page, at, full=True)
        assert descent.ended == (page[-1].time == 90)
        assert descent.gap is None or not descent.ended


def test_an_answer_from_before_the_last_run_takes_nothing_back() -> None:
    before = known(90, 80, at=100)
    descent = Descent(before, 2, 130)
    descent.take(births(70, 60), 75, full=True)
    assert (descent.ended, descent.gap, descent.reached) == (True, None, before)


def test_a_clock_that_was_set_back_does_not_make_every_answer_an_old_one() -> None:
    descent = Descent(known(90, at=9000), 1, 160)
    descent.take(births(155, 150), 160, full=True)
    assert descent.gap == (90, 150)
    assert descent.reached == Known(["155", "150"], 155, 160)


def test_a_birth_in_the_far_future_is_no_time_to_reckon_with() -> None:
    """Else nothing would ever be younger than what is known, and no gap a loss."""
    descent = Descent(known(90), 1, 160)
    descent.take(births(1e9, 155, 150), 160, full=True)
    assert descent.reached == Known(["1e+09", "155", "150"], 155, 160)
    late = Descent(known(90), 1, 160)
    late.take(births(155, 150, 3), 160, full=True)
    assert late.gap == (90, 150)


def test_known_pools_are_those_of_one_network() -> None:
    state: dict[str, Any] = {}
    known(90).save(state, "solana")
    assert Known.restore(state, "solana") == known(90)
    assert Known.restore(state, "eth") is None
    known(50).save(state, "eth")
    assert Known.restore(state, "solana") is None


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[list[tuple[int, int, bool]]]]:
    """Seconds between births, and runs: for each page seconds before it is asked, its age, and whether it comes."""
    gaps = draw(st.lists(st.integers(1, 9), min_size=30, max_size=120))
    page = st.tuples(st.sampled_from([0, 1, 5, 40]), st.sampled_from([0, 0, 0, 3, 30]), st.integers(0, 5).map(bool))
    run = st.lists(page, min_size=3, max_size=3)
    return gaps, draw(st.lists(run, min_size=2, max_size=8))


ROWS = 5
"""Pools of a page in these histories."""


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(1, 3), st.integers(1, 60))
def test_whatever_happens_no_birth_is_missed_in_silence(
    history: tuple[list[int], list[list[tuple[int, int, bool]]]], max_pages: int, pause: int
) -> None:
    """Pages come late, from a cache, or not at all; each birth up to the last complete run is shown or in a gap."""
    gaps, runs = history
    times = [float(sum(gaps[: place + 1])) for place in range(len(gaps))]
    state: Known | None = None
    shown: set[str] = set()
    missed: list[tuple[float, float]] = []
    now, since = 50.0, None
    for run in runs:
        now += pause
        descent = Descent(state, max_pages, now)
        for place, (delay, age, comes) in enumerate(run):
            if descent.ended:
                break
            now += delay
            if not comes:
                break
            listed = sorted((time for time in times if time <= now - age), reverse=True)
            page = births(*listed[place * ROWS : (place + 1) * ROWS])
            shown.update(birth.address for birth in page)
            descent.take(page, now - age, full=len(page) == ROWS)
        if descent.ended:
            missed += [descent.gap] if descent.gap else []
            state = descent.reached
            since = state.newest if since is None and state else since
    if state is None or state.newest is None or since is None:
        return
    for time in times:
        if since < time <= state.newest and f"{time:g}" not in shown:
            assert any(first <= time <= last for first, last in missed), time


# Options


@pytest.mark.parametrize("pages", [0, 11, -1, 1.5, "2", None])
def test_max_pages_that_the_plan_does_not_show_are_refused(pages: Any) -> None:
    with pytest.raises(ConfigError, match="max_pages"):
        NewPoolsOptions(max_pages=pages)




# All collectors of pools and tokens


@pytest.mark.parametrize(
    ("collector", "every", "priority", "calls_per_hour"),
    [
        (NewPools, "1m", 30, 120),
        (WatchedPools, "2m", 20, 30),
        (TopPools, "10m", 10, 12),
        (Tokens, "1h", 0, 1),
        (Trending, "15m", 0, 4),
    ],
)
def test_what_a_collector_costs_is_what_is_promised(
    house: Callable[..., House], collector: type[Collector], every: str, priority: int, calls_per_hour: int
) -> None:
    """`geckosched check` adds these up before a start."""
    assert (collector.every, collector.priority) == (every, priority)
    jobs = house(watchlist={"pools": [f"P{place}" for place in range(27)]}).scheduler.get_forecast().jobs
    assert [job.calls_per_hour for job in jobs if job.job_id == collector.name] == [calls_per_hour]


def test_a_run_of_one_page_costs_one_call() -> None:
    assert NewPools.calls_per_run(NewPoolsOptions(max_pages=1)) == 1
    assert NewPools.calls_per_run(NewPoolsOptions(max_pages=10)) == 2
