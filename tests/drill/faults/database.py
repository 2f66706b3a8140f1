"""PostgreSQL restarts, goes silent, or is no longer the one that is written to."""

import time

from reelwatch.storage import postgresql
from tests.drill.faults.broker import weather
from tests.drill.faults.kinds import fault
from tests.drill.world import Drill
from tests.proxy import Weather

FAILOVER_SECONDS = 15.0  # from the moment there is a writable server to the first poll


@fault()
def restart_postgres(drill: Drill) -> None:
    """PostgreSQL restarted."""
    drill.database.restart()


@fault()
def terminate_backends(drill: Drill) -> None:
    """All connections to PostgreSQL cut."""
    drill.database.terminate_connections()


@fault()
def lose_postgres_silently(drill: Drill) -> None:
    """PostgreSQL black-holed for 8 s."""
    drill.someone_frozen = True  # the server waits for them, perhaps within a transaction
    weather(drill.to_database, Weather.BLACK_HOLE, 8)
    time.sleep(postgresql.IDLE_SECONDS)  # who waits there gives up in time
    drill.someone_frozen = False


@fault()
def failover_postgres(drill: Drill) -> None:
    """PostgreSQL fails over: sessions stay with a read-only one, a standby is promoted."""
    drill.count_deadlocks()  # the next one begins at none
    successor = drill.database.standby()
    former, drill.database = drill.database, successor
    former.make_read_only()
    successor.promote(behind=former)
    for road in (drill.straight_to_database, drill.to_database):
        road.lead_to("127.0.0.1", successor.port)
    drill.pooler.command("RECONNECT")  # as an operator's failover script has it
    took = drill.wait_for_a_poll(60, "after PostgreSQL has failed over")
    drill.expect(took <= FAILOVER_SECONDS, f"{took:.1f} s without a look after a failover")
    former.close()
