"""The catalogue of networks and exchanges: read whole, stored once, and doubted where it is doubtful."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.market import NETWORKS, SOLANA_DEXES
from geckosched_geckoterminal.rows import AnswerError, catalog_page
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket

from geckosched import Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

SAMPLES = Path(__file__).resolve().parents[4] / "shared/geckoterminal/samples"
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="the recorded responses are not beside this checkout"
)

NETWORKS_PATH, DEXES_PATH = "/api/v2/networks", "/dexes"
DAY = 86_400


@pytest.fixture
def simulator(clock: FakeClock) -> Iterator[Simulator]:
    with Simulator(SyntheticMarket(born=clock.now() // 1_000_000), clock) as made:
        yield made


def listed(*ids: object, more: bool = False) -> Answer:
    """Answer with a page of entries; `more` says that its links name a next one."""
    rows = [{"id": each, "type": "dex", "attributes": {"name": f"The {each}"}} for each in ids]
    return 200, {"data": rows, "links": {"next": "http://elsewhere/?page=9" if more else None}}


def paged(*pages: Answer) -> Callable[[Mapping[str, str]], Answer]:
    """Answer with the page that is asked for."""
    return lambda query: pages[int(query["page"]) - 1]


@pytest.fixture
def both(api: FakeApi) -> FakeApi:
    """An API with one page of networks and one of exchanges."""
    api.answers[NETWORKS_PATH] = listed("eth", "solana")
    api.answers[DEXES_PATH] = listed("pumpswap", "raydium", "orca")
    return api


def problems(run: Any) -> str:
    """Return what a run says went wrong, after checking that it stored the rest."""
    assert run.outcome == Outcome.PARTIAL, run.detail
    assert run.detail is not None
    return str(run.detail)


# Over the simulator


def test_all_pages_are_stored_as_the_simulator_shows_them(house: Open, simulator: Simulator) -> None:
    home = house(base_url=simulator.base_url)
    run = home.run("catalog")
    assert (run.outcome, run.calls) == (Outcome.SUCCEEDED, 4)
    networks = home.rows("SELECT * FROM gt_networks")
    assert networks == [
        {
            "id": network.id,
            "name": network.name,
            "coingecko_asset_platform_id": network.platform,
            "gone_at": None,
            "run_id": run.id,
        }
        for network in NETWORKS
    ]
    assert len(networks) == run.rows - len(SOLANA_DEXES) > 200
    assert home.rows("SELECT * FROM gt_dexes") == [
        {"network": "solana", "id": dex.id, "name": dex.name, "gone_at": None, "run_id": run.id}
        for dex in SOLANA_DEXES
    ]
    pages = [request.path.partition("/api/v2")[2] for request in simulator.requests]
    assert pages == [*(f"/networks?page={n}" for n in (1, 2, 3)), "/networks/solana/dexes?page=1"]


def test_a_second_day_writes_nothing_and_keeps_the_stamps(house: Open, simulator: Simulator) -> None:
    home = house(base_url=simulator.base_url)
    first = home.run("catalog")
    home.advance(DAY)
    again = home.run("catalog")
    assert (again.outcome, again.calls, again.rows) == (Outcome.SUCCEEDED, 4, 0)
    assert home.rows("SELECT DISTINCT run_id FROM gt_networks") == [{"run_id": first.id}]


def test_it_runs_daily_behind_all_but_the_backfill(house: Open, both: FakeApi) -> None:
    home = house()
    [job] = [job for job in home.scheduler.get_status().jobs if job.job_id == "geckoterminal-catalog"]
    assert job.every == "1d"
    priorities = {name: each.collector.priority for name, each in home.scheduler.registry.collectors.items()}
    assert priorities.pop("geckoterminal-backfill") == -10
    assert priorities["geckoterminal-catalog"] == min(priorities.values()) == 0


def test_the_catalog_and_top_pools_share_one_table_of_exchanges(house: Open, both: FakeApi) -> None:
    """What either marks as gone the other can bring back: what was seen last stands."""
    both.answers["/dexes/pumpswap/pools"] = (200, {"data": []})
    home = house()
    home.run("top-pools")  # raydium is a 404
    assert home.rows("SELECT id FROM gt_dexes WHERE gone_at IS NOT NULL") == [{"id": "raydium"}]
    assert home.run("catalog").outcome == Outcome.SUCCEEDED
    rows = home.rows("SELECT id, name, gone_at FROM gt_dexes ORDER BY id")
    assert rows == [{"id": each, "name": f"The {each}", "gone_at": None} for each in ("orca", "pumpswap", "raydium")]
    home.advance(DAY)
    home.run("top-pools")
    assert home.rows("SELECT id, name FROM gt_dexes WHERE gone_at IS NOT NULL") == [
        {"id": "raydium", "name": "The raydium"}
    ]


# What is configured


def test_a_configured_exchange_that_is_missing_is_a_problem_with_the_nearest_name(house: Open, both: FakeApi) -> None:
    both.answers[DEXES_PATH] = listed("pumpswap", "raydium-clmm")
    home = house()
    said = problems(home.run("catalog"))
    assert 'raydium: LookupError: solana has no exchange of this id' in said
    assert 'did you mean "raydium-clmm"?' in said
    assert "pumpswap" not in said
    assert [row["id"] for row in home.rows("SELECT id FROM gt_dexes")] == ["pumpswap", "raydium-clmm"]
    home.advance(DAY)
    both.answers[DEXES_PATH] = listed("pumpswap", "raydium")
    assert home.run("catalog").outcome == Outcome.SUCCEEDED


def test_a_network_that_the_api_does_not_know_is_marked_and_its_exchanges_are_missing(
    house: Open, both: FakeApi
) -> None:
    """`ethereum` is a mistake that people make: the id is `eth`."""
    del both.answers[DEXES_PATH]
    both.answers[NETWORKS_PATH] = listed("eth")
    home = house()
    said = problems(home.run("catalog"))
    assert "pumpswap: LookupError" in said
    assert "raydium: LookupError" in said
    gone = "2026-09-28T20:46:00.000000Z"
    assert home.rows("SELECT id, gone_at FROM gt_networks WHERE gone_at IS NOT NULL") == [
        {"id": "solana", "gone_at": gone}
    ]
    home.advance(DAY)
    home.run("catalog")
    assert home.rows("SELECT gone_at FROM gt_networks WHERE id = 'solana'") == [{"gone_at": gone}]


# Entries that vanish


def test_what_vanishes_is_marked_since_when_and_stays_and_may_come_back(house: Open, both: FakeApi) -> None:
    both.answers[NETWORKS_PATH] = paged(listed("eth", "old", more=True), listed("solana"))
    home = house()
    home.run("catalog")
    both.answers[NETWORKS_PATH] = paged(listed("eth", more=True), listed("solana"))
    both.answers[DEXES_PATH] = listed("pumpswap", "raydium")
    home.advance(DAY)
    run = home.run("catalog")
    assert run.outcome == Outcome.SUCCEEDED
    gone = "2026-09-29T20:46:00.000000Z"
    for _ in range(2):
        assert home.rows("SELECT id, name, gone_at FROM gt_networks WHERE gone_at IS NOT NULL") == [
            {"id": "old", "name": "The old", "gone_at": gone}
        ]
        assert home.rows("SELECT id, gone_at FROM gt_dexes WHERE gone_at IS NOT NULL") == [
            {"id": "orca", "gone_at": gone}
        ]
        home.advance(DAY)
        assert home.run("catalog").rows == 0
    both.answers[NETWORKS_PATH] = listed("eth", "old", "solana")
    home.advance(DAY)
    home.run("catalog")
    assert home.rows("SELECT id FROM gt_networks WHERE gone_at IS NOT NULL") == []


DOUBTFUL: dict[str, Any] = {
    "empty": (200, {"data": []}),
    "garbage": (200, b"<html>"),
    "refused": (422, {"errors": [{"title": "no"}]}),
    "the plan's limit": (401, {"errors": [{"title": "Upgrade"}]}),
    "an unreadable row": (200, {"data": [{"id": "pumpswap", "attributes": {}}, {"id": None, "attributes": {}}]}),
    "a page that fails": paged(listed("pumpswap", more=True), (400, {})),
    "a page that is empty": paged(listed("pumpswap", more=True), (200, {"data": []})),
    "the plan's last page": paged(listed("pumpswap", more=True), (401, {})),
    "a circle": listed("pumpswap", more=True),
}


@pytest.mark.parametrize("answer", DOUBTFUL.values(), ids=DOUBTFUL)
@pytest.mark.parametrize("path", [NETWORKS_PATH, DEXES_PATH])
def test_nothing_vanishes_from_a_list_that_is_in_doubt(house: Open, both: FakeApi, path: str, answer: Any) -> None:
    home = house()
    home.run("catalog")
    both.answers[path] = answer
    home.advance(DAY)
    run = home.run("catalog")
    assert run.outcome in (Outcome.SUCCEEDED, Outcome.PARTIAL)
    for table in ("gt_networks", "gt_dexes"):
        assert home.rows(f"SELECT id FROM {table} WHERE gone_at IS NOT NULL") == []
    assert {"eth", "solana"} <= {row["id"] for row in home.rows("SELECT id FROM gt_networks")}


# Paging


def test_pages_without_links_go_on_while_they_are_full(house: Open, both: FakeApi) -> None:
    entries = [{"id": f"n{place:03}", "attributes": {}} for place in range(230)]

    def networks(query: Mapping[str, str]) -> Answer:
        page = int(query["page"])
        return 200, {"data": entries[100 * page - 100 : 100 * page]}

    both.answers[NETWORKS_PATH] = networks
    home = house()
    assert home.run("catalog").outcome == Outcome.SUCCEEDED
    assert both.asked(NETWORKS_PATH) == 3
    assert home.rows("SELECT count(*) AS n FROM gt_networks") == [{"n": 230}]


def test_paging_that_never_ends_stops_at_the_plans_last_page(house: Open, both: FakeApi, clock: FakeClock) -> None:
    def networks(query: Mapping[str, str]) -> Answer:
        clock.advance(10)
        return listed(f"n{query['page']}", more=True)

    home = house()
    home.run("catalog")
    both.answers[NETWORKS_PATH] = networks
    both.calls.clear()
    home.advance(DAY)
    assert home.run("catalog").outcome == Outcome.SUCCEEDED
    assert [query["page"] for path, query in both.calls if path == NETWORKS_PATH] == [*map(str, range(1, 11))]
    assert home.rows("SELECT count(*) AS n FROM gt_networks WHERE gone_at IS NULL") == [{"n": 12}]


def test_identical_pages_are_a_problem_and_end_the_list(house: Open, both: FakeApi, clock: FakeClock) -> None:
    def networks(query: Mapping[str, str]) -> Answer:
        clock.advance(10)
        return listed("eth", "solana", more=True)

    both.answers[NETWORKS_PATH] = networks
    home = house()
    run = home.run("catalog")
    assert "networks page 2: AnswerError" in problems(run)
    assert both.asked(NETWORKS_PATH) == 2
    assert run.rows == 5


def test_a_page_that_fails_keeps_those_before_it_and_the_other_list(house: Open, both: FakeApi) -> None:
    both.answers[NETWORKS_PATH] = paged(listed("eth", more=True), (400, {"errors": [{"title": "no such page"}]}))
    home = house()
    assert "networks: ApiError: 400 no such page" in problems(home.run("catalog"))
    assert home.rows("SELECT id FROM gt_networks") == [{"id": "eth"}]
    assert home.rows("SELECT count(*) AS n FROM gt_dexes") == [{"n": 3}]


def test_the_plans_limit_is_no_error_and_keeps_what_came(house: Open, both: FakeApi) -> None:
    refused: Answer = (401, {"errors": [{"title": "page (10)"}]})
    both.answers[NETWORKS_PATH] = paged(listed("eth", more=True), refused)
    both.answers[DEXES_PATH] = refused
    home = house()
    run = home.run("catalog")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 3, 1)


def test_429_ends_the_run_as_rate_limited(house: Open, both: FakeApi) -> None:
    both.answers[DEXES_PATH] = (429, {"status": {"error_code": 429}})
    home = house()
    assert home.run("catalog").outcome == Outcome.RATE_LIMITED
    assert home.rows("SELECT count(*) AS n FROM gt_networks") == [{"n": 2}]


# Rows


BAD_ENTRIES: list[Any] = [None, 7, {}, {"id": "", "attributes": {}}, {"id": ["x"], "attributes": {}}, {"id": "x"},
    {"id": "x", "attributes": {"name": {}}}, {"id": "\ud800", "attributes": {}}]  # fmt: skip


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_a_bad_row_is_one_problem_and_the_page_goes_on(house: Open, both: FakeApi, entry: object) -> None:
    entries = [{"id": "eth", "attributes": {}}, entry, {"id": "solana", "attributes": {"name": "NaN"}}]
    both.answers[NETWORKS_PATH] = (200, {"data": entries, "links": {}})
    home = house()
    assert "networks page 1 row 2" in problems(home.run("catalog"))
    assert home.rows("SELECT id, name FROM gt_networks") == [
        {"id": "eth", "name": None}, {"id": "solana", "name": None}]  # fmt: skip


@pytest.mark.parametrize("body", [None, [], {}, {"data": None}, {"data": {}}, {"data": [1, 2]}])
def test_a_body_that_is_no_catalogue_is_refused(body: object) -> None:
    with pytest.raises(AnswerError):
        catalog_page(body, ("name",), run_id=1)


# As recorded


RECORDED = {
    "networks_2023.json": "networks",
    "networks_page1_2025.json": "networks",
    "dexes_eth_2023.json": "dexes",
    "dexes_eth_2025.json": "dexes",
    "dexes_solana_2026.json": "dexes",
}


@needs_samples
@pytest.mark.parametrize("name", RECORDED)
def test_every_field_of_a_recorded_catalogue_is_stored(house: Open, both: FakeApi, name: str) -> None:
    """Served back over HTTP; where the recording has a next page, that one is empty."""
    body = json.loads((SAMPLES / name).read_text())
    kind = RECORDED[name]
    path = NETWORKS_PATH if kind == "networks" else DEXES_PATH
    both.answers[path] = paged((200, body), (200, {"data": []}))
    home = house()
    run = home.run("catalog")
    expected = [
        {"id": raw["id"]} | {key: value or None for key, value in raw["attributes"].items()} for raw in body["data"]
    ]
    rows = home.rows(f"SELECT * FROM gt_{kind}")
    own = {"network": "solana", "gone_at": None, "run_id": run.id}
    assert len(rows) == len(expected) > 30
    for row, entry in zip(rows, expected, strict=True):
        assert row == entry | {key: own[key] for key in row.keys() - entry.keys()}
    assert both.asked(path) == (2 if (body.get("links") or {}).get("next") else 1)


@needs_samples
def test_the_recorded_exchanges_of_solana_hold_the_configured_ones(house: Open, both: FakeApi) -> None:
    both.answers[DEXES_PATH] = (200, json.loads((SAMPLES / "dexes_solana_2026.json").read_text()))
    assert house().run("catalog").outcome == Outcome.SUCCEEDED
