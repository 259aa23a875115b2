"""Which pool next: `TradeRotation` is told the time, so these need no clock."""

from __future__ import annotations

import json
import math

import pytest
from geckosched_geckoterminal.rotation import DAY, LATE, PAGE, Loss, TradeRotation

NOW = 1_790_628_400.0
HOUR = 3600.0


def steady(now: float, per_hour: float) -> list[float]:
    """Block times of an answer at `now` of a pool that trades steadily, newest first."""
    gap = HOUR / per_hour
    count = min(PAGE, math.floor(DAY / gap))
    return [now - gap * place for place in range(1, count + 1)]


def observed(**per_hour: float) -> TradeRotation:
    """Return a rotation whose pools were all polled at NOW."""
    rotation = TradeRotation(dict.fromkeys(per_hour, 0))
    for pool, rate in per_hour.items():
        rotation.observe(pool, NOW, steady(NOW, rate) if rate else [], overlap=False)
    return rotation


def test_every_pool_is_asked_once_before_one_with_room_is_asked_again() -> None:
    """The system that this replaces took the first ten pools for ever."""
    pools = [f"p{place}" for place in range(27)]
    rotation = TradeRotation(dict.fromkeys(pools, 0))
    asked: list[str] = []
    for step in range(27):
        (pool,) = rotation.pick(NOW + step, 1)
        asked.append(pool)
        rotation.observe(pool, NOW + step, steady(NOW + step, 20), overlap=False)
    assert sorted(asked) == sorted(pools)


def test_pools_with_more_trades_expected_are_asked_first() -> None:
    rotation = TradeRotation({"quiet": 10, "busy": 40_000, "unknown": 0})
    assert rotation.pick(NOW, 3) == ["busy", "quiet", "unknown"]


def test_fill_is_the_predicted_part_of_a_window() -> None:
    rotation = TradeRotation({"known": 0, "new": 0})
    rotation.observe("known", NOW, steady(NOW, 600), overlap=False)
    assert rotation.fill("known", NOW) == 0
    assert rotation.fill("known", NOW + HOUR) == pytest.approx(2, rel=0.05)
    assert rotation.fill("new", NOW) == 1


def test_pick_names_at_most_as_many_as_there_are_calls() -> None:
    rotation = TradeRotation({"a": 0, "b": 0, "c": 0})
    assert len(rotation.pick(NOW, 2)) == 2
    assert rotation.pick(NOW, 0) == []
    assert rotation.pick(NOW, -1) == []


def test_a_pool_just_asked_is_not_worth_a_call() -> None:
    rotation = observed(busy=2000, quiet=1)
    assert rotation.pick(NOW, 10) == []


def test_a_pool_is_worth_waiting_for_when_its_window_is_about_to_overflow() -> None:
    """At 600 an hour a window of 300 is full after half an hour."""
    rotation = observed(busy=600)
    assert rotation.pick(NOW + 300, 1) == []
    assert rotation.pick(NOW + 900, 1, fill=0.1) == []
    assert rotation.pick(NOW + 1800, 1, fill=0.1) == ["busy"]


def test_of_two_full_windows_the_busier_one_comes_first() -> None:
    """Whoever has overflowed gives 300 trades; the busier one loses more until the next call."""
    rotation = observed(a_slow=1200, fast=4000)
    rotation.observe("fast", NOW + HOUR - 600, steady(NOW + HOUR - 600, 4000), overlap=False)
    assert rotation.fill("a_slow", NOW + HOUR) > rotation.fill("fast", NOW + HOUR) > 1.5
    assert rotation.pick(NOW + HOUR, 2) == ["fast", "a_slow"]


def test_a_pool_that_has_burst_before_is_looked_at_sooner_than_one_that_never_did() -> None:
    """Both had 300 trades in the last 20 hours, one of them 200 within ten minutes."""
    rotation = TradeRotation({"steady": 0, "bursty": 0})
    burst = [NOW - 10 * HOUR - 3 * place for place in range(200)]
    quiet = [NOW - 700 * place for place in range(1, 101)]
    rotation.observe("steady", NOW, steady(NOW, 17), overlap=False)
    rotation.observe("bursty", NOW, sorted([*burst, *quiet], reverse=True), overlap=False)
    assert rotation.pick(NOW + HOUR, 2, fill=0)[0] == "bursty"


def test_a_silent_pool_is_looked_at_every_hour_where_calls_are_free() -> None:
    """On the recorded day an unknown pool traded 280 times within half an hour, after an empty answer."""
    rotation = observed(silent=0)
    assert rotation.pick(NOW + 300, 1) == []
    assert rotation.pick(NOW + HOUR, 1) == ["silent"]


def called(every: float) -> TradeRotation:
    """Return a rotation of one busy pool, asked at NOW, before which calls came `every` so many seconds."""
    rotation = TradeRotation({"busy": 0, "quiet": 0})
    for place in range(100, 0, -1):
        rotation.observe("quiet", NOW - place * every, [], overlap=True)
    rotation.observe("busy", NOW, steady(NOW, 3000), overlap=False)
    return rotation


def test_where_calls_are_rare_a_window_that_overflows_before_the_next_one_cannot_wait() -> None:
    """3,000 an hour fill a window in six minutes; five have passed."""
    assert called(every=6).pick(NOW + 290, 1, fill=0.1) == []
    assert called(every=120).pick(NOW + 290, 1, fill=0.1) == ["busy"]


def test_the_fullest_comes_first() -> None:
    rotation = observed(slow=300, fast=900, middle=600)
    assert rotation.pick(NOW + 1800, 3) == ["fast", "middle", "slow"]


def test_a_pool_that_overflows_comes_before_one_never_asked() -> None:
    rotation = TradeRotation({"known": 0, "new": 0})
    rotation.observe("known", NOW, steady(NOW, 1000), overlap=False)
    assert rotation.pick(NOW + 600, 2) == ["new", "known"]
    assert rotation.pick(NOW + 3600, 2) == ["known", "new"]


def test_a_burst_is_foreseen_from_the_times_of_the_answer_and_fades() -> None:
    """A pool of 20 an hour with 200 trades in its last ten minutes will not go on like that."""
    quiet, bursting = TradeRotation({"pool": 0}), TradeRotation({"pool": 0})
    quiet.observe("pool", NOW, steady(NOW, 20), overlap=False)
    old = steady(NOW - 600, 20)[:90]
    bursting.observe("pool", NOW, [*steady(NOW, 1200)[:200], *old], overlap=False)
    assert quiet.pick(NOW + 900, 1, fill=0.1) == []
    assert bursting.pick(NOW + 900, 1, fill=0.1) == ["pool"]
    assert bursting.fill("pool", NOW + 7200) < 4 * bursting.fill("pool", NOW + 600)


def test_the_rate_of_a_full_answer_is_that_of_its_own_times() -> None:
    """300 trades in a minute: the next call is due within the minute, not within the day."""
    rotation = observed(hot=18_000)
    assert rotation.pick(NOW + 60, 1, fill=0.1) == ["hot"]


def test_a_young_pools_rate_is_that_of_its_life() -> None:
    """100 trades in its first three minutes are not 100 a day."""
    rotation = TradeRotation({"young": 0})
    rotation.observe("young", NOW, [NOW - 2 * place for place in range(90)], overlap=False)
    assert rotation.pick(NOW + 900, 1) == ["young"]


@pytest.mark.parametrize("rate", [0, 1, 20])
def test_no_pool_waits_longer_than_max_wait(rate: float) -> None:
    """However full the others are."""
    rotation = TradeRotation({"silent": 0, "hot": 0}, max_wait=2 * HOUR)
    rotation.observe("silent", NOW, steady(NOW, rate) if rate else [], overlap=False)
    rotation.observe("hot", NOW + 2 * HOUR, steady(NOW + 2 * HOUR, 50_000), overlap=False)
    assert rotation.fill("hot", NOW + 2 * HOUR + 300) > 10
    assert rotation.pick(NOW + 2 * HOUR + 300, 1) == ["silent"]


def test_nobody_waits_longer_than_max_wait_however_many_others_overflow() -> None:
    """140 pools of which nothing is known, ten that overflow at every call, 60 calls an hour."""
    pools = {f"hot{place}": 40_000_000 for place in range(10)} | {f"new{place}": 0 for place in range(140)}
    rotation = TradeRotation(pools, max_wait=3 * HOUR)
    asked = dict.fromkeys(pools, NOW)
    longest = 0.0
    for minute in range(8 * 60):
        now = NOW + minute * 60
        (pool,) = rotation.pick(now, 1)
        longest = max(longest, now - asked[pool])
        asked[pool] = now
        times = [now - place / 10 for place in range(PAGE)] if pool.startswith("hot") else []
        rotation.observe(pool, now, times, overlap=False)
    assert max(longest, NOW + 8 * HOUR - min(asked.values())) <= 3 * HOUR + 300


def test_a_pool_just_asked_can_wait_even_where_calls_come_more_seldom_than_max_wait_asks_for() -> None:
    rotation = TradeRotation({"a": 0}, max_wait=60)
    for minute in range(3):
        rotation.observe("a", NOW + 60 * minute, steady(NOW, 1), overlap=True)
    assert rotation.pick(NOW + 121, 1) == []
    assert rotation.pick(NOW + 180, 1) == ["a"]


def test_a_deferred_pool_is_left_out_until_its_time_or_until_it_answers() -> None:
    rotation = TradeRotation({"a": 0, "b": 0})
    rotation.defer("a", NOW + 100)
    assert rotation.pick(NOW + 99, 2) == ["b"]
    assert rotation.pick(NOW + 100, 2) == ["a", "b"]
    rotation.defer("a", NOW + DAY)
    rotation.observe("a", NOW + 200, [], overlap=False)
    assert "a" in rotation.pick(NOW + 200 + 7 * HOUR, 2)


def test_a_clock_that_was_set_back_makes_pools_due_instead_of_silent() -> None:
    rotation = observed(a=1)
    rotation.defer("a", NOW + DAY)
    assert rotation.pick(NOW - 12 * HOUR, 1) == ["a"]


def test_a_full_answer_without_overlap_is_a_loss_between_the_newest_before_and_the_oldest_now() -> None:
    rotation = observed(pool=600)
    now = NOW + 2 * HOUR
    loss = rotation.observe("pool", now, steady(now, 600), overlap=False)
    assert loss is not None
    assert loss.since <= max(steady(NOW, 600))
    assert loss.until == min(steady(now, 600))
    assert 800 < loss.count < 1000  # 1,200 in two hours, 300 of them shown


def test_the_span_of_a_loss_covers_trades_that_appear_late() -> None:
    """A trade may be lost whose block is older than the newest stored: it appeared after it."""
    rotation = observed(pool=600)
    now = NOW + 2 * HOUR
    loss = rotation.observe("pool", now, steady(now, 600), overlap=False)
    assert loss is not None
    assert loss.since <= max(steady(NOW, 600)) - 61


def test_the_span_of_a_loss_begins_at_the_newest_trade_before_however_long_ago() -> None:
    rotation = TradeRotation({"pool": 0})
    rotation.observe("pool", NOW, [NOW - 5 * HOUR], overlap=False)
    now = NOW + HOUR
    loss = rotation.observe("pool", now, steady(now, 5000), overlap=False)
    assert loss is not None
    assert loss.since == NOW - 5 * HOUR - LATE


def test_a_full_answer_with_overlap_is_no_loss() -> None:
    rotation = observed(pool=600)
    now = NOW + 1700
    assert rotation.observe("pool", now, steady(now, 600), overlap=True) is None


def test_an_answer_that_is_not_full_is_no_loss() -> None:
    rotation = observed(pool=10)
    now = NOW + HOUR
    assert rotation.observe("pool", now, steady(now, 12), overlap=False) is None


def test_a_first_answer_is_no_loss_however_full() -> None:
    """Nothing was expected before."""
    rotation = TradeRotation({"pool": 0})
    assert rotation.observe("pool", NOW, steady(NOW, 9000), overlap=False) is None


def test_a_full_answer_after_an_empty_one_is_a_loss_since_that() -> None:
    """There is no key to overlap with, and yet something was expected."""
    rotation = observed(pool=0)
    now = NOW + HOUR
    loss = rotation.observe("pool", now, steady(now, 1200), overlap=False)
    assert loss is not None
    assert (loss.since, loss.until) == (NOW - LATE, min(steady(now, 1200)))


def test_trades_that_fell_out_of_the_24_hours_are_a_loss() -> None:
    """A process that was down for two days missed a day, however few trades the answer holds."""
    rotation = observed(pool=10)
    now = NOW + 2 * DAY
    loss = rotation.observe("pool", now, steady(now, 10), overlap=False)
    assert loss == Loss(240, NOW - LATE, NOW + DAY)


def test_a_silent_pool_loses_nothing_by_age() -> None:
    rotation = observed(pool=0)
    assert rotation.observe("pool", NOW + 2 * DAY, [], overlap=False) is None


def test_a_loss_counts_at_least_one() -> None:
    rotation = TradeRotation({"pool": 0})
    rotation.observe("pool", NOW, [NOW - HOUR], overlap=False)
    loss = rotation.observe("pool", NOW + 1, [NOW - place for place in range(PAGE)], overlap=False)
    assert loss is not None
    assert loss.count >= 1
    assert loss.since <= loss.until


def test_a_burst_at_the_end_of_a_long_gap_does_not_count_for_all_of_it() -> None:
    """60 an hour for ten hours, and 300 trades in the last four minutes: about 600 were lost, not 45,000."""
    rotation = observed(pool=60)
    now = NOW + 10 * HOUR
    loss = rotation.observe("pool", now, steady(now, 4500), overlap=False)
    assert loss is not None
    assert 500 < loss.count < 2000


def test_a_gap_between_two_stretches_of_a_burst_counts_at_the_rate_of_the_burst() -> None:
    rotation = TradeRotation({"pool": 0})
    rotation.observe("pool", NOW, [*steady(NOW, 6000)[:150], *steady(NOW - 90, 20)[:150]], overlap=False)
    now = NOW + 480
    loss = rotation.observe("pool", now, steady(now, 6000), overlap=False)
    assert loss is not None
    assert loss.count == pytest.approx(500, rel=0.15)


def test_a_block_from_the_future_does_not_hide_what_follows() -> None:
    rotation = TradeRotation({"pool": 0})
    rotation.observe("pool", NOW, [NOW + 10 * DAY], overlap=False)
    loss = rotation.observe("pool", NOW + HOUR, steady(NOW + HOUR, 5000), overlap=False)
    assert loss is not None
    assert loss.since < loss.until


def test_a_snapshot_is_json_and_restores_the_same_decisions() -> None:
    rotation = observed(a=900, b=40, c=0)
    rotation.defer("c", NOW + 50)
    again = TradeRotation.restore(json.loads(json.dumps(rotation.snapshot())))
    assert again.snapshot() == rotation.snapshot()
    for later in (0, 600, HOUR, 5 * HOUR, 7 * HOUR):
        assert again.pick(NOW + later, 3) == rotation.pick(NOW + later, 3)


def test_what_the_first_version_knew_is_taken_over() -> None:
    first = {"expected": 0.0, "polled_at": NOW, "newest": NOW - 6, "mean": 1 / 6, "burst": 0.0, "not_before": None}
    again = TradeRotation.restore({"pools": {"a": first}})
    assert again.fill("a", NOW + 900) == pytest.approx(0.5)
    assert TradeRotation.restore(json.loads(json.dumps(again.snapshot()))).snapshot() == again.snapshot()


def test_a_damaged_snapshot_costs_what_is_damaged_and_no_more() -> None:
    stored = observed(a=900, b=900).snapshot()
    stored["pools"]["a"]["polled_at"] = "yesterday"
    stored["pools"]["a"]["of a later version"] = {}
    stored["pace"] = {"at": None}
    again = TradeRotation.restore(stored)
    assert again.fill("a", NOW + 60) == 1
    assert again.fill("b", NOW + 1200) == pytest.approx(1, rel=0.05)


def test_a_snapshot_of_200_pools_is_small() -> None:
    pools = {f"{place:044}": float(place) for place in range(200)}
    rotation = TradeRotation(pools)
    for place, pool in enumerate(pools):
        rotation.observe(pool, NOW + place, steady(NOW + place, 7 + place * 3.3), overlap=False)
    assert len(json.dumps(rotation.snapshot())) < 50_000


def test_a_hint_tells_of_a_burst_before_an_answer_does() -> None:
    rotation = observed(a=60, b=60)
    rotation.hint("a", NOW + 600, 290, 300)
    assert rotation.pick(NOW + 600, 2, fill=0.1) == ["a"]
    rotation.observe("a", NOW + 601, steady(NOW + 601, 60), overlap=True)
    assert rotation.fill("a", NOW + 601) == 0


def test_a_hint_says_nothing_of_a_pool_that_was_never_asked_nor_of_the_past() -> None:
    rotation = TradeRotation({"new": 0, "known": 0})
    rotation.observe("known", NOW, steady(NOW, 60), overlap=False)
    before = rotation.snapshot()
    rotation.hint("new", NOW, 290, 300)
    rotation.hint("known", NOW - 1, 290, 300)
    assert rotation.snapshot() == before
    rotation.hint("known", NOW + 600, 290, 300)
    before = rotation.snapshot()
    rotation.hint("known", NOW + 300, 0, 300)
    assert rotation.snapshot() == before


def test_restoring_takes_what_is_watched_now() -> None:
    rotation = observed(a=900, b=900)
    again = TradeRotation.restore(rotation.snapshot(), {"b": 5, "c": 7})
    assert again.pick(NOW, 5) == ["c"]
    assert again.snapshot()["pools"].keys() == {"b", "c"}
    assert again.snapshot()["pools"]["b"]["expected"] == 5


def test_nothing_is_restored_from_an_empty_state() -> None:
    assert TradeRotation.restore({}, {"a": 0}).pick(NOW, 1) == ["a"]
    assert TradeRotation.restore({}).pick(NOW, 1) == []
