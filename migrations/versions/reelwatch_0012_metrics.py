"""counters and incidents; deliveries that belong to no job.

counters: what `/metrics` shows, added to in the transactions that write the facts. incidents: what
the operator has been told of. An operator's event is a delivery without a job and a transition.

Revision reelwatch_0012.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reelwatch.config.naming import HERE

revision = "reelwatch_0012"
down_revision = "reelwatch_0011"

DELIVERIES = HERE.table("deliveries")
OF_A_JOB = ("job_id", "transition_id")


def upgrade() -> None:
    op.create_table(
        HERE.table("counters"),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("labels", sa.String(length=500), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint(
            "name", "labels", "shard", name=op.f(HERE.constraint("pk_counters"))
        ),
        schema=HERE.schema,
    )
    op.create_table(
        HERE.table("incidents"),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("reading", sa.JSON().with_variant(postgresql.JSONB(), "postgresql")),
        sa.PrimaryKeyConstraint("kind", "subject", name=op.f(HERE.constraint("pk_incidents"))),
        schema=HERE.schema,
    )
    require(needed=False)


def downgrade() -> None:
    deliveries = sa.table(DELIVERIES, *map(sa.column, OF_A_JOB), schema=HERE.schema)
    op.execute(deliveries.delete().where(deliveries.c.job_id.is_(None)))
    require(needed=True)
    op.drop_table(HERE.table("incidents"), schema=HERE.schema)
    op.drop_table(HERE.table("counters"), schema=HERE.schema)


def require(*, needed: bool) -> None:
    """Must each delivery belong to a job and a transition?"""
    if op.get_bind().dialect.name == "sqlite":
        rewrite(needed=needed)
        return
    for name in OF_A_JOB:
        op.alter_column(DELIVERIES, name, nullable=not needed, schema=HERE.schema)


def rewrite(*, needed: bool) -> None:
    """In SQLite's own text of the table, as its documentation has it for constraints.

    To copy the table and drop the old one would take all that refers to its rows along.
    """
    connection = op.get_bind()
    this = {"name": DELIVERIES}
    query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name")
    text = connection.execute(query, this).scalar_one()
    for name in OF_A_JOB:
        free, bound = f"\t{name} INTEGER, ", f"\t{name} INTEGER NOT NULL, "
        before, after = (free, bound) if needed else (bound, free)
        if before not in text:
            raise RuntimeError(f"the table {DELIVERIES} has no column {before.strip()}")
        text = text.replace(before, after)
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    change = sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = :name")
    connection.execute(change, this | {"sql": text})
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")
