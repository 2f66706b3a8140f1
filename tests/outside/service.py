"""What is tried in every world that Reelwatch is installed in: its commands and its processes."""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.processes import Process, eventually, free_port

WORKER = ("celery", "-A", "reelwatch", "worker", "--without-gossip", "--without-mingle")
BEAT = ("celery", "-A", "reelwatch", "beat")

COMMAND_SECONDS = 120.0
JOBS_SECONDS = 120.0
STOP_SECONDS = 45.0  # what docker-compose.yml gives them

# Ids of the sandbox with how they end, by the way they are handed in.
BY_COMMAND = {"veo3.1:ok.2s-a": "completed", "grok:policy.1s-b": "failed"}
BY_IMPORT = {"sora-2:leftovers.2s-c": "completed"}
BY_MESSAGE = {"veo3.1-fast:ok.1s-d": "completed"}

# A producer that imports Reelwatch, and one that knows nothing but the task's name.
IMPORTING = "import sys, reelwatch; reelwatch.track(sys.argv[1], webhook_url=sys.argv[2])"
SENDING = """
import os, sys, celery
with celery.Celery("shop", broker=os.environ["BROKER_URL"]) as app:
    app.send_task("reelwatch.track", [sys.argv[1]], {"webhook_url": sys.argv[2]}, queue="reelwatch")
"""


class World(Protocol):
    """Where Reelwatch is installed."""

    def start(self, command: Sequence[str], settings: Mapping[str, str]) -> Process:
        """Start a command there, with these settings alone."""


@dataclass
class Trial:
    """Reelwatch at work in a world, with an upstream and a receiver that are in the same world."""

    world: World
    settings: dict[str, str]
    receiver: str = ""
    tools: list[Process] = field(default_factory=list)  # upstream and receiver
    processes: list[Process] = field(default_factory=list)

    def run(self, *command: str) -> str:
        """The output of a command that must succeed."""
        code, output = self.attempt(*command)
        if code:
            raise AssertionError(f"`{' '.join(command)}`: exit code {code}\n{output}")
        return output

    def attempt(self, *command: str) -> tuple[int, str]:
        """The exit code and the output of a command."""
        process = self.world.start(command, self.settings)
        try:
            return process.wait(COMMAND_SECONDS), process.output
        finally:
            process.close()

    def start(self, *command: str) -> Process:
        """A process of Reelwatch's that goes on."""
        self.processes.append(self.world.start(command, self.settings))
        return self.processes[-1]

    def surround(self) -> None:
        """Start an upstream and a receiver, and make settings that name them."""
        upstream, receiver = str(free_port()), str(free_port())
        self.receiver = f"http://127.0.0.1:{receiver}/hook"
        self.settings |= {
            "WEBHOOK_SECRET": self.run("reelwatch", "secret").split()[-1],
            "WEBHOOK_ALLOW": "127.0.0.1",
            "QUICKROUTER_BASE_URL": f"http://127.0.0.1:{upstream}",
            "QUICKROUTER_API_KEY": "sandbox",
            "REELWATCH_POLL_MIN": "1s",
            "REELWATCH_POLL_MAX": "3s",
        }
        for command in (["sandbox", "--port", upstream], ["listen", "--json", "--port", receiver]):
            self.tools.append(self.world.start(["reelwatch", *command], self.settings))
            self.tools[-1].wait_for("until Ctrl-C", COMMAND_SECONDS)

    def await_ends(self, wanted: Mapping[str, str]) -> None:
        """Wait until just these jobs are known, have ended like this, and were told."""
        eventually(lambda: self._told() >= wanted.keys(), JOBS_SECONDS, self._said)
        if (found := self._states()) != wanted:
            raise AssertionError(f"jobs ended as {found}\n{self._said()}")

    def await_success(self, *command: str) -> None:
        """Try a command until it succeeds, as a health check is tried."""
        eventually(lambda: self.attempt(*command)[0] == 0, JOBS_SECONDS, " ".join(command))

    def stop(self) -> None:
        """End everything as a deployment does: in good order, and in time."""
        for process in self.processes:
            process.stop_signal(signal.SIGTERM)
        for process in self.processes:
            if code := process.wait(STOP_SECONDS):
                raise AssertionError(f"exit code {code} after SIGTERM\n{process.output}")
        for tool in self.tools:
            tool.stop_signal(signal.SIGINT)
            if code := tool.wait(STOP_SECONDS):
                raise AssertionError(f"exit code {code} after SIGINT\n{tool.output}")

    def close(self) -> None:
        """Kill what is left."""
        for process in [*self.processes, *self.tools]:
            process.close()

    def _states(self) -> dict[str, str]:
        jobs = json.loads(self.run("reelwatch", "list", "--json"))
        return {job["video_id"]: job["state"] for job in jobs}

    def _told(self) -> set[str]:
        lines = self.tools[1].output.splitlines()
        events: list[Any] = [json.loads(line) for line in lines if line.startswith("{")]
        return {event["body"]["data"]["video_id"] for event in events if event["verified"]}

    def _said(self) -> str:
        return "\n\n".join(process.output[-3000:] for process in self.processes)


def try_service(
    world: World,
    settings: Mapping[str, str],
    processes: Sequence[Sequence[str]] = (WORKER, BEAT),
    checks: Sequence[Sequence[str]] = (),
) -> None:
    """Migrate, start workers and beat, hand in jobs in each way there is, and stop in good order.

    `settings` name the database and the broker; `checks` are commands that must succeed in the end.
    """
    trial = Trial(world, dict(settings))
    try:
        trial.surround()
        trial.run("reelwatch", "migrate")
        for command in processes:
            trial.start(*command)
        trial.run("reelwatch", "track", *BY_COMMAND, "--webhook-url", trial.receiver)
        for code, ids in ((IMPORTING, BY_IMPORT), (SENDING, BY_MESSAGE)):
            trial.run("python", "-c", code, *ids, trial.receiver)
        trial.await_ends(BY_COMMAND | BY_IMPORT | BY_MESSAGE)
        for check in checks:
            trial.await_success(*check)
        trial.run("reelwatch", "doctor")
        trial.stop()
    finally:
        trial.close()


def try_up(world: World) -> None:
    """Everything in one process, with a database in the folder where it is started."""
    trial = Trial(world, {})
    try:
        trial.surround()
        trial.start("reelwatch", "up").wait_for("ready", COMMAND_SECONDS)
        trial.run("reelwatch", "track", *BY_COMMAND, "--webhook-url", trial.receiver)
        trial.await_ends(BY_COMMAND)
        trial.run("reelwatch", "doctor")
        trial.stop()
    finally:
        trial.close()
