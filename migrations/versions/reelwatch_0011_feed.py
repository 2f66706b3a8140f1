"""events, feed, actions: what producers can read who can't be called, and who did what.

The feed begins here: what was told before stands in `deliveries` alone.

Revision reelwatch_0011.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from reelwatch.config.naming import HERE

revision = "reelwatch_0011"
down_revision = "reelwatch_0010"

TIME = sa.DateTime(timezone=True)
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    make_events()
    make_feed()
    make_actions()


def make_events() -> None:
    op.create_table(
        HERE.table("events"),
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("event_id", sa.String(length=40), nullable=False),
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("position", BIG_ID, nullable=True),
        sa.CheckConstraint(
            "position > 0", name=op.f(HERE.constraint("ck_events_position_positive"))
        ),
        part_of_job("events"),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_events"))),
        sa.UniqueConstraint(
            "job_id", "sequence", name=op.f(HERE.constraint("uq_events_job_id_sequence"))
        ),
        schema=HERE.schema,
    )
    for name, column, condition, unique in (
        ("ix_events_position", "position", "position IS NOT NULL", True),
        ("ix_events_unnumbered", "id", "position IS NULL", False),
    ):
        op.create_index(
            HERE.constraint(name),
            HERE.table("events"),
            [column],
            unique=unique,
            schema=HERE.schema,
            postgresql_where=sa.text(condition),
            sqlite_where=sa.text(condition),
        )


def make_feed() -> None:
    feed = op.create_table(
        HERE.table("feed"),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("last_position", BIG_ID, nullable=False),
        sa.Column("pruned_position", BIG_ID, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_feed"))),
        schema=HERE.schema,
    )
    op.bulk_insert(feed, [{"id": 1, "last_position": 0, "pruned_position": 0}])


def make_actions() -> None:
    op.create_table(
        HERE.table("actions"),
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("who", sa.String(length=100), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=True),
        sa.Column("chosen_by", JSON, nullable=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("details", JSON, nullable=True),
        sa.CheckConstraint(
            "count >= 0", name=op.f(HERE.constraint("ck_actions_count_not_negative"))
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_actions"))),
        schema=HERE.schema,
    )
    make_index("actions", "at")
    op.create_table(
        HERE.table("action_jobs"),
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("action_id", BIG_ID, nullable=False),
        sa.Column("details", JSON, nullable=True),
        part_of_job("action_jobs"),
        sa.ForeignKeyConstraint(
            ["action_id"],
            [HERE.reference("actions.id")],
            name=op.f(HERE.constraint("fk_action_jobs_action_id_actions")),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "job_id", "action_id", name=op.f(HERE.constraint("pk_action_jobs"))
        ),
        schema=HERE.schema,
    )
    make_index("action_jobs", "action_id")


def part_of_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["job_id"],
        [HERE.reference("jobs.id")],
        name=op.f(HERE.constraint(f"fk_{table}_job_id_jobs")),
        ondelete="CASCADE",
    )


def make_index(table: str, column: str) -> None:
    op.create_index(
        op.f(HERE.constraint(f"ix_{table}_{column}")),
        HERE.table(table),
        [column],
        schema=HERE.schema,
    )


def downgrade() -> None:
    for name in ("action_jobs", "actions", "feed", "events"):
        op.drop_table(HERE.table(name), schema=HERE.schema)
