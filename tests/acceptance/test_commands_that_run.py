"""Commands that run until they are told to end, as real processes: up, sandbox, listen, watch."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import update

from reelwatch.rules.timing.plan import Eta
from reelwatch.sandbox.upstream import SCRIPTS, Sandbox
from reelwatch.storage import db
from reelwatch.storage.models import Job
from tests import seeding
from tests.commands import done
from tests.environment import SECRET
from tests.kinds import know, steady
from tests.processes import Process, eventually, free_port, process

KEY = "sk-sandbox-key"


@pytest.fixture
def quick(sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """Settings for real processes that work against the sandbox, quickly."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'up.db'}",
        "QUICKROUTER_BASE_URL": sandbox.url,
        "QUICKROUTER_API_KEY": KEY,
        "WEBHOOK_ALLOW": "127.0.0.1",
        "REELWATCH_POLL_MIN": "500ms",
        "REELWATCH_POLL_MAX": "1s",
        "REELWATCH_REQUESTS_PER_SECOND": "20",
    }


def reelwatch(*args: str, env: dict[str, str], cwd: Path) -> Process:
    return process(["reelwatch", *args], env, cwd)


def test_up_makes_everything_it_needs_and_two_of_them_do_no_harm(
    quick: dict[str, str], sandbox: Sandbox, tmp_path: Path
) -> None:
    """From an empty folder to a verified webhook, with every step a command of its own."""
    port = str(free_port())
    sandbox.set_fault("500")  # until somebody watches, nothing moves
    with (
        reelwatch("up", env=quick, cwd=tmp_path) as first,
        reelwatch("up", env=quick, cwd=tmp_path) as second,
    ):
        for each in (first, second):
            each.wait_for("ready", 60)
        with reelwatch("listen", "--port", port, env=quick, cwd=tmp_path) as receiver:
            url = f"http://127.0.0.1:{port}/"
            ids = ["grok:ok.1s-a", "veo3.1-fast:policy.1s-b"]
            tracked = reelwatch("track", *ids, "--webhook-url", url, env=quick, cwd=tmp_path)
            assert tracked.wait(30) == 0, tracked.output
            receiver.wait_for("listening")
            with reelwatch("watch", *ids, env=quick, cwd=tmp_path) as watcher:
                watcher.wait_for("watching")
                sandbox.set_fault("none")
                assert watcher.wait(60) == 0, watcher.output
                changes = watcher.output
            for kind, video_id in zip(("completed", "failed"), ids, strict=True):
                line = receiver.wait_for(f"video.{kind}", 30)
                assert re.match(rf"\d\d:\d\d:\d\d  verified  video.{kind}  {video_id} ", line)
            receiver.stop_signal(signal.SIGINT)
            assert receiver.wait() == 0
            assert "2 received, 2 verified, 2 distinct, 0 duplicates" in receiver.output
        first.stop_signal(signal.SIGINT)
        second.stop_signal()
        assert first.wait() == second.wait() == 0
        said = [first.output, second.output]
    assert re.search(r"grok:ok.1s-a  .*→ completed  https://", changes)
    assert re.search(r"veo3.1-fast:policy.1s-b  .*→ failed  content_policy: ", changes)
    secret = tmp_path / "up.db.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for text in said:
        assert f"signed with the secret in {secret}" in text
        assert "key set" in text
        assert KEY not in text
        assert secret.read_text().strip() not in text
    left = {path.name for path in tmp_path.iterdir()} - {"up.db-shm", "up.db-wal"}
    assert left == {"up.db", "up.db.secret"}, "no schedule file, no half-written secret"


def test_up_says_in_one_line_why_it_can_not_start(tmp_path: Path) -> None:
    wrong = {"REELWATCH_POLL_MIN": "fast"}
    nowhere = {"DATABASE_URL": "sqlite:///no/such/folder/x.db"}
    with (
        reelwatch("up", env=wrong, cwd=tmp_path) as misled,
        reelwatch("up", env=nowhere, cwd=tmp_path) as lost,
    ):
        assert misled.wait(30) == lost.wait(30) == 2
        assert misled.output.startswith("reelwatch: REELWATCH_POLL_MIN='fast': accepted:")
        assert "no file can be made in" in lost.output
        assert "Traceback" not in lost.output


def test_the_command_runs_as_a_module_too() -> None:
    with process([sys.executable, "-m", "reelwatch.cli.main", "show"], {}, Path.cwd()) as called:
        assert called.wait(30) == 2
        assert called.output.startswith("Usage: reelwatch show [OPTIONS] ID")


def test_the_sandbox_says_how_to_use_it_and_serves(tmp_path: Path) -> None:
    port = str(free_port())
    with reelwatch("sandbox", "--port", port, "--rate-limit", "1", env={}, cwd=tmp_path) as server:
        server.wait_for("hang ")
        url = f"http://127.0.0.1:{port}"
        asked = [
            requests.get(
                f"{url}/v1/video/query?id=grok:ok.9s-a",
                headers={"Authorization": "Bearer x"},
                timeout=9,
            ).status_code
            for _ in range(3)
        ]
        server.stop_signal(signal.SIGINT)
        assert server.wait() == 0
        said = server.output
    assert asked[0] == 200
    assert 429 in asked
    assert f"export QUICKROUTER_BASE_URL={url} QUICKROUTER_API_KEY=sandbox" in said
    for name, script in SCRIPTS.items():
        assert re.search(
            rf"^{name} +{re.escape(script.summary)} +{script.outcome}", said, re.MULTILINE
        )
    assert "3 requests about 1 ids, at most" in said


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with Sandbox().start() as other:
        port = other.url.rpartition(":")[2]
        env = {"WEBHOOK_SECRET": SECRET}
        with (
            reelwatch("sandbox", "--port", port, env=env, cwd=tmp_path) as one,
            reelwatch("listen", "--port", port, env=env, cwd=tmp_path) as another,
        ):
            for failed in (one, another):
                assert failed.wait(30) == 1
                assert failed.output.startswith(
                    f"reelwatch: 127.0.0.1 port {port}: Address already in use: something else"
                )
                assert failed.output.endswith("take another by --port (0: any that is free)\n")


def test_listen_tells_verified_events_from_forged_ones(tmp_path: Path) -> None:
    ports = [str(free_port()), str(free_port())]
    env = {"WEBHOOK_SECRET": SECRET}
    with (
        reelwatch("listen", "--port", ports[0], "--json", env=env, cwd=tmp_path) as programs,
        reelwatch("listen", "--port", ports[1], env=env, cwd=tmp_path) as peoples,
    ):
        programs.wait_for("listening")
        url = f"http://127.0.0.1:{ports[0]}/hook"
        forged = requests.post(url, b'{"type": "video.completed"}', timeout=9)
        assert forged.status_code == 401
        event = json.loads(programs.wait_for('"verified": false'))
        assert set(event) == {"received_at", "verified", "error", "id", "type", "body"}
        peoples.wait_for("listening")
        url = f"http://127.0.0.1:{ports[1]}/hook"
        requests.post(url, b'{"type": "evil \\u001b[2J"}', timeout=9)
        line = peoples.wait_for("NOT VERIFIED")
        assert re.match(r"\d\d:\d\d:\d\d  NOT VERIFIED  .*evil  \[2J$", line)


@contextlib.contextmanager
def terminal(*args: str, env: dict[str, str], columns: int = 100) -> Iterator[Any]:
    """The command at a real terminal; yields its process and a function that reads the screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [str(Path(sys.executable).parent / "reelwatch"), *args]
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    everything = {**inherited, "TERM": "xterm", **env}
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=everything)
    os.close(theirs)
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65_536):
                seen.append(piece)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield child, lambda: b"".join(seen).decode("utf-8", "replace")
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_watch_is_a_live_table_until_ctrl_c(sqlite_url: str) -> None:
    with db.transaction(sqlite_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, video_id="grok:moving")
        step = seeding.add_transition(session, job)
        seeding.add_delivery(session, job, step, "pending")
        seeding.add_delivery(session, job, step, "dead", channel="celery")
    with terminal("watch", env={"DATABASE_URL": sqlite_url}) as (child, screen):
        eventually(lambda: "grok:moving" in screen(), 30, screen)
        with db.transaction(sqlite_url) as session:
            seeding.add_job(session, "failed", video_id="grok:appeared")
        eventually(lambda: "grok:appeared" in screen(), 10, screen)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
        shown = screen()
    assert "1 events to be told" in shown
    assert "1 dead" in shown
    assert "no tick yet" in shown
    assert "Traceback" not in shown
    assert "Aborted" not in shown


def test_watch_of_an_empty_database_says_how_to_begin(sqlite_url: str) -> None:
    with terminal("watch", env={"DATABASE_URL": sqlite_url}) as (child, screen):
        eventually(lambda: "no jobs yet" in screen(), 30, screen)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0


def test_watch_in_a_pipe_prints_every_change_once(
    commands: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "pending", video_id="grok:a")
        seeding.add_transition(session, job, from_status="x", to_status="before")
    env = {"DATABASE_URL": database_url}
    with reelwatch("watch", "--json", env=env, cwd=tmp_path) as watcher:
        watcher.wait_for("watching until Ctrl-C")
        for sequence in range(2, 6):
            with db.transaction(database_url) as session:
                seeding.add_transition(session, job, sequence=sequence, to_status=f"word{sequence}")
            if sequence != 3:  # two of them at once; the last poll repeats nothing of those before
                watcher.wait_for(f"word{sequence}")
        watcher.stop_signal(signal.SIGINT)
        assert watcher.wait() == 0
        changes = [json.loads(line) for line in watcher.output.splitlines() if line[0] == "{"]
    assert [change["sequence"] for change in changes] == list(range(2, 6))
    assert changes[0]["video_id"] == "grok:a"


def test_watching_says_how_long_jobs_still_take(
    commands: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    """In the table, where each job is at the beginning, and with every change."""
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        know(session, steady(2_900.0))
        job = seeding.add_job(session, video_id="a", last_polled_at=seeding.at())
        seeding.add_job(session, "completed", video_id="b")
    env = {"DATABASE_URL": database_url}
    with reelwatch("watch", "a", "b", env=env, cwd=tmp_path) as watcher:
        watcher.wait_for("b  completed")
        assert re.search(r"^a  running  ~4\dm\d\ds left$", watcher.output, re.MULTILINE)
        with db.transaction(database_url) as session:
            seeding.add_transition(session, job, to_status="upsampling")
        changed = watcher.wait_for("upsampling")
        assert re.search(r"upstream: upsampling  ~4\dm\d\ds left$", changed)
    with reelwatch("watch", "a", "--json", env=env, cwd=tmp_path) as watcher:
        first = json.loads(watcher.wait_for("{"))
        with db.transaction(database_url) as session:
            seeding.add_transition(session, job, sequence=2, to_status="encoding")
        then = json.loads(watcher.wait_for("encoding"))
    for row in (first, then):
        assert set(row["eta"]) == set(Eta._fields)
        assert 2_400 < row["eta"]["p50_seconds"] <= 2_900
    with db.transaction(database_url) as session:
        ended = {"state": "cancelled", "finished_at": seeding.at(), "next_poll_at": None}
        session.execute(update(Job).where(Job.video_id == "a").values(ended))
    assert "left" not in done("watch", "a", "b")
