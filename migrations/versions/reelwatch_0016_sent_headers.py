"""attempts: the headers that a webhook was signed with.

Attempts of the release before have none.

Revision reelwatch_0016.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0016"
down_revision = "reelwatch_0015"

TABLE = HERE.table("attempts")


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("request_headers", sa.Text(), nullable=True), schema=HERE.schema)


def downgrade() -> None:
    op.drop_column(TABLE, "request_headers", schema=HERE.schema)
