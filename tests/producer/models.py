"""The shop's tables. Two have the names that Reelwatch's have, too, and mean something else."""

from datetime import datetime

from sqlalchemy import ForeignKey, MetaData, String, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Account(Base):
    """A customer."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(200), unique=True)
    jobs: Mapped[list["Job"]] = relationship(back_populates="account")


class Job(Base):
    """A customer's order of a video."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    video_id: Mapped[str] = mapped_column(String(200), unique=True, index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    account: Mapped[Account] = relationship(back_populates="jobs")


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
