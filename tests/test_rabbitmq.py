"""The acceptance run over RabbitMQ, with quorum queues. Where it is not installed this is skipped,
also in CI: no wheel brings it along.
"""

import pytest

from tests.fleet import START_SECONDS, WORKER, fleet, scripted_ids, violations
from tests.servers import eventually, rabbitmq, rabbitmq_missing

pytestmark = pytest.mark.skipif(
    bool(rabbitmq_missing()), reason=f"{rabbitmq_missing()} (optional, also in CI)"
)

ENDED = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"
LOOKED_AT = "SELECT count(*) FROM jobs WHERE polls > 0"


def test_a_fleet_works_over_quorum_queues(postgresql_url: str) -> None:
    """Two workers and two beats; one worker is killed with -9 while it works, and replaced."""
    # None ends before the worker is killed: an attempt that it leaves behind takes a minute.
    ids = scripted_ids(40, 6.0, 12.0)
    with rabbitmq() as broker, fleet(postgresql_url, broker.url, rate=60.0) as deployed:
        deployed.start_all(workers=2, beats=2)
        deployed.send("reelwatch.track", *ids, webhook_url=f"{deployed.listener.url}/hook")
        eventually(lambda: deployed.rows(LOOKED_AT)[0][0] > 10, 30, deployed.log)
        deployed.of(WORKER)[0].kill()
        replacement = deployed.start(WORKER)
        eventually(
            lambda: deployed.rows(ENDED)[0][0] == len(ids) and not deployed.open_work(),
            120,
            deployed.log,
        )
        assert violations(deployed, ids) == []
        assert {broker.queue_type(name) for name in ("reelwatch", "reelwatch.work")} == {"quorum"}
        replacement.wait_for("ready", START_SECONDS)  # it may not have been needed
        assert set(deployed.terminate_all()) == {0}
