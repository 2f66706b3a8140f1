"""installation: what tells this database from another one's.

Two that use one Redis database take each other's ids; their workers tell each other apart by this.

Revision reelwatch_0008.
"""

from datetime import UTC, datetime
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0008"
down_revision = "reelwatch_0007"

NAME = HERE.table("installation")


def upgrade() -> None:
    table = op.create_table(
        NAME,
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(HERE.constraint("pk_installation"))),
        schema=HERE.schema,
    )
    op.bulk_insert(table, [{"id": str(uuid4()), "made_at": datetime.now(UTC)}])


def downgrade() -> None:
    op.drop_table(NAME, schema=HERE.schema)
