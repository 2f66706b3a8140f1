"""accounts.refused_rate: the rate at which upstream said 429 last.

Revision reelwatch_0002.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0002"
down_revision = "reelwatch_0001"


def upgrade() -> None:
    column = sa.Column("refused_rate", sa.Float(), nullable=True)
    op.add_column(HERE.table("accounts"), column, schema=HERE.schema)


def downgrade() -> None:
    op.drop_column(HERE.table("accounts"), "refused_rate", schema=HERE.schema)
