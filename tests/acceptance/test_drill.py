"""Acceptance: real processes, killed and starved while they work, lose nothing and tell no lies."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from reelwatch.jobs import claiming, delivery
from reelwatch.storage import db, migrating
from reelwatch.storage.models import Delivery, Job
from tests.drill import report
from tests.drill.faults import FAULTS
from tests.drill.script import run, short_script
from tests.drill.world import drilling
from tests.fleet import fleet, scripted_ids, violations
from tests.servers import eventually, process

ENDED = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"


@pytest.mark.timeout(420)
def test_a_fleet_survives_what_befalls_it() -> None:
    """Two workers and two beats beside a producer's app, through a short script of faults.

    Which ones differs from day to day; REELWATCH_TEST_DRILL_SEED has a day's again.
    """
    today = str(datetime.now(UTC).date().toordinal())
    seed = int(os.environ.get("REELWATCH_TEST_DRILL_SEED", today))
    # More than its jobs can ask for: how well a busy test machine keeps time is not the subject.
    with drilling(seed, rate=60.0) as drill:
        names = short_script(drill.chance)
        wrong = run(drill, 50, names, longest=30.0, long_tasks=20.0)
        assert wrong == [], f"REELWATCH_TEST_DRILL_SEED={seed} has these faults again: {names}"
        assert drill.injected.keys() == set(names)


@pytest.mark.timeout(240)
def test_one_process_survives_being_killed(tmp_path: Path) -> None:
    """`reelwatch up` on SQLite, killed with -9 three times while it works.

    First with polls in hand: nobody asks again before their leases are over, which takes as long
    as all the rest. Then with attempts in hand, then in the middle of everything.
    """
    url = f"sqlite:///{tmp_path / 'one.db'}"
    migrating.migrate(url)
    slow = threading.Event()
    with fleet(
        url, "", 30.0, lambda _: (200, {"delay": "5"}) if slow.is_set() else 200
    ) as deployed:
        up = {k: v for k, v in deployed.environment.items() if k != "BROKER_URL"}
        ids = scripted_ids(25, 2.0, 12.0)
        first, second = ids[:12], ids[12:]

        def track(ids: Sequence[str]) -> None:
            hook = f"{deployed.listener.url}/hook"
            with process(["reelwatch", "track", *ids, "--webhook-url", hook], up) as command:
                assert command.wait(60) == 0, command.output

        def asked(video_id: str) -> list[float]:
            return [poll.at for poll in deployed.sandbox.polls() if poll.video_id == video_id]

        def killed_once(condition: Callable[[], object], *more: str) -> None:
            with process(["reelwatch", "up"], up) as one:
                if more:
                    track(more)
                eventually(condition, 60, lambda: one.output[-2000:])
                one.kill()

        track(first)
        deployed.sandbox.set_fault("hang")
        killed_once(lambda: all(asked(each) for each in first))
        deployed.sandbox.set_fault("none")
        slow.set()
        killed_once(lambda: deployed.listener.events, *second)
        slow.clear()
        assert leases_over(url, but=first) > 0
        killed_once(lambda: deployed.rows(ENDED)[0][0] > 6)
        leases_over(url, but=first)
        with process(["reelwatch", "up"], up) as one:
            eventually(lambda: not deployed.open_work(), 90, lambda: one.output[-2000:])
            assert one.terminate(60) == 0
        assert violations(deployed, ids) == []
        apart = [asked(each)[1] - asked(each)[0] for each in first]
        assert min(apart) > claiming.LEASE.total_seconds() - 2  # it began before the poll


def leases_over(url: str, but: Sequence[str]) -> int:
    """Let time pass for what a dead process had in hand, `but` for those; how many attempts it had.

    Nothing may be kept from others for longer than is promised.
    """
    with db.transaction(url) as session:
        now = db.now(session)
        held = select(Job).where(Job.lease_token.is_not(None), Job.video_id.not_in(but))
        for job in session.execute(held).scalars():
            assert job.next_poll_at is not None
            assert job.next_poll_at <= now + claiming.LEASE
            job.next_poll_at = now
        owed = select(Delivery).where(Delivery.lease_token.is_not(None))
        attempts = session.execute(owed).scalars().all()
        for attempt in attempts:
            assert attempt.next_attempt_at is not None
            assert attempt.next_attempt_at <= now + delivery.LEASE
            attempt.next_attempt_at = now
        return len(attempts)


def test_the_readme_shows_what_was_measured() -> None:
    """Nobody types those tables; they name only faults that there are."""
    results = json.loads(report.KEPT.read_text())
    readme = report.README.read_text()
    assert report.shown(readme, results) == readme
    assert {name for each in results for name in each["times"]} == set(FAULTS)
    assert all(each["violations"] == each["lost"] == each["dead"] == 0 for each in results)
