"""Acceptance: real processes, killed and starved while they work, lose nothing and tell no lies."""

from pathlib import Path

import pytest

from tests import drill
from tests.fleet import fleet, scripted_ids, violations
from tests.servers import eventually, process
from worker import db


@pytest.mark.timeout(420)
def test_a_fleet_survives_what_befalls_it() -> None:
    """Two workers and two beats over PostgreSQL and Redis, through a short script of faults."""
    # More than its jobs can ask for: how well a busy test machine keeps time is not the subject.
    with drill.drilling(seed=7, rate=60.0) as run:
        names = run.chance.sample(drill.SHORT, len(drill.SHORT))
        assert drill.run(run, 50, names, longest=40.0) == []
        assert sum(run.injected.values()) == len(drill.SHORT)
        assert run.fleet.rows("SELECT count(*) FROM jobs WHERE state = 'expired'")[0][0] == 2


@pytest.mark.timeout(240)
def test_one_process_survives_being_killed(tmp_path: Path) -> None:
    """`reelwatch up` on SQLite, killed with -9 three times while it works."""
    url = f"sqlite:///{tmp_path / 'one.db'}"
    db.migrate(url)
    with fleet(url, "", rate=30.0) as deployed:
        up = {k: v for k, v in deployed.environment.items() if k != "BROKER_URL"}
        ids = scripted_ids(25, 3.0, 15.0)
        hook = f"{deployed.listener.url}/hook"
        track = process(["reelwatch", "track", *ids, "--webhook-url", hook], up)
        assert track.wait(60) == 0, track.output
        ended = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"
        for share in (0, 5, 12):
            with process(["reelwatch", "up"], up) as one:
                eventually(
                    lambda share=share: deployed.rows(ended)[0][0] > share,  # type: ignore[misc]
                    90,
                    lambda one=one: one.output[-2000:],  # type: ignore[misc]
                )
                one.kill()
        with process(["reelwatch", "up"], up) as one:
            eventually(lambda: not deployed.open_work(), 120, lambda: one.output[-2000:])
            assert one.terminate(60) == 0
        assert violations(deployed, ids) == []
