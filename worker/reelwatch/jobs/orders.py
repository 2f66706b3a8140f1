"""What a producer asks for about ids: each value checked, each refusal saying which and why."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.config import accounts, settings
from reelwatch.errors import NotConfigured, Refused
from reelwatch.jobs.channels import channel
from reelwatch.rules import durations, events
from reelwatch.rules.callback_url import check_url
from reelwatch.rules.channels import DEFAULT_QUEUE, NAMED
from reelwatch.rules.channels import NAMES as NAMES_OF_CHANNELS
from reelwatch.rules.cleaning import clean
from reelwatch.rules.video_ids import refuse_controls
from reelwatch.storage.jobrows import has_account
from reelwatch.storage.models import Job

NAME_LIMIT = 255
METADATA_LIMIT = 16 * 1024  # bytes as JSON
DEADLINE_LIMIT = 30 * 86_400.0
DEADLINE_RANGE = "more than 0, at most 30d"


@dataclass(frozen=True, slots=True)
class Order:
    """What one call says of its ids, each value checked; None where it says nothing."""

    webhook_url: str | None = None
    callback_task: str | None = None
    callback_queue: str | None = None
    metadata: Mapping[str, Any] | None = None
    deadline: float | None = None  # seconds
    events: Sequence[str] | None = None
    channels: Mapping[str, str] | None = None  # {channel: target}; an empty one says: by none

    @property
    def said(self) -> Mapping[str, Any]:
        """The values that were given, by name."""
        values = {name: getattr(self, name) for name in NAMES}
        return {name: value for name, value in values.items() if value is not None}

    def differs_from(self, job: Job) -> list[str]:
        """The names of the values that say something else than the job's row does."""
        return [name for name, value in self.said.items() if _differs(name, value, job)]


NAMES = tuple(field.name for field in fields(Order))


def checked(configured: settings.Settings, **given: Any) -> Order:
    """The order with these values. Raises `Refused` with the name of the first that is wrong."""
    url, task, queue = (given.get(name) for name in NAMES[:3])
    for what, name in (("callback_task", task), ("callback_queue", queue)):
        _check_name(what, name)
    if task and "@" in task:
        raise Refused(f"callback_task: {task!r} holds an '@'; callback_queue has its own name")
    if not isinstance(url, str | None):
        raise Refused(f"webhook_url: {url!r} is not a text")
    metadata, deadline, names, ways = (given.get(name) for name in NAMES[3:])
    return Order(
        webhook_url=None if url is None else check_url(url, configured.allowlist),
        callback_task=task,
        callback_queue=queue,
        metadata=None if metadata is None else _checked_metadata(metadata),
        deadline=None if deadline is None else _checked_deadline(deadline),
        events=None if names is None else _checked_events(names),
        channels=None if ways is None else _checked_channels(ways),
    )


def _differs(name: str, value: Any, job: Job) -> bool:
    if name == "events":  # their order says nothing
        return set(value) != set(job.events)
    if name == "deadline":
        return bool(value != span_of(job.deadline_seconds, job.deadline_at, job.tracked_at))
    if name == "callback_queue":
        return bool(value != (job.callback_queue or DEFAULT_QUEUE))
    if name == "channels":
        return bool(value != (job.channels or {}))
    if name == "metadata":  # by the text: to Python true is 1
        return _text(value) != _text(job.metadata_)
    return bool(value != getattr(job, name))


def span_of(seconds: float | None, deadline_at: datetime, tracked_at: datetime) -> float:
    """The span that a job was given, in seconds, however often it has been renewed since."""
    if seconds is not None:
        return seconds
    return (deadline_at - tracked_at).total_seconds()  # a row of an older release


def _text(metadata: object) -> str:
    return json.dumps(metadata, sort_keys=True)


def known_account(session: Session, configured: settings.Settings, name: str) -> accounts.Account:
    """The account, if this process's configuration or, through the database, a worker's has it."""
    if not isinstance(name, str) or not accounts.ACCOUNT_NAME.fullmatch(name):
        raise Refused(f"account: {name!r} is no name (letters, digits, '.', '_', '-', at most 64)")
    known = configured.accounts
    if name in known:
        return known[name]
    if has_account(session, name):
        return accounts.Account(name, "", None, configured.requests_per_second)
    raise NotConfigured(
        f"account: {name!r} is not configured; known: {', '.join(sorted(known))} "
        "(REELWATCH_ACCOUNTS_FILE names more)"
    )


def _checked_metadata(metadata: object) -> Mapping[str, Any]:
    if not isinstance(metadata, Mapping):
        raise Refused(f"metadata: a JSON object is accepted, not {type(metadata).__name__}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False)
        size = len(text.encode("utf-8", "surrogatepass"))
        parsed: Mapping[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"metadata: not JSON: {error}") from None
    if size > METADATA_LIMIT:
        raise Refused(f"metadata: {size} bytes as JSON, at most {METADATA_LIMIT} are accepted")
    # What no database stores is left out, and not refused: the video is paid for.
    cleaned: Mapping[str, Any] = clean(parsed)
    return cleaned


def _checked_deadline(deadline: object) -> float:
    try:
        seconds = (
            deadline.total_seconds()
            if isinstance(deadline, timedelta)
            else durations.parse_duration(deadline)
        )
    except ValueError:
        forms = f"{durations.DURATION_FORMS}; {DEADLINE_RANGE}"
        raise Refused(f"deadline: {deadline!r}; accepted: {forms}") from None
    if not math.isfinite(seconds) or not 0 < seconds <= DEADLINE_LIMIT:
        raise Refused(f"deadline: {deadline!r}; accepted: {DEADLINE_RANGE}")
    return seconds


def _checked_events(names: object) -> Sequence[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise Refused(f"events: a list is accepted, not {names!r}")
    return events.check_events(names)


def _checked_channels(ways: object) -> Mapping[str, str]:
    if not isinstance(ways, Mapping):
        raise Refused(f"channels: an object is accepted, not {type(ways).__name__}")
    return {str(name): _checked_target(name, target) for name, target in ways.items()}


def _checked_target(name: object, target: object) -> str:
    if name not in NAMES_OF_CHANNELS:
        raise Refused(f"channels: {name!r} is no channel; accepted: {', '.join(NAMED)}")
    if not isinstance(target, str):
        raise Refused(f"channels: {name}: {target!r} is not a text")
    try:
        return channel(str(name)).check(target)
    except Refused as error:
        raise Refused(f"channels: {name}: {error}") from None


def _check_name(what: str, name: object) -> None:
    if name is None:
        return
    if not isinstance(name, str) or not name or len(name) > NAME_LIMIT:
        raise Refused(f"{what}: {name!r}; accepted: 1 to {NAME_LIMIT} characters")
    refuse_controls(what, name)
