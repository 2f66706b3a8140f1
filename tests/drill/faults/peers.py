"""Upstream and the receiver misbehave."""

import time

from reelwatch.sandbox.listener import Reaction
from reelwatch.sandbox.odd import ODD
from reelwatch.sandbox.upstream import scripted_id
from tests.drill.faults.kinds import fault
from tests.drill.world import Drill
from tests.servers import eventually

ODD_SECONDS = 15.0  # past its deadline, and past the time that one without an answer is given up
LATE_LIMIT = 5.0  # seconds; a lone 429 holds the others for two
PAUSED = "SELECT count(*) FROM accounts WHERE name = 'default' AND pause_reason IS NOT NULL"
STRANGERS = 5  # jobs whose status nobody knows
ENDED = "SELECT count(*) FROM jobs WHERE video_id = ANY(:ids) AND state = 'completed'"
CHANGED = """
SELECT count(*) FROM deliveries WHERE event_type = 'upstream.changed'
AND body::jsonb #>> '{data,what}' LIKE '%video_daydreaming%'
"""
OVERDUE = (
    "SELECT coalesce(max(extract(epoch FROM now() - next_poll_at)), 0) FROM jobs "
    "WHERE account = 'default' AND next_poll_at < now() AND lease_token IS NULL "
    "AND state IN ('pending', 'running')"
)


@fault()
def upstream_429(drill: Drill) -> None:
    """Upstream answers 429 for 2 s."""
    upstream(drill, "429", 2)


@fault()
def upstream_500(drill: Drill) -> None:
    """Upstream answers 500 for 4 s."""
    upstream(drill, "500", 4)


@fault()
def upstream_garbage(drill: Drill) -> None:
    """Upstream answers with what is no JSON for 4 s."""
    upstream(drill, "garbage", 4)


@fault()
def upstream_hangs(drill: Drill) -> None:
    """Upstream hangs for 4 s."""
    upstream(drill, "hang", 4)


@fault()
def upstream_401(drill: Drill) -> None:
    """Upstream refuses the key until the account rests, and for 4 s more.

    Then it is probed.
    """
    drill.fleet.sandbox.set_fault("401")
    eventually(lambda: drill.fleet.rows(PAUSED)[0][0], 60, "the account does not rest")
    time.sleep(4)
    drill.fleet.sandbox.set_fault("none")


@fault()
def odd_job(drill: Drill) -> None:
    """One job gets the same error for ever, or no answer.

    That it is told to have expired is seen at the end, with all others.
    """
    [(paused,)] = drill.fleet.rows(PAUSED)  # by what came before
    eventually(lambda: not drill.fleet.rows(PAUSED)[0][0], 60, lambda: f"{paused} still paused")
    eventually(lambda: not late(drill), 60, "there are late polls")
    script = drill.chance.choice(sorted(ODD))
    video_id = scripted_id("veo3.1", script, 1, f"odd{drill.injected['odd_job']}")
    drill.hand_in(video_id, deadline=8)
    eventually(lambda: any(poll.video_id == video_id for poll in drill.fleet.sandbox.polls()), 60)
    began, latest = time.time(), 0.0
    while time.time() < began + ODD_SECONDS:
        latest = max(latest, late(drill))
        [(paused,)] = drill.fleet.rows(PAUSED)
        drill.expect(not paused, f"{script}: the account was paused for one odd job")
        time.sleep(0.5)
    drill.expect(latest < LATE_LIMIT, f"{script}: another's poll was {latest:.1f} s late")


@fault()
def status_unknown(drill: Drill) -> None:
    """Upstream has a status that nobody knows for some jobs: the operator is told of it, once."""
    occasion = drill.injected["status_unknown"]
    ids = [scripted_id("veo3.1", "odd", 20, f"u{occasion}n{n}") for n in range(STRANGERS)]
    drill.hand_in(*ids)
    eventually(lambda: drill.fleet.rows(ENDED, ids=ids)[0][0] == STRANGERS, 90, "they never ended")
    [(times,)] = drill.fleet.rows(CHANGED)
    drill.expect(times == 1, f"the operator was told {times} times of a new status")


def late(drill: Drill) -> float:
    """How late, in seconds, the latest poll is that nobody has in hand; 0 up to a second."""
    [(seconds,)] = drill.fleet.rows(OVERDUE)
    return float(seconds) if seconds > 1 else 0.0


@fault()
def receiver_500(drill: Drill) -> None:
    """The receiver answers 500 for 4 s."""
    receiver(drill, 500)


@fault()
def receiver_hangs(drill: Drill) -> None:
    """The receiver answers only after the sender has given up, for 4 s."""
    receiver(drill, (200, {"delay": "6"}))


@fault()
def receiver_resets(drill: Drill) -> None:
    """The receiver hangs up for 4 s."""
    receiver(drill, 0)


@fault()
def receiver_is_slow(drill: Drill) -> None:
    """The receiver takes a second for each event, for 4 s."""
    receiver(drill, (200, {"delay": "1"}))


def upstream(drill: Drill, mode: str, seconds: float) -> None:
    """Have upstream misbehave for so long."""
    drill.fleet.sandbox.set_fault(mode)
    time.sleep(seconds)
    drill.fleet.sandbox.set_fault("none")


def receiver(drill: Drill, reaction: Reaction, seconds: float = 4) -> None:
    """Have the receiver answer so for so long."""
    drill.reaction = lambda _event: reaction
    time.sleep(seconds)
    drill.reaction = None
