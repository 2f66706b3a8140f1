"""What producers send: done at once, kept until it can be done, or refused for good.

Refused is only what nobody could accept. What this process's configuration does not permit, and an
id that `cancel` or `recheck` knows nothing of yet, waits in `waiting_messages`: any worker tries it
again, whatever becomes of the broker. Both can be read by SQL, and `doctor` names them.
"""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, delete, exists, func, literal, select, update
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.orm import Session

from reelwatch.errors import NotConfigured, Refused, SettingsError, UnknownJob, first_line
from reelwatch.rules.cleaning import clean, clean_text, unstorable
from reelwatch.rules.spelling import nearest
from reelwatch.storage import db
from reelwatch.storage.models import RefusedMessage, WaitingMessage

PATIENCE = timedelta(minutes=2)  # for an id that is not tracked: its `track` may be under way
LONGEST_WAIT = 300.0  # seconds between two tries
LEASE_SECONDS = 60.0  # while one worker tries, no other does
AT_ONCE = 200
BATCH_SECONDS = 10.0
REASON_LIMIT = 500  # characters: a reason may quote what was sent
SHOWN_ID = 200
SHOWN_NAME = 60
REFUSED_LIMIT = 1_000  # rows; the oldest make room
DUE = "*"  # what stands for waiting messages among the names of accounts: none is called so
NOT_YET = "no job with this id is tracked for this account"

log = structlog.get_logger(__name__)

Action = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Message:
    """One `reelwatch.track`, `.cancel` or `.recheck`."""

    id: str
    task: str
    video_id: Any  # what was sent: it need not be a text
    options: Mapping[str, Any]
    worker: str  # the node that has it


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that nobody could accept."""

    task: str
    reason: str
    worker: str
    account: str | None = None
    video_id: str | None = None


def take_in(url: str, message: Message, action: Action) -> None:
    """Do what the message asks for, keep it until that can be done, or refuse it.

    Raises `SettingsError` and SQLAlchemy's errors where neither could be written down: whoever
    has the message must keep it then.
    """
    reason = _obstacle(message, action)
    if reason is None:
        return
    with db.transaction(url) as session:
        if _is_final(reason):
            _refuse(session, message, reason)
        else:
            _keep(session, message, str(reason))


def _obstacle(message: Message, action: Action) -> Exception | None:
    """Try it. None: done. `Refused`: for good. Anything else: why it has to wait.

    What of metadata can't be stored is left out, and that alone is refused: there is nobody to be
    told at once, and the id must not be lost for it.
    """
    left_out = unstorable(message.options.get("metadata"))
    if not left_out:
        return _tried(message, action)
    cleaned = {**message.options, "metadata": clean(message.options["metadata"])}
    done = Refused(f"metadata: {left_out}; that was left out, and the id is tracked")
    return _tried(replace(message, options=cleaned), action) or done


def _tried(message: Message, action: Action) -> Exception | None:
    try:
        inspect.signature(action).bind(message.video_id, **message.options)
    except TypeError as error:
        return Refused(_unknown_option(message, action) or str(error))
    try:
        action(message.video_id, **message.options)
    except (SettingsError, SQLAlchemyError, db.NotMigrated) as error:
        if isinstance(error, DataError):  # what no database could store, at no time
            return Refused(first_line(error.orig or error))
        raise
    except Refused as error:  # or `NotConfigured`
        return error
    except UnknownJob:
        return UnknownJob(NOT_YET)
    except Exception as error:  # not the producer's fault: it is kept, and seen
        log.exception("intake_failed", task=message.task, message=message.id)
        return RuntimeError(f"a bug, please report it: {type(error).__name__}: {error}")
    return None


def _unknown_option(message: Message, action: Action) -> str | None:
    """What to say of the first option that the action does not take, if there is one."""
    parameters = list(inspect.signature(action).parameters)[1:]  # the first is the id
    known = [name for name in parameters if name not in ("session", "by")]  # no message has them
    unknown = next((name for name in message.options if name not in parameters), None)
    if unknown is None:
        return None
    near = nearest(unknown, known)
    meant = f"; is {near!r} meant?" if near else ""
    return f"{unknown[:SHOWN_NAME]!r} is no option{meant}; accepted: {', '.join(known)}"


def _refuse(session: Session, message: Message, reason: Exception) -> None:
    said, shown = str(reason)[:REASON_LIMIT], str(message.video_id)[:SHOWN_ID]
    log.error("refused", task=message.task, video_id=shown, reason=said)
    # Without the id that it may quote: the reasons for other ids are the same.
    folded = said.replace(repr(message.video_id)[:REASON_LIMIT], "…")
    _count(session, Refusal(message.task, folded, message.worker, _account(message), shown))


def _account(message: Message) -> str:
    return clean_text(str(message.options.get("account", "default")))[:64]


# ----------------------------------------------------------------- waiting


def _keep(session: Session, message: Message, reason: str) -> None:
    now, account = db.now(session), _account(message)
    statement = db.insert_if_absent(db.dialect(session), WaitingMessage, "id").values(
        id=message.id,
        task=message.task,
        account=account,
        video_id=clean_text(str(message.video_id))[:SHOWN_ID],
        options=json.dumps({"video_id": message.video_id, **message.options}),
        reason=clean_text(reason)[:REASON_LIMIT],
        worker=message.worker,
        tries=1,
        first_at=now,
        last_at=now,
        next_try_at=now + timedelta(seconds=wait_after(1)),
    )
    session.execute(statement)
    log.warning("waits", task=message.task, video_id=message.video_id, account=account,
                reason=reason[:REASON_LIMIT])  # fmt: skip


def wait_after(tries: int) -> float:
    """Seconds until the next try: 1, 2, 4 … up to five minutes."""
    return min(2.0 ** min(tries - 1, 20), LONGEST_WAIT)


def due(now: datetime | ColumnElement[datetime]) -> Select[Any]:
    """One row if a waiting message should be tried by now; else none."""
    return select(literal(DUE)).where(exists().where(WaitingMessage.next_try_at <= now))


def retry(url: str, actions: Mapping[str, Action], worker: str) -> int:
    """Try the waiting messages that are due; returns how many were.

    One that succeeds has those that waited for the same reason tried at once.
    """
    give_up_at, tried = time.monotonic() + BATCH_SECONDS, 0
    while time.monotonic() < give_up_at:
        rows = _claim(url)
        for row in rows:
            _try_again(url, row, actions[row.task], worker)
        tried += len(rows)
        if len(rows) < AT_ONCE:
            break
    return tried


def _claim(url: str) -> Sequence[WaitingMessage]:
    with db.transaction(url) as session:
        now = db.now(session)
        query = select(WaitingMessage).where(WaitingMessage.next_try_at <= now)
        query = query.order_by(WaitingMessage.next_try_at).limit(AT_ONCE)
        rows = session.scalars(query.with_for_update(skip_locked=True)).all()
        for row in rows:
            row.next_try_at = now + timedelta(seconds=LEASE_SECONDS)
    return rows


def _try_again(url: str, row: WaitingMessage, action: Action, worker: str) -> None:
    options = json.loads(row.options)
    message = Message(row.id, row.task, options.pop("video_id"), options, worker)
    reason = _obstacle(message, action)
    with db.transaction(url) as session:
        now = db.now(session)
        if isinstance(reason, UnknownJob) and now - row.first_at > PATIENCE:
            reason = Refused(NOT_YET)
        here = WaitingMessage.id == row.id
        if reason is None or _is_final(reason):
            session.execute(delete(WaitingMessage).where(here))
            if reason is None:
                _release(session, row.reason, now)
            else:
                _refuse(session, message, reason)
            return
        later = now + timedelta(seconds=wait_after(row.tries + 1))
        values = {"tries": row.tries + 1, "last_at": now, "next_try_at": later, "worker": worker}
        said = clean_text(str(reason))[:REASON_LIMIT]
        session.execute(update(WaitingMessage).where(here).values(reason=said, **values))


def _is_final(reason: Exception) -> bool:
    return isinstance(reason, Refused) and not isinstance(reason, NotConfigured)


def _release(session: Session, reason: str, now: datetime) -> None:
    """What held these up as well is mended."""
    if reason == NOT_YET:  # each has a reason of its own: its own id
        return
    others = WaitingMessage.reason == reason, WaitingMessage.next_try_at > now
    session.execute(update(WaitingMessage).where(*others).values(next_try_at=now))


def release_all(url: str) -> None:
    """A process has started, perhaps with another configuration: try all of them now."""
    with db.transaction(url) as session:
        now = db.now(session)
        waiting = WaitingMessage.next_try_at > now
        session.execute(update(WaitingMessage).where(waiting).values(next_try_at=now))


# ----------------------------------------------------------------- refused


def count_refusals(url: str, refusals: Iterable[Refusal]) -> None:
    """Write down what was refused."""
    with db.transaction(url) as session:
        for refusal in refusals:
            _count(session, refusal)


def _count(session: Session, refusal: Refusal) -> None:
    now = db.now(session)
    reason, task = clean_text(refusal.reason), clean_text(refusal.task)[:255]
    key = hashlib.sha256(f"{task}\n{reason}".encode()).hexdigest()[:32]
    last = {
        "account": refusal.account,
        "video_id": refusal.video_id and clean_text(refusal.video_id),
        "worker": refusal.worker,
        "last_at": now,
    }
    again = update(RefusedMessage).where(RefusedMessage.id == key)
    again = again.values(count=RefusedMessage.count + 1, **last)
    if session.execute(again.returning(RefusedMessage.id)).first():
        return
    new = {
        "id": key,
        "task": task,
        "reason": reason,
        "first_at": now,
        "count": 1,
        **last,
    }
    statement = db.insert_if_absent(db.dialect(session), RefusedMessage, "id")
    session.execute(statement.values(**new))
    newest = select(RefusedMessage.id).order_by(RefusedMessage.last_at.desc()).limit(REFUSED_LIMIT)
    session.execute(delete(RefusedMessage).where(RefusedMessage.id.not_in(newest)))


# ----------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Held:
    """Messages that wait for the same reason."""

    reason: str
    count: int
    since: datetime
    example: str  # a video id
    account: str
    worker: str  # that tried last


def waiting(session: Session) -> list[Held]:
    """What waits, by reason, the longest first. Ids that may be tracked any moment are left out."""
    row = WaitingMessage
    query = (
        select(
            row.reason,
            func.count(),
            func.min(row.first_at),
            func.min(row.video_id),
            func.min(row.account),
            func.min(row.worker),
        )
        .where(row.reason != NOT_YET)
        .group_by(row.reason)
        .order_by(func.min(row.first_at))
    )
    return [Held(*found) for found in session.execute(query)]


def refused_since(session: Session, since: datetime) -> list[RefusedMessage]:
    """The reasons for which messages were refused since then, the last first."""
    query = select(RefusedMessage).where(RefusedMessage.last_at >= since)
    return list(session.scalars(query.order_by(RefusedMessage.last_at.desc())))
