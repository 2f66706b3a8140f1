"""The shop's tables. Two have the names that Reelwatch's have, too, and mean something else."""

import os
from datetime import datetime

from sqlalchemy import ForeignKey, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

engine = create_engine(
    os.environ["SHOP_DATABASE_URL"],
    poolclass=NullPool,
    connect_args={"application_name": "shop", "connect_timeout": 10},
)


class Base(DeclarativeBase):
    pass


class Account(Base):
    """A customer."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


class Job(Base):
    """A customer's order of a video."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    video_id: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Run(Base):
    """A task has run: one row for each time."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(primary_key=True)
    task: Mapped[str]
    number: Mapped[int]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Told(Base):
    """An event has come: one row for each time."""

    __tablename__ = "told"

    id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str]
    video_id: Mapped[str]
    type: Mapped[str]
