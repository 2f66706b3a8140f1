"""The commands about jobs and events: what they print, what they refuse, how they exit."""

import json
import re
import sqlite3
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy.exc import OperationalError

import reelwatch
from reelwatch.cli import errors
from reelwatch.cli.main import SECTIONS
from reelwatch.config import settings
from reelwatch.jobs import history
from reelwatch.rules.timing.plan import Eta
from reelwatch.storage import db, jobrows
from reelwatch.storage.models import Heartbeat
from tests import seeding
from tests.commands import Screen, command_environment, done, on_screen, run
from tests.environment import SECRET
from tests.kinds import know, steady
from tests.processes import free_port

URL = "https://hooks.example.com/video"
COMMANDS = [name for section in SECTIONS.values() for name in section]


@pytest.fixture
def told(commands: pytest.MonkeyPatch, database_url: str) -> dict[str, Any]:
    """A completed job whose event was delivered at the second attempt, and a dead one's."""
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "completed", video_id="grok:told", webhook_url=URL, polls=4)
        step = seeding.add_transition(session, job, to_state="completed")
        event = seeding.add_delivery(session, job, step, attempts=2)
        seeding.add_attempt(session, event, http_status=500, error="the receiver answered 500")
        seeding.add_attempt(session, event)
        other = seeding.add_job(
            session, "failed", video_id="grok:untold", tracked_at=seeding.at(days=2)
        )
        last = seeding.add_transition(session, other, to_state="failed")
        dead = seeding.add_delivery(session, other, last, "dead", attempts=1)
        seeding.add_attempt(session, dead, http_status=None, error="no connection")
    return {"event": event["id"], "dead": dead["id"]}


# ------------------------------------------------------------- as a whole


def test_the_contracts_commands_are_all_there() -> None:
    jobs = "track show list watch update cancel recheck"
    others = "up demo deliveries redeliver accounts doctor sandbox listen secret migrate prune"
    others += " test-event web"
    added = "simulate alive open"
    contract = f"{jobs} {others} {added}"
    assert set(COMMANDS) == set(contract.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_shows_how_it_is_called(name: str) -> None:
    text = done(name, "--help")
    assert re.search(
        rf"^ +(\S+=\S+ )*.*reelwatch {name}",
        text.partition("Usage:")[2].partition("\n")[2],
        re.MULTILINE,
    )
    assert re.search(r"^ {2}[A-Z]", text, re.MULTILINE)


def test_the_help_lists_every_command_and_the_exit_codes() -> None:
    text = done("--help")
    assert text == done("-h")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE)
    assert "0\n  done, 1 failed, 2 wrong usage" in text


def test_help_and_version_need_no_valid_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "nonsense")
    assert done("--version") == "reelwatch 0.1.0\n"
    assert "Usage" in done("track", "--help")


def test_an_unknown_command_is_wrong_usage() -> None:
    result = run("nonsense")
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.stderr


# ------------------------------------------------------------------ errors


def failed(code: int, *args: str, given: str | bytes | None = None) -> str:
    """The message of a command that must fail with that code: one line, and nothing else."""
    result = run(*args, given=given)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_wrong_setting_is_named_and_no_secret_shown(commands: pytest.MonkeyPatch) -> None:
    commands.setenv("DATABASE_URL", "mysql://app:hunter22@db/x")
    message = failed(2, "list")
    assert message.startswith("reelwatch: DATABASE_URL=(not shown): accepted: sqlite:///FILE")
    assert message.count("\n") == 1
    assert "hunter22" not in message


def test_an_unknown_job_is_a_failure_in_one_line(commands: pytest.MonkeyPatch) -> None:
    expected = "reelwatch: no job 'grok:x' is tracked for the account 'default'\n"
    for command in ("show", "cancel", "recheck", "watch"):
        message = failed(1, command, "grok:x")
        assert message == (expected if command != "watch" else "reelwatch: not tracked: 'grok:x'\n")


def test_refused_input_is_wrong_usage(commands: pytest.MonkeyPatch) -> None:
    assert failed(2, "track", " ") == "reelwatch: video id: it is empty\n"
    assert "account: 'nobody' is not configured" in failed(2, "track", "a", "--account", "nobody")
    assert "10.0.0.1 is not a public address" in failed(
        2, "track", "a", "--webhook-url", "https://10.0.0.1/"
    )
    assert "deadline: 'soon'; accepted: 500ms" in failed(2, "track", "a", "--deadline", "soon")
    assert "events: 'ended' is not one of" in failed(2, "track", "a", "--events", "ended")
    assert json.loads(done("list", "--json")) == []


def test_track_wants_a_secret_that_can_sign(commands: pytest.MonkeyPatch) -> None:
    """Whoever types it beside the workers learns at once that they could not send it."""
    commands.delenv("WEBHOOK_SECRET")
    commands.setenv("WEBHOOK_ALLOW", "10.0.0.1")
    message = failed(2, "track", "a", "--webhook-url", "https://10.0.0.1/")
    assert message.startswith("reelwatch: webhook_url: webhooks are signed and WEBHOOK_SECRET")
    commands.setenv("WEBHOOK_URL", "https://10.0.0.1/")
    assert "WEBHOOK_SECRET is not set" in failed(2, "track", "a")
    assert json.loads(done("list", "--json")) == []


def test_a_database_without_tables_says_what_to_do(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command_environment(empty_database_url, tmp_path, monkeypatch):
        message = failed(1, "list")
    assert message == "reelwatch: the database is at no revision: run `reelwatch migrate`\n"


def test_a_database_of_an_older_revision_says_what_to_do(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.engine(database_url).begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN error_message")
    assert "at an older revision than this program: run `reelwatch migrate`" in failed(1, "list")


def test_no_empty_database_is_made_by_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command_environment("sqlite:///new.db", tmp_path, monkeypatch):
        message = failed(1, "list")
    assert f"there is no database at {tmp_path / 'new.db'} (DATABASE_URL)" in message
    assert not (tmp_path / "new.db").exists()


def test_a_database_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://app:hunter22@127.0.0.1:{free_port()}/x"
    with command_environment(url, tmp_path, monkeypatch):
        message = failed(1, "list")
    assert message.startswith("reelwatch: the database (DATABASE_URL): ")
    assert "refused" in message
    assert message.count("\n") == 1
    assert "hunter22" not in message


def test_a_bug_is_told_without_secrets(commands: pytest.MonkeyPatch) -> None:
    commands.setenv("QUICKROUTER_API_KEY", "sk-very-secret")
    error = RuntimeError("key sk-very-secret, signed with " + SECRET)
    commands.setattr(history, "list_jobs", Mock(side_effect=error))
    told = run("list")
    assert told.exit_code == 1
    assert "this is a bug" in told.stderr
    assert "RuntimeError: key [secret], signed with [secret]" in told.stderr


def test_a_bug_is_told_even_with_broken_settings(commands: pytest.MonkeyPatch) -> None:
    commands.setenv("DATABASE_URL", "nonsense")
    assert "RuntimeError: x" in errors.failure(RuntimeError("x")).message


def test_a_file_that_may_not_be_written_is_one_line() -> None:
    error = PermissionError(13, "Permission denied", "/etc/x")
    assert errors.failure(error).message == "/etc/x: Permission denied"


@pytest.mark.parametrize(("free", "said"), [(0, "the disk is full ({})"), (1, "disk I/O error")])
def test_a_full_disk_is_told_where_sqlite_tells_an_io_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, said: str
) -> None:
    """As it does where it has no room for the index of its log."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/x.db")
    disk = SimpleNamespace(f_bavail=free, f_frsize=32_768)
    asked = Mock(return_value=disk)
    monkeypatch.setattr("os.statvfs", asked)
    settings.current.cache_clear()
    error = OperationalError("x", {}, sqlite3.OperationalError("disk I/O error"))
    told = errors.failure(error).message
    wanted = said.format(tmp_path)
    assert told == f"the database can't be written to: {wanted}; what was accepted before is kept"
    asked.assert_called_once_with(tmp_path)


# ------------------------------------------------------------------- track


def test_tracking_says_what_is_new_and_what_was_there(commands: pytest.MonkeyPatch) -> None:
    assert done("track", "grok:a", "grok:b", "grok:a") == "tracking grok:a\ntracking grok:b\n"
    done("cancel", "grok:b")
    again = done("track", "grok:b", "grok:c")
    assert again == (
        "already tracked grok:b: cancelled; `reelwatch recheck grok:b` takes it up again\n"
        "tracking grok:c\n"
    )


def test_a_job_has_the_same_types_whether_it_is_new_or_known(
    commands: pytest.MonkeyPatch,
) -> None:
    def typed(text: str) -> dict[str, str]:
        row = json.loads(text)
        return {name: type(row[name]).__name__ for name in row if name not in ("created", "eta")}

    new = json.loads(done("track", "grok:a", "--json"))[0]
    known = json.loads(done("track", "grok:a", "--json"))[0]
    assert repr(new["deadline_seconds"]) == repr(known["deadline_seconds"]) == "3600.0"
    assert typed(json.dumps(new)) == typed(json.dumps(known))


def test_a_job_shows_what_it_is_in_python(commands: pytest.MonkeyPatch) -> None:
    job = reelwatch.track("grok:a")
    assert repr(job) == "Job('grok:a', account='default', state='pending')"


def test_tracking_prints_jobs_as_json(commands: pytest.MonkeyPatch) -> None:
    done("track", "grok:a")
    jobs = json.loads(
        done(
            *("track", "grok:a", "grok:b", "--json"),
            *("--metadata", '{"user": 7}', "--deadline", "45m", "--webhook-url", URL),
            *("--callback-task", "app.done", "--callback-queue", "q"),
            *("--events", "completed, status_changed"),
        )
    )
    assert [(job["video_id"], job["created"]) for job in jobs] == [
        ("grok:a", False),
        ("grok:b", True),
    ]
    assert jobs[0]["metadata"] == {}
    new = jobs[1]
    assert new["metadata"] == {"user": 7}
    assert (new["webhook_url"], new["callback_task"], new["callback_queue"]) == (
        URL,
        "app.done",
        "q",
    )
    assert new["events"] == ["completed", "status_changed"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", new["tracked_at"])
    listed = json.loads(done("list", "--json"))
    assert set(new) - set(listed[0]) == {"created", "differs"}


def test_a_file_of_ids_is_tracked_whole(commands: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ["\ufeff# ids of today", "", *(f"grok:{n}" for n in range(1_050)), "  grok:0  "]
    (tmp_path / "ids.txt").write_text("\r\n".join(lines), "utf-8")
    said = done("track", "--file", "ids.txt")
    assert said == "tracking 1050 videos; 0 were tracked already\n"
    more = done("track", "extra", "--file", "-", given="grok:3\n")
    assert more == "tracking extra\nalready tracked grok:3: pending\n"
    assert len(json.loads(done("list", "--limit", "5000", "--json"))) == 1_051


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"x" * 201, ", video id: 201 characters, at most 200 are accepted"),
        (b"grok:\x07", ", video id: it holds the control character U+0007"),
        (b"\xff\xfe", ": no UTF-8 text"),
    ],
)
def test_a_bad_line_is_named_and_nothing_of_the_file_stored(
    line: bytes, why: str, commands: pytest.MonkeyPatch
) -> None:
    good = b"".join(b"grok:%d\n" % n for n in range(600))
    message = failed(2, "track", "--file", "-", given=good + line + b"\ngrok:z\n")
    assert message == f"reelwatch: line 601 of <stdin>{why}; nothing was stored\n"
    assert json.loads(done("list", "--json")) == []


def test_tracking_nothing_is_wrong_usage(commands: pytest.MonkeyPatch) -> None:
    assert "name at least one ID, or a --file of them" in failed(2, "track")
    assert "No such file" in failed(2, "track", "--file", "missing.txt")
    assert "a JSON object is accepted" in failed(2, "track", "a", "--metadata", "[1]")
    assert "no JSON" in failed(2, "track", "a", "--metadata", "{")


def test_a_file_that_says_it_has_none_tracks_nothing(commands: pytest.MonkeyPatch) -> None:
    assert json.loads(done("track", "--file", "-", "--json", given="# none\n")) == []
    assert json.loads(done("track", "--file", "-", "--json", given="[]")) == []


def test_a_pipe_through_which_nothing_came_has_failed(commands: pytest.MonkeyPatch) -> None:
    message = failed(1, "track", "grok:a", "--file", "-", given="")
    assert message == (
        "reelwatch: nothing stands in <stdin>: did what writes it fail? "
        "(`[]` says that there are no ids)\n"
    )
    assert json.loads(done("list", "--json")) == []


def test_a_long_file_shows_its_progress_on_a_terminal_only(
    commands: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ids = "".join(f"grok:{n}\n" for n in range(jobrows.CHUNK + 1))
    called = ("--callback-task", "app.told")
    assert run("track", "--file", "-", *called, given=ids).stderr == "501 ids from <stdin>\n"
    (tmp_path / "ids.txt").write_text(ids)
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen)
    on_screen(monkeypatch, "track", "--file", "ids.txt")
    assert "501/501" in screen.getvalue()


# -------------------------------------------------------------------- show


def test_a_story_is_told_in_sentences(told: dict[str, Any]) -> None:
    text = done("show", "grok:told")
    first, *lines = text.splitlines()
    assert first == "grok:told  ✓ completed"
    assert "  video     https://cdn.example.com/v.mp4" in lines
    assert "  polls     4" in lines
    sentences = [line[14:] for line in lines if re.match(r"\d\d:\d\d:\d\d\.\d{3}  ", line)]
    assert f"  tells     by webhook at {URL}" in lines
    assert sentences[0] == "tracked"
    assert sentences[-2:] == [
        "video.completed, attempt 1: the receiver answered 500, after 12 ms",
        "video.completed, attempt 2: delivered (200) in 12 ms",
    ]
    assert len([line for line in lines if line.endswith(" (UTC)")]) >= 1


def test_a_story_as_json_has_the_contracts_keys(told: dict[str, Any]) -> None:
    story = json.loads(done("show", "grok:told", "--json"))
    assert list(story) == ["job", "transitions", "poll_errors", "deliveries", "actions"]
    assert story["deliveries"][0]["id"] == told["event"]
    assert [a["http_status"] for a in story["deliveries"][0]["attempts_log"]] == [500, 200]
    assert "request_headers" in story["deliveries"][0]["attempts_log"][0]
    assert story["job"]["tracked_at"].endswith("Z")


def test_a_story_of_an_account_needs_its_name(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session, "acme")
        more = {"account": "acme", "upstream_status": "failed", "metadata": {"user": 7}}
        seeding.add_job(session, "failed", video_id="grok:a", **more)
    assert "it is for 'acme'; --account names it" in failed(1, "show", "grok:a")
    text = done("show", "grok:a", "--account", "acme")
    assert "  error     upstream_failed: because of upstream_failed" in text
    assert '  metadata  {"user": 7}' in text
    assert "  upstream  says failed" in text


def test_a_story_fits_its_terminal_and_leaves_urls_whole(
    told: dict[str, Any], commands: pytest.MonkeyPatch, database_url: str
) -> None:
    url = "https://cdn.example.com/" + "v" * 100 + ".mp4"
    with db.transaction(database_url) as session:
        job = seeding.add_job(session, "completed", video_id="grok:long", video_url=url, model=None)
        seeding.add_error(session, job, message="word " * 40)
    text = on_screen(commands, "show", "grok:long")
    assert url in text
    wide = [line for line in text.splitlines() if len(line.rstrip()) > 80]
    assert wide == [f"  video     {url}"]
    assert re.search(r"^ {14}\S*word", text, re.MULTILINE), "wraps beside the time, not under it"


def test_foreign_text_can_not_drive_the_terminal(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    evil = "\x1b[2J\x9b2J\u202e[red]x[/red]"
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "failed", video_id="grok:a", error_message=evil)
        seeding.add_error(session, job, message=evil)
        step = seeding.add_transition(session, job, to_state="failed")
        seeding.add_attempt(session, seeding.add_delivery(session, job, step, "dead"), error=evil)
        seeding.add_job(session, video_id="grok:b", upstream_status=evil)
        until = db.now(session) + timedelta(minutes=5)
        seeding.add_account(session, "acme", paused_until=until, pause_reason=evil)
        seeding.add_job(session, account="acme", video_id="grok:c")
    tables = (("show", "grok:a"), ("show", "grok:b"), ("list",), ("deliveries",))
    shown = (*tables, ("show", "grok:c", "--account", "acme"), ("watch", "grok:a"))
    for args in (*shown, *((*each, "--json") for each in shown)):
        for text in (done(*args), on_screen(commands, *args)):
            assert "\x1b[2J" not in text
            assert "\x9b" not in text
            assert "\u202e" not in text
    assert json.loads(done("show", "grok:a", "--json"))["job"]["error_message"] == evil
    assert "[red]x[/red]" in done("show", "grok:a"), "markup is shown, not obeyed"


# -------------------------------------------------------------------- list


def test_a_list_is_a_table_of_whole_ids(told: dict[str, Any], commands: pytest.MonkeyPatch) -> None:
    lines = done("list").splitlines()
    assert lines[0].split() == ["VIDEO", "STATE", "TIME", "LEFT", "POLLS", "NOTE"]
    assert lines[1].split() == ["grok:told", "✓", "completed", "2m00s", "4", "cdn.example.com"]
    assert lines[2].split()[-1] == "upstream_failed"
    assert [line.rstrip() for line in lines] == lines
    assert "grok:told" in on_screen(commands, "list")


def test_a_list_says_when_jobs_are_polled_next(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        session.add(Heartbeat(name="tick", at=seeding.at()))
        seeding.add_job(
            session, video_id="a", upstream_status="queued", next_poll_at=seeding.at(hours=-1)
        )
        seeding.add_job(session, video_id="b", next_poll_at=seeding.at(hours=1))
        seeding.add_job(session, "expired", video_id="c", abandoned_at=seeding.at())
    text = done("list")
    assert re.search(r"a .*queued, next poll in (59m|60m)", text)
    assert re.search(r"b .*next poll now", text)
    assert re.search(r"c .*deadline, given up", text)


def test_a_success_without_a_url_is_told_as_one_that_is_not_over(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_job(session, video_id="a", upstream_status="completed")
    assert re.search(r"running .*upstream says completed, no URL yet, next poll ", done("list"))


def test_what_holds_jobs_up_is_told_in_each_line_of_a_pipe_and_once_at_a_terminal(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        until = db.now(session) + timedelta(minutes=5)
        seeding.add_account(session, paused_until=until, pause_reason="quota: \x1b[2Jused up")
        session.add(Heartbeat(name="tick", at=seeding.at()))
        for name in ("a", "b"):
            seeding.add_job(session, video_id=name)
    reason = r"account default rests until [\d:-]+(?: [\d:]+)? UTC: quota: +\[2Jused up"
    assert len(re.findall(rf"next poll in [45]m\d\ds \({reason}\)", done("list"))) == 2
    text = " ".join(on_screen(commands, "list").split())
    assert len(re.findall(reason, text)) == 1
    assert len(re.findall(r"next poll in [45]m\d\ds \(1\)", text)) == 2
    assert re.search(rf"\(1\) {reason}$", text)


def test_a_list_and_a_story_say_how_long_a_job_still_takes(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        know(session, steady(2_900.0))
        polled: seeding.Row = {"last_polled_at": seeding.at(), "next_poll_at": seeding.at(hours=-1)}
        seeding.add_job(session, video_id="new", tracked_at=seeding.at(), **polled)
        seeding.add_job(session, video_id="old", tracked_at=seeding.at(hours=9), **polled)
        seeding.add_job(session, "expired", video_id="over", **polled)
        seeding.add_job(session, video_id="odd", model="unheard of", **polled)
    listed = {line.split()[0]: line for line in done("list").splitlines()}
    assert re.search(r" running +\d+s +~4\dm\d\ds +0 +next poll in ", listed["new"])
    assert re.search(r" 9h00m +~4\dm\d\ds +0 +slower than 95 %, next poll in ", listed["old"])
    assert "~" not in listed["over"] + listed["odd"]
    assert re.search(
        r"^  eta       about 4\dm\d\ds left \(half of such jobs\), 90 % within 2h[34]\dm; "
        r"measured on 20 jobs, the longest took 10d00h$",
        done("show", "new"),
        re.MULTILINE,
    )
    assert re.search(
        r"^  eta .*, slower than 95 % of its kind; ", done("show", "old"), re.MULTILINE
    )
    assert not re.search(r"^  eta ", done("show", "over"), re.MULTILINE)
    few = "no estimate yet: 0 of 5 jobs of this model at this account have ended"
    assert f"\n  eta       {few}\n" in done("show", "odd")
    jobs = {job["video_id"]: job["eta"] for job in json.loads(done("list", "--json"))}
    assert jobs["over"] is jobs["odd"] is None
    assert set(jobs["new"]) == set(Eta._fields)
    assert 2_400 < jobs["new"]["p50_seconds"] < 3_000
    assert [jobs[name]["slower_than_95_percent"] for name in ("new", "old")] == [False, True]
    told = json.loads(done("show", "new", "--json"))["job"]["eta"]
    assert told["p50_seconds"] == pytest.approx(jobs["new"]["p50_seconds"], abs=60)


def test_how_long_a_job_took_is_one_thing_wherever_it_is_told(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    now = seeding.at()
    ended, noticed = now - timedelta(seconds=100), now - timedelta(seconds=70)
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_job(
            session, "completed", video_id="v", video_url="https://cdn.example.com/v.mp4",
            upstream_created_at=ended - timedelta(minutes=5), upstream_finished_at=ended,
            tracked_at=ended - timedelta(minutes=4), finished_at=noticed,
        )  # fmt: skip
        seeding.add_job(session, video_id="open", upstream_created_at=seeding.at(hours=2))
    listed = done("list")
    assert re.search(r"^v +✓ completed +5m00s ", listed, re.MULTILINE)
    assert re.search(r"^open +▸ running +2h00m ", listed, re.MULTILINE)
    assert re.search(r"^  took      5m00s, noticed 30s later$", done("show", "v"), re.M)
    assert "  took" not in done("show", "open")
    told = {job["video_id"]: job["duration_seconds"] for job in json.loads(done("list", "--json"))}
    assert told == {"v": 300.0, "open": None}
    (again,) = json.loads(done("track", "v", "--json"))
    assert again["duration_seconds"] == told["v"]


def ids(*args: str) -> list[str]:
    return [job["video_id"] for job in json.loads(done("list", "--json", *args))]


def test_a_list_can_be_narrowed(told: dict[str, Any]) -> None:
    assert ids() == ["grok:told", "grok:untold"]
    assert ids("--state", "failed") == ["grok:untold"]
    for since in ("2h", "1d", seeding.at(days=1).isoformat(), f"{seeding.at(days=1):%Y-%m-%d}"):
        assert ids("--since", since) == ["grok:told"]
    assert ids("--since", "72h") == ["grok:told", "grok:untold"]
    assert run("list", "--state", "failed", "--since", "2h").stderr == "no such jobs\n"
    done("track", "grok:new")
    assert ids("--state", "open") == ["grok:new"]


def test_a_list_says_that_there_are_more(told: dict[str, Any]) -> None:
    result = run("list", "--limit", "1", "--json")
    assert len(json.loads(result.stdout)) == 1
    assert result.stderr == "there are more than 1: --limit shows more\n"
    assert run("list", "--limit", "2").stderr == ""


@pytest.mark.parametrize(
    "args",
    [("--since", "yesterday"), ("--since", "9" * 30), ("--state", "done"), ("--limit", "0")],
)
def test_a_wrong_filter_is_wrong_usage(args: tuple[str, ...], commands: pytest.MonkeyPatch) -> None:
    assert "Invalid value" in failed(2, "list", *args)


@pytest.mark.parametrize(
    "args",
    [
        ("list", "--limit"),
        ("deliveries", "--limit"),
        ("simulate", "--limit"),
        ("sandbox", "--rate-limit"),
        ("sandbox", "--port"),
        ("listen", "--port"),
    ],
)
def test_a_number_beyond_counting_is_wrong_usage(
    args: tuple[str, ...], commands: pytest.MonkeyPatch
) -> None:
    assert "is not in the range" in failed(2, *args, "9" * 23)


def test_the_largest_limit_is_one_that_databases_can_count_to(
    told: dict[str, Any],
) -> None:
    assert json.loads(done("list", "--limit", "1000000000", "--json"))
    assert json.loads(done("deliveries", "--limit", "1000000000", "--json"))


# -------------------------------------------------------- cancel, recheck


def test_cancelling_and_rechecking_say_what_they_did(told: dict[str, Any]) -> None:
    done("track", "grok:a", "grok:b")
    assert done("recheck", "grok:a", "grok:told") == (
        "will be polled now: grok:a\nstays as it is: grok:told has ended, completed\n"
    )
    assert done("cancel", "grok:a", "grok:told") == (
        "cancelled grok:a\nstays as it is: grok:told has ended, completed\n"
    )
    for changed in (True, False):
        [job] = json.loads(done("cancel", "grok:b", "--json"))
        assert (job["state"], job["changed"]) == ("cancelled", changed)
    assert done("cancel", "grok:b") == "stays as it is: grok:b has ended, cancelled\n"


def test_an_unknown_id_among_others_changes_nothing(commands: pytest.MonkeyPatch) -> None:
    done("track", "grok:a")
    failed(1, "cancel", "grok:a", "grok:x")
    assert json.loads(done("show", "grok:a", "--json"))["job"]["state"] == "pending"


# ------------------------------------------------- deliveries, redeliver


def test_deliveries_tell_who_has_what(told: dict[str, Any], commands: pytest.MonkeyPatch) -> None:
    line = done("deliveries", "grok:told")
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"
    assert re.fullmatch(
        rf"{moment}  ✓ delivered  video.completed  grok:told  {told['event']} to "
        rf"https://hooks.example.com/x  delivered at {moment} by attempt 2 in 12 ms\n",
        line,
    )
    dead = done("deliveries", "--state", "dead")
    assert re.search(
        rf"given up after 1 attempt, the last at {moment}: no connection, after 12 ms; "
        rf"`reelwatch redeliver {told['dead']}` sends it again\n$",
        dead,
    )
    rows = json.loads(done("deliveries", "--json"))
    assert [row["id"] for row in rows] == [told["event"], told["dead"]]
    assert rows[1]["last_attempt"]["error"] == "no connection"
    assert run("deliveries", "grok:told", "--state", "pending").stderr == "no such events\n"
    assert on_screen(commands, "deliveries", "--limit", "1").count("\n") == 3


def test_an_owed_event_says_when_it_is_tried(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        session.add(Heartbeat(name="tick", at=seeding.at()))
        job = seeding.add_job(session)
        for number, due in ((1, -3_600), (2, 5)):
            step = seeding.add_transition(session, job, sequence=number)
            seeding.add_delivery(
                session, job, step, "pending", next_attempt_at=seeding.at(seconds=due)
            )
    text = done("deliveries")
    assert "not sent yet; next attempt now\n" in text
    assert re.search(r"not sent yet; next attempt in (59m|60m)", text)


def test_events_are_sent_again_by_id_by_state_or_by_time(told: dict[str, Any]) -> None:
    assert done("redeliver", "--dead", "--yes") == f"1 event will be sent again\n  {told['dead']}\n"
    assert done("redeliver", "--dead", "--yes") == "0 events will be sent again\n"
    assert json.loads(done("redeliver", told["event"], "--json")) == {
        "count": 1,
        "ids": [told["event"]],
    }
    assert done("redeliver", "--since", "7d", "--yes").startswith("2 events will be sent again\n")
    until = done("redeliver", "--since", "7d", "--until", "1d", "--yes")
    assert until == f"1 event will be sent again\n  {told['dead']}\n"
    states = {row["state"] for row in json.loads(done("deliveries", "--json"))}
    assert states == {"pending"}


def test_many_events_are_counted_not_listed(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session)
        for number in range(1, 22):
            step = seeding.add_transition(session, job, sequence=number)
            seeding.add_delivery(session, job, step, "dead")
    assert done("redeliver", "--dead", "--yes") == "21 events will be sent again\n"


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--yes",),
        ("evt_1", "--dead"),
        ("evt_1", "--since", "1h"),
        ("evt_1", "--until", "1h"),
        ("evt_1", "--account", "default"),
        ("--dead", "--state", "pending"),
    ],
)
def test_events_are_chosen_by_id_or_by_what_they_are(
    args: tuple[str, ...], told: dict[str, Any]
) -> None:
    assert "Usage: reelwatch redeliver" in failed(2, "redeliver", *args)
    assert json.loads(done("deliveries", "--state", "pending", "--json")) == []


def test_an_event_that_does_not_exist_is_a_failure(told: dict[str, Any]) -> None:
    message = failed(1, "redeliver", told["event"], "evt_none")
    assert message == "reelwatch: redeliver: no event evt_none\n"
    assert json.loads(done("deliveries", "--state", "pending", "--json")) == []


UNKNOWN = {
    ("list", "--account", "acme"): "account: 'acme' is unknown; known: default",
    ("list", "--account", "defalut"): "account: 'defalut' is unknown (is 'default' meant?)",
    ("deliveries", "grok:none"): "no job 'grok:none' is tracked for the account 'default'",
    ("deliveries", "--account", "acme"): "account: 'acme' is unknown",
    ("deliveries", "--endpoint", "other.example.com"): "endpoint: no event goes to 'other.example",
    ("watch", "--account", "acme"): "account: 'acme' is unknown",
    ("cancel", "--account", "acme", "--yes"): "account: 'acme' is unknown; known: default",
    ("recheck", "--account", "acme", "--dry-run"): "account: 'acme' is unknown",
    ("redeliver", "--account", "acme", "--yes"): "account: 'acme' is unknown",
    ("redeliver", "--endpoint", "other.example.com", "--yes"): "no event goes to 'other.example",
    ("prune", "--older-than", "9d", "--account", "acme", "--yes"): "account: 'acme' is unknown",
}


@pytest.mark.parametrize("asked", UNKNOWN, ids=" ".join)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_what_nobody_has_heard_of_is_said_and_fails(
    told: dict[str, Any], asked: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """A name that was mistyped does not pass for a list that happens to be empty."""
    result = run(*asked, *more)
    assert result.exit_code == 1
    assert UNKNOWN[asked] in result.stderr
    assert result.stdout == ""


def test_who_tracks_for_nobody_is_told(commands: pytest.MonkeyPatch) -> None:
    """On standard error: what programs read stays as it is. The second time it is known."""
    result = run("track", "grok:a", "grok:b")
    assert result.stdout == "tracking grok:a\ntracking grok:b\n"
    assert result.stderr.startswith("2 without a receiver: nobody is called about how they end;")
    assert "GET /api/v1/events" in result.stderr
    assert run("track", "grok:a").stderr == ""
    assert run("track", "grok:c", "--callback-task", "app.told").stderr == ""


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_no_names_at_all_are_no_choice(commands: pytest.MonkeyPatch, value: str) -> None:
    for command in ("track", "update"):
        result = run(command, "grok:a", "--events", value)
        assert result.exit_code == 2
        assert "names nothing; without the option the default holds" in result.stderr
    assert json.loads(done("list", "--json")) == []
