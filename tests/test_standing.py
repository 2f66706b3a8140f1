"""How an account stands: what answers, time and people's hands make of it."""

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules import recovery, standing
from reelwatch.rules.answer_errors import AnswerError, ErrorKind
from reelwatch.rules.rests import Rest, rest_of
from reelwatch.rules.standing import Asked, Standing
from reelwatch.rules.states import Account as Effect

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class TestRest:
    @pytest.mark.parametrize(
        ("row", "rest"),
        [
            ({}, None),
            ({"slowed_at": after(-1)}, None),
            ({"slowed_at": after(9)}, Rest(after(9), "upstream asked to slow down")),
            ({"paused_until": after(9), "pause_reason": "quota"}, Rest(after(9), "quota")),
            ({"paused_until": after(-9), "pause_reason": "quota"}, Rest(NOW, "quota")),
            ({"pause_reason": "by hand"}, Rest(None, "by hand")),
        ],
        ids=["works", "slowed", "held", "paused", "may be tried", "by hand"],
    )
    def test_says_until_when_and_why(self, row: dict[str, Any], rest: Rest | None) -> None:
        stored = {"paused_until": None, "pause_reason": None, "slowed_at": None} | row
        assert rest_of(stored, NOW) == rest


# ------------------------------------------------------------------ answers

RATE = 5.0
WELL = Standing(RATE)
REFUSED = AnswerError(ErrorKind.UNAUTHORIZED, "invalid token", 401)
FIRST_REST = timedelta(seconds=recovery.PAUSE_FIRST)
RESTS = Standing(
    RATE, paused_until=NOW, pause_reason="unauthorized: invalid token", pauses_in_row=1
)
BY_HAND = WELL.paused("a new key on Monday")


def limited(wait: float | None = None) -> AnswerError:
    return AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=wait)


def works(job: int = 1, *, probe: bool = False) -> Asked:
    return Asked(job, Effect.WORKS, probe=probe)


def refused(job: int = 1, *, probe: bool = False) -> Asked:
    return Asked(job, Effect.PAUSE, REFUSED, probe)


def slowed(job: int = 1, wait: float | None = None, *, probe: bool = False) -> Asked:
    return Asked(job, Effect.SLOW, limited(wait), probe)


def new(job: int, wait: float | None = None) -> Asked:
    """A 429 of a job that never was well."""
    return Asked(job, Effect.SLOW, limited(wait), in_row=1, well=False)


def unheard(*, probe: bool = False) -> Asked:
    return Asked(1, Effect.NO_NEWS, AnswerError(ErrorKind.SERVER_ERROR, "oops", 500), probe)


def told(before: Standing, *answers: Asked, at: datetime = NOW) -> Standing:
    for asked in answers:
        before = before.after(asked, at)
    return before


class TestRefusals:
    def test_three_in_a_row_are_the_accounts(self) -> None:
        assert [told(WELL, *[refused()] * count).rests for count in (1, 2, 3)] == [
            False,
            False,
            True,
        ]

    def test_count_of_whichever_jobs_they_are(self) -> None:
        rests = told(WELL, refused(1), refused(2), refused(3))
        assert (rests.pause_reason, rests.refusals) == ("unauthorized: invalid token", 0)
        assert rests.paused_until == NOW + FIRST_REST

    def test_one_that_works_sets_the_count_back_and_is_noted(self) -> None:
        well = told(WELL, refused(1), refused(1), works(2))
        assert (well.refusals, well.worked_at, well.suspected) == (0, NOW, False)
        assert not told(well, refused(1), refused(1)).rests

    def test_one_that_works_changes_nothing_where_all_is_well(self) -> None:
        assert told(WELL, works()) == WELL

    def test_what_was_under_way_when_it_began_to_rest_changes_nothing(self) -> None:
        for asked in (works(), refused(), slowed(), unheard()):
            assert told(RESTS, asked) == RESTS


class TestProbes:
    def test_that_work_resume_it(self) -> None:
        awake = told(RESTS, works(probe=True))
        assert (awake.rests, awake.pauses_in_row, awake.paused_until) == (False, 0, None)

    def test_that_are_refused_have_it_rest_for_longer(self) -> None:
        longer = told(RESTS, refused(probe=True))
        assert (longer.paused_until, longer.pauses_in_row) == (NOW + 2 * FIRST_REST, 2)

    def test_that_prove_nothing_are_followed_soon(self) -> None:
        again = told(RESTS, unheard(probe=True))
        assert again == replace(RESTS, paused_until=after(standing.PROBE_AGAIN))

    def test_that_are_told_to_slow_down_show_that_the_key_works(self) -> None:
        awake = told(RESTS, slowed(probe=True))
        assert (awake.rests, awake.requests_per_second) == (False, recovery.slower(RATE))

    def test_of_an_account_that_was_resumed_meanwhile_are_polls_like_others(self) -> None:
        assert told(WELL, unheard(probe=True)) == WELL

    def test_that_were_not_sent_may_go_at_once(self) -> None:
        waiting = RESTS.probing(after(30))
        assert waiting.unsent(after(2)).paused_until == after(2)
        assert WELL.unsent(NOW) == WELL


class TestLimits:
    def test_one_jobs_429_holds_for_a_moment_and_cuts_nothing(self) -> None:
        for wait in (None, 3_600.0):
            held = told(WELL, slowed(1, wait))
            assert held.next_slot_at == after(recovery.HOLD_SECONDS)
            assert (held.requests_per_second, held.slowed_at, held.rests) == (RATE, None, False)

    def test_another_jobs_is_a_limit(self) -> None:
        cut = told(WELL, slowed(1), works(3), slowed(2))
        assert cut.requests_per_second == recovery.slower(RATE)
        assert (cut.refused_rate, cut.slowed_at) == (RATE, after(recovery.HOLD_SECONDS))

    def test_so_is_the_same_jobs_if_nothing_worked_since(self) -> None:
        assert told(WELL, slowed(1), slowed(1)).requests_per_second < RATE

    def test_the_same_jobs_alone_holds_nobody(self) -> None:
        once = told(WELL, slowed(1), works(2))
        later = told(once, slowed(1), at=after(9))
        assert later.next_slot_at == once.next_slot_at
        assert later.requests_per_second == RATE

    def test_two_that_are_far_apart_are_no_limit(self) -> None:
        once = told(WELL, slowed(1), works(3))
        later = told(once, slowed(2), at=after(standing.LIMITED_SECONDS + 1))
        assert later.requests_per_second == RATE

    def test_odd_jobs_one_after_the_other_are_no_limit_in_the_end(self) -> None:
        cut = told(WELL, slowed(1), slowed(2), works(3))
        alone = Asked(2, Effect.NO_NEWS, limited(), in_row=3)
        assert told(cut, replace(alone, job_id=1)) == told(cut, replace(alone, in_row=2)) == cut
        assert told(cut, alone).now(RATE, after(9)).requests_per_second == RATE

    @pytest.mark.parametrize(
        ("answers", "limit"),
        [
            ([slowed(1), works(3), slowed(2)], True),
            ([slowed(1), works(3), slowed(1)], False),
            ([slowed(1), slowed(1)], True),
            ([slowed(1), works(3), new(2)], False),
            ([new(1), works(3), slowed(2)], False),
            ([new(1), works(3), new(2)], False),
            ([new(1), new(2)], True),
            ([new(1), slowed(2)], True),
        ],
    )
    def test_two_that_were_well_meet_one_and_new_jobs_only_if_nothing_works(
        self, answers: list[Asked], limit: bool
    ) -> None:
        last = WELL
        for place, asked in enumerate(answers):
            last = last.after(asked, after(15 * place))
        assert (last.requests_per_second < RATE) == limit

    def test_two_new_jobs_soon_after_each_other_meet_one(self) -> None:
        once = told(WELL, new(1), works(3), at=after(-5))
        assert told(once, new(2)).requests_per_second < RATE

    def test_what_new_jobs_get_at_once_is_one_burst(self) -> None:
        assert told(WELL, new(1, 60.0), new(2, 60.0), new(3, 60.0)) == told(WELL, new(1, 60.0))

    def test_new_jobs_are_believed_about_a_long_wait_when_a_probe_was_told_it_too(self) -> None:
        before = WELL.after(new(1, 60.0), NOW).after(new(2, 60.0), after(3))
        assert (before.requests_per_second < RATE, before.rests) == (True, False)
        rests = before.after(new(3, 60.0), after(6))
        assert rests.paused_until == after(6 + recovery.PAUSE_FIRST)
        longer = rests.after(replace(new(4, 60.0), probe=True), after(12))
        assert longer.paused_until == after(72)

    def test_a_new_job_that_gets_it_twice_alone_gives_the_rate_back(self) -> None:
        cut = WELL.after(new(1), NOW).after(new(2), after(3)).after(works(3), after(4))
        assert cut.requests_per_second < RATE
        alone = Asked(1, Effect.NO_NEWS, limited(), in_row=2, well=False)
        assert told(cut, alone, at=after(8)).now(RATE, after(9)).requests_per_second == RATE

    def test_an_odd_job_that_comes_later_leaves_a_limit_that_was_learned(self) -> None:
        learned = told(WELL, slowed(1), works(3), slowed(2), works(3))
        odd = learned.after(new(4), after(20)).after(works(3), after(21))
        again = replace(new(4), effect=Effect.NO_NEWS, in_row=2)
        assert odd.after(again, after(26)).refused_rate == RATE

    def test_another_error_of_a_new_job_gives_no_rate_back(self) -> None:
        cut = WELL.after(new(1), NOW).after(new(2), after(3)).after(works(3), after(4))
        assert told(cut, replace(unheard(), in_row=5, well=False)) == cut

    def test_a_burst_cuts_once(self) -> None:
        assert told(WELL, *map(slowed, range(9))).requests_per_second == recovery.slower(RATE)

    @pytest.mark.parametrize(("wait", "rest"), [(11.0, 11.0), (90.0, 90.0), (3_600.0, 600.0)])
    def test_a_long_wait_is_a_rest(self, wait: float, rest: float) -> None:
        rests = told(WELL, slowed(1, wait), slowed(2, wait))
        assert rests.paused_until == after(rest)
        assert f"to be asked again in {wait:.0f} s" in str(rests.pause_reason)

    def test_reserved_slots_stay_reserved(self) -> None:
        reserved = replace(WELL, next_slot_at=after(7))
        assert told(reserved, slowed(1)).next_slot_at == after(7)


class TestHands:
    def test_no_answer_changes_what_was_paused_by_hand(self) -> None:
        for asked in (works, refused, slowed, unheard):
            assert told(BY_HAND, asked(), asked(probe=True)) == BY_HAND
        assert BY_HAND.unsent(NOW) == BY_HAND
        assert (BY_HAND.by_hand, BY_HAND.paused_until) == (True, None)

    def test_it_may_have_rested_before(self) -> None:
        assert RESTS.paused().pause_reason == "by hand"
        assert RESTS.paused().by_hand

    def test_keep_the_reason_that_was_given_when_they_pause_again_without_one(self) -> None:
        assert BY_HAND.paused() == BY_HAND
        assert BY_HAND.paused("another").pause_reason == "by hand: another"

    def test_resumed_is_as_if_nothing_had_been(self) -> None:
        for before in (BY_HAND, RESTS, told(WELL, slowed(1)), told(WELL, refused())):
            assert before.resumed(NOW) == WELL

    def test_a_limit_that_was_learned_stays_known(self) -> None:
        cut = told(WELL, slowed(1), slowed(2), at=after(-1))
        resumed = cut.resumed(NOW)
        assert resumed.requests_per_second == RATE * recovery.BELOW_REFUSED
        assert (resumed.refused_rate, resumed.slowed_at, resumed.next_slot_at) == (RATE, NOW, None)


def test_only_what_has_changed_is_written() -> None:
    assert RESTS.changed(WELL) == {
        "paused_until": NOW, "pause_reason": RESTS.pause_reason, "pauses_in_row": 1,
    }  # fmt: skip
    assert WELL.changed(WELL) == {}


ANSWERS = st.builds(
    Asked,
    st.integers(1, 3),
    st.sampled_from(Effect),
    st.sampled_from([REFUSED, limited(), limited(3_600.0)]),
    st.booleans(),
)


@given(st.lists(st.tuples(ANSWERS, st.floats(0, 700)), max_size=30))
def test_whatever_comes_it_is_never_silent_for_longer_than_a_rest(
    answers: list[tuple[Asked, float]],
) -> None:
    standing, now = WELL, NOW
    for asked, seconds in answers:
        now += timedelta(seconds=seconds)
        standing = standing.now(RATE, now).after(asked, now)
        latest = now + timedelta(seconds=recovery.PAUSE_MAX)
        assert (standing.paused_until or now) <= latest
        assert (standing.next_slot_at or now) <= latest
        assert 0 < standing.requests_per_second <= RATE
        assert (standing.paused_until is None) == (standing.pause_reason is None)


@given(
    st.lists(
        st.tuples(st.floats(standing.TOGETHER_SECONDS + 1, 90), st.sampled_from([None, 8.0, 60.0])),
        max_size=20,
    )
)
def test_new_odd_jobs_hold_it_for_a_moment_in_a_minute_however_many_come(
    arrivals: list[tuple[float, float | None]],
) -> None:
    last, now, held = WELL, NOW, 0
    for job, (seconds, wait) in enumerate(arrivals):
        now += timedelta(seconds=seconds)
        noted = last.after(new(job, wait), now)
        held += noted.next_slot_at != last.next_slot_at
        assert (noted.requests_per_second, noted.slowed_at, noted.rests) == (RATE, None, False)
        last = noted.after(works(99), now + timedelta(seconds=1))
    assert held <= 1 + (now - NOW).total_seconds() / standing.LIMITED_SECONDS


@given(st.floats(0, standing.LIMITED_SECONDS), st.integers(0, 9))
def test_two_jobs_that_were_well_teach_a_limit_whatever_works_between(
    seconds: float, working: int
) -> None:
    last = told(WELL, slowed(1), *[works(3)] * working)
    assert last.after(slowed(2), after(seconds)).requests_per_second == recovery.slower(RATE)


def test_is_what_its_row_holds() -> None:
    row = asdict(RESTS) | {"name": "default", "look_price": 0.0}
    assert Standing.of(row) == RESTS


def test_a_rate_comes_back_in_steps_while_it_is_quiet() -> None:
    cut = told(WELL, slowed(1), slowed(2), at=after(-recovery.HOLD_SECONDS))
    later = cut.now(RATE, after(1.5 * recovery.QUIET_SECONDS))
    assert later.requests_per_second == recovery.slower(RATE) + recovery.RATE_GAIN * RATE
    assert (later.slowed_at, later.refused_rate) == (after(recovery.QUIET_SECONDS), RATE)
    assert cut.now(RATE, after(-9)).slowed_at == NOW  # a clock that was set back
    assert cut.now(1.0, NOW) == replace(cut, requests_per_second=1.0, slowed_at=None,
                                        refused_rate=None)  # fmt: skip


@pytest.mark.parametrize(
    ("pauses", "seconds"), [(0, 0), (1, 5), (3, 35), (7, 635), (9, 1_835), (20, 8_435)]
)
def test_how_long_it_has_been_refused_follows_from_its_rests(pauses: int, seconds: float) -> None:
    assert replace(RESTS, pauses_in_row=pauses).refused_seconds == seconds
