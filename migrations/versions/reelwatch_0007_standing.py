"""What tells an account's errors from one job's; an account that is paused until it is resumed.

accounts: refusals, limited_at, limited_by, worked_at; a check lets a pause have no end.

Revision reelwatch_0007.
"""

import sqlalchemy as sa
from alembic import op

from reelwatch.config.naming import HERE

revision = "reelwatch_0007"
down_revision = "reelwatch_0006"

ACCOUNTS = HERE.table("accounts")
TIME = sa.DateTime(timezone=True)
CHECK = HERE.constraint("ck_accounts_pause_has_reason")
BEFORE = "(paused_until IS NULL) = (pause_reason IS NULL)"
AFTER = "paused_until IS NULL OR pause_reason IS NOT NULL"


def upgrade() -> None:
    replace_check(BEFORE, AFTER)
    counted = sa.Column("refusals", sa.Integer(), server_default="0", nullable=False)
    op.add_column(ACCOUNTS, counted, schema=HERE.schema)
    for name, kind in (
        ("limited_at", TIME),
        ("limited_by", sa.BigInteger().with_variant(sa.Integer(), "sqlite")),
        ("worked_at", TIME),
    ):
        op.add_column(ACCOUNTS, sa.Column(name, kind, nullable=True), schema=HERE.schema)


def downgrade() -> None:
    table = sa.table(
        ACCOUNTS, sa.column("pause_reason"), sa.column("paused_until"), schema=HERE.schema
    )
    endless = table.c.paused_until.is_(None)
    op.execute(table.update().where(endless).values(pause_reason=None))
    for name in ("refusals", "limited_at", "limited_by", "worked_at"):
        op.drop_column(ACCOUNTS, name, schema=HERE.schema)
    replace_check(AFTER, BEFORE)


def replace_check(before: str, after: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        rewrite_check(before, after)
        return
    op.drop_constraint(op.f(CHECK), ACCOUNTS, schema=HERE.schema, type_="check")
    op.create_check_constraint(op.f(CHECK), ACCOUNTS, after, schema=HERE.schema)


def rewrite_check(before: str, after: str) -> None:
    """In SQLite's own text of the table, as its documentation has it for changed checks.

    To copy the table and drop the old one would take all that refers to its rows along.
    """
    connection = op.get_bind()
    where = {"name": ACCOUNTS}
    query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name")
    text = connection.execute(query, where).scalar_one()
    if text.count(f"CHECK ({before})") != 1:
        raise RuntimeError(f"the table {ACCOUNTS} has no check {CHECK}")
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    change = sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = :name")
    connection.execute(
        change, where | {"sql": text.replace(f"CHECK ({before})", f"CHECK ({after})")}
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")
