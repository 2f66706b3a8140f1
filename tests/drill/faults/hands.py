"""What the operator does by hand."""

import time

from reelwatch.sandbox.upstream import scripted_id
from tests.drill.faults.kinds import fault
from tests.drill.world import Drill
from tests.fleet import BEHIND, WORKER
from tests.servers import eventually, process

HUNG_SECONDS = 2.0  # long enough for polls to be in hand
QUIET_AFTER = 5.0  # seconds; slots that were taken before are used
HELD_SECONDS = 15.0
TOLD_SOON = 60.0  # seconds; a worker looks for such deadlines every 15 to 20 s
AGAIN_SOON = 15.0  # seconds
DEADLINE = 6
WORKS = "SELECT count(*) FROM accounts WHERE name = 'default' AND pause_reason IS NULL"
OWN = "SELECT video_id FROM jobs WHERE account = 'default'"
EXPIRED = "SELECT count(*) FROM jobs WHERE video_id = :id AND state = 'expired'"


@fault()
def pause_account(drill: Drill) -> None:
    """The operator pauses the account while polls hang, until a deadline has been told."""
    eventually(lambda: drill.fleet.rows(WORKS)[0][0], 120, "what came before paused it")
    video_id = scripted_id("sora-2", "forever", 1, f"paused{drill.injected['pause_account']}")
    drill.hand_in(video_id, deadline=DEADLINE)
    drill.make_sure()
    written = [(each, len(each.output)) for each in drill.all_running(WORKER)]
    drill.fleet.sandbox.set_fault("hang")
    time.sleep(HUNG_SECONDS)
    by_hand(drill, "--pause", "default", "--reason", "a new key")
    drill.fleet.sandbox.set_fault("none")
    time.sleep(QUIET_AFTER)
    since = time.time()
    time.sleep(HELD_SECONDS)
    eventually(
        lambda: drill.fleet.rows(EXPIRED, id=video_id)[0][0],
        TOLD_SOON, lambda: f"the deadline of {video_id} was not told while its account was paused",
    )  # fmt: skip
    polled = asked_of_it(drill, since)
    drill.expect(not polled, f"{polled} polls of an account that somebody had paused")
    by_hand(drill, "--resume", "default")
    resumed = time.time()
    eventually(lambda: asked_of_it(drill, resumed), AGAIN_SOON, "no poll after a resume by hand")
    for worker, before in written:
        failed = [line for line in worker.output[before:].splitlines() if "task_failed" in line]
        drill.expect(not failed, f"a pause by hand made tasks fail: {failed[:1]}")


def by_hand(drill: Drill, *options: str) -> None:
    """Run `reelwatch accounts` with these, as an operator does."""
    with process(
        ["reelwatch", "accounts", *options], drill.fleet.environment, niceness=BEHIND
    ) as command:
        code = command.wait(60)
        drill.expect(code == 0, f"accounts {options[0]} ended with {code}: {command.output}")


def asked_of_it(drill: Drill, since: float) -> int:
    """How many polls of the account's jobs upstream has seen since then, in unix time."""
    own = {row[0] for row in drill.fleet.rows(OWN)}
    return sum(poll.at > since and poll.video_id in own for poll in drill.fleet.sandbox.polls())
