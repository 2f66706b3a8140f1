"""What all peers share: the row that a job has, how upstream is asked, how a receiver is told.

As plain as a team would write it for itself, and the same for each, so that peers differ only in
how they come to ask. Settings come from the environment: `PEER_…`.
"""

import os
from datetime import UTC, datetime
from functools import cache
from typing import Any

import requests
from sqlalchemy import JSON, DateTime, Engine, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

FINAL = ("completed", "failed")
TIMEOUT = 15.0


def setting(name: str) -> str:
    """One setting of this peer. Raises KeyError."""
    return os.environ[f"PEER_{name}"]


class Base(DeclarativeBase):
    """The peers' tables."""


class Job(Base):
    """One video, and what upstream said last."""

    __tablename__ = "peer_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    video_id: Mapped[str] = mapped_column(String(200), unique=True)
    status: Mapped[str] = mapped_column(String(100), default="new", index=True)
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    asked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    delivered_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


@cache
def engine(url: str) -> Engine:
    """This process's connections."""
    return create_engine(url, pool_size=8, max_overflow=24)


def open_ids(url: str) -> list[str]:
    """The jobs that have not ended, oldest first."""
    with Session(engine(url)) as session:
        query = select(Job.video_id).where(Job.status.not_in(FINAL)).order_by(Job.id)
        return list(session.scalars(query))


def ask(video_id: str) -> dict[str, Any]:
    """Upstream's answer about one job. Raises requests.RequestException."""
    answer = requests.get(
        f"{setting('BASE_URL')}/v1/video/query",
        params={"id": video_id},
        headers={"Authorization": f"Bearer {setting('KEY')}"},
        timeout=TIMEOUT,
    )
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def save(video_id: str, answer: dict[str, Any]) -> bool:
    """Write the answer into the job's row; says whether the job has ended with it."""
    with Session(engine(setting("DATABASE_URL"))) as session, session.begin():
        job = session.scalars(select(Job).where(Job.video_id == video_id)).one()
        job.status, job.answer, job.asked_at = answer["status"], answer, datetime.now(UTC)
        return job.status in FINAL


def tell(video_id: str) -> None:
    """Send the job's webhook and write down that it arrived. Raises requests.RequestException."""
    with Session(engine(setting("DATABASE_URL"))) as session, session.begin():
        job = session.scalars(select(Job).where(Job.video_id == video_id)).one()
        data = {"video_id": video_id, "state": job.status, "answer": job.answer}
        event = {"type": f"video.{job.status}", "data": data}
        requests.post(setting("WEBHOOK_URL"), json=event, timeout=TIMEOUT).raise_for_status()
        job.delivered_at = datetime.now(UTC)
