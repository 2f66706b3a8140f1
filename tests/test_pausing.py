"""People's hands on an account: paused until it is resumed, resumed at once, and all see why."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

import reelwatch
from reelwatch.config import settings
from reelwatch.config.accounts import Account as Configured
from reelwatch.jobs import applying, claiming, history, polling, watching
from reelwatch.jobs.applying import Polled
from reelwatch.jobs.claiming import Claimed
from reelwatch.net.upstream import Poll
from reelwatch.rules import deadlines
from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Meaning, Report
from reelwatch.storage import db, due_jobs
from reelwatch.storage.models import Account, Delivery, Job
from tests import seeding
from tests.commands import done, run
from tests.test_cli_service import examined
from tests.test_cli_service import healthy as healthy_command_line

healthy = healthy_command_line  # a fixture of both
KEY = "sk-test-0123456789"
CONFIGURED = Configured("default", "http://127.0.0.1:1", KEY, 5.0)
RUNNING = Report("running", Meaning.IN_PROGRESS, body={"status": "running"})
REFUSED = AnswerError(ErrorKind.UNAUTHORIZED, "invalid token", 401)
LIMITED = AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=3_600.0)


@pytest.fixture
def url(commands: pytest.MonkeyPatch, database_url: str) -> Iterator[str]:
    """A database with two accounts, the first with six due jobs; `default` is configured here."""
    settings.current.cache_clear()
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_account(session, "studio")
        for _ in range(6):
            later = db.now(session) + timedelta(hours=1)
            seeding.add_job(session, next_poll_at=seeding.at(minutes=1), deadline_at=later)
    yield database_url
    settings.current.cache_clear()


def claim(url: str) -> list[Claimed]:
    with db.transaction(url) as session:
        return list(claiming.claim(session, CONFIGURED, 64).items)


def answered(url: str, claimed: list[Claimed], answer: Answer) -> None:
    results = [Polled(each, Poll(answer, answer.http_status, 7)) for each in claimed]
    with db.transaction(url) as session:
        applying.apply(session, deadlines.Rules(), results)


def standing(url: str, name: str = "default") -> dict[str, Any]:
    with db.reading(url) as session:
        query = select(Account.__table__).where(Account.name == name)
        return dict(session.execute(query).mappings().one())


def since(url: str, name: str = "default") -> datetime | None:
    with db.reading(url) as session:
        rows = {row["name"]: row["paused_since"] for row in history.list_accounts(session)}
    found: datetime | None = rows[name]
    return found


def now_of(url: str) -> datetime:
    with db.reading(url) as session:
        return db.now(session)


class TestPaused:
    def test_nothing_is_polled(self, url: str) -> None:
        reelwatch.pause_account("default", "the key is changed")
        assert claim(url) == []
        assert standing(url)["pause_reason"] == "by hand: the key is changed"

    @pytest.mark.parametrize("answer", [RUNNING, REFUSED, LIMITED], ids=["good", "401", "429"])
    def test_no_answer_that_was_under_way_changes_it(self, url: str, answer: Answer) -> None:
        claimed = claim(url)
        reelwatch.pause_account("default")
        answered(url, claimed, answer)
        row = standing(url)
        assert (row["pause_reason"], row["paused_until"]) == ("by hand", None)
        assert claim(url) == []

    @pytest.mark.parametrize("answer", [RUNNING, REFUSED], ids=["good", "401"])
    def test_nor_does_a_probe(self, url: str, answer: Answer) -> None:
        answered(url, claim(url), REFUSED)
        with db.transaction(url) as session:
            rests = update(Account).where(Account.pause_reason.is_not(None))
            session.execute(rests.values(paused_until=db.now(session), next_slot_at=None))
            session.execute(update(Job).values(next_poll_at=db.now(session)))
        (probe,) = claim(url)
        reelwatch.pause_account("default")
        answered(url, [probe], answer)
        assert standing(url)["pause_reason"] == "by hand"

    def test_nor_does_a_probe_that_was_not_sent(self, url: str) -> None:
        answered(url, claim(url), REFUSED)
        with db.transaction(url) as session:
            rests = update(Account).where(Account.pause_reason.is_not(None))
            session.execute(rests.values(paused_until=db.now(session), next_slot_at=None))
            session.execute(update(Job).values(next_poll_at=db.now(session)))
        (probe,) = claim(url)
        reelwatch.pause_account("default")
        with db.transaction(url) as session:
            applying.apply(session, deadlines.Rules(), [Polled(probe, None)])
        assert standing(url)["paused_until"] is None

    def test_deadlines_are_told(self, url: str) -> None:
        reelwatch.pause_account("default", "on holiday")
        with db.transaction(url) as session:
            past = db.now(session) - timedelta(seconds=1)
            session.execute(update(Job).values(deadline_at=past, callback_task="shop.done"))
        watching.watch(settings.current())
        assert claim(url) == []
        with db.reading(url) as session:
            told = session.scalars(select(Delivery.event_type)).all()
            (why,) = set(session.scalars(select(Job.error_message)))
            bodies = session.scalars(select(Delivery.body)).all()
        assert told == ["video.expired"] * 6
        assert str(why).endswith(": its account rests, by hand")
        assert not [body for body in bodies if "on holiday" in str(body)]

    def test_a_batch_that_is_under_way_goes_on_to_its_end(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It asks for more meanwhile, and gets nothing; what it has in hand is written down."""
        claimed_again = threading.Event()

        def claim_some(*args: Any, **options: Any) -> Any:
            batch = claiming.claim(*args, **options)
            if standing(url)["pause_reason"]:
                claimed_again.set()
            return batch

        def ask(*_: object) -> Poll:
            if not standing(url)["pause_reason"]:
                reelwatch.pause_account("default")
            claimed_again.wait(30.0)
            return Poll(RUNNING, 200, 7)

        monkeypatch.setenv("QUICKROUTER_API_KEY", KEY)
        settings.current.cache_clear()
        monkeypatch.setattr(polling, "claim", claim_some)
        polled = polling.poll(settings.current(), "default", ask=ask, batch_seconds=30.0)
        with db.reading(url) as session:
            assert polled == sum(session.scalars(select(Job.polls))) > 0
            assert set(session.scalars(select(Job.lease_token))) == {None}

    @pytest.mark.parametrize("operator", ["", "https://ops.example.com/hook"], ids=["", "told"])
    def test_since_when_is_kept_until_it_is_resumed(
        self, url: str, commands: pytest.MonkeyPatch, operator: str
    ) -> None:
        commands.setenv("REELWATCH_OPERATOR_URL", operator)
        settings.current.cache_clear()
        assert since(url) is None
        answered(url, claim(url), REFUSED)
        first = since(url)
        assert first is not None
        reelwatch.pause_account("default", "a new key")
        by_hand = since(url)
        assert by_hand is not None
        assert by_hand > first  # what upstream refused is another reason, and began before
        reelwatch.pause_account("default", "the new key comes on Monday")
        assert since(url) == by_hand
        told = ["account.paused"] if operator else []  # once, though it began twice
        with db.reading(url) as session:
            query = select(Delivery.event_type).where(Delivery.job_id.is_(None))
            assert list(session.scalars(query)) == told
        reelwatch.resume_account("default")
        assert since(url) is None
        reelwatch.pause_account("default")
        again = since(url)
        assert again is not None
        assert again > by_hand

    def test_an_account_that_is_held_by_nobody_was_paused_at_no_time(self, url: str) -> None:
        reelwatch.pause_account("studio")
        assert since(url) is None
        assert since(url, "studio") is not None

    def test_a_tick_begins_no_batch_for_it(self, url: str) -> None:
        reelwatch.pause_account("default")
        with db.reading(url) as session:
            assert session.scalars(due_jobs.due_accounts(db.now(session))).all() == []


class TestPolledAgainWhilePaused:
    def asked(self, url: str) -> str:
        with db.reading(url) as session:
            video_id = session.scalars(select(Job.video_id).limit(1)).one()
        return done("recheck", video_id).replace(video_id, "ID")

    def test_it_is_said_that_it_waits_for_somebody(self, url: str) -> None:
        assert self.asked(url) == "will be polled now: ID\n"
        reelwatch.pause_account("default", "a new key")
        assert self.asked(url) == "will be polled when the account default is resumed: ID\n"

    def test_and_until_when_if_it_ends_by_itself(self, url: str) -> None:
        answered(url, claim(url), REFUSED)
        resumed = "will be polled when the account default is resumed"
        said = rf"{resumed}, which is tried at [\d:]+ UTC: ID\n"
        assert re.fullmatch(said, self.asked(url))

    def test_of_many_those_of_a_paused_account_are_told_apart(self, url: str) -> None:
        reelwatch.track_many(["veo3:a", "veo3:b"], account="studio")
        reelwatch.pause_account("studio")
        filters = ("recheck", "--model", "veo3")
        paused = "will be polled when the account studio is resumed: 2 jobs\n"
        assert done(*filters, "--dry-run").endswith(paused)
        assert done(*filters, "--yes") == paused
        reelwatch.track("veo3:c")
        assert done(*filters, "--yes") == f"will be polled now: 1 job\n{paused}"
        assert json.loads(done(*filters, "--yes", "--json"))["polled"] == [
            {"when": "now", "count": 1},
            {"when": "when the account studio is resumed", "count": 2},
        ]


class TestResumed:
    def test_its_jobs_are_polled_at_once(self, url: str) -> None:
        reelwatch.pause_account("default")
        claim(url)
        reelwatch.resume_account("default")
        assert len(claim(url)) > 1

    @pytest.mark.parametrize("answer", [REFUSED, LIMITED], ids=["401", "429"])
    def test_whatever_it_rested_for(self, url: str, answer: Answer) -> None:
        with db.transaction(url) as session:
            session.execute(update(Job).values(polls=1))  # they were well
        answered(url, claim(url), answer)
        assert standing(url)["paused_until"] > now_of(url)
        assert claim(url) == []
        reelwatch.resume_account("default")
        with db.transaction(url) as session:
            session.execute(update(Job).values(next_poll_at=db.now(session)))
        taken = claim(url)
        assert len(taken) > 1
        assert not any(each.probe for each in taken)

    def test_a_rate_that_was_refused_is_kept_clear_of(self, url: str) -> None:
        with db.transaction(url) as session:
            held = db.now(session) + timedelta(seconds=9)
            slowed = {"slowed_at": held, "next_slot_at": held, "refused_rate": 2.0}
            session.execute(update(Account).values(requests_per_second=0.1, **slowed))
        reelwatch.resume_account("default")
        claim(url)
        row = standing(url)
        assert (row["requests_per_second"], row["refused_rate"]) == (pytest.approx(1.64), 2.0)

    def test_of_others_nothing_changes(self, url: str) -> None:
        reelwatch.pause_account("studio")
        reelwatch.resume_account("default")
        assert standing(url, "studio")["pause_reason"] == "by hand"


class TestHands:
    """On the command line."""

    def row(self, name: str) -> dict[str, Any]:
        (found,) = (row for row in json.loads(done("accounts", "--json")) if row["name"] == name)
        return dict(found)

    def test_an_account_rests_until_it_is_resumed(self, url: str) -> None:
        shown = done("accounts", "--pause", "studio", "--reason", "a new key\non Monday")
        assert "paused by hand, until it is resumed: a new key on Monday" in shown
        row = self.row("studio")
        assert (row["pause_reason"], row["paused_until"]) == ("by hand: a new key on Monday", None)
        assert self.row("default")["pause_reason"] is None
        shown = done("accounts", "--resume", "studio")
        assert "paused" not in shown
        assert self.row("studio")["pause_reason"] is None

    def test_a_reason_is_not_demanded(self, url: str) -> None:
        done("accounts", "--pause", "studio")
        assert self.row("studio")["pause_reason"] == "by hand"

    def test_one_that_no_worker_has_met_can_be_paused(
        self, commands: pytest.MonkeyPatch, database_url: str
    ) -> None:
        done("accounts", "--pause", "default")
        assert self.row("default")["pause_reason"] == "by hand"

    @pytest.mark.parametrize("option", ["--pause", "--resume"])
    def test_an_unknown_name_is_refused_with_the_nearest(self, url: str, option: str) -> None:
        result = run("accounts", option, "studoi")
        assert result.exit_code == 2
        assert "'studoi' is unknown (is 'studio' meant?); known: default, studio" in result.stderr

    @pytest.mark.parametrize(
        "arguments", [("--reason", "x"), ("--pause", "studio", "--resume", "studio")]
    )
    def test_what_makes_no_sense_is_refused(self, url: str, arguments: tuple[str, ...]) -> None:
        assert run("accounts", *arguments).exit_code == 2
        assert self.row("studio")["pause_reason"] is None

    def test_doctor_and_accounts_say_until_when_and_why(
        self, healthy: pytest.MonkeyPatch, url: str
    ) -> None:
        with db.transaction(url) as session:
            until = db.now(session) + timedelta(minutes=9)
            why = "rate_limited: slow down; to be asked again in 3600 s"
            held = {"paused_until": until, "pause_reason": why, "slowed_at": until}
            session.execute(update(Account).where(Account.name == "default").values(held))
            session.execute(update(Job).values(next_poll_at=seeding.at(minutes=5)))
        assert re.search(rf"rests 5\d\d s more, until \d\d:\d\d:\d\d: {why}", done("accounts"))
        checks = examined(1)
        assert why in checks["account default is paused"]["message"]
        assert re.search(r"until \d\d:\d\d:\d\d", checks["account default is paused"]["message"])
        assert checks["polls"]["status"] == "ok"  # they are not late for want of a higher rate

    def test_doctor_advises_no_higher_rate_where_upstream_refuses_more(
        self, healthy: pytest.MonkeyPatch, url: str
    ) -> None:
        with db.transaction(url) as session:
            slowed = {"slowed_at": db.now(session), "requests_per_second": 0.1, "refused_rate": 0.2}
            session.execute(update(Account).where(Account.name == "default").values(slowed))
            session.execute(update(Job).values(next_poll_at=seeding.at(minutes=5)))
        message = examined(0)["polls"]["message"]
        late, answers = "6 are late, due for more than a minute", "upstream answers 429"
        assert message == f"{late}: {answers} to more requests for default"


def test_commands_say_what_is_so_already_and_log_nothing(url: str) -> None:
    assert run("accounts", "--pause", "default", "--reason", "a new key").stderr == ""
    again = run("accounts", "--pause", "default")
    assert again.stderr == "default is paused already\n"
    assert "by hand, until it is resumed: a new key" in again.stdout
    assert run("accounts", "--resume", "default").stderr == ""
    assert run("accounts", "--resume", "default").stderr == "default works already\n"
