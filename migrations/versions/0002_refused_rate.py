"""accounts.refused_rate: the rate at which upstream said 429 last.

Revision 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("refused_rate", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("accounts", "refused_rate")
