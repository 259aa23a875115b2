"""`geckosched geckoterminal chart`: which pool is meant, what is read, and what is drawn."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from geckosched_geckoterminal.chart import (
    Candle,
    Chart,
    ChartError,
    Pool,
    UnknownPoolError,
    find_pool,
    opened,
    read_chart,
    show_chart,
)
from geckosched_geckoterminal.drawing import (
    GREEN,
    PALE_GREEN,
    PALE_RED,
    RED,
    amount_text,
    picture,
    price_labels,
    price_text,
    price_ticks,
    save_png,
    text_chart,
    time_ticks,
)
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket
from hypothesis import given
from hypothesis import strategies as st

from geckosched.testing import SpeedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import House

    Open = Callable[..., House]

HWA = "7bqJG2ZdMKbEkgSmfuqNVBvqEvWavgL8UEo33ZqdL3NP"
HWA_TOO = "7bqJZ4w2cysotX6czaUGmmWg13hDpY4QEMG2CzeKYEQy"
CND = "Cnd9CKtG6meUJqKu9NkSeriAgzPSbQpZV5qwq5B44Spz"
NOW = int(datetime(2026, 9, 28, 20, tzinfo=UTC).timestamp())
HOUR = 3600


def a_chart(candles: Iterable[Candle], *, slots: int, name: str = "HWA / SOL", timeframe: str = "1h") -> Chart:
    return Chart(Pool(HWA, name), "solana", timeframe, NOW, slots, list(candles))


def steady(count: int, *, price: float = 1.0, volume: float = 100.0) -> list[Candle]:
    """Return candles of equal size that rise and fall in turn."""
    pairs = [(price, price * 1.1), (price * 1.1, price)]
    return [
        Candle(slot, pairs[slot % 2][0], price * 1.2, price * 0.9, pairs[slot % 2][1], volume) for slot in range(count)
    ]


# The store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with hourly candles of three pools, one of a quiet pool in minutes, and one of another network."""
    path = tmp_path / "market.db"
    with closing(sqlite3.connect(path)) as store, store:
        store.executescript(
            "CREATE TABLE gt_ohlcv (network, pool, timeframe, ts, open, high, low, close, volume, final,"
            " PRIMARY KEY (network, pool, timeframe, ts));"
            "CREATE TABLE gt_pools (network, address, name, PRIMARY KEY (network, address));"
            "CREATE TABLE gt_watchlist (network, address, note, removed_at, PRIMARY KEY (network, address));"
        )
        pools = [("solana", HWA, "HWA / SOL"), ("solana", CND, "CND / SOL 0.3%"), ("solana", "New1", "NEW / SOL")]
        store.executemany("INSERT INTO gt_pools VALUES (?, ?, ?)", pools)
        store.execute("INSERT INTO gt_watchlist VALUES ('solana', ?, 'twin', NULL)", (HWA_TOO,))
        for network, pool in (("solana", HWA), ("solana", HWA_TOO), ("solana", CND), ("eth", "0xabc")):
            insert(store, network, pool, "1h", [NOW - hour * HOUR for hour in range(48)])
        insert(store, "solana", CND, "1m", [NOW, NOW - 60, NOW - 600])
    return path


def insert(store: sqlite3.Connection, network: str, pool: str, timeframe: str, times: Sequence[int]) -> None:
    rows = [(network, pool, timeframe, ts, 1.0, 1.5, 0.5, 1.25, 10.0, 1) for ts in times]
    store.executemany("INSERT INTO gt_ohlcv VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


@pytest.fixture
def store(file: Path) -> Iterator[sqlite3.Connection]:
    with opened(file) as store:
        yield store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (HWA, HWA),
        (f"solana_{HWA}", HWA),
        (HWA[:6], HWA),
        ("Cn", CND),
        ("cnd9ckt", CND),
        ("HWA / SOL", HWA),
        (" hwa/sol ", HWA),
        ("hwa", HWA),
        ("cnd / sol 0.3%", CND),
        ("Twin", HWA_TOO),
    ],
)
def test_a_pool_is_found_by_its_address_its_beginning_or_a_name(
    store: sqlite3.Connection, wanted: str, found: str
) -> None:
    assert find_pool(store, "solana", wanted).address == found


def test_a_pool_that_the_api_does_not_know_is_said_to_be_gone(file: Path) -> None:
    with closing(sqlite3.connect(file)) as writer, writer:
        writer.execute("ALTER TABLE gt_pools ADD COLUMN gone_at")
        writer.execute("UPDATE gt_pools SET gone_at = '2026-09-28T19:00:00.000000Z' WHERE address = 'New1'")
    with opened(file) as store, pytest.raises(UnknownPoolError, match="as was found on 2026-09-28"):
        find_pool(store, "solana", "solana_New1")


@pytest.mark.parametrize(
    ("network", "wanted", "said"),
    [
        ("solana", "7bqJ", [HWA, HWA_TOO, "HWA / SOL"]),
        ("solana", "HWB / SOL", ["did you mean", HWA]),
        ("solana", CND[:20] + "x" + CND[21:], ["did you mean", CND]),
        ("solana", "zzzzzz", [HWA, CND, "eth", "--network"]),
        ("solana", "New1", ["New1", "watched pools"]),
        ("ton", HWA, ["no candles of ton", "eth, solana"]),
        ("solana", "", [HWA]),
    ],
)
def test_what_is_no_pool_or_several_is_said_with_what_there_is(
    store: sqlite3.Connection, network: str, wanted: str, said: list[str]
) -> None:
    with pytest.raises(UnknownPoolError) as found:
        find_pool(store, network, wanted)
    assert all(each in str(found.value) for each in said), found.value
    assert "\n" not in str(found.value)


def test_the_newest_steps_are_read_and_a_step_without_trade_stays_empty(store: sqlite3.Connection) -> None:
    pool = find_pool(store, "solana", CND)
    hours = read_chart(store, "solana", pool, "1h", 24)
    assert [each.slot for each in hours.candles] == list(range(24))
    assert hours.moment(23) == datetime.fromtimestamp(NOW, UTC)
    minutes = read_chart(store, "solana", pool, "1m", 100)
    assert [each.slot for each in minutes.candles] == [0, 9, 10]
    assert (minutes.slots, minutes.since) == (11, NOW - 600)
    assert [each.slot for each in read_chart(store, "solana", pool, "1m", 5).candles] == [0, 1]


def test_the_newest_part_of_a_chart_keeps_its_times() -> None:
    whole = a_chart([*steady(3), Candle(9, 1, 1, 1, 1, 1)], slots=10)
    part = whole.newest(8)
    assert [(each.slot, part.moment(each.slot)) for each in part.candles] == [
        (0, whole.moment(2)),
        (7, whole.moment(9)),
    ]
    assert part.slots == 8
    assert part.span().split(" to ")[1] == whole.span().split(" to ")[1]


def test_of_a_timeframe_without_candles_the_others_are_named(store: sqlite3.Connection) -> None:
    with pytest.raises(ChartError, match=r"no 15m candles of CND .*3 of 1m, 48 of 1h"):
        read_chart(store, "solana", find_pool(store, "solana", CND), "15m", 10)


def test_an_incomplete_row_is_no_candle(file: Path) -> None:
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("UPDATE gt_ohlcv SET low = NULL WHERE pool = ? AND ts = ?", (HWA, NOW - HOUR))
    with opened(file) as store:
        found = read_chart(store, "solana", Pool(HWA, None), "1h", 3)
    assert [each.slot for each in found.candles] == [0, 2]


def test_what_is_no_store_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, and long enough to be looked at" * 100)
    (tmp_path / "empty").touch()
    for name, said in (("none", "no such file"), ("text", "not a database"), ("empty", "no candles of solana")):
        with pytest.raises(ChartError, match=said) as found, opened(tmp_path / name) as store:
            find_pool(store, "solana", HWA)
        assert "\n" not in str(found.value)


def test_a_store_with_millions_of_candles_is_not_scanned(file: Path) -> None:
    """Pools are found by stepping through the key."""
    with closing(sqlite3.connect(file)) as store, store:
        times = range(0, 60 * 100_000, 60)
        rows = (("solana", "Many", "1m", ts, 1.0, 1.5, 0.5, 1.25, 10.0, 1) for ts in times)
        store.executemany("INSERT INTO gt_ohlcv VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    with opened(file) as store:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        store.set_progress_handler(count, 1000)
        find_pool(store, "solana", "hwa")
    assert steps < 50


# Axes


def test_prices_on_the_axis_are_round_and_can_be_told_apart() -> None:
    assert price_labels(price_ticks(0.00001234, 0.00001301, 4)) == ["0.0000124", "0.0000126", "0.0000128", "0.0000130"]
    assert price_labels(price_ticks(64_900, 65_480, 3)) == ["65,000", "65,200", "65,400"]
    assert price_labels(price_ticks(0.9, 1.6, 3)) == ["1.00", "1.25", "1.50"]


@given(st.floats(1e-15, 1e9), st.floats(1e-6, 1e3), st.integers(2, 12))
def test_ticks_lie_within_the_axis_and_their_labels_differ(low: float, spread: float, most: int) -> None:
    high = low * (1 + spread)
    ticks = price_ticks(low, high, most)
    assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in ticks)
    assert 1 <= len(ticks) <= 2 * most + 1
    labels = price_labels(ticks)
    assert len(set(labels)) == len(ticks)
    for tick, label in zip(ticks, labels, strict=True):
        assert float(label.replace(",", "")) == pytest.approx(tick, rel=0.01)


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (0.00001234, "0.00001234"),
        (0.000012, "0.00001200"),
        (1.5, "1.5000"),
        (65_432.1, "65,432.10"),
        (0.0, "0.0000"),
        (1.234e-15, "1.234e-15"),
    ],
)
def test_a_price_is_written_with_its_digits(price: float, text: str) -> None:
    assert price_text(price) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (0.5, "0.5"), (950, "950"), (999.9, "1k"), (1234, "1.23k"), (999_900, "1M"), (45.6e6, "45.6M"),
     (2e9, "2G"), (5e12, "5,000G")],
)  # fmt: skip
def test_an_amount_is_written_in_three_digits(amount: float, text: str) -> None:
    assert amount_text(amount) == text


def test_times_on_the_axis_are_round_and_days_begin_with_their_date() -> None:
    minutes = a_chart([], slots=60, timeframe="1m")
    assert time_ticks(minutes, 4) == [(0, "20:00"), (15, "20:15"), (30, "20:30"), (45, "20:45")]
    assert time_ticks(a_chart([], slots=24), 4) == [(4, "09-29"), (10, "06:00"), (16, "12:00"), (22, "18:00")]
    days = replace(a_chart([], slots=100, timeframe="1d"), since=NOW // 86_400 * 86_400)
    labels = [label for _, label in time_ticks(days, 6)]
    assert 2 <= len(labels) <= 6
    assert all(re.fullmatch(r"\d\d-\d\d", label) for label in labels)


# The terminal


def test_a_chart_has_the_size_of_the_terminal_and_no_colour_codes_in_a_pipe() -> None:
    for width, height in ((80, 24), (120, 50), (40, 12)):
        drawn = text_chart(a_chart(steady(200), slots=200), colour=False, width=width, height=height)
        lines = drawn.splitlines()
        assert len(lines) == height - 1
        assert max(map(len, lines)) <= width
        assert max(map(len, lines)) > width * 0.8
        assert "\x1b" not in drawn


def test_colours_change_no_character() -> None:
    chart = a_chart(steady(30), slots=30)
    coloured = text_chart(chart, colour=True, width=80, height=24)
    assert "\x1b[" in coloured
    plain = text_chart(chart, colour=False, width=80, height=24)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def panels_of(drawn: str) -> tuple[list[str], list[str], dict[int, float]]:
    """Part a drawing into the rows of prices and volume, right of the axis; and find the price of labelled rows."""
    found = [match for line in drawn.splitlines() if (match := re.match(r" *([0-9.,]*)[│┤](.*)", line))]
    labels = {row: float(match[1].replace(",", "")) for row, match in enumerate(found) if match[1]}
    *prices, top, _bottom = labels
    rows = [match[2] for match in found]
    return rows[:top], rows[top:], {row: labels[row] for row in prices}


def test_candles_stand_in_their_columns_at_their_prices() -> None:
    """Read the drawing: up and down differ, the step between is empty, and a body ends at its prices."""
    candles = [Candle(0, 1e-5, 2e-5, 1e-5, 2e-5, 100), Candle(2, 2e-5, 2.2e-5, 0.9e-5, 1e-5, 50)]
    drawn = text_chart(a_chart(candles, slots=3), colour=False, width=60, height=30)
    rows, volume, labels = panels_of(drawn)
    ups, downs = ({place for row in rows for place, each in enumerate(row) if each == body} for body in "█▒")
    assert min(ups) == 0
    assert len(ups) == len(downs) > 5
    assert min(downs) - max(ups) > len(ups)
    (first, low), *_, (last, high) = labels.items()
    a_row = (high - low) / (last - first)
    assert a_row < 0
    for body in "█▒":
        at = [low + (place - first) * a_row for place, row in enumerate(rows) if body in row]
        assert max(at) == pytest.approx(2e-5, abs=abs(a_row))
        assert min(at) == pytest.approx(1e-5, abs=abs(a_row))
    wick = [low + (place - first) * a_row for place, row in enumerate(rows) if "│" in row]
    assert max(wick) == pytest.approx(2.2e-5, abs=abs(a_row))
    assert all("│" in row for row in (rows[1], rows[-2]))  # the highest and the lowest price fill the panel
    full, half = (sum(body in row for row in volume) for body in "█▒")
    assert full == len(volume)
    assert half == pytest.approx(full / 2, abs=1)


def test_the_header_says_what_is_shown() -> None:
    candles = [Candle(0, 0.00001, 0.00002, 0.00001, 0.000012, 1500), Candle(23, 1, 1, 1, 0.0000125, 500)]
    chart = a_chart(candles, slots=24)
    first, second = text_chart(chart, colour=False, width=80, height=24).splitlines()[:2]
    assert first.split("  ") == ["HWA / SOL", "1h", "0.00001250 USD", "+25.00 %", "volume 2k USD"]
    assert second == "2026-09-28 20:00 to 2026-09-29 20:00 UTC, 2 candles"


@pytest.mark.parametrize(
    "candle",
    [Candle(0, 1, 1, 1, 1, 0), Candle(0, 0, 0, 0, 0, 0), Candle(0, 1e-18, 2e-18, 1e-18, 2e-18, 1e-9),
     Candle(0, 1e12, 1e12, 1e12, 1e12, 1e15)],
)  # fmt: skip
def test_a_price_that_never_moved_or_is_extreme_is_drawn(tmp_path: Path, candle: Candle) -> None:
    chart = a_chart([candle], slots=1)
    drawn = text_chart(chart, colour=False, width=80, height=24)
    assert len(drawn.splitlines()) == 23
    assert "█" in drawn
    (body,) = picture(chart).axes[0].patches
    assert body.get_height() > 0
    save_png(chart, tmp_path / "x.png")
    assert ink(tmp_path / "x.png", GREEN) > 0


# The picture


def ink(file: Path, colour: str) -> int:
    """Count the dots of a colour."""
    from matplotlib.image import imread

    dots = (imread(file)[:, :, :3] * 255).round()
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return int((abs(dots - wanted).max(axis=2) < 2).sum())


def test_a_picture_has_both_colours_and_more_ink_for_more_candles(tmp_path: Path) -> None:
    from matplotlib.image import imread

    few, many = tmp_path / "few.png", tmp_path / "many.png"
    save_png(a_chart(steady(4), slots=40), few)
    save_png(a_chart(steady(40), slots=40), many)
    assert few.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert imread(few).shape[:2] == (900, 1600)
    for colour in (GREEN, RED, PALE_GREEN, PALE_RED):
        assert ink(few, colour) > 100
        assert 6 * ink(few, colour) < ink(many, colour) < 14 * ink(few, colour)


def test_a_gap_is_empty_in_the_picture(tmp_path: Path) -> None:
    from matplotlib.image import imread

    candles = [each for each in steady(40) if each.slot not in range(10, 30)]
    save_png(a_chart(candles, slots=40), tmp_path / "gap.png")
    dots = (imread(tmp_path / "gap.png")[110:830, :1400, :3] * 255).round()
    red = [224, 71, 76]
    used = (abs(dots - red).max(axis=2) < 2).sum(axis=0)
    columns = [place for place, count in enumerate(used) if count > 30]
    widest = max(right - left for left, right in pairwise(columns))
    assert widest > 0.45 * (columns[-1] - columns[0])


def test_the_texts_of_a_picture_say_pool_timeframe_and_span(tmp_path: Path) -> None:
    chart = a_chart(steady(24, price=0.00001234), slots=24, name="$_^$ 🚀 / SOL")
    figure = picture(chart)
    title, details = (each.get_text() for each in figure.texts)
    assert title.startswith("$_^$ 🚀 / SOL  1h  0.00001234 USD")
    assert "2026-09-28 20:00 to 2026-09-29 20:00 UTC, 24 candles" in details
    assert HWA in details
    price, volume = figure.axes
    shown = {float(label.get_text()) for label in price.get_yticklabels() if label.get_text()}
    assert shown <= set(price.get_yticks().round(12))
    assert all(1.1e-5 < each < 1.5e-5 for each in shown)
    assert [label.get_text() for label in volume.get_xticklabels()][:2] == ["20:00", "22:00"]
    save_png(chart, tmp_path / "x.png")  # warnings are errors: no formula, no missing letter


def test_a_file_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ChartError, match=r"x\.png: No such file"):
        save_png(a_chart(steady(2), slots=2), tmp_path / "nowhere" / "x.png")


# The command


def geckosched(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process whose output is piped."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return subprocess.run(
        [sys.executable, "-m", "geckosched", "geckoterminal", *words],
        cwd=folder, env=kept | environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_what_the_plugin_collected_is_drawn_while_the_scheduler_runs(tmp_path: Path, house: Open) -> None:
    """The store is filled by the collectors from the simulator; the command is a process of its own."""
    start = datetime(2026, 9, 28, 20, 46, tzinfo=UTC)
    clock = SpeedClock(start, 60)
    market = SyntheticMarket(pools=3, births=0, born=int((start - timedelta(days=2)).timestamp()))
    pool = market.founders[1]
    with Simulator(market, clock) as simulator:
        home = house(
            base_url=simulator.base_url, clock=clock, watchlist={"pools": [pool.address]}, ohlcv={"timeframes": ["1h"]}
        )
        with home.scheduler:
            for name in ("watchlist", "top-pools", "ohlcv"):
                home.run(name)
            (tmp_path / "geckosched.toml").write_text(f'[scheduler]\ndatabase = "{home.database.name}"\n')
            done = geckosched(tmp_path, "chart", pool.name, "--png", "hours.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (len(lines), max(map(len, lines))) <= (23, 80)
    assert lines[0].startswith(f"{pool.name}  1h  ")
    (last,) = home.rows("SELECT close FROM gt_ohlcv WHERE timeframe = '1h' ORDER BY ts DESC LIMIT 1")
    assert f"  {price_text(last['close'])} USD" in lines[0]
    assert {"█", "▒"} < set(done.stdout)
    labels = [float(found[1]) for line in lines if (found := re.match(r" *(0\.\d+)┤", line))]
    (reach,) = home.rows("SELECT min(low) AS low, max(high) AS high FROM gt_ohlcv")
    assert len(labels) > 1
    assert all(reach["low"] * 0.9 <= each <= reach["high"] * 1.1 for each in labels)
    assert ink(tmp_path / "hours.png", GREEN) > 500
    assert "hours.png" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["chart", "hwa", "--timeframe", "2h", "--database", "market.db"], 2, "1m 5m 15m 1h 4h 12h 1d"),
        (["chart", "hwa", "--database", "none.db"], 1, "no such file"),
        (["chart", "hwa", "--database", "market.db", "--timeframe", "4h"], 1, "48 of 1h"),
        (["chart", "hwx", "--database", "market.db"], 1, "did you mean HWA / SOL"),
    ],
)
def test_errors_are_one_line_and_nothing_is_drawn(
    file: Path, words: list[str], code: int, said: str
) -> None:
    done = geckosched(file.parent, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("library", "words"), [("plotext", []), ("matplotlib", ["--png", "x.png"])])
def test_a_missing_extra_is_said_with_the_command_to_install_it(file: Path, library: str, words: list[str]) -> None:
    (file.parent / f"{library}.py").write_text("raise ImportError('not here')")
    done = geckosched(file.parent, "chart", "hwa", "--database", file.name, *words, PYTHONPATH=str(file.parent))
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'geckosched-geckoterminal[chart]'" in done.stderr
    assert library in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_demo_load_no_library_that_draws() -> None:
    code = (
        "import sys, typer; from geckosched_geckoterminal import register_commands;"
        "app = typer.Typer(); register_commands(app); import geckosched_geckoterminal.chart;"
        "import geckosched_geckoterminal.drawing; print(*sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = set(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).split())
    assert "geckosched_geckoterminal.drawing" in loaded
    assert not loaded & {"matplotlib", "numpy", "plotext"}


def test_a_narrow_terminal_says_how_much_of_what_was_asked_for_it_shows(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("LINES", "20")
    monkeypatch.chdir(file.parent)
    show_chart(HWA, "1h", 48, database=file)
    output, talk = capsys.readouterr()
    assert "38 candles" in " ".join(output.split())
    assert talk == "the terminal has room for the newest 38 of 48 steps\n"
    show_chart(HWA, "1h", 10, database=file)
    output, talk = capsys.readouterr()
    assert "10 candles" in " ".join(output.split())
    assert talk == ""


def test_network_and_database_are_the_configurations(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "my.toml"
    config.write_text('[scheduler]\ndatabase = "market.db"\n[plugins.geckoterminal]\nnetwork = "eth"\n')
    show_chart("0xAB", "1h", config=config)
    assert capsys.readouterr().out.startswith("0xabc  1h")
    with pytest.raises(UnknownPoolError):
        show_chart(HWA, "1h", config=config)
    show_chart(HWA, "1h", config=config, network="solana")
    assert capsys.readouterr().out.startswith("HWA / SOL  1h")


def test_a_name_can_not_write_to_the_terminal(file: Path) -> None:
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("UPDATE gt_pools SET name = ? WHERE address = ?", ("HWA\x1b[31m\n / SOL", HWA))
    with opened(file) as store:
        assert str(find_pool(store, "solana", HWA)) == f"HWA [31m / SOL ({HWA})"
