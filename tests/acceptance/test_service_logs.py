"""With LOG_FORMAT=json all that a worker, beat and `up` write is JSON, short, and says whose."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from reelwatch.rules import lines
from reelwatch.rules.redaction import shown_url
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.scripts import scripted_id
from reelwatch.sandbox.upstream import Sandbox
from tests.environment import SECRET
from tests.fleet import START_SECONDS, WORKER, fleet
from tests.processes import Process, eventually, process
from tests.servers import PostgresServer, RedisServer

AWAY_SECONDS = 6.0  # ticks enough to see that not each of them is told


def told(child: Process) -> list[dict[str, Any]]:
    """Its lines; all of them must be JSON and short."""
    output = child.output
    assert "\n\n" not in output
    assert max(map(len, output.splitlines())) <= lines.LIMIT
    return [json.loads(line) for line in output.splitlines()]


def test_an_outage_takes_few_and_short_lines(
    postgresql_url: str,
    redis_url: str,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
) -> None:
    """A fleet works, its database goes and comes, then its Redis, then it is ended."""
    with fleet(postgresql_url, redis_url, 50.0) as deployed:
        deployed.start_all(workers=1, beats=1)
        worker, beat = deployed.processes
        # PYTHONUNBUFFERED and root's warning are there too, and change nothing.
        hook = f"{deployed.listener.url}/hook?token=hush-hush"
        ids = [scripted_id("grok", "ok", 1.0, f"n{i}") for i in range(5)]
        deployed.send("reelwatch.track", *ids, webhook_url=hook)
        eventually(lambda: len(deployed.listener.seen) == 5, 90, deployed.log)
        started = len(told(worker))
        postgres_server.stop()
        time.sleep(AWAY_SECONDS)
        postgres_server.start()
        redis_server.kill()
        time.sleep(AWAY_SECONDS)
        redis_server.start()
        again = [scripted_id("grok", "ok", 0.5, f"m{i}") for i in range(5)]
        deployed.send("reelwatch.track", *again, webhook_url=hook)
        eventually(lambda: len(deployed.listener.seen) == 10, 90, deployed.log)
        assert deployed.terminate_all() == [0, 0]
        said, ticked = told(worker), told(beat)
        assert "hush-hush" not in deployed.log()
    (starting,) = [line for line in said if line["event"] == "worker_starting"]
    assert starting["broker"] == shown_url(redis_url)
    assert "beat_starting" in {line["event"] for line in ticked}
    assert any("Warm shutdown" in line["event"] for line in said)
    assert [line["signal"] for line in said if line["event"] == "worker_ended"] == ["SIGTERM"]
    assert not any("exception" in line for line in said + ticked)
    _bears_its_names(said)
    errors = [line for line in said[started:] if line["level"] in ("warning", "error")]
    assert any(line["event"] == "task_failed" and line["error"] for line in errors)
    # One process, one cause, one line: the other ticks' are counted.
    causes = Counter(
        (line["pid"], line["event"], line.get("task"), lines.unchanging(line.get("error", "")))
        for line in errors
        if "again" not in line
    )
    assert max(causes.values()) <= 2, causes.most_common(3)


def _bears_its_names(said: list[dict[str, Any]]) -> None:
    """Every line names its worker; those of a batch say which, and whose job it is."""
    assert all(line["worker"].startswith("p0@") and line["pid"] for line in said)
    for event, names in {
        "poll": {"job", "video_id", "account", "batch", "task"},
        "attempt": {"job", "video_id", "account", "delivery", "endpoint", "batch", "task"},
    }.items():
        lines_of = [line for line in said if line["event"] == event]
        assert lines_of
        assert all(names <= line.keys() for line in lines_of)
    batches = {line["batch"]: line["task"] for line in said if "batch" in line}
    assert set(batches.values()) >= {"reelwatch.poll", "reelwatch.deliver"}


def test_up_writes_json_alone(tmp_path: Path, sandbox: Sandbox) -> None:
    with Listener([SECRET]) as listener:
        environment = {
            "LOG_FORMAT": "json",
            "DATABASE_URL": f"sqlite:///{tmp_path / 'up.db'}",
            "QUICKROUTER_BASE_URL": sandbox.url,
            "QUICKROUTER_API_KEY": "sk-alone-0123456789",
            "WEBHOOK_ALLOW": "127.0.0.1",
            "WEBHOOK_SECRET": SECRET,
            "REELWATCH_POLL_MIN": "1s",
        }
        video = scripted_id("grok", "ok", 0.5, "a")
        with process(["reelwatch", "up"], environment, tmp_path) as up:
            up.wait_for(" ready", START_SECONDS)
            with process(["reelwatch", "track", video, "--webhook-url", listener.url],
                         environment) as track:  # fmt: skip
                assert track.wait() == 0, track.output
            eventually(lambda: listener.counts()["verified"] == 1, 60, lambda: up.output)
            assert up.terminate() == 0
            said = told(up)
    assert "everything in one process" in " ".join(said[0]["said"])
    (attempt,) = [line for line in said if line["event"] == "attempt"]
    assert attempt["video_id"] == video
    assert attempt["worker"].startswith("reelwatch-up")


@pytest.mark.parametrize(
    "command", [WORKER, ("celery", "-A", "reelwatch", "beat"), ("reelwatch", "up")]
)
def test_what_can_not_start_says_so_in_json_too(command: tuple[str, ...], tmp_path: Path) -> None:
    wrong = {"LOG_FORMAT": "json", "REELWATCH_POLL_MIN": "fast", "BROKER_URL": "redis://h/0",
             "DATABASE_URL": f"sqlite:///{tmp_path / 'x.db'}"}  # fmt: skip
    with process(command, wrong, tmp_path) as child:
        assert child.wait(60) != 0
        (line,) = told(child)
    assert line["event"] == "not_started"
    assert line["error"].startswith("REELWATCH_POLL_MIN='fast': accepted:")


def test_an_outage_is_told_to_people_in_a_line(tmp_path: Path) -> None:
    wrong = {"REELWATCH_POLL_MIN": "fast", "BROKER_URL": "redis://h/0"}
    with process(WORKER, wrong, tmp_path) as child:
        assert child.wait(60) == 1
        assert child.output.startswith("reelwatch: REELWATCH_POLL_MIN='fast'")


def test_what_nobody_catches_is_a_line() -> None:
    """In the main thread, in another, where nobody could, and what is only warned of."""
    code = """
        import threading, warnings
        from reelwatch.config import log
        from reelwatch.config.settings import Settings
        log.configure(Settings(log_format="json"))
        log.take_over("reelwatch@here")

        class Odd:
            def __del__(self):
                raise ValueError("thrown away")

        def fail():
            raise LookupError("in a thread")

        Odd()
        thread = threading.Thread(target=fail, name="lost")
        thread.start()
        thread.join()
        warnings.warn("be warned", UserWarning, stacklevel=1)
        raise RuntimeError("in the main thread")
    """
    ran = subprocess.run(
        [sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    first, second, third, last = map(json.loads, ran.stderr.splitlines())
    assert first["exception"].endswith("ValueError: thrown away")
    assert (second["thread"], second["level"]) == ("lost", "critical")
    assert second["exception"].endswith("LookupError: in a thread")
    assert "UserWarning: be warned" in third["event"]
    assert last["exception"].endswith("RuntimeError: in the main thread")
    assert {line["worker"] for line in (first, second, third, last)} == {"reelwatch@here"}
