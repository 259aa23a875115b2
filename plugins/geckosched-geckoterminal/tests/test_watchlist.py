"""The watchlist: what its three sources name, what is wrong with them, and when a pool is let go."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket
from geckosched_geckoterminal.watch_auto import AutoRule, Candidate, Held
from geckosched_geckoterminal.watch_csv import address_fault, pool_list
from geckosched_geckoterminal.watchlist import Source, WatchlistOptions, changes
from hypothesis import given
from hypothesis import strategies as st

from geckosched import Batch, ConfigError, Outcome, Run, collector
from geckosched.testing import SpeedClock

if TYPE_CHECKING:
    from conftest import House

    Open = Callable[..., House]

NOW = datetime(2026, 9, 28, 20, 46, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

# Real addresses of Solana (api.md, samples).
HWA = "7bqJG2ZdMKbEkgSmfuqNVBvqEvWavgL8UEo33ZqdL3NP"
TROLL = "4w2cysotX6czaUGmmWg13hDpY4QEMG2CzeKYEQyK9Ama"
CND = "Cnd9CKtG6meUJqKu9NkSeriAgzPSbQpZV5qwq5B44Spz"
TOKEN = "5LKHMd2rMSRaG9y4iHwSLRtrJ3dCrJ2CytvBeak8pump"
ETH = "0x88e6a0c2ddd26feeb64f039a2c41296fcb3f5640"
HEADER = "tokenSymbol,tokenName,chain,dex,poolAddress,networkAddress\n"


def line(pool: str, symbol: str = "HWA", chain: str = "solana", name: str = "Hawala") -> str:
    return f"{symbol},{name},{chain},pumpswap,{pool},{TOKEN}\n"


def watched(home: House) -> dict[str, tuple[str, str | None]]:
    rows = home.rows("SELECT * FROM gt_watchlist WHERE removed_at IS NULL")
    return {row["address"]: (row["source"], row["note"]) for row in rows}


# The option `pools`


def test_the_option_pools_fills_the_watchlist_with_bare_addresses(house: Open) -> None:
    home = house(watchlist={"pools": ["solana_7bqJ", "Cnd9", " Cnd9 "]})
    run = home.run("watchlist")
    assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 2)
    rows = home.rows("SELECT * FROM gt_watchlist ORDER BY address")
    assert [(row["network"], row["address"], row["source"]) for row in rows] == [
        ("solana", "7bqJ", "pools"),
        ("solana", "Cnd9", "pools"),
    ]
    assert rows[0]["added_at"] == "2026-09-28T20:46:00.000000Z"
    assert (rows[0]["removed_at"], rows[0]["note"], rows[0]["run_id"]) == (None, None, run.id)


def test_a_watchlist_that_did_not_change_writes_nothing(house: Open, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(HEADER + line(HWA))
    home = house(watchlist={"pools": ["A"], "csv": tmp_path / "list.csv", "auto": True})
    assert home.run("watchlist").rows == 2
    home.advance(60)
    assert home.run("watchlist").rows == 0


@pytest.mark.parametrize("entry", ["", "  ", "a/b", "a,b", "a b", "solana_", f"eth_{ETH}", ETH, "http://x", 17, None])
def test_a_bad_entry_is_a_problem_with_its_place_and_the_others_are_watched(house: Open, entry: object) -> None:
    """A row with the wrong id form was once dropped in silence for 38 runs."""
    home = house(watchlist={"pools": ["A", entry]})
    run = home.run("watchlist")
    assert run.outcome == Outcome.PARTIAL
    assert run.detail is not None
    assert "pools 2" in run.detail
    assert list(watched(home)) == ["A"]


# What changes


def changed(known: Sequence[Mapping[str, Any]], **sources: Mapping[str, str | None]) -> list[dict[str, Any]]:
    listed = [Source(name, pools) for name, pools in sources.items()]
    return changes(listed, known, network="solana", now=NOW)


def row(address: str, source: str = "pools", **changes: Any) -> dict[str, Any]:
    known = {"network": "solana", "address": address, "source": source, "note": None}
    return known | {"added_at": "then", "removed_at": None} | changes


def test_a_pool_no_longer_listed_is_removed_and_its_row_stays() -> None:
    assert changed([row("A"), row("B")], pools={"B": None}) == [
        {"network": "solana", "address": "A", "removed_at": NOW}
    ]


def test_a_removed_pool_is_left_alone_until_it_is_listed_again() -> None:
    removed = row("A", removed_at="then")
    assert changed([removed], pools={}) == []
    assert changed([removed], pools={"A": None}) == [row("A", added_at=NOW)]


def test_a_pool_is_let_go_only_by_the_source_that_named_it() -> None:
    """A source that could not be read is not in the list, and lets go of nothing."""
    assert changed([row("A", "csv")], pools={}) == []
    assert changed([row("A", "csv")], pools={}, csv={}) == [{"network": "solana", "address": "A", "removed_at": NOW}]


def test_the_first_source_that_names_a_pool_has_it() -> None:
    (first,) = changed([], pools={"A": "mine"}, csv={"A": "theirs"})
    assert (first["source"], first["note"]) == ("pools", "mine")
    (taken,) = changed([row("A", "pools")], pools={}, csv={"A": "theirs"})
    assert taken == {
        "network": "solana",
        "address": "A",
        "source": "csv",
        "note": "theirs",
    }


# The file


def test_an_operator_sees_each_bad_row_with_its_line_and_the_good_rows_work(tmp_path: Path) -> None:
    """A wrong id form, a missing column and cell, a duplicate, a foreign network, then a file that is emptied."""
    listed = tmp_path / "lists" / "mine.csv"
    listed.parent.mkdir()
    (tmp_path / "geckosched.toml").write_text('[collectors.geckoterminal-watchlist]\ncsv = "lists/mine.csv"\n')
    listed.write_text(
        "tokenSymbol,tokenName,chain,poolAddress,networkAddress\n"  # 1: no dex
        f"HWA,Hawala,solana,{HWA},{TOKEN}\n"
        f"WETH,Ether,solana,{ETH},{TOKEN}\n"  # 3: wrong id form
        f"TROLL,TROLL,solana,solana_{TROLL},{TOKEN}\n"
        f"HWA,again,solana,{HWA},{TOKEN}\n"  # 5: a duplicate
        f"USDC,USD Coin,eth,{ETH},0x00\n"  # 6: a foreign network
        f"CUT,Short,solana,{CND}\n"  # 7: a cell is missing
    )

    def geckosched(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "geckosched", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    done = geckosched("trigger", "geckoterminal-watchlist")
    assert done.returncode == 0, done.stderr
    assert "partial, 2 rows" in done.stdout
    shown = " ".join(geckosched("runs", "1").stdout.split())  # long lines are wrapped
    for number, text in {1: "dex", 3: ETH, 5: "line 2", 6: "'eth'", 7: "4 cells"}.items():
        said = [each for each in shown.split("mine.csv ") if each.startswith(f"line {number}: ")]
        assert any(text in each for each in said), shown
    assert "line 2: " not in shown
    assert "line 4: " not in shown

    listed.write_text("")
    assert "partial, 0 rows" in geckosched("trigger", "geckoterminal-watchlist").stdout
    assert "mine.csv: is empty" in geckosched("runs", "2").stdout
    with closing(sqlite3.connect(tmp_path / "geckosched.db")) as store:
        rows = dict(store.execute("SELECT address, note FROM gt_watchlist WHERE removed_at IS NULL"))
    assert rows == {HWA: "HWA", TROLL: "TROLL"}


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return tmp_path / "list.csv"


def test_a_removed_row_lets_go_of_its_pool_and_its_history_stays(house: Open, listed: Path) -> None:
    listed.write_text(HEADER + line(HWA) + line(TROLL, "TROLL"))
    home = house(watchlist={"csv": listed})
    home.run("watchlist")
    listed.write_text(HEADER + line(TROLL, "TROLL"))
    home.advance(60)
    run = home.run("watchlist")
    assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 1)
    (gone,) = home.rows("SELECT * FROM gt_watchlist WHERE removed_at IS NOT NULL")
    assert (gone["address"], gone["note"], gone["source"]) == (HWA, "HWA", "csv")
    assert (gone["added_at"], gone["removed_at"]) == ("2026-09-28T20:46:00.000000Z", "2026-09-28T20:47:00.000000Z")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (HEADER.encode(), "has no rows"),
        (HEADER.encode("utf-16"), "UTF-16"),
        (HEADER.replace("poolAddress", "pool").encode(), "no column poolAddress"),
        (HEADER.replace(",", ";").encode() + line(HWA).replace(",", ";").encode(), "separated by commas"),
        (b"SQLite format 3\0\x01\xff\xfe" * 100, "no column tokenSymbol"),
        (b"x" * 2_000_000, "2,000,000 bytes"),
        ((HEADER + line("0", "X")).encode(), "line 2"),
    ],
)
def test_a_file_that_is_no_list_is_a_problem_and_lets_go_of_nothing(
    house: Open, listed: Path, content: bytes | None, said: str
) -> None:
    listed.write_text(HEADER + line(HWA) + line(TROLL))
    home = house(watchlist={"csv": listed, "pools": [CND]})
    home.run("watchlist")
    listed.unlink()
    if content is not None:
        listed.write_bytes(content)
    run = home.run("watchlist")
    assert (run.outcome, run.rows) == (Outcome.PARTIAL, 0)
    assert said in (run.detail or "")
    assert "list.csv" in (run.detail or "")
    assert set(watched(home)) == {HWA, TROLL, CND}


def test_a_pipe_in_the_files_place_is_not_waited_for(house: Open, listed: Path) -> None:
    os.mkfifo(listed)
    run = house(watchlist={"csv": listed}).run("watchlist")
    assert "no regular file" in (run.detail or "")


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + HEADER + line(HWA),
        (HEADER + line(HWA)).replace("\n", "\r\n"),
        "\n\n" + HEADER + ",,,,,\n" + line(HWA).rstrip(),
        HEADER.lower().replace(",", " , ") + line(f" {HWA} "),
        HEADER + line(f"solana_{HWA}"),
        HEADER + line(HWA, chain="SOL"),
        HEADER + line(HWA, chain=""),
        HEADER + line(HWA, name='"Hawala, the ""old"" one\n of two lines"'),
        HEADER + line(HWA).rstrip() + ",,\n",
        f"age,networkAddress,poolAddress,dex,chain,tokenName,tokenSymbol\n9d,{TOKEN},{HWA},orca,Solana,Hawala,HWA",
    ],
)
def test_what_a_file_may_look_like(content: str) -> None:
    found = pool_list(content.encode(), "solana")
    assert (found.pools, found.problems) == ({HWA: "HWA"}, [])


def test_the_note_is_the_symbol_or_else_the_name_on_one_line() -> None:
    content = HEADER + line(HWA, symbol="", name='"Ha\n wala"') + line(TROLL, symbol="", name="")
    assert pool_list(content.encode(), "solana").pools == {HWA: "Ha wala", TROLL: None}


BAD_ROWS = {
    "eth_": (line(f"eth_{ETH}"), "bears the network eth"),
    "0x": (line(ETH), "0x"),
    "an l": (line("l" + HWA[1:]), "'l'"),
    "short": (line(HWA[:20]), "20 characters"),
    "long": (line(HWA + "1"), "45 characters"),
    "a URL": (line(f"https://www.geckoterminal.com/solana/pools/{HWA}"), "URL"),
    "a blank": (line(f"{HWA[:30]} {HWA[30:]}"), "character"),
    "empty": (line(""), "empty"),
    "only a prefix": (line("solana_"), "empty"),
    "too few": (f"HWA,{HWA}\n", "2 cells where the header has 6"),
    "a comma": (line(HWA, name="Hawala, Inc"), "7 cells"),
    "a quote": (f'"HWA,Hawala,solana,pumpswap,{HWA},{TOKEN}\n', "quote is opened"),
    "a quote in the last cell": (line(HWA).replace(TOKEN, f'"{TOKEN}'), "quote is opened"),
    "text after a quote": (line(HWA, name='"Ha"wala'), "expected after"),
    "two lines": (line("short", name='"Ha\n wala"'), "5 characters"),
    "NUL": (line(HWA, name="Ha\0wala"), "NUL"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_said_with_its_line_and_spoils_no_other(name: str) -> None:
    bad, said = BAD_ROWS[name]
    first = line(TROLL, name='"two\nlines"')  # 2 and 3
    found = pool_list((HEADER + first + bad + line(CND)).encode(), "solana")
    assert list(found.pools) == [TROLL, CND]
    ((number, text),) = found.problems
    assert number == 4
    assert re.search(said, text)


def test_a_quote_that_is_opened_by_mistake_swallows_no_row() -> None:
    content = HEADER + '"TROLL,Troll\n' + line(HWA, name='Hawala 5"') + line(CND, "CND")
    found = pool_list(content.encode(), "solana")
    assert list(found.pools) == [HWA, CND]
    assert [number for number, _ in found.problems] == [2]


def test_bytes_that_are_no_utf_8_spoil_one_row() -> None:
    content = HEADER.encode() + line(HWA, name="Se\u00f1or").encode("latin-1") + line(TROLL, "\u00f1").encode()
    found = pool_list(content, "solana")
    assert found.pools == {TROLL: "\u00f1"}
    assert found.problems == [(2, "bytes that are no UTF-8")]


def test_of_a_duplicate_the_first_row_counts() -> None:
    found = pool_list((HEADER + line(HWA, "first") + line(f"solana_{HWA}", "second")).encode(), "solana")
    assert found.pools == {HWA: "first"}
    ((number, text),) = found.problems
    assert number == 3
    assert "line 2" in text


@pytest.mark.parametrize(
    ("network", "address", "good"),
    [
        ("eth", ETH, True),
        ("eth", ETH.upper().replace("X", "x"), True),
        ("eth", "0x" + "ab" * 32, True),
        ("eth", ETH[:-1], False),
        ("eth", HWA, False),
        ("eth", f"solana_{HWA}", False),
        ("polygon_pos", ETH, True),
        ("sui-network", "0x5eb2dfcdd1b15d2021328258f6d5ec081e9a0cdcfa9e13a0eaeb9b5f7505ca78", True),
        ("ton", "EQA-X_yo3fzzbDbJ_0bzFWKqtRuZFIRa1sJsveZJ1YpViO3r", True),
        ("a-new-one", "factory:1.2_3", True),
        ("a-new-one", "factory/1", False),
    ],
)
def test_addresses_are_judged_as_far_as_their_network_is_known(network: str, address: str, good: bool) -> None:
    assert (address_fault(network, address) is None) is good


def test_every_pool_of_the_simulated_market_has_an_address_that_passes() -> None:
    market = SyntheticMarket(pools=300, born=int(NOW.timestamp()))
    assert {address_fault("solana", pool.address) for pool in market.founders} == {None}


@pytest.mark.parametrize(
    "bad",
    [
        f"HWA,Hawala,solana,pumpswap,,{TOKEN}\n",  # the symbol is left
        line("0" + HWA[1:], symbol="?"),
        line(f"https://www.geckoterminal.com/solana/pools/{HWA}", symbol="?"),
        f'"?,Hawala,solana,pumpswap,{HWA},{TOKEN}\n',
        f"?,Hawala,solana,pumpswap,{HWA[:12]}\n",
    ],
)
def test_a_row_that_can_not_be_read_is_no_removed_row(house: Open, listed: Path, bad: str) -> None:
    """A slip of the pen doesn't end the collection of a pool; that another pool was taken out still counts."""
    listed.write_text(HEADER + line(CND, "CND") + line(HWA) + line(TROLL, "TROLL"))
    home = house(watchlist={"csv": listed})
    home.run("watchlist")
    listed.write_text(HEADER + bad + line(CND, "CND"))
    assert home.run("watchlist").outcome == Outcome.PARTIAL
    assert watched(home) == {HWA: ("csv", "HWA"), CND: ("csv", "CND")}
    listed.write_text(HEADER + line(CND, "CND"))
    home.run("watchlist")
    assert list(watched(home)) == [CND]


def test_a_file_cut_off_in_a_row_lets_go_of_nothing(house: Open, listed: Path) -> None:
    """Somebody writes it at this moment; what follows is not there yet."""
    whole = HEADER + line(HWA) + line(TROLL, "TROLL") + line(CND, "CND")
    listed.write_text(whole)
    home = house(watchlist={"csv": listed})
    home.run("watchlist")
    cut = whole.index(TROLL) + 10
    listed.write_text(whole[:cut])
    run = home.run("watchlist")
    assert (run.outcome, run.rows) == (Outcome.PARTIAL, 0)
    assert "half written" in (run.detail or "")
    listed.write_text(whole)
    assert home.run("watchlist").outcome == Outcome.SUCCEEDED
    assert set(watched(home)) == {HWA, TROLL, CND}


def test_a_file_that_can_not_be_read_keeps_no_pool_of_another_source(house: Open, listed: Path) -> None:
    listed.write_text(HEADER + line(HWA) + line(TROLL, "TROLL"))
    first = house(watchlist={"csv": listed, "pools": [CND]})
    first.run("watchlist")
    first.scheduler.stop()
    listed.write_text(HEADER + line(HWA) + "TRO")
    second = house(watchlist={"csv": listed})
    second.run("watchlist")
    assert set(watched(second)) == {HWA, TROLL}


def test_of_many_bad_rows_every_line_is_in_the_runs_record(house: Open, listed: Path) -> None:
    listed.write_text(HEADER + line(HWA) + "".join(line(f"{n}0") for n in range(50)))
    detail = house(watchlist={"csv": listed}).run("watchlist").detail or ""
    assert set(range(3, 53)) <= {int(number) for number in re.findall(r"\d+", detail)}


@given(st.binary(max_size=300) | st.text(alphabet='",\n\r;ab\0\u00e9', max_size=200).map(str.encode))
def test_whatever_a_file_holds_it_is_read_to_its_end(content: bytes) -> None:
    """Every row is a pool, a problem, or blank; nothing is raised."""
    found = pool_list(HEADER.encode() + content + b"\n" + line(HWA).encode(), "solana")
    rows = len(found.pools) + len({number for number, _ in found.problems if number is not None})
    assert rows >= 1
    assert HWA in found.pools or found.problems


@pytest.mark.parametrize("other", ["csv", "auto"])
def test_a_source_that_is_switched_off_lets_go_of_its_pools(house: Open, listed: Path, other: str) -> None:
    listed.write_text(HEADER + line(HWA))
    first = house(watchlist={"csv": listed, "pools": ["A"]})
    first.run("watchlist")
    first.scheduler.stop()
    if other == "auto":
        with closing(sqlite3.connect(first.database)) as store, store:
            store.execute("UPDATE gt_watchlist SET source = 'auto' WHERE source = 'csv'")
    second = house(watchlist={"pools": ["A"]})
    second.run("watchlist")
    assert list(watched(second)) == ["A"]


# The auto rule

RULE = AutoRule(1000, 100, DAY, most=2)


def candidate(address: str, volume: float = 500, seen: timedelta | None = timedelta()) -> Candidate:
    return Candidate(address, address.lower(), volume, None if seen is None else NOW - seen)


def held(address: str, traded: timedelta, added: timedelta = 2 * DAY) -> Held:
    return Held(address, None, NOW - added, NOW - traded)


def test_the_busiest_candidates_are_taken_up_to_the_limit() -> None:
    chosen = RULE.choose([], [candidate("A", 200), candidate("B", 400), candidate("C", 300)], {}, NOW)
    assert chosen == {"B": "b", "C": "c"}


def test_what_is_held_stays_before_busier_ones_until_a_day_without_a_trade() -> None:
    busy = [candidate("B", 9e9), candidate("C", 8e9)]
    assert set(RULE.choose([held("A", DAY - HOUR)], busy, {}, NOW)) == {"A", "B"}
    assert set(RULE.choose([held("A", DAY)], busy, {}, NOW)) == {"B", "C"}


def test_what_is_let_go_is_not_taken_right_back_but_when_it_was_seen_to_trade_since() -> None:
    assert RULE.choose([held("A", DAY)], [candidate("A")], {}, NOW) == {}
    removed = {"A": NOW - HOUR}
    assert RULE.choose([], [candidate("A", seen=2 * HOUR)], removed, NOW) == {}
    assert RULE.choose([], [candidate("A", seen=None)], removed, NOW) == {}
    assert set(RULE.choose([], [candidate("A", seen=HOUR / 2)], removed, NOW)) == {"A"}


def test_when_the_limit_is_lowered_those_taken_last_go() -> None:
    three = [held("A", HOUR, 3 * HOUR), held("B", HOUR, HOUR), held("C", HOUR, 2 * HOUR)]
    assert set(RULE.choose(three, [candidate("D")], {}, NOW)) == {"A", "C"}


class Market:
    """Rows of `gt_pools` and `gt_trades`, stored by a collector as the plugin's own do."""

    def __init__(self, home: House) -> None:
        self.home = home
        self.batches: list[Batch] = []
        market = self

        @collector("a-market", every="1h")
        def collect(run: Any) -> list[Batch]:
            stamped = [
                Batch(each.table, [dict(row) | {"run_id": run.id} for row in each.rows], pk=each.pk, stamp=("run_id",))
                for each in market.batches
            ]
            market.batches.clear()
            return stamped

        home.scheduler.register_collector(collect)

    def pools(self, **pools: Mapping[str, Any]) -> Run:
        rows = [{**POOL, "address": name, "name": f"{name} / SOL", **changes} for name, changes in pools.items()]
        return self.store("gt_pools", rows, ("network", "address"))

    def trade(self, pool: str, at: datetime) -> Run:
        row = {"network": "solana", "tx_hash": f"{pool}{at}", "n": 1, "pool": pool}
        row["block_timestamp"] = f"{at:%Y-%m-%dT%H:%M:%SZ}"
        return self.store("gt_trades", [row], ("network", "tx_hash", "n"))

    def store(self, table: str, rows: list[dict[str, Any]], pk: tuple[str, ...]) -> Run:
        self.batches.append(Batch(table, rows, pk=pk))
        run = self.home.scheduler.execute_collector_now("a-market")
        assert run is not None
        assert run.outcome == Outcome.SUCCEEDED
        return run


POOL: dict[str, Any] = {
    "network": "solana",
    "pool_created_at": "2026-09-28T18:00:00Z",
    "reserve_in_usd": "5000.5",
    "volume_usd_h24": "700.25",
    "transactions_h24_buys": 3,
    "transactions_h24_sells": 4,
    "gone_at": None,
}

AUTO = {"auto": True}


def test_young_pools_that_reach_the_minima_are_watched(house: Open) -> None:
    home = house(watchlist=AUTO)
    Market(home).pools(
        GOOD={},
        OLD={"pool_created_at": "2026-09-27T20:45:59Z"},
        UNBORN={"pool_created_at": "2099-01-01T00:00:00Z"},
        UNKNOWN={"pool_created_at": None},
        DRY={"reserve_in_usd": "999.99"},
        BLANK={"reserve_in_usd": None},
        IDLE={"volume_usd_h24": "99.9"},
        GONE={"gone_at": "2026-09-28T20:00:00.000000Z"},
        ELSEWHERE={"network": "eth"},
    )
    assert home.run("watchlist").outcome == Outcome.SUCCEEDED
    assert watched(home) == {"GOOD": ("auto", "GOOD / SOL")}


def test_the_auto_rule_is_off_unless_it_is_switched_on(house: Open) -> None:
    home = house(watchlist={})
    Market(home).pools(GOOD={})
    home.run("watchlist")
    assert home.rows("SELECT name FROM sqlite_master WHERE name = 'gt_watchlist'") == []


def test_figures_of_long_ago_make_no_candidate(house: Open) -> None:
    home = house(watchlist=AUTO)
    Market(home).pools(GOOD={})
    home.advance(3601)
    home.run("watchlist")
    assert home.rows("SELECT name FROM sqlite_master WHERE name = 'gt_watchlist'") == []


def test_a_pool_that_a_list_names_is_no_auto_pool(house: Open, listed: Path) -> None:
    listed.write_text(HEADER + line(HWA))
    home = house(watchlist={**AUTO, "auto_max": 1, "pools": ["A"], "csv": listed})
    Market(home).pools(**{"A": {"volume_usd_h24": "9000"}, HWA: {"volume_usd_h24": "8000"}, "B": {}})
    home.run("watchlist")
    expected = {"A": ("pools", None), HWA: ("csv", "HWA"), "B": ("auto", "B / SOL")}
    assert watched(home) == expected
    listed.unlink()  # its pools stay the file's
    home.run("watchlist")
    assert watched(home) == expected


def test_an_auto_pool_is_held_until_a_day_without_a_trade(house: Open) -> None:
    home = house(watchlist=AUTO)
    market = Market(home)
    market.pools(TRADING={}, SILENT={}, COUNTED={})
    home.run("watchlist")
    home.advance(DAY.total_seconds() - 60)
    market.trade("TRADING", NOW + HOUR)
    assert home.run("watchlist").rows == 0  # older than max_age, and quieter than the minima by now
    assert set(watched(home)) == {"TRADING", "SILENT", "COUNTED"}
    market.pools(COUNTED={"volume_usd_h24": "0.5"})
    home.advance(60)
    home.run("watchlist")
    assert set(watched(home)) == {"TRADING", "COUNTED"}
    home.advance(HOUR.total_seconds())
    home.run("watchlist")
    assert set(watched(home)) == set()


def test_a_rule_that_can_not_be_judged_changes_nothing(house: Open) -> None:
    home = house(watchlist=AUTO)
    Market(home).pools(GOOD={})
    home.run("watchlist")
    with closing(sqlite3.connect(home.database)) as store, store:
        store.execute("DROP TABLE gt_pools")
    home.advance(2 * DAY.total_seconds())
    run = home.run("watchlist")
    assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 0)
    assert set(watched(home)) == {"GOOD"}


def test_the_auto_rule_watches_pools_of_a_simulated_market(house: Open) -> None:
    """From what the top pools of its exchanges show: the young ones, and no more than allowed."""
    clock = SpeedClock(NOW, 10)
    market = SyntheticMarket(seed=3, pools=20, births=60, born=int((NOW - HOUR).timestamp()))
    with Simulator(market, clock) as simulator:
        home = house(base_url=simulator.base_url, clock=clock, watchlist={**AUTO, "auto_max": 4})
        home.run("top-pools")
        home.run("watchlist")
        assert home.run("trades").outcome == Outcome.SUCCEEDED
    chosen = watched(home)
    assert len(chosen) == 4
    assert {source for source, _ in chosen.values()} == {"auto"}
    (quietest,) = home.rows(
        "SELECT min(CAST(volume_usd_h24 AS REAL)) AS usd FROM gt_pools JOIN gt_watchlist USING (network, address)"
    )
    left = home.rows(
        "SELECT max(CAST(volume_usd_h24 AS REAL)) AS usd FROM gt_pools WHERE pool_created_at > '2026-09-27T20:50:00Z'"
        " AND CAST(reserve_in_usd AS REAL) >= 1000 AND address NOT IN (SELECT address FROM gt_watchlist)"
    )
    assert quietest["usd"] >= left[0]["usd"]
    plan = home.rows("EXPLAIN QUERY PLAN SELECT * FROM gt_pools WHERE network = 'solana' AND pool_created_at > '2026'")
    assert "pool_created_at>" in plan[0]["detail"]  # a store of a year has millions of pools


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"pools": "A"},
        {"csv": ""},
        {"csv": 5},
        {"csv": "/"},
        {"auto": "yes"},
        {"min_liquidity_usd": -1},
        {"min_liquidity_usd": float("nan")},
        {"min_volume_usd": "many"},
        {"min_volume_usd": True},
        {"max_age": "0s"},
        {"max_age": "young"},
        {"auto_max": 0},
        {"auto_max": 2.5},
    ],
)
def test_bad_options_are_refused_by_their_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))) as found:
        WatchlistOptions(**options)
    assert "\n" not in str(found.value)


def test_options_are_off_and_as_documented_unless_set() -> None:
    options = WatchlistOptions()
    assert (options.csv, options.auto, options.auto_max, options.max_age) == (None, False, 10, DAY)
    assert (options.min_liquidity_usd, options.min_volume_usd) == (1000, 100)
    assert WatchlistOptions(max_age="90m").max_age == timedelta(minutes=90)  # type: ignore[arg-type]
    assert WatchlistOptions(csv="list.csv").csv == Path("list.csv")  # type: ignore[arg-type]
