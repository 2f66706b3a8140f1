"""The circuit breaker: what endpoints and hosts get while they work, refuse, fail and recover."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.breaker import (
    ALLOWANCE_FIRST,
    ALLOWANCE_MAX,
    FAILURES,
    OPEN_FIRST,
    OPEN_MAX,
    WELL,
    Breaker,
    Room,
    Verdict,
    Wait,
    Waiting,
    after,
    allowed,
    host_allowance,
    next_try,
    released,
    share,
    verdict,
)

NOW = datetime(2026, 2, 6, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def told(kind: Verdict, times: int, breaker: Breaker = WELL, now: datetime = NOW) -> Breaker:
    for _ in range(times):
        breaker = after(breaker, kind, now, now)
    return breaker


def failing(times: int, breaker: Breaker = WELL, now: datetime = NOW) -> Breaker:
    return told(Verdict.FAILED, times, breaker, now)


def test_takes_nothing_since_the_first_attempt_that_it_did_not_accept() -> None:
    first, second = later(1), later(2)
    for kind in (Verdict.REFUSED, Verdict.FAILED):
        standing = after(WELL, kind, second, first)
        assert standing.failing_since == first
        for next_kind in (Verdict.REFUSED, Verdict.FAILED):
            assert after(standing, next_kind, later(9), second).failing_since == first
        assert released(standing, later(9)) == standing
    opened = failing(FAILURES)
    assert opened.failing_since == NOW
    assert told(Verdict.ACCEPTED, 1, opened).failing_since is None


def test_a_released_endpoint_is_called_once_before_all_others() -> None:
    opened = failing(FAILURES + 3, now=NOW)
    opened = after(opened, Verdict.FAILED, later(OPEN_FIRST), later(OPEN_FIRST))
    at = later(OPEN_FIRST + 1)
    assert allowed(opened, at) == 0
    once = released(opened, at)
    assert allowed(once, at) == 1
    assert (once.failures, once.failing_since) == (opened.failures, NOW)  # they belong together
    hung = after(once, Verdict.FAILED, at, later(OPEN_FIRST))  # it was under way
    assert hung == once
    again = after(once, Verdict.FAILED, at, at)
    assert (again.failures, again.failing_since) == (opened.failures + 1, NOW)
    assert again.open_until == at + timedelta(seconds=OPEN_FIRST)
    taken = after(once, Verdict.ACCEPTED, at, at)
    assert taken == Breaker(allowance=1)
    assert after(taken, Verdict.ACCEPTED, at, at).allowance == 2


@pytest.mark.parametrize(
    ("status", "arrived", "said"),
    [
        (200, True, Verdict.ACCEPTED),
        (204, True, Verdict.ACCEPTED),
        (400, False, Verdict.REFUSED),
        (401, False, Verdict.REFUSED),
        (404, False, Verdict.REFUSED),
        (410, False, Verdict.REFUSED),
        (422, False, Verdict.REFUSED),
        (499, False, Verdict.REFUSED),
        (302, False, Verdict.FAILED),
        (408, False, Verdict.FAILED),
        (425, False, Verdict.FAILED),
        (429, False, Verdict.FAILED),
        (500, False, Verdict.FAILED),
        (503, False, Verdict.FAILED),
        (None, False, Verdict.FAILED),
    ],
)
def test_whoever_refuses_an_event_works(status: int | None, arrived: bool, said: Verdict) -> None:
    assert verdict(status, arrived=arrived) is said


def test_opens_after_so_many_failures_in_a_row() -> None:
    assert failing(FAILURES - 1).open_until is None
    opened = failing(FAILURES)
    assert opened.open_until == later(OPEN_FIRST)
    assert allowed(opened, NOW) == 0
    assert allowed(opened, later(OPEN_FIRST - 0.001)) == 0


@pytest.mark.parametrize("said", [Verdict.ACCEPTED, Verdict.REFUSED])
def test_an_answer_that_is_no_failure_starts_the_count_anew(said: Verdict) -> None:
    answered = told(said, 1, failing(FAILURES - 1))
    assert failing(FAILURES - 1, answered).open_until is None


def test_refusals_never_open_it_and_leave_it_one_call_at_a_time() -> None:
    refusing = told(Verdict.REFUSED, 10 * FAILURES)
    assert refusing.open_until is None
    assert allowed(refusing, NOW) == 1
    assert told(Verdict.ACCEPTED, 3, refusing) == WELL


def test_gets_less_while_it_fails_and_never_nothing() -> None:
    assert [allowed(failing(n), NOW) for n in range(FAILURES)] == [8, 4, 2, 1, 1]


def test_half_open_it_gets_one_call() -> None:
    assert allowed(failing(FAILURES), later(OPEN_FIRST)) == 1


def test_recovery_goes_in_growing_portions() -> None:
    breaker, seen = told(Verdict.ACCEPTED, 1, failing(FAILURES)), []
    for _ in range(5):
        seen.append(allowed(breaker, later(OPEN_FIRST)))
        breaker = after(breaker, Verdict.ACCEPTED, NOW, NOW)
    assert seen == [1, 2, 4, 8, 8]


@pytest.mark.parametrize("openings", range(1, 9))
def test_rests_twice_as_long_each_time_up_to_a_limit(openings: int) -> None:
    breaker, now = failing(FAILURES), later(OPEN_FIRST)
    for _ in range(openings):
        breaker = after(breaker, Verdict.FAILED, now, now)
        assert breaker.open_until is not None
        span = (breaker.open_until - now).total_seconds()
        now = breaker.open_until
    assert span == min(OPEN_MAX, OPEN_FIRST * 2**openings)


def test_calls_that_were_under_way_when_it_opened_change_nothing() -> None:
    opened = failing(FAILURES)
    assert failing(7, opened, later(OPEN_FIRST / 2)) == opened


@pytest.mark.parametrize(
    ("breaker", "began", "answered", "counts"),
    [
        (WELL, 0, None, True),
        (WELL, 0, -1, True),
        (WELL, 0, 0, False),  # begun together, and one was answered
        (WELL, 0, 5, False),  # a call that began later was answered: what hung here is over
        (failing(FAILURES - 1), 0, 5, False),
        (failing(FAILURES - 1), 6, 5, True),
        (failing(FAILURES), OPEN_FIRST - 1, None, False),  # under way when it opened
        (failing(FAILURES), OPEN_FIRST, None, True),  # the one that decides
        (failing(FAILURES), OPEN_FIRST, OPEN_FIRST + 1, False),
        (told(Verdict.ACCEPTED, 1, failing(FAILURES)), 0, OPEN_FIRST, False),
        (told(Verdict.REFUSED, 1), 0, OPEN_FIRST, False),
    ],
)  # fmt: skip
def test_a_failure_counts_by_when_its_call_began(
    breaker: Breaker, began: float, answered: float | None, *, counts: bool
) -> None:
    """However late it ends: here an hour after all else."""
    known = None if answered is None else later(answered)
    told_late = after(breaker, Verdict.FAILED, later(3_600), later(began), known)
    assert (told_late != breaker) is counts


moments = st.integers(0, 100)


@given(
    st.lists(st.tuples(moments, moments, st.booleans()), max_size=40),
    st.lists(st.tuples(moments, st.integers(0, 1_000)), min_size=FAILURES, max_size=40),
)
def test_calls_that_hung_before_one_was_answered_change_nothing_however_they_end(
    others: list[tuple[int, int, bool]], hung: list[tuple[int, int]]
) -> None:
    """All that is told before that, and the order in which calls end, is any."""
    begins = 101
    calls = [(took, began, Verdict.FAILED if fails else Verdict.ACCEPTED)
             for began, took, fails in others]  # fmt: skip
    breaker = WELL
    for took, began, said in sorted(calls, key=lambda call: call[:2]):
        breaker = after(breaker, said, later(began + took), later(began))
    answered = after(breaker, Verdict.ACCEPTED, later(begins), later(begins))
    after_hung = answered
    for began, ended in sorted(hung, key=lambda call: call[1]):
        after_hung = after(
            after_hung, Verdict.FAILED, later(begins + ended), later(began), later(begins)
        )
    assert after_hung == answered


@given(st.lists(st.tuples(st.sampled_from(Verdict), st.floats(0, 1_000)), max_size=60))
def test_whatever_happens_it_comes_back_when_the_endpoint_works(
    calls: list[tuple[Verdict, float]],
) -> None:
    breaker, now = WELL, NOW
    for said, seconds in calls:
        now += timedelta(seconds=seconds)
        breaker = after(breaker, said, now, now)
        assert 0 <= allowed(breaker, now) <= ALLOWANCE_MAX
        assert breaker.open_until is None or breaker.open_until - now <= timedelta(seconds=OPEN_MAX)
    rested = breaker.open_until or now
    assert allowed(breaker, rested) >= 1
    assert told(Verdict.ACCEPTED, 4, breaker, rested) == WELL


def test_a_host_starts_small_doubles_and_shrinks_to_one_call() -> None:
    allowance, seen = ALLOWANCE_FIRST, []
    for answered in (True, True, True, False, False, False, False, True):
        allowance = host_allowance(allowance, answered=answered)
        seen.append(allowance)
    assert seen == [4, 8, 8, 4, 2, 1, 1, 2]


# ------------------------------------------------------------------ whose turn it is


def event(name: str, **changes: object) -> Waiting:
    """`b2.1`: the endpoint `b2` of the host `b`, its event 1."""
    endpoint = name.partition(".")[0]
    fixed = {"id": name, "host": endpoint[0], "endpoint": endpoint, "failures": 0, "due_at": NOW}
    return Waiting(**{**fixed, **changes})  # type: ignore[arg-type]


def events(endpoint: str, count: int, **changes: object) -> list[Waiting]:
    return [event(f"{endpoint}.{number:02}", **changes) for number in range(count)]


def chosen(
    waiting: Sequence[Waiting],
    endpoints: Mapping[str, int] | None = None,
    hosts: Mapping[str, int] | None = None,
    limit: int = 64,
) -> list[str]:
    room = {name: Room(free, well=False) for name, free in (endpoints or {}).items()}
    return share(waiting, room, hosts or dict.fromkeys("abc", 8), limit, NOW)


def test_first_attempts_go_before_retries_and_older_ones_first() -> None:
    waiting = [
        event("a.old", due_at=later(-9)),
        event("a.retry", failures=1, due_at=later(-99)),
        event("a.new"),
    ]
    assert chosen(waiting) == ["a.old", "a.new", "a.retry"]


def test_endpoints_of_a_host_take_turns() -> None:
    waiting = [*events("a1", 20, due_at=later(-60)), *events("a2", 20)]
    assert Counter(name[:2] for name in chosen(waiting)) == {"a1": 4, "a2": 4}


def test_one_that_refuses_leaves_the_others_of_its_host_all_calls_they_need() -> None:
    waiting = [*events("a1", 20, due_at=later(-59)), *events("a2", 20)]
    assert Counter(name[:2] for name in chosen(waiting, {"a1": 1})) == {"a2": 8}
    waiting = [*events("a1", 20, due_at=later(-59)), *events("a2", 5)]
    assert Counter(name[:2] for name in chosen(waiting, {"a1": 1})) == {"a1": 1, "a2": 5}


def test_one_that_refuses_is_not_starved_by_the_others_of_its_host() -> None:
    waiting = [*events("a1", 20, due_at=later(-60)), *events("a2", 20)]
    assert Counter(name[:2] for name in chosen(waiting, {"a1": 1})) == {"a1": 1, "a2": 7}


def test_half_open_the_event_that_failed_least_is_tried() -> None:
    waiting = [event("a.refused", failures=3, due_at=later(-900)), event("a.fresh", failures=1)]
    assert chosen(waiting, {"a": 1}) == ["a.fresh"]


def test_what_rests_gets_nothing_and_costs_its_host_no_place() -> None:
    waiting = [*events("a1", 20), *events("a2", 20)]
    assert Counter(name[:2] for name in chosen(waiting, {"a1": 0})) == {"a2": 8}


def test_hosts_take_turns_where_not_all_can_go() -> None:
    waiting = [*events("a", 8, due_at=later(-60)), *events("b", 8)]
    assert Counter(name[0] for name in chosen(waiting, limit=6)) == {"a": 3, "b": 3}


def test_callbacks_have_no_limit_but_the_claims() -> None:
    waiting = events("a", 20, bound=False)
    assert len(chosen(waiting, hosts={"a": 0})) == 20
    assert len(chosen(waiting, limit=7)) == 7
    assert len(chosen(waiting, {"a": 0}, {"a": 0})) == 0  # but for a queue that is missing


names = st.sampled_from(["a1", "a2", "b1", "c1", "c2", "c3"])
rooms = st.dictionaries(names, st.tuples(st.integers(-2, 8), st.booleans()))
free = st.dictionaries(st.sampled_from("abc"), st.integers(-2, 8))


@given(st.lists(st.tuples(names, st.integers(0, 3), st.integers(0, 99))), rooms, free,
       st.integers(0, 20))  # fmt: skip
def test_nobody_gets_more_than_allowed_and_no_place_stays_empty(
    drawn: list[tuple[str, int, int]],
    at_endpoint: dict[str, tuple[int, bool]],
    at_host: dict[str, int],
    limit: int,
) -> None:
    waiting = [
        event(f"{name}.{number}", failures=failures, due_at=later(-age))
        for number, (name, failures, age) in enumerate(drawn)
    ]
    room = {name: Room(free, well) for name, (free, well) in at_endpoint.items()}
    got = share(waiting, room, at_host, limit, NOW)
    assert len(got) == len(set(got)) <= limit
    endpoints, hosts = Counter(n.partition(".")[0] for n in got), Counter(n[0] for n in got)
    for endpoint, count in endpoints.items():
        assert count <= room.get(endpoint, Room()).free
    for host, count in hosts.items():
        assert count <= at_host.get(host, ALLOWANCE_FIRST)
    if len(got) == limit:
        return
    for left in waiting:  # whoever is left out, is at a limit
        if left.id not in got:
            at_limit = endpoints[left.endpoint] >= room.get(left.endpoint, Room()).free
            assert at_limit or hosts[left.host] >= at_host.get(left.host, ALLOWANCE_FIRST)


# ------------------------------------------------------------------ when, and why then

OPEN = Breaker(failures=6, openings=2, allowance=1, open_until=later(60))


@pytest.mark.parametrize(
    ("due", "breaker", "leased", "at", "wait"),
    [
        (30, WELL, False, 30, Wait.SCHEDULE),
        (-30, WELL, False, 0, Wait.TURN),
        (30, WELL, True, 30, Wait.ANSWER),
        (-30, WELL, True, 0, Wait.TURN),  # whoever had it is gone
        (-30, OPEN, False, 60, Wait.RESTING),
        (30, OPEN, False, 60, Wait.RESTING),
        (90, OPEN, False, 90, Wait.SCHEDULE),
        (30, OPEN, True, 30, Wait.ANSWER),
    ],
)
def test_when_an_event_is_tried_next_and_what_it_waits_for(
    due: float, breaker: Breaker, leased: bool, at: float, wait: Wait
) -> None:
    assert next_try(later(due), breaker, NOW, leased=leased) == (later(at), wait)


def test_after_its_rest_an_endpoint_is_no_reason_any_more() -> None:
    assert next_try(NOW, OPEN, later(61), leased=False) == (later(61), Wait.TURN)
