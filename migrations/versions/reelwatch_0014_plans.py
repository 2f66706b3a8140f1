"""duration_curves: when to poll, solved where the curve is learned, and what it was solved for.

Rows of the release before have none: their models go by the prior until they are learned again,
which the next round of learning does.

Revision reelwatch_0014.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reelwatch.config.naming import HERE

revision = "reelwatch_0014"
down_revision = "reelwatch_0013"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TABLE = HERE.table("duration_curves")


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("plan", JSON, nullable=True), schema=HERE.schema)
    solved_for = sa.Column("solved_for", sa.String(length=64), nullable=True)
    op.add_column(TABLE, solved_for, schema=HERE.schema)


def downgrade() -> None:
    op.drop_column(TABLE, "solved_for", schema=HERE.schema)
    op.drop_column(TABLE, "plan", schema=HERE.schema)
