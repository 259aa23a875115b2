"""Collect DEX market data from the GeckoTerminal API: a plugin of geckosched.

The entry point `geckoterminal` names this module. Settings stand in `[plugins.geckoterminal]`, see
`client.Settings`; what each collector does stands in its class. The table of collectors, tables
and options is in the package's README.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from geckosched import Collector, hookimpl

from .audit import Audit
from .backfill import Backfill
from .catalog import Catalog
from .client import Settings
from .new_pools import NewPools
from .ohlcv import Ohlcv
from .tokens import Tokens
from .top_pools import TopPools
from .trades import Trades
from .trending import Trending
from .watched_pools import WatchedPools
from .watchlist import Watchlist

if TYPE_CHECKING:
    import typer

__all__ = [
    "Audit",
    "Backfill",
    "Catalog",
    "NewPools",
    "Ohlcv",
    "Tokens",
    "TopPools",
    "Trades",
    "Trending",
    "WatchedPools",
    "Watchlist",
    "register_collectors",
    "register_commands",
]


@hookimpl
def register_collectors(register: Callable[[type[Collector]], None], settings: Mapping[str, Any]) -> None:
    """Register all collectors; raise `ConfigError` if the plugin's settings are wrong.

    That comes last, so that what is wrong with the collectors' options is said in the same round.
    """
    for collector in (
        Watchlist,
        Trades,
        NewPools,
        WatchedPools,
        TopPools,
        Ohlcv,
        Backfill,
        Catalog,
        Tokens,
        Audit,
        Trending,
    ):
        register(collector)
    Settings.read(settings)


@hookimpl
def register_commands(app: "typer.Typer") -> None:
    """Add `geckosched geckoterminal demo` and `chart`."""
    import typer

    from .rows import TIMEFRAMES

    @app.command()
    def demo(
        seconds: Annotated[float, typer.Option(min=1, help="How long it runs.")] = 30,
        speed: Annotated[float, typer.Option(min=1, help="Seconds of the market in one second.")] = 60,
        database: Annotated[Path | None, typer.Option(help="The file to fill [geckosched-demo.db].")] = None,
    ) -> None:
        """Collect half an hour of a simulated market in half a minute, without a network."""
        from .demo import run_demo

        raise typer.Exit(run_demo(seconds, speed, database))

    @app.command()
    def chart(
        pool: Annotated[str, typer.Argument(metavar="POOL", help="Its address or the beginning of it, or its name.")],
        timeframe: Annotated[str, typer.Option(metavar="T", help=f"Of {' '.join(TIMEFRAMES)}.")] = "1h",
        png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture, too.")] = None,
        candles: Annotated[
            int | None, typer.Option(metavar="N", min=1, max=2000, help="The newest N steps [as many as fit].")
        ] = None,
        network: Annotated[str | None, typer.Option(metavar="ID", help="Instead of the configured one.")] = None,
        config: Annotated[
            Path | None,
            typer.Option(metavar="F", help="Configuration; else $GECKOSCHED_CONFIG, else ./geckosched.toml."),
        ] = None,
        database: Annotated[
            Path | None, typer.Option(metavar="F", help="SQLite file, instead of the configured.")
        ] = None,
    ) -> None:
        """Draw a pool's candles and volume from the store, in the terminal and as a PNG.

        Works whether a scheduler runs or not, and makes no call. Needs the extra: pip install
        'geckosched-geckoterminal[chart]'.
        """
        from .chart import show_chart

        if timeframe not in TIMEFRAMES:
            raise typer.BadParameter(f"{timeframe!r} is none of {' '.join(TIMEFRAMES)}", param_hint="--timeframe")
        show_chart(pool, timeframe, candles, png, network, config, database)
