"""Draw a chart: in the terminal with plotext, as a PNG with matplotlib.

Both come with the extra `chart` and are imported by the function that needs them. Prices are shown without exponent as
far as twelve decimals, so that 0.00001234 can be read. A candle that rose is filled and green, one that fell is hatched
and red: the terminal's chart can be read without colour.
"""

from __future__ import annotations

import importlib
import math
import shutil
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .chart import Candle, Chart, ChartError

__all__ = ["amount_text", "picture", "price_text", "price_ticks", "save_png", "text_chart", "text_slots", "time_ticks"]

MOST_DECIMALS = 12

SMALLEST_WIDTH, SMALLEST_HEIGHT = 40, 12
"""Columns and lines below which a terminal's chart isn't squeezed."""

LABEL_WIDTH = 12
"""Columns that are kept for prices beside the terminal's chart when it is decided how many candles fit."""

GREEN, RED = "#1a9c7c", "#e0474c"
PALE_GREEN, PALE_RED = "#9bd3c5", "#f2b1b3"
GREY, LIGHT = "#6b7280", "#e5e7eb"

TIME_STEPS = tuple(
    60 * minutes
    for minutes in (5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7200, 10_080, 20_160, 43_200, 86_400)
)
"""Seconds between two labels of the time axis, from five minutes to sixty days."""


# What axes and titles say


def price_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round prices from `low` to `high`, at least one and about `most`."""
    rough = (high - low) / max(most, 1)
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)] or [low]


def price_labels(ticks: Sequence[float]) -> list[str]:
    """Write prices with the decimals that tell them apart, the same number for all."""
    if len(ticks) < 2:
        return [price_text(tick) for tick in ticks]
    step = ticks[1] - ticks[0]
    decimals = next((n for n in range(MOST_DECIMALS + 1) if abs(round(step, n) - step) < step * 1e-6), None)
    if decimals is None:
        digits = math.ceil(math.log10(max(map(abs, ticks)) / step)) + 1
        return [f"{tick:.{digits}g}" for tick in ticks]
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def price_text(price: float) -> str:
    """Write a price with at least four digits that count: 0.00001234, 1.234, 65,432.10."""
    if not price or abs(price) >= 1:
        return f"{price:,.4f}" if abs(price) < 1000 else f"{price:,.2f}"
    decimals = 3 - math.floor(math.log10(abs(price)))
    return f"{price:.{decimals}f}" if decimals <= MOST_DECIMALS else f"{price:.3e}"


def amount_text(amount: float) -> str:
    """Write an amount of money in three digits: 950, 1.23k, 45.6M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= limit * 0.9995:
            return f"{amount / limit:.3g}{unit}" if amount < limit * 999.5 else f"{amount / limit:,.0f}{unit}"
    return f"{amount:.3g}" if amount < 999.5 else "1k"


def time_ticks(chart: Chart, most: int) -> list[tuple[int, str]]:
    """Return slots that begin at a round time, about `most`, and their labels: the time, or the day as it begins."""
    span = chart.slots * chart.step
    every = next((each for each in TIME_STEPS if each >= chart.step and span / each <= most), TIME_STEPS[-1])
    first = math.ceil(chart.since / every) * every
    slots = [(ts - chart.since) // chart.step for ts in range(first, chart.since + span, every)]
    moments = [chart.moment(slot) for slot in slots]
    return [(slot, f"{at:%m-%d}" if at.hour == at.minute == 0 else f"{at:%H:%M}")
            for slot, at in zip(slots, moments, strict=True)]  # fmt: skip


def _titles(chart: Chart) -> tuple[str, str, str]:
    """Return pool and price; the span and what is in it; the volume."""
    last, change = chart.candles[-1].close, chart.change_percent
    percent = "" if math.isnan(change) else f"  {change:+.2f} %"
    volume = amount_text(sum(each.volume for each in chart.candles))
    count = f"{len(chart.candles):,} candle{'' if len(chart.candles) == 1 else 's'}"
    title = f"{chart.pool.name or chart.pool.address}  {chart.timeframe}  {price_text(last)} USD{percent}"
    return title, f"{chart.span()}, {count}", f"volume {volume} USD"


def _library(name: str) -> Any:
    """Import a module of a library that comes with the extra."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        library = name.partition(".")[0]
        extra = "pip install 'geckosched-geckoterminal[chart]'"
        raise ChartError(f"a chart needs {library}, which can't be imported ({error}): {extra}") from error


# The terminal


def text_slots(width: int | None = None) -> int:
    """Return how many candles fit beside each other, a column each."""
    return max(width or shutil.get_terminal_size().columns, SMALLEST_WIDTH) - LABEL_WIDTH


def text_chart(chart: Chart, *, colour: bool, width: int | None = None, height: int | None = None) -> str:
    """Draw with characters, as large as the terminal (80 by 24 where there is none) but for a line for its prompt."""
    size = shutil.get_terminal_size()
    columns = max(width or size.columns, SMALLEST_WIDTH)
    lines = max(height or size.lines, SMALLEST_HEIGHT) - 1
    chart = chart.newest(text_slots(columns))
    title, details, volume = _titles(chart)
    head = [*textwrap.wrap(f"{title}  {volume}", columns), *textwrap.wrap(details, columns)]
    low, high = _limits(chart)
    below = max(4, lines // 4)
    above = lines - len(head) - below
    ticks = price_ticks(low, high, above // 3)
    most = max(each.volume for each in chart.candles) or 1.0
    labels = price_labels(ticks)
    edge = max(len(each) for each in (*labels, amount_text(most)))
    spread = max(1, (columns - edge - 1) // chart.slots)
    plot = _library("plotext")
    panels = _panels(plot, (above, below), edge + 1 + chart.slots * spread, chart.slots * spread)
    for each in chart.candles:
        _draw_candle(plot, panels, each, spread)
    panels[0].ruler("y").lim(low, high)
    panels[0].ruler("y").ticks(ticks, labels=[each.rjust(edge) for each in labels])
    panels[1].ruler("y").lim(0, most)
    panels[1].ruler("y").ticks([0, most], labels=["0".rjust(edge), amount_text(most).rjust(edge)])
    times = time_ticks(chart, chart.slots * spread // 12)
    places = [slot * spread + (spread - 1) // 2 for slot, _ in times]
    panels[1].ruler("x").ticks(places, labels=[label for _, label in times])
    drawn = plot.figure.build().string(not colour).rstrip("\n")
    return "\n".join([*head, drawn])


def _limits(chart: Chart) -> tuple[float, float]:
    """Return the price axis's ends; a price that never moved has some room."""
    low, high = chart.prices
    room = (high - low) * 0.02 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _panels(plot: Any, heights: tuple[int, int], width: int, slots: int) -> list[Any]:
    """Lay out two panels of plotext, one above the other, in which a column is one on the x axis."""
    plot.figure.clear()
    plot.terminal.limit(False, False)  # else a figure larger than the terminal that plotext sees is cut
    plot.figure.plot_size(width, sum(heights))
    plot.figure.subplots(2, 1)
    panels = [plot.figure.subplot(row, 1) for row in (1, 2)]
    for panel, height in zip(panels, heights, strict=True):
        panel.theme("simple")
        panel.plot_size(width, height)
        panel.canvas("default")
        panel.ruler("x").lim(0, slots - 1)
        panel.axes(False, axis="x", side="upper")
        panel.axes(False, axis="y", side="right")
    panels[0].axes(False, axis="x", side="lower")
    panels[0].ruler("x").ticks([])
    return panels


def _draw_candle(plot: Any, panels: Sequence[Any], candle: Candle, spread: int) -> None:
    """Draw a candle and its volume, `spread` columns wide with the gap to the next one."""
    price, volume = panels
    colour = plot.pixel(foreground="green" if candle.rose else "red")
    wick, body = plot.marker("│", colour), plot.marker("█" if candle.rose else "▒", colour)
    middle = candle.slot * spread + (spread - 1) // 2
    half = max(0, (spread - 2) // 2)
    price.draw(price.segment((middle, middle), (candle.low, candle.high), marker=wick).density("full"))
    for x in range(middle - half, middle + half + 1):
        price.draw(price.segment((x, x), (candle.open, candle.close), marker=body).density("full"))
        if candle.volume > 0:
            volume.draw(volume.segment((x, x), (0, candle.volume), marker=body).density("full"))


# The picture


def save_png(chart: Chart, file: Path) -> None:
    """Write a picture of 1600 by 900 dots."""
    figure = picture(chart)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # names of tokens hold letters that no font has
            figure.savefig(file, format="png")
    except OSError as error:
        raise ChartError(f"{file}: {error.strerror or error}") from error


def picture(chart: Chart) -> Any:
    """Return a matplotlib figure, made without pyplot: no window, no global state."""
    figure = _library("matplotlib.figure").Figure(figsize=(16, 9), dpi=100, facecolor="white")
    longest = max(map(len, [price_text(chart.candles[-1].close), *price_labels(price_ticks(*_limits(chart), 8))]))
    right = 0.985 - max(longest, 8) * 0.0067  # of the width, a digit of the labels has 0.0067
    grid = figure.add_gridspec(2, 1, height_ratios=(4, 1), hspace=0.06, left=0.03, right=right, top=0.88, bottom=0.06)
    price = figure.add_subplot(grid[0])
    volume = figure.add_subplot(grid[1], sharex=price)
    for axes in (price, volume):
        _plain(axes)
    _draw_candles(price, volume, chart)
    _label_axes(price, volume, chart)
    _mark_last(price, chart)
    title, details, total = _titles(chart)
    text = {"parse_math": False, "ha": "left"}  # a $ in a token's name is no formula
    figure.text(0.03, 0.945, title, fontsize=20, fontweight="bold", color="#111827", **text)
    where = f"{details}, {total}  ·  {chart.network} {chart.pool.address}"
    figure.text(0.03, 0.905, where, fontsize=12, color=GREY, **text)
    return figure


def _plain(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=LIGHT, linewidth=0.8)
    axes.yaxis.tick_right()
    axes.tick_params(length=0, colors=GREY, labelsize=12)
    for spine in axes.spines.values():
        spine.set_color(LIGHT)


def _draw_candles(price: Any, volume: Any, chart: Chart) -> None:
    low, high = chart.prices
    thin = (high - low) * 0.002 or abs(high) * 1e-4 or 1e-4  # what a candle without a body shows
    line = min(1.6, max(0.5, 250 / chart.slots))
    for rose, colour, pale in ((True, GREEN, PALE_GREEN), (False, RED, PALE_RED)):
        found = [each for each in chart.candles if each.rose is rose]
        slots = [each.slot for each in found]
        bottoms = [min(each.open, each.close) for each in found]
        heights = [max(abs(each.close - each.open), thin) for each in found]
        price.vlines(slots, [each.low for each in found], [each.high for each in found], color=colour, linewidth=line)
        price.bar(slots, heights, 0.72, bottoms, color=colour, linewidth=0)
        volume.bar(slots, [each.volume for each in found], 0.72, color=pale, linewidth=0)


def _label_axes(price: Any, volume: Any, chart: Chart) -> None:
    margin = max(1.0, chart.slots * 0.01)
    price.set_xlim(-margin, chart.slots - 1 + margin)
    low, high = _limits(chart)
    price.set_ylim(low, high)
    ticks = price_ticks(low, high, 8)
    last = chart.candles[-1].close  # its own label, below, would hide one that is as near as this
    labels = [label if abs(tick - last) > (high - low) * 0.035 else ""
              for tick, label in zip(ticks, price_labels(ticks), strict=True)]  # fmt: skip
    price.set_yticks(ticks, labels)
    most = max(each.volume for each in chart.candles) or 1.0
    volume.set_ylim(0, most * 1.1)
    amounts = price_ticks(0, most, 3)
    volume.set_yticks(amounts, [amount_text(each) for each in amounts])
    times = time_ticks(chart, 14)
    volume.set_xticks([slot for slot, _ in times], [label for _, label in times])
    price.tick_params(labelbottom=False)
    price.annotate("USD", (1.0, 1.0), xycoords="axes fraction", xytext=(6, 8), textcoords="offset points", color=GREY)
    volume.annotate("volume", (0, 1), xycoords="axes fraction", xytext=(6, -16), textcoords="offset points", color=GREY)
    volume.annotate("UTC", (1, 0), xycoords="axes fraction", xytext=(6, -18), textcoords="offset points", color=GREY)


def _mark_last(price: Any, chart: Chart) -> None:
    """Draw a line at the last price, and the price on the axis."""
    last = chart.candles[-1]
    colour = GREEN if last.rose else RED
    price.axhline(last.close, color=colour, linewidth=0.9, linestyle=(0, (4, 4)))
    box = {"facecolor": colour, "edgecolor": "none", "pad": 3}
    price.annotate(price_text(last.close), (1, last.close), xycoords=("axes fraction", "data"), xytext=(6, 0),
                   textcoords="offset points", va="center", fontsize=12, color="white", bbox=box)  # fmt: skip
