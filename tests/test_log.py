"""The log: one line per event, everybody's in one format, and never a secret."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from celery.utils.log import get_task_logger
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from reelwatch.config import folding, log
from reelwatch.config.settings import Settings
from reelwatch.rules.redaction import MASK
from reelwatch.storage import db
from tests.environment import SECRET, set_variables
from tests.logs import Lines, logging_put_back

KEY = "sk-0123456789abcdef"
PASSWORD = 'pä"ss\\wo/rd'
DATABASE = f"postgresql://u:{quote(PASSWORD, safe='')}@h/d"


class Terminal(Lines):
    """A stream that is one, or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with logging_put_back():
        yield


def configured(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool = False, **changes: Any
) -> Terminal:
    """Standard error of a process that logs."""
    stream = Terminal(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    key = changes.pop("api_key", KEY)
    set_variables(
        monkeypatch, QUICKROUTER_API_KEY=key, WEBHOOK_SECRET=SECRET, DATABASE_URL=DATABASE
    )
    log.configure(Settings(**changes))
    return stream


def own() -> Any:
    return structlog.get_logger("reelwatch.test")


# --------------------------------------------------------------------- formats


def test_json_is_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, log_format="json")
    own().info("poll", job=7, account="default", error=None, tags=["ä"])
    (line,) = stream.lines
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "poll", "job": 7, "account": "default", "tags": ["ä"],
        "level": "info", "logger": "reelwatch.test",
    }  # fmt: skip


def test_an_event_of_many_things_is_a_line_for_each_as_if_told_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = configured(monkeypatch, log_format="json")
    things: list[dict[str, Any]] = [{"job": 7, "error": None}, {"job": 8, "error": f"key {KEY}"}]
    with structlog.contextvars.bound_contextvars(batch="b1"):
        for fields in things:
            own().info("poll", **fields)
        log.of_each("reelwatch.test", "poll", things)
    told = [{name: line[name] for name in line if name != "timestamp"} for line in stream.lines]
    assert told[2:] == told[:2]
    assert KEY not in str(told)
    assert told[2] == {
        "job": 7, "event": "poll", "batch": "b1", "level": "info", "logger": "reelwatch.test",
    }  # fmt: skip


def test_an_event_of_many_things_is_not_told_below_the_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = configured(monkeypatch, log_format="json", log_level="warning")
    log.of_each("reelwatch.test", "poll", [{"job": 7}])
    assert stream.lines == []


def test_the_console_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, log_format="console")
    own().info("poll", job=7)
    assert "poll" in stream.getvalue()
    assert "job=7" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()  # colours are for terminals


@pytest.mark.parametrize(("terminal", "begins"), [(True, "\x1b"), (False, "{")])
def test_the_format_follows_the_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, begins: str
) -> None:
    stream = configured(monkeypatch, terminal=terminal)
    own().info("poll")
    assert stream.getvalue().startswith(begins)


def test_a_chosen_format_wins_over_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, terminal=True, log_format="json")
    own().info("poll")
    assert stream.lines


def test_what_is_not_json_is_told_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, log_format="json")
    own().info("poll", error=ValueError("odd"))
    assert stream.lines[0]["error"] == "odd"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_is_kept(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    stream = configured(monkeypatch, log_format=form)
    try:
        raise_from("the reason")
    except RuntimeError:
        own().exception("crashed")
    assert "ValueError: the reason" in stream.getvalue()
    assert "Traceback" in stream.getvalue()
    assert form == "console" or len(stream.lines) == 1


def test_context_is_on_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, log_format="json")
    with structlog.contextvars.bound_contextvars(task="reelwatch.poll"):
        own().info("poll")
        logging.getLogger("elsewhere").warning("slow")
    assert [line["task"] for line in stream.lines] == ["reelwatch.poll"] * 2


# ------------------------------------------------------------ everybody's lines


def test_others_lines_come_in_the_same_form(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, log_format="json")
    logging.getLogger("elsewhere").warning("%s of %d", "one", 2, extra={"job": 7})
    get_task_logger("shop.tasks").error("failed")
    logging.getLogger("celery.worker").info("ready")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second, third, fourth = stream.lines
    assert (first["event"], first["level"], first["job"]) == ("one of 2", "warning", 7)
    assert (second["event"], second["logger"]) == ("failed", "shop.tasks")
    assert (third["event"], third["logger"]) == ("ready", "celery.worker")
    assert (fourth["logger"], fourth["level"]) == ("py.warnings", "warning")
    assert all(line["timestamp"] for line in stream.lines)


@pytest.mark.parametrize("name", log.QUIET)
def test_chatter_is_left_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Celery would tell of every tick. A warning is told, and at debug everything."""
    stream = configured(monkeypatch, log_format="json")
    logging.getLogger(name).info("a tick")
    logging.getLogger(name).warning("no tick")
    assert [line["event"] for line in stream.lines] == ["no tick"]
    stream = configured(monkeypatch, log_format="json", log_level="debug")
    logging.getLogger(name).debug("a tick")
    assert [line["event"] for line in stream.lines] == ["a tick"]


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_a_level_keeps_back_what_is_below_it(
    monkeypatch: pytest.MonkeyPatch, level: str, told: list[str]
) -> None:
    stream = configured(monkeypatch, log_format="json", log_level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(own(), name)("ours")
        getattr(logging.getLogger("elsewhere"), name)("theirs")
    assert [line["level"] for line in stream.lines] == [each for each in told for _ in range(2)]


def test_configuring_the_log_again_replaces_what_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is never told twice."""
    configured(monkeypatch, log_format="json")
    stream = configured(monkeypatch, log_format="json")
    own().info("poll")
    assert len(stream.lines) == 1


# --------------------------------------------------------------- again and again


class Time:
    """A clock that goes on when told."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(folding, "time", clock)
    return clock


def test_what_is_said_again_is_counted(monkeypatch: pytest.MonkeyPatch, clock: Time) -> None:
    """And told with the first line after half a minute, whatever that says."""
    stream = configured(monkeypatch, log_format="json")
    for _ in range(3):
        own().warning("nudge_failed", error="port 5432: refused")
        logging.getLogger("kombu").error("No connection. Again in %d s", clock.now)
        clock.now += 5
    assert [line["event"] for line in stream.lines] == [
        "nudge_failed", "No connection. Again in 1000 s",
    ]  # fmt: skip
    clock.now += folding.AGAIN_SECONDS
    own().info("poll")
    again = [(line["event"], line.get("again")) for line in stream.lines[2:]]
    assert again == [("nudge_failed", 2), ("No connection. Again in 1000 s", 2), ("poll", None)]
    own().warning("nudge_failed", error="port 5432: refused")
    assert "again" not in stream.lines[-1]


def test_different_things_are_not_counted_together(
    monkeypatch: pytest.MonkeyPatch, clock: Time
) -> None:
    """Whose it is, how bad it is, and what it came of make a difference; numbers in it do not."""
    stream = configured(monkeypatch, log_format="json")
    for job in (1, 2):
        own().warning("attempt", job=job, error="refused")
        own().error("attempt", job=job, error="refused")
    for reason in ("port 1", "port 2", "reset"):
        own().error("crashed", error=reason)
    for error in (ValueError("a"), ValueError("a"), KeyError("a")):
        own().error("failed", exc_info=error)
    own().info("poll")
    own().info("poll")
    assert len(stream.lines) == 4 + 2 + 2 + 2


def test_no_more_is_remembered_than_fits(monkeypatch: pytest.MonkeyPatch, clock: Time) -> None:
    stream = configured(monkeypatch, log_format="json")
    for number in [*range(folding.REMEMBERED), "more", "more"]:
        own().warning("odd", number=number)
    assert len(stream.lines) == folding.REMEMBERED + 2


def test_an_outage_needs_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's mistake here; the statement and its parameters explain nothing either."""
    stream = configured(monkeypatch, log_format="json")
    cause = ConnectionRefusedError(111, "Connection refused")
    away = OperationalError("SELECT 1", {"a": 1}, cause)
    own().error("failed", exc_info=away)
    try:
        raise away
    except OperationalError:
        logging.getLogger("elsewhere").exception("Task %s failed:\n%s", "a", "Traceback …")
    ours, theirs = stream.lines
    refused = "ConnectionRefusedError: [Errno 111] Connection refused"
    assert (ours["error"], theirs["error"]) == (refused, refused)
    assert "exception" not in ours | theirs
    assert "\n" not in theirs["event"]


def test_a_server_that_is_read_only_or_has_no_tables_is_told_without_a_traceback(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = configured(monkeypatch, log_format="json")
    for error in (refused_by(postgresql_url), db.NotMigrated("run it")):
        own().error("failed", exc_info=error)
    read_only, missing = stream.lines
    assert "exception" not in read_only | missing
    assert read_only["error"].endswith("cannot execute UPDATE in a read-only transaction")
    assert missing["error"] == "NotMigrated: run it"


def refused_by(url: str) -> DBAPIError:
    with db.engine(url).connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(DBAPIError) as refused:
            connection.execute(text("UPDATE jobs SET polls = 1"))
    return refused.value


# --------------------------------------------------------------------- secrecy

HIDDEN = {
    "secret": SECRET,
    "bare secret": SECRET.removeprefix("whsec_"),
    "key": KEY,
    "password": PASSWORD,
    "URL": DATABASE,
}


def say_all(hidden: str) -> None:
    """Every way into the log that there is."""
    theirs = logging.getLogger("elsewhere")
    own().info("ours", value=hidden, nested={"list": [hidden, hidden.encode()]})
    own().debug(f"in the event {hidden}")
    own().warning("%s as an argument", hidden)
    theirs.warning("as an argument: %s", hidden)
    theirs.warning("as a mapping: %(value)r", {"value": hidden})
    theirs.info("as an extra", extra={"url": f"https://user:{hidden}@h/{hidden}"})
    theirs.debug(hidden)
    get_task_logger("shop").error("task raised: %r", ValueError(hidden))
    with structlog.contextvars.bound_contextvars(bound=hidden):
        own().info("in the context")
    try:
        raise_from(hidden)
    except RuntimeError:
        own().exception("ours crashed")
        theirs.exception("theirs crashed", stack_info=True)


def raise_from(reason: str) -> None:
    """An error with a cause, whose local variables a traceback might show."""
    try:
        dict[str, str]()[reason + reason]
    except KeyError as error:
        raise RuntimeError("outer") from ValueError(reason).with_traceback(error.__traceback__)


@pytest.mark.parametrize("what", HIDDEN)
@pytest.mark.parametrize(
    "form", [{"log_format": "json"}, {"log_format": "console"}, {"terminal": True}]
)
def test_no_secret_is_ever_told(
    monkeypatch: pytest.MonkeyPatch, what: str, form: dict[str, Any]
) -> None:
    """Neither plain nor as JSON, Python or URLs write it, at debug too."""
    stream = configured(monkeypatch, log_level="debug", **form)
    say_all(HIDDEN[what])
    told = stream.getvalue()
    assert told.count(MASK) >= 13
    for hidden in HIDDEN.values():
        secret = hidden if hidden != DATABASE else quote(PASSWORD, safe="")
        for written in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, "")):
            assert written not in told


@pytest.mark.parametrize("form", ["json", "console"])
def test_long_secrets_are_not_told_in_part(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Nor broken over lines."""
    key = "sk-" + "0123456789" * 20
    stream = configured(monkeypatch, log_format=form, api_key=key)
    say_all(key)
    assert "0123456789" not in stream.getvalue().replace("\n", "")


def test_a_secret_within_another_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, log_format="json", api_key=KEY + SECRET)
    own().info("poll", key=KEY + SECRET)
    assert stream.lines[0]["key"] == MASK


def test_a_line_that_cannot_be_formatted_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would print its arguments as they are."""
    stream = configured(monkeypatch, log_format="json")
    arguments = (KEY,)
    logging.getLogger("elsewhere").warning("%d jobs with %s", *arguments)
    logging.getLogger("elsewhere").warning("fine")
    assert KEY not in stream.getvalue()
    first, second = stream.lines
    assert (first["logger"], first["level"]) == ("elsewhere", "error")
    assert "'%d jobs with %s'" in first["event"]
    assert second["event"] == "fine"
