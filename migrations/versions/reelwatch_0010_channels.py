"""Ways to tell producers besides webhooks and Celery callbacks: jobs.channels.

jobs: channels; deliveries: a check lets the channel have any name.

Revision reelwatch_0010.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reelwatch.config.naming import HERE

revision = "reelwatch_0010"
down_revision = "reelwatch_0009"

JOBS = HERE.table("jobs")
DELIVERIES = HERE.table("deliveries")
CHECK = HERE.constraint("ck_deliveries_channel_known")
BEFORE = "channel IN ('webhook', 'celery')"
AFTER = "channel <> ''"


def upgrade() -> None:
    kind = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
    op.add_column(JOBS, sa.Column("channels", kind, nullable=True), schema=HERE.schema)
    replace_check(BEFORE, AFTER)


def downgrade() -> None:
    deliveries = sa.table(DELIVERIES, sa.column("channel"), schema=HERE.schema)
    op.execute(deliveries.delete().where(deliveries.c.channel.not_in(["webhook", "celery"])))
    replace_check(AFTER, BEFORE)
    op.drop_column(JOBS, "channels", schema=HERE.schema)


def replace_check(before: str, after: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        rewrite_check(before, after)
        return
    op.drop_constraint(op.f(CHECK), DELIVERIES, schema=HERE.schema, type_="check")
    op.create_check_constraint(op.f(CHECK), DELIVERIES, after, schema=HERE.schema)


def rewrite_check(before: str, after: str) -> None:
    """In SQLite's own text of the table, as its documentation has it for changed checks.

    To copy the table and drop the old one would take all that refers to its rows along.
    """
    connection = op.get_bind()
    where = {"name": DELIVERIES}
    query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name")
    text = connection.execute(query, where).scalar_one()
    if text.count(f"CHECK ({before})") != 1:
        raise RuntimeError(f"the table {DELIVERIES} has no check {CHECK}")
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    change = sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = :name")
    connection.execute(
        change, where | {"sql": text.replace(f"CHECK ({before})", f"CHECK ({after})")}
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")
