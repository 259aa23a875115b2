"""Trending pools: collected if they are asked for, and not otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from geckosched import Outcome

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

DAY = 86_400

TOKEN = {"id": "solana_T", "type": "token", "attributes": {"address": "T", "symbol": "TEE"}}


def element(address: str, reports: int = 4) -> dict[str, Any]:
    attributes = {"address": address, "name": f"{address} / SOL", "community_sus_report": reports}
    return {"id": f"solana_{address}", "type": "pool", "attributes": attributes}


def refusal(status: int) -> Answer:
    return status, {"errors": [{"status": str(status), "title": "no"}]}


def test_the_pools_and_their_tokens_are_stored(house: Open, api: FakeApi) -> None:
    api.answers["/trending_pools"] = (200, {"data": [element("A"), element("B"), element("A", 5)], "included": [TOKEN]})
    home = house()
    run = home.run("trending")
    assert (run.outcome, run.calls, run.rows) == (Outcome.SUCCEEDED, 1, 3)
    assert api.calls == [("/trending_pools", {"include": "base_token,quote_token,dex"})]
    rows = home.rows("SELECT address, community_sus_report AS reports, run_id FROM gt_pools ORDER BY address")
    assert rows == [{"address": pool, "reports": 4, "run_id": run.id} for pool in "AB"]
    assert home.rows("SELECT address, symbol FROM gt_tokens") == [{"address": "T", "symbol": "TEE"}]
    home.advance(900)
    assert home.run("trending").rows == 0


def test_it_is_off_unless_the_configuration_says_otherwise(house: Open) -> None:
    jobs = {job.job_id: job.enabled for job in house().scheduler.get_status().jobs}
    assert jobs.pop("geckoterminal-trending", False) is False
    assert jobs
    assert all(jobs.values())


def test_the_configuration_turns_it_on(house: Open) -> None:
    jobs = {job.job_id: job.enabled for job in house(trending={"enabled": True}).scheduler.get_status().jobs}
    assert jobs["geckoterminal-trending"] is True


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, {"data": []}), Outcome.SUCCEEDED),
        ((200, {"data": [None, element("A")]}), Outcome.PARTIAL),
        ((200, b"<html>"), Outcome.FAILED),
        ((200, {"data": None}), Outcome.FAILED),
        (refusal(400), Outcome.FAILED),
        (refusal(401), Outcome.SUCCEEDED),
        ((429, {"status": {"error_code": 429}}), Outcome.RATE_LIMITED),
    ],
)
def test_every_answer_has_its_outcome(house: Open, api: FakeApi, answer: Answer, outcome: Outcome) -> None:
    api.answers["/trending_pools"] = answer
    run = house().run("trending")
    assert (run.outcome, run.calls) == (outcome, 1)
    assert run.rows == (1 if outcome == Outcome.PARTIAL else 0)


def test_a_network_that_is_gone_is_marked_and_asked_once_a_day(house: Open, api: FakeApi) -> None:
    api.answers["/trending_pools"] = refusal(404)
    home = house()
    assert home.run("trending").outcome == Outcome.SUCCEEDED
    assert home.rows("SELECT id, gone_at FROM gt_networks") == [
        {"id": "solana", "gone_at": "2026-09-28T20:46:00.000000Z"}
    ]
    home.advance(DAY - 900)
    assert home.run("trending").outcome == Outcome.SKIPPED
    home.advance(900)
    api.answers["/trending_pools"] = (200, {"data": [element("A")]})
    assert home.run("trending").calls == 1
    assert home.rows("SELECT gone_at FROM gt_networks") == [{"gone_at": None}]
