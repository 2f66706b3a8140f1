"""accounts: the rate that workers are configured with, for processes that are not.

Revision reelwatch_0019.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0019"
down_revision = "reelwatch_0018"

TABLE = HERE.table("accounts")


def upgrade() -> None:
    column = sa.Column("configured_rate", sa.Float(), nullable=True)
    op.add_column(TABLE, column, schema=HERE.schema)


def downgrade() -> None:
    op.drop_column(TABLE, "configured_rate", schema=HERE.schema)
