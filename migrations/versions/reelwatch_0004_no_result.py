"""A success without a URL is a completed job; by which name and since when upstream answers.

jobs: upstream_id, deadline_seconds, watched_since, errors_since; three checks let a job be
completed with the error `no_result` and no URL. What failed as that is completed from now on:
upstream made it, and charged for it.

Revision reelwatch_0004.
"""

import re

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0004"
down_revision = "reelwatch_0003"

TIME = sa.DateTime(timezone=True)
JOBS = HERE.table("jobs")
INDEX = HERE.constraint("ix_jobs_account_upstream_id")
COLUMNS = {
    "upstream_id": sa.String(length=255),
    "deadline_seconds": sa.Float(),
    "watched_since": TIME,
    "errors_since": TIME,
}
FINAL_STATES = "('completed', 'failed', 'cancelled')"
LACKS_RESULT = "(state = 'completed' AND coalesce(error_code, '') = 'no_result')"
# name -> before, after
CHECKS = {
    "ck_jobs_open_has_due": (
        f"(next_poll_at IS NULL) = (state IN {FINAL_STATES} OR abandoned_at IS NOT NULL)",
        f"(next_poll_at IS NULL) = (state IN {FINAL_STATES} OR abandoned_at IS NOT NULL)"
        f" OR {LACKS_RESULT}",
    ),
    "ck_jobs_error_has_state": (
        "(error_code IS NOT NULL) = (state IN ('failed', 'expired'))",
        f"(error_code IS NOT NULL) = (state IN ('failed', 'expired')) OR {LACKS_RESULT}",
    ),
    "ck_jobs_completed_has_url": (
        "state <> 'completed' OR video_url IS NOT NULL",
        f"state <> 'completed' OR video_url IS NOT NULL OR {LACKS_RESULT}",
    ),
}


def upgrade() -> None:
    replace_checks({name: after for name, (_, after) in CHECKS.items()})
    for name, kind in COLUMNS.items():
        op.add_column(JOBS, sa.Column(name, kind, nullable=True), schema=HERE.schema)
    op.create_index(
        INDEX,
        JOBS,
        ["account", "upstream_id"],
        schema=HERE.schema,
        postgresql_where=sa.text("upstream_id IS NOT NULL"),
        sqlite_where=sa.text("upstream_id IS NOT NULL"),
    )
    jobs = table()
    made = (jobs.c.state == "failed", jobs.c.error_code == "no_result")
    op.execute(jobs.update().where(*made).values(state="completed", video_url=None))


def downgrade() -> None:
    jobs = table()
    lacking = (jobs.c.state == "completed", jobs.c.error_code == "no_result")
    op.execute(
        jobs.update().where(*lacking).values(state="failed", next_poll_at=None, lease_token=None)
    )
    op.drop_index(INDEX, JOBS, schema=HERE.schema)
    for name in COLUMNS:
        op.drop_column(JOBS, name, schema=HERE.schema)
    replace_checks({name: before for name, (before, _) in CHECKS.items()})


def table() -> sa.TableClause:
    names = ("state", "error_code", "video_url", "next_poll_at", "lease_token")
    return sa.table(JOBS, *map(sa.column, names), schema=HERE.schema)


def replace_checks(checks: dict[str, str]) -> None:
    if op.get_bind().dialect.name == "sqlite":
        rewrite_checks(checks)
        return
    for name, condition in checks.items():
        op.drop_constraint(op.f(HERE.constraint(name)), JOBS, schema=HERE.schema, type_="check")
        op.create_check_constraint(op.f(HERE.constraint(name)), JOBS, condition, schema=HERE.schema)


def rewrite_checks(checks: dict[str, str]) -> None:
    """In SQLite's own text of the table, as its documentation has it for changed checks.

    To copy the table and drop the old one would take all that refers to its rows along.
    """
    connection = op.get_bind()
    of_jobs = {"jobs": JOBS}
    query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :jobs")
    text = connection.execute(query, of_jobs).scalar_one()
    for name, condition in checks.items():
        text = with_check(text, HERE.constraint(name), condition)
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    change = sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = :jobs")
    connection.execute(change, of_jobs | {"sql": text})
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")


def with_check(text: str, name: str, condition: str) -> str:
    """The table's text with another condition in the check of that name."""
    found = re.search(rf'CONSTRAINT "?{re.escape(name)}"? CHECK \(', text)
    if found is None:
        raise RuntimeError(f"the table {JOBS} has no check {name}")
    depth, end = 1, found.end()
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return f"{text[: found.end()]}{condition}{text[end - 1 :]}"
