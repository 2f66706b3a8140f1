"""endpoints: since when one has taken nothing; and an index of dead events by their endpoint.

Rows that are there began about when they last changed. Making the index reads the table and holds
up its writers meanwhile: a database too large for that makes it first, with `CONCURRENTLY` and the
same name, and this step finds it there.

Revision reelwatch_0021.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0021"
down_revision = "reelwatch_0020"

TABLE, EVENTS = HERE.table("endpoints"), HERE.table("deliveries")
INDEX = HERE.constraint("ix_deliveries_dead")
DEAD = sa.text("state = 'dead'")


def upgrade() -> None:
    failing_since = sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True)
    op.add_column(TABLE, failing_since, schema=HERE.schema)
    names = ("failures", "allowance", "changed_at", "failing_since")
    rows = sa.table(TABLE, *(sa.column(name) for name in names), schema=HERE.schema)
    unwell = sa.or_(rows.c.failures > 0, rows.c.allowance == 1)
    op.execute(rows.update().where(unwell).values(failing_since=rows.c.changed_at))
    op.create_index(
        INDEX,
        EVENTS,
        ["target", "created_at"],
        schema=HERE.schema,
        if_not_exists=True,
        postgresql_where=DEAD,
        sqlite_where=DEAD,
    )


def downgrade() -> None:
    op.drop_index(INDEX, EVENTS, schema=HERE.schema)
    op.drop_column(TABLE, "failing_since", schema=HERE.schema)
