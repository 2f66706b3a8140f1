"""Endpoints that refuse, are down, or want no more, beside others that work."""

from datetime import UTC, datetime

from sqlalchemy import make_url

from reelwatch.sandbox.listener import Reaction, Received
from reelwatch.sandbox.upstream import scripted_id
from tests.drill.faults.kinds import fault
from tests.drill.world import Drill
from tests.proxy import Proxy, Weather
from tests.servers import eventually, process

EVENTS = 20  # for the endpoint that refuses, or is down
OTHERS = 10  # for others meanwhile
PATIENCE = 60.0

TOLD = """
SELECT count(DISTINCT j.id) FROM jobs j JOIN deliveries d ON d.job_id = j.id
WHERE j.video_id = ANY(:ids) AND d.state = 'delivered'
"""
TRIED = """
SELECT count(DISTINCT d.id) FROM deliveries d JOIN attempts a ON a.delivery_id = d.id
WHERE d.target = :target
"""
DEAD = "SELECT count(*) FROM deliveries WHERE target = :target AND state = 'dead'"
DEAD_TOLD = """
SELECT count(*) FROM deliveries WHERE event_type = 'delivery.dead'
AND body::jsonb #>> '{data,endpoint}' = :target
"""
RESTS = "SELECT count(*) FROM endpoints WHERE name = :target AND open_until > now()"


@fault()
def endpoint_refuses(drill: Drill) -> None:
    """An endpoint refuses all its events, until others of its host were told theirs."""
    target = f"{drill.fleet.listener.url}/refuses"
    drill.reaction = _refusing
    try:
        _hand_in(drill, target, "refused", EVENTS)
        eventually(lambda: _count(drill, TRIED, target) >= 5, PATIENCE)
        _others_are_told(drill, "refuses")
        drill.expect(_count(drill, RESTS, target) == 0, "an endpoint rests that only refused")
    finally:
        drill.reaction = None


@fault()
def endpoint_down(drill: Drill) -> None:
    """An endpoint is down until others were told; repaired, it gets all by `redeliver --now`."""
    port = make_url(drill.fleet.listener.url).port
    assert port
    with Proxy("127.0.0.1", port) as way:
        target = f"http://127.0.0.1:{way.port}/down"
        way.set(Weather.REFUSES)
        ids = _hand_in(drill, target, "down", EVENTS)
        eventually(lambda: _count(drill, RESTS, target) == 1, PATIENCE, "it never rested")
        _others_are_told(drill, "is down")
        way.set(Weather.FAIR)
        command = ["reelwatch", "redeliver", "--now", "--endpoint", target, "--yes"]

        with process(command, drill.fleet.environment) as redelivery:
            assert redelivery.wait(PATIENCE) == 0, redelivery.output
        drill.expect(_count(drill, RESTS, target) == 0, "an endpoint rests that was released")
        eventually(lambda: _told(drill, ids), PATIENCE, "a repaired endpoint was not told")


@fault()
def endpoint_wants_no_more(drill: Drill) -> None:
    """An endpoint answers 410, its events are dead; `redeliver --dead` brings all of them later."""
    target = f"{drill.fleet.listener.url}/gone"
    drill.reaction = _gone
    try:
        ids = _hand_in(drill, target, "gone", EVENTS)
        eventually(lambda: _count(drill, DEAD, target) == EVENTS, PATIENCE, "they never died")
    finally:
        drill.reaction = None
    times = _count(drill, DEAD_TOLD, target)
    drill.expect(times == 1, f"the operator was told {times} times of an endpoint's dead events")
    command = ["reelwatch", "redeliver", "--dead", "--endpoint", target, "--yes"]
    with process(command, drill.fleet.environment) as redelivery:
        assert redelivery.wait(PATIENCE) == 0, redelivery.output
    eventually(lambda: _told(drill, ids), PATIENCE, "what was dead was not told again")


def _gone(event: Received) -> Reaction:
    return 410 if event.path == "/gone" else 200


def _refusing(event: Received) -> Reaction:
    return 404 if event.path == "/refuses" else 200


def _hand_in(drill: Drill, target: str, name: str, count: int) -> list[str]:
    """Have short jobs tracked whose events go there; their ids."""
    at = f"{datetime.now(UTC):%H%M%S%f}"
    ids = [scripted_id("sora-2", "ok", 1, f"{name}{at}n{number}") for number in range(count)]
    drill.fleet.send("reelwatch.track", *ids, webhook_url=target)
    drill.handed_in += ids
    return ids


def _others_are_told(drill: Drill, what: str) -> None:
    """Others that come now hear of their ends while the one still fails."""
    ids = _hand_in(drill, f"{drill.fleet.listener.url}/hook", "other", OTHERS)

    try:
        eventually(lambda: _told(drill, ids), PATIENCE)
    except AssertionError:
        drill.expect(False, f"others were not told while an endpoint {what}")


def _told(drill: Drill, ids: list[str]) -> bool:
    return bool(drill.fleet.rows(TOLD, ids=ids)[0][0] == len(ids))


def _count(drill: Drill, query: str, target: str) -> int:
    return int(drill.fleet.rows(query, target=target)[0][0])
