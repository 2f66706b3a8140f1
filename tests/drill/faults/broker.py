"""Redis is away, silent, full, forgetful, or no longer the one that is written to."""

import time

from reelwatch.sandbox.upstream import scripted_id
from tests.drill.faults.kinds import fault
from tests.drill.world import READY_SECONDS, Drill
from tests.fleet import BEAT, WORKER
from tests.proxy import Proxy, Weather
from tests.servers import eventually, redis

BY_THEMSELVES = 60.0  # seconds within which workers poll without a broker, also just started ones
# From SIGTERM to the end, as deployments are told to wait. A child whose last results its parent
# does not read any more waits 30 s for that, as when a worker is told to end just as it begins.
END_SECONDS = 45


@fault(forgets=True, shared=True)
def flush_redis(drill: Drill) -> None:
    """Redis flushed."""
    drill.broker.flush()


@fault(forgets=True, shared=True)
def kill_redis(drill: Drill) -> None:
    """Redis killed, 3 s away."""
    drill.broker.kill()
    time.sleep(3)
    drill.broker.start()


@fault(forgets=True)
def lose_redis_silently(drill: Drill) -> None:
    """Redis black-holed for 8 s."""
    weather(drill.to_broker, Weather.BLACK_HOLE, 8)


@fault(forgets=True)
def reset_redis(drill: Drill) -> None:
    """Connections to Redis reset for 3 s."""
    weather(drill.to_broker, Weather.RESETS, 3)


@fault(forgets=True)
def refuse_redis(drill: Drill) -> None:
    """Nothing listens where Redis was, for 5 s."""
    weather(drill.to_broker, Weather.REFUSES, 5)


@fault(shared=True)
def fill_redis(drill: Drill) -> None:
    """Redis full until workers poll by themselves."""
    with drill.broker.full():
        time.sleep(3)  # what was under way then is done
        drill.wait_for_a_poll(BY_THEMSELVES, "while Redis is full")


@fault(shared=True)
def start_with_full_redis(drill: Drill) -> None:
    """A worker started while Redis is full."""
    with drill.broker.full():
        started = drill.start_worker()
        eventually(lambda: polls(started.output), BY_THEMSELVES, "a poll of the new worker's")
    started.wait_for("ready", READY_SECONDS)
    code = started.terminate(END_SECONDS)
    drill.expect(code == 0, f"a worker that started with a full Redis ended with {code}")


@fault(shared=True)
def failover_redis(drill: Drill) -> None:
    """Redis fails over: read-only for 5 s, then elsewhere."""
    successor = redis(like=drill.broker)
    former, drill.broker = drill.broker, successor
    former.fail_over_to(successor)
    drill.straight_to_broker.lead_to("127.0.0.1", successor.port)
    time.sleep(5)
    # Connections that are open stay with the former one, which refuses whatever is written.
    drill.to_broker.lead_to("127.0.0.1", successor.port)
    drill.wait_for_a_poll(BY_THEMSELVES, "after Redis has failed over")
    former.close()


@fault()
def start_without_broker(drill: Drill) -> None:
    """Worker and beat started, and ended, without a broker."""
    ids = [scripted_id("grok", "ok", 20, f"b{drill.chance.randrange(10**9)}") for _ in range(5)]
    drill.hand_in(*ids)
    drill.make_sure()
    for command, started in ((WORKER, "ready"), (BEAT, "beat_starting")):
        for each in drill.all_running(command):
            each.wait_for(started, READY_SECONDS)  # before that it does not know the signal yet
    codes = drill.fleet.terminate_all()
    drill.expect(not any(codes), f"after SIGTERM processes ended with {codes}")
    drill.to_broker.set(Weather.REFUSES)
    try:
        work_without_broker(drill, ids)
    finally:
        drill.to_broker.set(Weather.FAIR)
    drill.complete()


def work_without_broker(drill: Drill, ids: list[str]) -> None:
    """A worker and a beat alone: these jobs are polled and told, then both end."""
    worker, beat = drill.start_worker(), drill.fleet.start(BEAT)
    drill.wait_for_a_poll(BY_THEMSELVES, "without a broker from the start")
    told = (
        "SELECT count(*) FROM deliveries JOIN jobs ON jobs.id = job_id "
        "WHERE video_id = ANY(:ids) AND deliveries.state = 'delivered'"
    )
    eventually(
        lambda: drill.fleet.rows(told, ids=ids)[0][0] == len(ids),
        BY_THEMSELVES,
        "events told without a broker",
    )
    for each in (worker, beat):
        each.stop_signal()
    codes = [each.wait(END_SECONDS) for each in (worker, beat)]
    drill.expect(not any(codes), f"after SIGTERM without a broker, {codes}")


def polls(output: str) -> bool:
    """Whether a process has logged a poll."""
    return '"event": "poll"' in output


def weather(road: Proxy, kind: Weather, seconds: float) -> None:
    """Such weather for so long."""
    road.set(kind)
    time.sleep(seconds)
    road.set(Weather.FAIR)
