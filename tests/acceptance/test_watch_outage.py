"""Whoever watches goes on doing so when the database restarts, and misses nothing."""

import json
import signal
from pathlib import Path

from reelwatch.storage import db
from tests import seeding
from tests.acceptance.test_commands_that_run import terminal
from tests.processes import eventually, process
from tests.servers import PostgresServer


def change(url: str, job: seeding.Row, sequence: int) -> None:
    with db.transaction(url) as session:
        seeding.add_transition(session, job, sequence=sequence, to_status=f"word{sequence}")


def test_lines_go_on_after_a_restart(
    postgresql_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "pending", video_id="grok:a")
    with process(
        ["reelwatch", "watch", "--json"], {"DATABASE_URL": postgresql_url}, tmp_path
    ) as watcher:
        watcher.wait_for("watching until Ctrl-C", 30)
        change(postgresql_url, job, 1)
        watcher.wait_for("word1", 30)
        db.dispose()
        postgres_server.stop()
        watcher.wait_for("waiting until it is back", 30)
        postgres_server.start()
        eventually(lambda: "the database is back" in watcher.output, 60, lambda: watcher.output)
        for sequence in (2, 3):
            change(postgresql_url, job, sequence)
            watcher.wait_for(f"word{sequence}", 30)
        watcher.stop_signal(signal.SIGINT)
        assert watcher.wait() == 0
        lines = watcher.output.splitlines()
    assert [json.loads(line)["to_status"] for line in lines if line[0] == "{"] == [
        "word1",
        "word2",
        "word3",
    ]
    assert sum("waiting until it is back" in line for line in lines) == 1, "once for an outage"
    assert "Traceback" not in "".join(lines)


def test_the_table_stays_and_says_that_it_is_older(
    postgresql_url: str, postgres_server: PostgresServer
) -> None:
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
        seeding.add_job(session, video_id="grok:moving")
    with terminal("watch", env={"DATABASE_URL": postgresql_url}) as (child, screen):
        eventually(lambda: "grok:moving" in screen(), 30, screen)
        db.dispose()
        postgres_server.stop()
        eventually(lambda: "the database (DATABASE_URL): " in screen(), 30, screen)
        assert child.poll() is None
        postgres_server.start()
        with db.transaction(postgresql_url) as session:
            seeding.add_job(session, "failed", video_id="grok:appeared")
        eventually(lambda: "grok:appeared" in screen(), 30, screen)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
