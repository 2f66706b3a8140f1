"""endpoints: a circuit breaker for each callback URL, and for each task of a queue.

So far there was one for each host, in `destinations`, whose rows keep only how many calls the host
gets at once. A host that rested has its endpoints tried again, which rest by themselves if need be.

Two indexes of pending events: along the first a claim walks from endpoint to endpoint, by the
second it counts what is under way.

Revision reelwatch_0006.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0006"
down_revision = "reelwatch_0005"

TIME = sa.DateTime(timezone=True)
# name -> columns, condition
INDEXES = {
    "ix_deliveries_waiting": (
        ["destination", "target", "failures", "next_attempt_at", "id"],
        "state = 'pending'",
    ),
    "ix_deliveries_leased": (["next_attempt_at"], "lease_token IS NOT NULL"),
}


def upgrade() -> None:
    op.create_table(
        HERE.table("endpoints"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.String(length=300), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("openings", sa.Integer(), nullable=False),
        sa.Column("allowance", sa.Integer(), nullable=False),
        sa.Column("open_until", TIME, nullable=True),
        sa.Column("changed_at", TIME, nullable=False),
        sa.CheckConstraint(
            "failures >= 0 AND openings >= 0 AND allowance > 0",
            name=op.f(HERE.constraint("ck_endpoints_counts_not_negative")),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f(HERE.constraint("pk_endpoints"))),
        schema=HERE.schema,
    )
    for name, (columns, condition) in INDEXES.items():
        op.create_index(
            HERE.constraint(name),
            HERE.table("deliveries"),
            columns,
            schema=HERE.schema,
            if_not_exists=True,
            postgresql_where=sa.text(condition),
            sqlite_where=sa.text(condition),
        )
    counts = ("failures", "openings", "open_until")
    hosts = sa.table(HERE.table("destinations"), *map(sa.column, counts), schema=HERE.schema)
    op.execute(hosts.update().values(failures=0, openings=0, open_until=None))


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(HERE.constraint(name), HERE.table("deliveries"), schema=HERE.schema)
    op.drop_table(HERE.table("endpoints"), schema=HERE.schema)
