"""Where Reelwatch's tables are and what they are called: `REELWATCH_SCHEMA`.

Without it they have their plain names in the database's default schema. In a producer's database
`jobs` or `accounts` may be theirs: then the variable names a schema of PostgreSQL, or, with a `_`
at its end and always on SQLite, a prefix. It is read once, when this module is imported: the tables
need their names when their classes are defined.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

VARIABLE = "REELWATCH_SCHEMA"
NAME = re.compile(r"[a-z][a-z0-9_]*")
SCHEMA_LIMIT = 40  # characters
PREFIX_LIMIT = 20  # with its `_`; PostgreSQL cuts names off at 63 and our longest has 40
ACCEPTED = (
    f"a schema's name (PostgreSQL; a-z, 0-9, _; at most {SCHEMA_LIMIT} characters) or a prefix "
    f"(it ends in _; at most {PREFIX_LIMIT}); a name alone is a prefix on SQLite"
)

# One that no database has: with a wrong value nothing may hit tables that are somebody else's.
NOWHERE = "REELWATCH_SCHEMA is wrong"


@dataclass(frozen=True, slots=True)
class Place:
    """A schema (None: the database's default one) and what is put before each table's name."""

    schema: str | None = None
    prefix: str = ""
    # A name alone, and no DATABASE_URL that could tell whether it is a schema's.
    guessed: bool = field(default=False, compare=False)

    def table(self, name: str) -> str:
        """The name of the table that is documented as `name`."""
        return f"{self.prefix}{name}"

    def key(self, name: str) -> str:
        """The same with its schema, as foreign keys and `metadata.tables` want it."""
        return f"{self.schema}.{self.table(name)}" if self.schema else self.table(name)

    def reference(self, column: str) -> str:
        """What a foreign key to `accounts.name` refers to."""
        table, _, name = column.partition(".")
        return f"{self.key(table)}.{name}"

    def constraint(self, name: str) -> str:
        """The name of a constraint or index: the prefix comes behind its kind, `pk_` or `ix_`."""
        kind, _, rest = name.partition("_")
        return f"{kind}_{self.prefix}{rest}"

    @property
    def version_table(self) -> str:
        """Where the revision of our tables is written: never in anybody's `alembic_version`."""
        return self.table("reelwatch_version")

    def __str__(self) -> str:
        return f"schema {self.schema}" if self.schema else f"prefix {self.prefix}"


def read(environment: Mapping[str, str]) -> Place:
    """The place that the environment names. ValueError, with what is accepted, for a wrong value.

    `DATABASE_URL` decides whether a name alone can be a schema; without one SQLite is the default.
    """
    value = environment.get(VARIABLE, "").strip()
    if not value:
        return Place()
    if not NAME.fullmatch(value) or value.startswith("pg_") or value == "information_schema":
        raise ValueError(ACCEPTED)
    url = environment.get("DATABASE_URL", "").strip().lower()
    if url.startswith("postgres") and not value.endswith("_"):
        if len(value) > SCHEMA_LIMIT:
            raise ValueError(ACCEPTED)
        return Place(schema=value)
    prefix = value if value.endswith("_") else f"{value}_"
    if len(prefix) > PREFIX_LIMIT:
        raise ValueError(ACCEPTED)
    return Place(prefix=prefix, guessed=not url and not value.endswith("_"))


def _read_or_nowhere(environment: Mapping[str, str]) -> Place:
    """Importing raises nothing; reading the settings says what is wrong."""
    try:
        return read(environment)
    except ValueError:
        return Place(schema=NOWHERE)


HERE = _read_or_nowhere(os.environ)
