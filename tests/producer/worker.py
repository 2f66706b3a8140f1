"""The shop's Celery app, with the settings that Celery has by itself: `celery -A worker worker`."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable

from celery import Celery
from sqlalchemy import create_engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from models import Account, Base, Job, Run, Told
from reelwatch import cancel, recheck, track

PATIENCE = 120.0  # seconds that the database may be away

app = Celery("shop", broker=os.environ["SHOP_BROKER_URL"])
engine = create_engine(
    os.environ["SHOP_DATABASE_URL"],
    poolclass=NullPool,
    connect_args={"application_name": "shop", "connect_timeout": 10},
)


class ChangedMindError(Exception):
    """The transaction is rolled back."""


def in_transaction(work: Callable[[Session], None]) -> None:
    """Do it in one transaction; again when the database was away, which may be after the commit."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            with Session(engine) as session, session.begin():
                return work(session)
        except DBAPIError:
            if time.monotonic() > give_up_at:
                raise
        time.sleep(0.3)


def note(row: Base) -> None:
    """Store it once, however often that is tried."""
    columns = {column.key: getattr(row, column.key) for column in row.__table__.columns}
    known = {name: value for name, value in columns.items() if value is not None}
    in_transaction(lambda session: session.merge(type(row)(**known)) and None)


@app.task(name="shop.render", acks_late=True)
def render(number: int, seconds: float) -> None:
    """Take long, and acknowledge at the end."""
    note(Run(id=uuid.uuid4().hex, task="render", number=number))
    time.sleep(seconds)


@app.task(name="shop.remind")
def remind(number: int) -> None:
    """Be sent with a countdown: till then the message is with a worker, not acknowledged."""
    note(Run(id=uuid.uuid4().hex, task="remind", number=number))


@app.task(name="shop.order")
def order(email: str, video_id: str, keep: bool) -> None:
    """A row of the shop's and the tracking of its video: both, or neither."""

    def place(session: Session) -> None:
        if session.scalar(select(Job).where(Job.video_id == video_id)):
            return  # that was the try whose commit was not heard of
        account = session.scalar(select(Account).where(Account.email == email))
        if account is None:
            account = Account(email=email)
            session.add(account)
            session.flush()
        session.add(Job(account_id=account.id, video_id=video_id))
        track(video_id, callback_task="shop.video_done", session=session)
        session.flush()
        if not keep:
            raise ChangedMindError

    with contextlib.suppress(ChangedMindError):
        in_transaction(place)


ACTIONS = {"cancel": cancel, "recheck": recheck, "track": track}


@app.task(name="shop.ponder")
def ponder(number: int, action: str, video_ids: list[str], seconds: float, keep: bool) -> None:
    """Leave a transaction open after having called Reelwatch in it."""

    def do(session: Session) -> None:
        for video_id in video_ids:
            ACTIONS[action](video_id, session=session)
        note(Run(id=uuid.uuid4().hex, task=f"{action} called", number=number))
        time.sleep(seconds)
        if not keep:
            raise ChangedMindError

    with contextlib.suppress(ChangedMindError):
        in_transaction(do)
    note(Run(id=uuid.uuid4().hex, task=f"{action} done", number=number))


@app.task(name="shop.video_done", bind=True)
def video_done(self, event: dict) -> None:
    """Reelwatch's callback."""
    note(
        Told(
            id=uuid.uuid4().hex,
            event_id=self.request.id,
            video_id=event["data"]["video_id"],
            type=event["type"],
        )
    )
