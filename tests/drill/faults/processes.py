"""Processes of ours that are killed, stopped, replaced, or live in another time."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from reelwatch.jobs.claiming import LEASE
from reelwatch.sandbox.listener import Reaction, Received
from tests.drill.faults.kinds import fault
from tests.drill.world import READY_SECONDS, Drill
from tests.fleet import BEAT, WORKER
from tests.servers import Process

STEPPED_WORKER = (
    sys.executable,
    str(Path(__file__).parents[2] / "stepped_worker.py"),
    *WORKER[1:],
)


@fault(forgets=True)
def kill_worker(drill: Drill) -> None:
    """`kill -9` of a worker."""
    drill.some(WORKER).kill()
    drill.complete()


@fault()
def kill_beat(drill: Drill) -> None:
    """`kill -9` of a beat."""
    drill.some(BEAT).kill()
    drill.complete()


@fault()
def kill_both_beats(drill: Drill) -> None:
    """No beat at all for 25 s.

    That is longer than the workers wait for a tick.
    """
    for each in drill.all_running(BEAT):
        each.kill()
    time.sleep(25)
    drill.complete()


@fault()
def freeze_worker(drill: Drill) -> None:
    """A worker stopped for 35 s.

    That is longer than its leases: its late results are fenced off.
    """
    drill.fleet.sandbox.set_fault("hang")  # so that there are polls in hand
    time.sleep(0.5)
    frozen = max(drill.all_running(WORKER), key=last_poll)
    drill.someone_frozen = True  # perhaps within a transaction
    os.killpg(frozen.pid, signal.SIGSTOP)
    drill.fleet.sandbox.set_fault("none")
    time.sleep(LEASE.total_seconds() + 5)
    os.killpg(frozen.pid, signal.SIGCONT)
    drill.someone_frozen = False


def last_poll(worker: Process) -> str:
    """When a worker last logged a poll; empty if it never did."""
    polls = [line for line in worker.output.splitlines() if '"event": "poll"' in line]
    return polls[-1].partition('"timestamp": ')[2] if polls else ""


@fault()
def step_clock(drill: Drill) -> None:
    """A worker an hour ahead."""
    stepped = drill.fleet.start(STEPPED_WORKER)
    stepped.wait_for("ready", READY_SECONDS)
    time.sleep(8)
    stepped.kill()


@fault()
def restart_rolling(drill: Drill) -> None:
    """Workers replaced one by one."""
    for worker in drill.all_running(WORKER):
        worker.wait_for("ready", READY_SECONDS)  # before that it does not know the signal yet
        code = worker.terminate(90)
        drill.expect(code == 0, f"a worker ended with {code} after SIGTERM")
        drill.start_worker().wait_for("ready", READY_SECONDS)


@fault(forgets=True)
def kill_after_answer(drill: Drill) -> None:
    """All workers killed between a receiver's 2xx and its commit."""
    answered, killed = threading.Event(), threading.Event()

    def answer(_event: Received) -> Reaction:
        if not answered.is_set():
            answered.set()
            threading.Timer(0.005, kill).start()
        return 200

    def kill() -> None:
        for each in drill.all_running(WORKER):
            each.kill()
        killed.set()

    drill.reaction = answer
    if answered.wait(15):
        killed.wait(30)
    drill.reaction = None
    drill.complete()
