"""Commands that act on many: they say how many and whose, ask where they can, and stop cleanly."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from reelwatch.cli import many
from reelwatch.jobs import history, pruning
from reelwatch.storage import db, surveys
from reelwatch.storage.models import Delivery, Job
from tests import seeding
from tests.commands import done, run
from tests.environment import SECRET
from tests.processes import plain_environment, process

HERE = "https://hooks.example.com/x"
THERE = "https://other.example.com:8443/y?token=hush-hush"


@pytest.fixture
def url(commands: pytest.MonkeyPatch, database_url: str) -> str:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_account(session, "acme")
    return database_url


def states(url: str) -> dict[str, str]:
    return {job.video_id: job.state for job in seeding.jobs_in(url)}


def add_job(url: str, name: str, state: str = "running", **columns: Any) -> None:
    with db.transaction(url) as session:
        seeding.add_job(session, state, video_id=name, **columns)


def add_event(url: str, state: str = "dead", account: str = "default", **columns: Any) -> str:
    with db.transaction(url) as session:
        job = seeding.add_job(session, "completed", account=account)
        step = seeding.add_transition(session, job, to_state="completed")
        return str(seeding.add_delivery(session, job, step, state, **columns)["id"])


def pending(url: str) -> set[str]:
    with db.reading(url) as session:
        return {row["id"] for row in history.list_deliveries(session, state="pending")}


def refused(*args: str) -> str:
    """What a program is told that does not say --yes."""
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr


def at_terminal(url: str, folder: Path, answer: str, *args: str) -> tuple[int, str]:
    """The exit code, and all that a person sees who gives that answer."""
    program = Path(sys.executable).parent / "reelwatch"
    variables = {"DATABASE_URL": url, "WEBHOOK_SECRET": SECRET, "TERM": "xterm", "COLUMNS": "120"}
    master, slave = pty.openpty()
    with subprocess.Popen(
        [program, *args],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=plain_environment(variables),
        cwd=folder,
        start_new_session=True,
    ) as child:
        os.close(slave)
        os.write(master, answer.encode())  # it is there when it is read
        shown = b""
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(master, 65_536):
                shown += chunk
        os.close(master)
        return child.wait(60), shown.decode().replace("\r\n", "\n")


# ---------------------------------------------------------- cancel, recheck


def test_a_program_has_to_say_yes_to_more_than_it_named(url: str) -> None:
    done("track", "grok:a", "veo3:b")
    message = refused("cancel", "--prefix", "grok:")
    assert message.startswith("reelwatch: this would cancel 1 job, tracked at 20")
    assert "        1  default  grok  pending\n" in message
    assert message.endswith("Nothing was done: --yes does it, --dry-run only counts\n")
    assert set(states(url).values()) == {"pending"}
    assert done("cancel", "--prefix", "grok:", "--yes") == "cancelled 1 job\n"
    assert states(url) == {"grok:a": "cancelled", "veo3:b": "pending"}
    assert done("cancel", "--prefix", "grok:") == "cancelled 0 jobs\n"  # none: nothing to ask
    assert done("cancel", "veo3:b") == "cancelled veo3:b\n"


def test_a_dry_run_counts_by_group_and_changes_nothing(url: str) -> None:
    for number in range(3):
        add_job(url, f"veo3:{number}", account="acme", model="veo3", tracked_at=seeding.at(days=2))
    add_job(url, "grok:a")
    add_job(url, "grok:done", "completed")
    text = done("cancel", "--since", "7d", "--dry-run")
    assert re.match(r"would cancel 4 jobs, tracked between \S+ \S+Z and \S+ \S+Z:\n", text)
    assert text.splitlines()[1:] == [
        "          3  acme  veo3  running",
        "          1  default  grok  running",
    ]
    counted = json.loads(done("cancel", "--since", "7d", "--dry-run", "--json"))
    assert (counted["count"], counted["groups"][1]) == (
        4,
        {"account": "default", "model": "grok", "state": "running", "count": 1},
    )
    assert counted["oldest"] < counted["newest"]
    assert json.loads(done("cancel", "--account", "acme", "--yes", "--json")) == {
        "count": 3,
        "left_out": 0,
    }
    assert list(states(url).values()).count("cancelled") == 3
    assert done("cancel", "--model", "none", "--dry-run") == "would cancel 0 jobs\n"


def test_at_a_terminal_it_asks_and_no_is_no(url: str, tmp_path: Path) -> None:
    add_job(url, "grok:a")
    add_job(url, "grok:b")
    code, shown = at_terminal(url, tmp_path, "n\n", "cancel", "--model", "grok")
    assert code == 1
    assert "this would cancel 2 jobs, tracked at 20" in shown
    assert "Go on? [y/N]: " in shown
    assert shown.endswith("reelwatch: nothing was done\n")
    assert set(states(url).values()) == {"running"}
    code, shown = at_terminal(url, tmp_path, "y\n", "cancel", "--model", "grok")
    assert (code, shown[-17:]) == (0, "cancelled 2 jobs\n")
    assert set(states(url).values()) == {"cancelled"}


def test_ids_and_filters_do_not_mix_and_one_of_them_is_wanted(url: str) -> None:
    done("track", "grok:a")
    for command in ("cancel", "recheck"):
        assert "name at least one ID, or choose" in refused(command)
        assert "name at least one ID, or choose" in refused(command, "--yes")
        assert "--metadata, --state chooses jobs by itself" in refused(
            command, "grok:a", "--state", "pending", "--metadata", "a=1"
        )
    assert "'completed' is not one of" in refused("cancel", "--state", "completed", "--yes")
    assert "accepted: KEY=VALUE" in refused("list", "--metadata", "order")
    assert "is not before until" in refused("list", "--since", "1h", "--until", "2h")
    assert "prefix: ''" in refused("list", "--prefix", "")
    assert states(url) == {"grok:a": "pending"}


def test_a_dry_run_of_named_ids_is_told_why_not(url: str) -> None:
    done("track", "grok:a")
    for command in ("cancel", "recheck"):
        message = refused(command, "grok:a", "--yes", "--dry-run")
        assert "--dry-run counts what options choose; IDs say already which it is" in message
    assert states(url) == {"grok:a": "pending"}


def test_jobs_that_end_between_the_question_and_the_answer_are_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("track", "t:a", "t:b", "t:c")
    survey = surveys.to_cancel

    def and_two_end(*args: Any) -> surveys.Survey:
        found = survey(*args)
        assert done("cancel", "t:a", "t:b") == "cancelled t:a\ncancelled t:b\n"
        return found

    monkeypatch.setattr(surveys, "to_cancel", and_two_end)
    said = done("cancel", "--prefix", "t:", "--yes")
    assert said == "cancelled 1 job; left out 2 that had changed meanwhile\n"


def test_ids_and_a_choice_of_events_are_not_both_taken(url: str) -> None:
    event = add_event(url)
    assert "the other options: not both" in refused("redeliver", event, "--dead")
    assert "not both" not in refused("redeliver")


def test_an_id_of_another_account_is_told_with_its_account(url: str) -> None:
    add_job(url, "grok:a", account="acme")
    for command in (("cancel",), ("recheck",), ("update", "--deadline", "2h")):
        told = run(*command, "grok:a")
        assert told.exit_code == 1
        assert told.stderr == (
            "reelwatch: no job 'grok:a' is tracked for the account 'default'; "
            "it is for 'acme'; --account names it\n"
        )
    assert done("cancel", "grok:a", "--account", "acme") == "cancelled grok:a\n"


def test_recheck_takes_up_what_it_can_of_a_filter(url: str) -> None:
    add_job(url, "x:running")
    add_job(url, "x:expired", "expired")
    add_job(url, "x:given-up", "expired", abandoned_at=seeding.at(minutes=1))
    add_job(url, "x:cancelled", "cancelled")
    add_job(url, "x:lost", "failed", error_code="not_found")
    add_job(url, "x:failed", "failed")
    add_job(url, "x:completed", "completed")
    assert "poll 5 jobs" in refused("recheck", "--prefix", "x:")
    assert done("recheck", "--state", "expired", "--yes") == "will be polled now: 2 jobs\n"
    assert done("recheck", "--prefix", "x:", "--yes") == "will be polled now: 5 jobs\n"
    assert states(url) == {
        **dict.fromkeys(("x:expired", "x:given-up", "x:cancelled", "x:lost"), "pending"),
        "x:running": "running",
        "x:failed": "failed",
        "x:completed": "completed",
    }


def while_asked(monkeypatch: pytest.MonkeyPatch, url: str, table: Any, **columns: Any) -> None:
    """All rows become that between the question and its answer."""

    def agree(*_: Any, **__: Any) -> bool:
        with db.transaction(url) as session:
            session.execute(update(table).values(columns))
        return True

    monkeypatch.setattr(many, "agreed", agree)


@pytest.mark.parametrize(
    ("command", "was", "told"),
    [
        ("cancel", "pending", "cancelled 0 jobs"),
        ("recheck", "pending", "rechecked 0 jobs"),
    ],
)
def test_what_left_the_state_while_somebody_was_asked_is_left_out(
    url: str, monkeypatch: pytest.MonkeyPatch, command: str, was: str, told: str
) -> None:
    add_job(url, "x:a", was)
    add_job(url, "x:b", was)
    while_asked(monkeypatch, url, Job, state="running")
    said = done(command, "--state", was)
    assert said == f"{told}; left out 2 that had changed meanwhile\n"
    assert states(url) == {"x:a": "running", "x:b": "running"}


@pytest.mark.parametrize("options", [("--dead",), ("--now", "--since", "3h")])
def test_an_event_that_was_told_while_somebody_was_asked_is_not_sent_again(
    url: str, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    add_event(url)
    at = seeding.at(minutes=1)
    while_asked(monkeypatch, url, Delivery, state="delivered", delivered_at=at)
    said = done("redeliver", *options)
    assert said == "0 events will be sent again; left out 1 that had changed meanwhile\n"
    assert pending(url) == set()


INTERRUPTED = """
import os, signal, sys
from sqlalchemy import Engine, event
from reelwatch.storage import jobrows
from reelwatch.cli.main import main

jobrows.CHUNK = 2
updates = []

@event.listens_for(Engine, "before_cursor_execute")
def interrupt(_connection, _cursor, statement, *_):
    if statement.startswith("UPDATE"):
        updates.append(statement)
        if len(updates) == 2:
            os.kill(os.getpid(), signal.SIGINT)

main(sys.argv[1:])
"""


def test_ctrl_c_ends_it_with_whole_batches_and_says_how_far_it_came(url: str) -> None:
    for number in range(6):
        add_job(url, f"grok:{number}")
    args = [sys.executable, "-c", INTERRUPTED, "cancel", "--model", "grok", "--yes"]
    with process(args, {"DATABASE_URL": url}) as child:
        assert child.wait(60) == 1
        assert child.output == (
            "reelwatch: stopped: cancelled 4 jobs of 6; the others are as they were, the same "
            "command goes on with them\n"
        )
    assert list(states(url).values()) == ["cancelled"] * 4 + ["running"] * 2
    assert done("cancel", "--model", "grok", "--yes") == "cancelled 2 jobs\n"


def test_ctrl_c_while_a_file_is_taken_in_says_how_far_it_came(url: str, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("".join(f"grok:{number}\n" for number in range(6)))
    interrupted = INTERRUPTED.replace('"UPDATE"', '"INSERT INTO jobs"')
    args = [sys.executable, "-c", interrupted, "track", "--file", str(tmp_path / "ids.txt")]
    with process(args, {"DATABASE_URL": url}) as child:
        assert child.wait(60) == 1
        assert "reelwatch: stopped: took in 4 ids of 6; the others are as they were" in child.output
    assert len(states(url)) == 4


def test_what_goes_wrong_on_the_way_says_how_far_it_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def batches() -> Iterator[int]:
        yield 500
        yield 499  # one had ended
        raise OSError("the database is gone")

    with pytest.raises(OSError, match="the database is gone"):
        many.through(batches(), 2_000, "cancelled {} job", int)
    assert capsys.readouterr().err == (
        "reelwatch: stopped: cancelled 999 jobs of 2,000; the others are as they were, the same "
        "command goes on with them\n"
    )


# ------------------------------------------------------------------- prune


def test_prune_wants_a_unit(url: str) -> None:
    add_job(url, "old", "completed", tracked_at=seeding.at(days=20))
    for span in ("600", " 90 ", "1.5"):
        message = refused("prune", "--older-than", span, "--yes")
        assert f"{span.strip()}s? {span.strip()}m? {span.strip()}h? {span.strip()}d?" in message
    for span in ("old", "-1d", "9" * 30 + "d"):
        message = refused("prune", f"--older-than={span}", "--yes")
        assert f"'{span}'; accepted: 500ms, 45s, 10m, 2h, 7d; at most 3650d" in message
    assert "'0' has no unit: 0s?\n" in refused("prune", "--older-than", "0", "--yes")
    assert run("prune").exit_code == 2
    assert states(url) == {"old": "completed"}


def test_prune_says_what_would_go_and_deletes_when_told(url: str) -> None:
    for days in (89, 91, 92):
        add_job(url, f"grok:{days}", "completed", tracked_at=seeding.at(days=days))
    add_job(url, "given-up", "expired", tracked_at=seeding.at(days=95),
            abandoned_at=seeding.at(days=94))  # fmt: skip
    message = refused("prune", "--older-than", "90d")
    assert "this would delete 3 jobs, that ended between 20" in message
    assert "        2  default  grok  completed\n" in message
    assert done("prune", "--older-than", "90d", "--dry-run").startswith(
        "would delete 3 jobs, that ended"
    )
    assert len(states(url)) == 4
    only = ("--state", "expired", "--account", "default", "--model", "grok")
    assert re.fullmatch(
        r"deleted 1 job that ended before \S+ \S+Z\n",
        done("prune", "--older-than", "90d", "--yes", *only),
    )
    assert set(states(url)) == {"grok:89", "grok:91", "grok:92"}
    gone = json.loads(done("prune", "--older-than", "1d", "--yes", "--json"))
    assert (gone["deleted"], states(url)) == (3, {})


def test_what_is_owed_is_neither_counted_nor_deleted(url: str) -> None:
    add_event(url, "pending")
    assert pruning.survey(url, seeding.at()).count == 0
    assert done("prune", "--older-than", "0s", "--yes").startswith("deleted 0 jobs")


def test_migrating_back_is_not_done_by_a_program_that_does_not_say_yes(
    url: str, tmp_path: Path
) -> None:
    """Not even by one that answers: it could be meant for something else."""
    add_job(url, "grok:a")
    result = run("migrate", "--to", "base", given="y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(
        "this would go back to base, and delete what is stored since\n"
        "Nothing was done: --yes does it\n"
    )
    code, shown = at_terminal(url, tmp_path, "n\n", "migrate", "--to", "base")
    assert (code, "Go on? [y/N]: " in shown) == (1, True)
    assert states(url) == {"grok:a": "running"}


# --------------------------------------------------------------- redeliver


def test_migrating_to_a_revision_that_is_unknown_says_which_there_are(url: str) -> None:
    for also in ((), ("--yes",)):
        result = run("migrate", "--to", "nosuch", *also)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(
            "reelwatch: revision 'nosuch' is unknown; known: base, reelwatch_0001, "
        )


def test_going_on_to_a_revision_that_is_not_the_newest_takes_nothing_away(url: str) -> None:
    done("migrate", "--to", "reelwatch_0002", "--yes")
    assert "this would go back" not in run("migrate", "--to", "reelwatch_0003").output
    assert "→ reelwatch_0004" in done("migrate", "--to", "reelwatch_0004")


def test_redelivery_by_time_asks_and_says_to_whom(url: str) -> None:
    told = add_event(url, "delivered", target=HERE)
    dead = add_event(url, account="acme", target=THERE)
    message = refused("redeliver", "--since", "3h")
    assert "this would send 2 events, made " in message
    assert "https://hooks.example.com/x  default  delivered\n" in message
    assert "https://other.example.com:8443/y  acme  dead\n" in message
    assert "hush" not in message
    assert pending(url) == set()
    assert done("redeliver", "--since", "3h", "--yes").startswith("2 events will be sent again\n")
    assert pending(url) == {told, dead}


@pytest.mark.parametrize(
    ("chosen", "which"),
    [
        (("--endpoint", HERE), "ab"),
        (("--endpoint", "https://HOOKS.example.com/x"), "ab"),
        (("--endpoint", "https://hooks.example.com/"), ""),
        (("--endpoint", "hooks.example.com"), "ab"),
        (("--endpoint", "other.example.com"), "c"),
        (("--endpoint", "other.example.com:8443"), "c"),
        (("--endpoint", "https://other.example.com:8443/y"), "c"),
        (("--endpoint", "example.com"), ""),
        (("--endpoint", "hooks_example.com"), ""),
        (("--endpoint", "app.done"), "d"),
        (("--endpoint", "app.done@q"), "d"),
        (("--endpoint", "app.done@other"), ""),
        (("--dead",), "ac"),
        (("--dead", "--endpoint", "hooks.example.com"), "a"),
        (("--state", "delivered"), "bd"),
        (("--account", "acme"), "c"),
        (("--since", "90m"), "acd"),
        (("--until", "90m"), "b"),
        (("--since", "3h", "--until", "90m", "--dead"), ""),
    ],
)
def test_events_are_found_by_what_they_are(chosen: tuple[str, ...], which: str, url: str) -> None:
    ids = {
        "a": add_event(url, target=HERE),
        "b": add_event(url, "delivered", target=HERE, created_at=seeding.at(hours=2)),
        "c": add_event(url, account="acme", target=THERE),
        "d": add_event(url, "delivered", target="app.done@q", channel="celery"),
    }
    expected = {ids[name] for name in which}
    if not expected and chosen[0] == "--endpoint":
        unknown = run("redeliver", *chosen, "--yes")
        assert (unknown.exit_code, "endpoint: no event goes to" in unknown.stderr) == (1, True)
    else:
        result = json.loads(done("redeliver", *chosen, "--yes", "--json"))
        assert set(result["ids"]) == expected
    assert pending(url) == expected
    if expected and chosen[0] in ("--endpoint", "--account"):
        listed = json.loads(done("deliveries", *chosen, "--json"))
        assert {row["id"] for row in listed} == expected


@pytest.mark.parametrize("span", ["600", "3", "2.5"])
def test_a_time_without_a_unit_is_refused(span: str, url: str) -> None:
    message = refused("redeliver", "--since", span, "--yes")
    assert f"has no unit: {span}s? {span}m?" in message
    assert f"has no unit: {span}s?" in refused("list", "--until", span)
