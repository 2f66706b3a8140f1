"""What ends by itself: waiting for a database that says nothing any more."""

import sys
import time
from typing import Any

import pytest

from reelwatch.app import tasks
from reelwatch.sandbox.scripts import scripted_id
from reelwatch.storage import postgresql
from tests.fleet import BEAT, WORKER, fleet
from tests.proxy import Weather, detour
from tests.servers import ROOT, eventually

LIMITED = (sys.executable, str(ROOT / "tests" / "limited_worker.py"))
BEFORE, LATER = (scripted_id("grok", "forever", 1, letter) for letter in "ab")
TICKS = "SELECT extract(epoch FROM at) FROM heartbeats WHERE name = 'tick'"


@pytest.mark.parametrize(
    ("pool", "turn", "silence", "said"),
    [
        ("prefork", 3, postgresql.SILENCE_SECONDS, "Hard time limit (3s) exceeded for reelwatch."),
        # "no answer within 3 s", or "connection timeout" where one was being made anew.
        ("threads", tasks.BATCH_LIMIT, 3.0, '"event": "task_failed"'),
    ],
)
def test_a_worker_goes_on_after_its_database_fell_silent(
    postgresql_url: str, redis_url: str, pool: str, turn: int, silence: float, said: str
) -> None:
    """Each pool has its own way out: a process can be killed, a thread can only be told.

    What was connected then stays dead for good, as when a firewall has forgotten it.
    """
    pace: Any = {"REELWATCH_POLL_MIN": "200ms", "REELWATCH_POLL_MAX": "500ms"}
    with (
        detour(postgresql_url) as (road, url),
        fleet(postgresql_url, redis_url, 20.0, DATABASE_URL=url, **pace) as deployed,
    ):
        limited = (*LIMITED, str(turn), str(silence))
        worker = deployed.start((*limited, *WORKER[1:]), "--pool", pool, "--concurrency", "1")
        deployed.start((*limited, *BEAT[1:]))  # whoever sends a task says how long it may take
        deployed.send("reelwatch.track", BEFORE)
        eventually(deployed.sandbox.polls, 60, deployed.log)
        road.set(Weather.BLACK_HOLE)
        worker.wait_for(said, 60)
        road.set(Weather.FAIR)
        fair = time.time()
        deployed.send("reelwatch.track", LATER)

        def goes_on() -> bool:
            polled = any(poll.video_id == LATER for poll in deployed.sandbox.polls())
            return polled and deployed.rows(TICKS)[0][0] > fair

        eventually(goes_on, 90, deployed.log)
