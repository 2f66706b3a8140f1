"""Indexes in the very order of the lists of jobs, and of jobs by what went wrong.

Jobs that are handed in together have one time: only with the id in the index too is the order of a
list that of an index, and nothing is sorted. Those by error hold few jobs, and polls that bring an
answer don't write them. Making them reads the table once each and holds up its writers meanwhile: a
database too large for that makes them first, with `CONCURRENTLY` and the same names, and this step
finds them there.

Revision reelwatch_0015.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0015"
down_revision = "reelwatch_0014"

ENDED = "finished_at IS NOT NULL"
# name -> columns, condition
INDEXES: dict[str, tuple[list[str], str | None]] = {
    "ix_jobs_newest": (["tracked_at", "id"], None),
    "ix_jobs_newest_of_state": (["state", "tracked_at", "id"], ENDED),
    "ix_jobs_newest_of_account": (["account", "tracked_at", "id"], ENDED),
    "ix_jobs_newest_of_code": (["error_code", "tracked_at", "id"], "error_code IS NOT NULL"),
    "ix_jobs_newest_in_error": (
        ["last_error", "tracked_at", "id"],
        "errors_in_row > 0 AND finished_at IS NULL",
    ),
}
REPLACED: dict[str, tuple[list[str], str | None]] = {
    "ix_jobs_tracked_at": (["tracked_at"], None),
    "ix_jobs_ended_state": (["state", "tracked_at"], ENDED),
    "ix_jobs_ended_account": (["account", "tracked_at"], ENDED),
}


def upgrade() -> None:
    _create(INDEXES)
    _drop(REPLACED)


def downgrade() -> None:
    _create(REPLACED)
    _drop(INDEXES)


def _create(indexes: dict[str, tuple[list[str], str | None]]) -> None:
    for name, (columns, condition) in indexes.items():
        where = None if condition is None else sa.text(condition)
        op.create_index(
            HERE.constraint(name),
            HERE.table("jobs"),
            columns,
            schema=HERE.schema,
            if_not_exists=True,
            postgresql_where=where,
            sqlite_where=where,
        )


def _drop(indexes: dict[str, tuple[list[str], str | None]]) -> None:
    for name in indexes:
        op.drop_index(HERE.constraint(name), HERE.table("jobs"), schema=HERE.schema)
