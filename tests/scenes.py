"""Databases to look at: a quiet day, and a bad one. For pictures of the pages, and for their tests.

`quiet` has jobs of all models and states; `bad` adds what goes wrong: an endpoint that fails, dead
events, an account that is slowed and one that is paused, jobs that are late.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.rules import notices
from reelwatch.rules.timing.fitting import Sample, learn
from reelwatch.storage import db, forecasts, incidents
from reelwatch.storage.models import Endpoint, Heartbeat
from tests import seeding
from tests.kinds import forecast

Row = dict[str, Any]

MODELS = {"veo3.1-fast": 95.0, "veo3.1": 210.0, "sora-2": 160.0, "grok-video": 55.0}
STAGES = ("queued", "video_generating", "video_upsampling")
HOOK = "https://hooks.studio.example/reelwatch?token=s3cret-token"
OTHER_HOOK = "https://app.example.com/videos/done"
POLICY = "Prompt may violate our guardrails: photorealistic person (request id: 20260206-8f21c)"
LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
SIGNED = "https://cdn.example.net/v/{}.mp4?Expires={}&Signature=kq3v7Zk2cX1-9sLw&Key-Pair-Id=K2JC"
ENDED = 260


def quiet(session: Session, ended: int = ENDED) -> None:
    """A day on which all goes well."""
    now, chance = db.now(session), random.Random(7)
    for name in ("default", "studio"):
        seeding.add_account(session, name, requests_per_second=5.0 if name == "default" else 2.0)
    seeding.add(session, Heartbeat, {"name": "tick", "at": now})
    for number in range(ended):
        _ended(session, chance, now - timedelta(minutes=(ended - number) ** 1.75 + 1))
    for _ in range(14):
        _open(session, chance, now)
    _learn(session, now)


def bad(session: Session) -> None:
    """The same on a day on which much goes wrong."""
    quiet(session)
    now, chance = db.now(session), random.Random(8)
    limited = now - timedelta(minutes=3)
    incidents.begin(session, notices.SLOWED, "tenant-a", now - timedelta(minutes=41))
    seeding.add_account(
        session,
        "tenant-a",
        requests_per_second=0.8,
        slowed_at=limited,
        limited_at=limited,
        refused_rate=2.0,
    )
    seeding.add_account(
        session,
        "tenant-b",
        pause_reason="quota: the account's quota is used up",
        paused_until=now + timedelta(minutes=4),
        pauses_in_row=3,
    )
    for name in ("tenant-a", "tenant-b"):
        for _ in range(5):
            job = _open(session, chance, now, account=name, late=name == "tenant-a")
            seeding.add_error(
                session,
                job,
                kind="rate_limited" if name == "tenant-a" else "quota",
                http_status=429,
                message="Too many requests, slow down",
                count=4,
                first_at=now - timedelta(minutes=6),
                last_at=limited,
            )
    for number in range(6):
        _not_told(session, chance, now - timedelta(hours=7 * number + 2), dead=number > 2)
    seeding.add(
        session,
        Endpoint,
        {
            "name": OTHER_HOOK,
            "host": "app.example.com:443",
            "failures": 17,
            "openings": 4,
            "allowance": 1,
            "open_until": now + timedelta(seconds=212),
            "failing_since": now - timedelta(minutes=34),
            "changed_at": now,
        },
    )


# -------------------------------------------------------------------- parts


def _name(chance: random.Random, model: str, at: datetime) -> str:
    letters = "".join(chance.choices(LETTERS, k=10))
    return f"{model}:{int(at.timestamp())}-{letters}"


def _job(chance: random.Random, at: datetime, **columns: Any) -> Row:
    model = chance.choice(list(MODELS))
    return {
        "video_id": _name(chance, model, at),
        "model": model,
        "tracked_at": at,
        "upstream_created_at": at - timedelta(seconds=2),
        "webhook_url": HOOK,
        "metadata_": {"order": chance.randrange(10_000, 99_999), "tenant": "acme"},
        **columns,
    }


def _seconds(chance: random.Random, model: str) -> float:
    return MODELS[model] * math.exp(chance.gauss(0, 0.28))


def _ended(
    session: Session, chance: random.Random, at: datetime, *, told: bool = True
) -> tuple[Row, Row]:
    """One that ended `at` that time, and its last transition."""
    model = chance.choice(list(MODELS))
    lasted, delay = _seconds(chance, model), chance.expovariate(1 / 2.2)
    began = at - timedelta(seconds=lasted + delay)
    failed = chance.random() < 0.11
    end: Row = {"finished_at": at, "upstream_finished_at": at - timedelta(seconds=delay)}
    if failed:
        code = chance.choice(["content_policy", "content_policy", "upstream_failed"])
        text = POLICY if code == "content_policy" else "generation failed: internal error"
        end |= {"error_code": code, "error_message": text, "error_request_id": "20260206-8f21c"}
    else:
        name, expires = f"{chance.getrandbits(40):x}", int(at.timestamp()) + 172_800
        end["video_url"] = SIGNED.format(name, expires)
    state = "failed" if failed else "completed"
    job = _add(
        session,
        state,
        {
            **_job(chance, began),
            "model": model,
            "video_id": _name(chance, model, began),
            "webhook_url": HOOK if told else OTHER_HOOK,
            "upstream_status": state,
            "sequence": 3,
            "polls": chance.randrange(9, 22),
            "last_polled_at": at,
            **end,
        },
    )
    steps = _steps(session, job, began, at, state)
    if chance.random() < 0.2:
        seeding.add_error(
            session,
            job,
            kind="timeout",
            http_status=None,
            message="no answer within 15 s",
            count=chance.randrange(1, 4),
            first_at=began + timedelta(seconds=lasted * 0.4),
            last_at=began + timedelta(seconds=lasted * 0.52),
        )
    if told:
        _tell(session, chance, job, steps[-1])
    return job, steps[-1]


def _tell(session: Session, chance: random.Random, job: Row, last: Row) -> None:
    at = last["at"]
    event = seeding.add_delivery(session, job, last, target=HOOK, body=_body(job), attempts=1)
    if chance.random() < 0.1:
        seeding.add_attempt(
            session,
            event,
            at=at + timedelta(milliseconds=200),
            http_status=503,
            error="503 Service Unavailable",
            duration_ms=412,
            response_excerpt="upstream connect error",
        )
        seeding.add_attempt(session, event, at=at + timedelta(seconds=5), duration_ms=88)
    else:
        took = chance.randrange(40, 180)
        seeding.add_attempt(
            session,
            event,
            at=at + timedelta(milliseconds=150),
            duration_ms=took,
            response_excerpt='{"ok": true}',
        )


def _steps(session: Session, job: Row, began: datetime, end: datetime, state: str) -> list[Row]:
    """From the first poll to the end, with upstream's answers."""
    span = (end - began) / timedelta(seconds=1)
    shares = (
        (0.03, "pending", "running", None, STAGES[1]),
        (0.72, "running", "running", STAGES[1], STAGES[2]),
        (1.0, "running", state, STAGES[2], state),
    )
    found = []
    for number, (share, before, after, word, said) in enumerate(shares, 1):
        at = began + timedelta(seconds=span * share)
        if after == "running" and at > end:
            break
        found.append(
            seeding.add_transition(
                session,
                job,
                sequence=number,
                from_state=before,
                to_state=after,
                from_status=word,
                to_status=said,
                at=at,
                answer=_answer(job, said, share),
            )
        )
    return found


def _answer(job: Row, status: str, share: float) -> Row:
    said: Row = {
        "id": job["video_id"],
        "status": status,
        "progress": int(100 * share),
        "enhanced_prompt": "A <b>red</b> fox crosses a snowy road, 35 mm",
    }
    if status == "completed":
        said |= {"video_url": job["video_url"], "duration_seconds": 8}
    if status == "failed":
        said["error"] = {"message": job["error_message"], "code": job["error_code"]}
    return said


def _body(job: Row) -> str:
    return json.dumps(
        {
            "type": f"video.{job['state']}",
            "timestamp": job["finished_at"].isoformat(),
            "data": {
                "video_id": job["video_id"],
                "state": job["state"],
                "video_url": job.get("video_url"),
            },
        }
    )


def _open(
    session: Session,
    chance: random.Random,
    now: datetime,
    account: str = "default",
    *,
    late: bool = False,
) -> Row:
    model = chance.choice(list(MODELS))
    age = MODELS[model] * chance.random() * 0.9
    began = now - timedelta(seconds=age)
    due = now + timedelta(seconds=chance.randrange(2, 40)) - timedelta(minutes=2 if late else 0)
    job = _add(
        session,
        "running",
        {
            **_job(chance, began),
            "model": model,
            "video_id": _name(chance, model, began),
            "account": account,
            "upstream_status": STAGES[1],
            "sequence": 1,
            "polls": 4,
            "last_polled_at": now - timedelta(seconds=3),
            "next_poll_at": due,
        },
    )
    seeding.add_transition(
        session,
        job,
        at=began + timedelta(seconds=min(4.0, age / 2)),
        to_status=STAGES[1],
        answer=_answer(job, STAGES[1], 0.1),
    )
    return job


def _not_told(session: Session, chance: random.Random, at: datetime, *, dead: bool) -> None:
    """One whose producer's endpoint answers with errors."""
    job, last = _ended(session, chance, at, told=False)
    now = db.now(session)
    owed: Row = {} if dead else {"next_attempt_at": now + timedelta(minutes=4)}
    event = seeding.add_delivery(
        session,
        job,
        last,
        "dead" if dead else "pending",
        target=OTHER_HOOK,
        created_at=at,
        event_type=f"video.{job['state']}",
        body=_body(job),
        destination="app.example.com:443",
        attempts=5,
        **owed,
    )
    tries = (0.2, 5, 65, 365, 2_165)
    for seconds in tries:
        seeding.add_attempt(
            session,
            event,
            at=at + timedelta(seconds=seconds),
            http_status=502,
            error="502 Bad Gateway",
            duration_ms=chance.randrange(20, 60),
            response_excerpt="<html><title>502 Bad Gateway</title></html>",
        )


def _add(session: Session, state: str, columns: Row) -> Row:
    named = {("metadata" if name == "metadata_" else name): each for name, each in columns.items()}
    return seeding.add_job(session, state, **named)


def _learn(session: Session, now: datetime) -> None:
    chance = random.Random(5)
    for model in MODELS:
        learned(session, model, [_seconds(chance, model) for _ in range(120)], now)


def learned(
    session: Session,
    model: str,
    seconds: Sequence[float],
    now: datetime,
    account: str = "default",
) -> None:
    """A model that was learned four minutes ago, of jobs that took so long."""
    known = _known(model, tuple(seconds))
    forecasts.keep(session, account, model, known, now - timedelta(minutes=4))


@cache
def _known(model: str, seconds: tuple[float, ...]) -> forecasts.Forecast:
    learned = learn(model, [Sample(each) for each in seconds])
    return forecast(learned.curve, learned.longest)


def made(session: Session) -> None:
    """Nothing at all."""


SCENES: dict[str, Callable[[Session], None]] = {"empty": made, "quiet": quiet, "bad": bad}
NAMES: Sequence[str] = tuple(SCENES)
