"""What all tables have in common: column types, names of constraints, rows that go with others."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    TypeDecorator,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from reelwatch.config.naming import HERE


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite, which knows no zones, gets it as naive UTC text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware UTC going in; a naive time is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Aware UTC coming out; made by hand, since most times of most rows are null."""
        from_driver = self.impl_instance.result_processor(dialect, coltype)

        def aware(value: Any) -> Any:
            if value is None:
                return None
            at: Any = from_driver(value) if from_driver else value
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)

        return aware


class DriverTime(UtcDateTime):
    """A time as PostgreSQL's driver gives it: aware, in the session's zone.

    For what is compared and never shown: converting thousands of them costs more than reading them.
    """

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Nothing is done with what PostgreSQL's driver gives."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)


BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER keys only
Json = JSON().with_variant(JSONB(), "postgresql")
JsonOrNull = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _referred(constraint: Any, _table: Table) -> str:
    """Without prefix: the referring table's name has it already, and names may have 63 letters."""
    return str(constraint.elements[0].target_fullname.split(".")[-2].removeprefix(HERE.prefix))


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop what they made."""

    metadata = MetaData(
        schema=HERE.schema,
        naming_convention={
            "referred": _referred,
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: Json, list[str]: Json}  # noqa: RUF012 - SQLAlchemy's declarative form


def belongs_to(column: str) -> ForeignKey:
    """Belongs to the row with that key, and goes with it."""
    return ForeignKey(HERE.reference(column), ondelete="CASCADE")


def partial_index(
    name: str, *columns: str, where: str, sqlite_where: str = "", **options: Any
) -> Index:
    """An index of the rows for which the condition holds; with `sqlite_where`, which holds there.

    SQLite's is set when the table is created: whoever names it loads SQLAlchemy's part for SQLite,
    which most processes can do without.
    """
    return Index(
        HERE.constraint(name), *columns, postgresql_where=text(where),
        info={SQLITE_WHERE: sqlite_where or where}, **options,
    )  # fmt: skip


SQLITE_WHERE = "sqlite_where"


@event.listens_for(Base.metadata, "before_create")
def _set_conditions(target: MetaData, connection: Connection, **_: Any) -> None:
    if connection.dialect.name == "sqlite":
        for index in (each for table in target.tables.values() for each in table.indexes):
            if condition := index.info.get(SQLITE_WHERE):
                index.dialect_options["sqlite"]["where"] = text(condition)


def table_of(name: str) -> Table:
    """The table that is documented as `name`, whatever it is called here."""
    return Base.metadata.tables[HERE.key(name)]
