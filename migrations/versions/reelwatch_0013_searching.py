"""Indexes for the search of the page: by request id, and by a value of an ended job's metadata.

Jobs that go on are not in the one of metadata, which every poll would have to write then. Making
them reads each table once and holds up its writers meanwhile: a database too large for that makes
them first, with `CONCURRENTLY` and the same names, and this step finds them there.

Revision reelwatch_0013.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0013"
down_revision = "reelwatch_0012"

# name -> table, column, condition
INDEXES = {
    "ix_jobs_error_request_id": ("jobs", "error_request_id", "error_request_id IS NOT NULL"),
    "ix_poll_errors_request_id": ("poll_errors", "request_id", "request_id IS NOT NULL"),
}
METADATA = "ix_jobs_ended_metadata"


def upgrade() -> None:
    for name, (table, column, condition) in INDEXES.items():
        op.create_index(
            HERE.constraint(name),
            HERE.table(table),
            [column],
            schema=HERE.schema,
            if_not_exists=True,
            postgresql_where=sa.text(condition),
            sqlite_where=sa.text(condition),
        )
    op.create_index(
        HERE.constraint(METADATA),
        HERE.table("jobs"),
        ["metadata"],
        schema=HERE.schema,
        if_not_exists=True,
        postgresql_using="gin",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
        sqlite_where=sa.text("1 = 0"),  # it can't index what is within JSON
    )


def downgrade() -> None:
    op.drop_index(HERE.constraint(METADATA), HERE.table("jobs"), schema=HERE.schema)
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(HERE.constraint(name), HERE.table(table), schema=HERE.schema)
