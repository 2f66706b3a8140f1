"""Indexes for lists by two filters, and of what had to be sorted.

Of jobs: by account and state, those that wait or have expired, those that were given up; of events:
those that are owed. None holds a job that is running, so that polls of those write no more than
before. Making them reads each table and holds up its writers meanwhile: a database too large for
that makes them first, with `CONCURRENTLY` and the same names, and this step finds them there.

Revision reelwatch_0017.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0017"
down_revision = "reelwatch_0016"

# name -> table, columns, condition
INDEXES: dict[str, tuple[str, list[str], str]] = {
    "ix_jobs_newest_of_both": (
        "jobs", ["account", "state", "tracked_at", "id"], "finished_at IS NOT NULL"
    ),
    "ix_jobs_newest_waiting": (
        "jobs", ["state", "tracked_at", "id"], "finished_at IS NULL AND state <> 'running'"
    ),
    "ix_jobs_newest_given_up": (
        "jobs", ["account", "tracked_at", "id"], "abandoned_at IS NOT NULL"
    ),
    "ix_deliveries_newest_pending": ("deliveries", ["created_at", "id"], "state = 'pending'"),
}  # fmt: skip


def upgrade() -> None:
    for name, (table, columns, condition) in INDEXES.items():
        op.create_index(
            HERE.constraint(name),
            HERE.table(table),
            columns,
            schema=HERE.schema,
            if_not_exists=True,
            postgresql_where=sa.text(condition),
            sqlite_where=sa.text(condition),
        )


def downgrade() -> None:
    for name, (table, _columns, _condition) in INDEXES.items():
        op.drop_index(HERE.constraint(name), HERE.table(table), schema=HERE.schema)
