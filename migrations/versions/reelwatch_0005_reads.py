"""Indexes for reading what has ended: by state, by account, what was given up, events by age.

All of them are of rows that change no more, so that polls and attempts do not have to write them;
the one by the time of the end becomes so, too. Making them reads each table once and holds up its
writers meanwhile: a database too large for that makes them first, with `CONCURRENTLY` and the same
names, and this step finds them there.

Revision reelwatch_0005.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0005"
down_revision = "reelwatch_0004"

ENDED = "finished_at IS NOT NULL"
# name -> table, columns, condition
INDEXES = {
    "ix_jobs_ended_state": ("jobs", ["state", "tracked_at"], ENDED),
    "ix_jobs_ended_account": ("jobs", ["account", "tracked_at"], ENDED),
    "ix_jobs_ended_at": ("jobs", ["finished_at"], ENDED),
    "ix_jobs_abandoned_at": ("jobs", ["abandoned_at"], "abandoned_at IS NOT NULL"),
    "ix_deliveries_settled": ("deliveries", ["state", "created_at"], "state <> 'pending'"),
}


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
    op.drop_index(HERE.constraint("ix_jobs_finished_at"), HERE.table("jobs"), schema=HERE.schema)


def downgrade() -> None:
    index = HERE.constraint("ix_jobs_finished_at")
    op.create_index(index, HERE.table("jobs"), ["finished_at"], schema=HERE.schema)
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(HERE.constraint(name), HERE.table(table), schema=HERE.schema)
