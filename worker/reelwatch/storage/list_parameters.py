"""Lists as parameters: statements about many rows whose text, and plan, don't depend on how many.

A list of parameters of its own for each value has to be written out, and parsed, anew every time.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Dialect,
    FromClause,
    Insert,
    Integer,
    String,
    Table,
    TypeDecorator,
    Update,
    any_,
    bindparam,
    cast,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import column as column_named
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NULLTYPE, TypeEngine

ROW_ID = "row_id"  # the parameter that says which row the others are for


class _Among(FunctionElement[Any]):
    name = "among"
    type = NULLTYPE  # a Boolean SQLite compares with 1, which no index helps with
    inherit_cache = True


class _Numbers(TypeDecorator[Sequence[int]]):
    """A list of numbers, for PostgreSQL written out here: its driver takes each through a converter
    of its own, which costs a third of the statement.
    """

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String() if dialect.name == "postgresql" else JSON())

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> Any:
        if dialect.name != "postgresql" or value is None:
            return value
        return f"{{{','.join(map(str, value))}}}"


def among(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """Is the column's value one of those of that parameter, a list?"""
    if isinstance(column.type, Integer):
        return _Among(column, bindparam(parameter, type_=_Numbers()))
    kind = JSON().with_variant(ARRAY(column.type), "postgresql")
    return _Among(column, bindparam(parameter, type_=kind))


@compiles(_Among)
def _among_in_json(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - both are compiled


@compiles(_Among, "postgresql")
def _among_in_array(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = element.clauses
    if isinstance(values.type, _Numbers):
        values = cast(values, ARRAY(column.type))
    return compiler.process(column == any_(values), **options)


def insert_rows(
    session: Session, table: Table, rows: Sequence[Mapping[str, Any]], *, ids_by: str = ""
) -> dict[Any, int]:
    """Insert rows, all with the same names; PostgreSQL gets one statement, and they as JSON.

    Returns the ids they got, by the value of the column `ids_by`, which differs from row to row;
    none without it.
    """
    if not rows:
        return {}
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        made = connection.execute(_returning(insert(table), ids_by), list(rows))
    else:
        made = connection.execute(_insertion(table, tuple(rows[0]), ids_by), _in_json(rows))
    return {row[0]: row[1] for row in made} if ids_by else {}


def update_rows(
    session: Session, table: Table, rows: Sequence[Mapping[str, Any]], *, counted: str = ""
) -> None:
    """Write to each row what stands for it under its columns' names; `ROW_ID` says for which.

    All have the same names. The column `counted` rises by one. PostgreSQL gets one statement; for
    SQLite, which is no server, it makes no difference.
    """
    if not rows:
        return
    names = tuple(name for name in rows[0] if name != ROW_ID)
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        connection.execute(_one_by_one(table, names, counted), list(rows))
    else:
        connection.execute(_all_at_once(table, names, counted), _in_json(rows))


@lru_cache(200)
def _one_by_one(table: Table, names: tuple[str, ...], counted: str) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    if counted:
        values[counted] = table.c[counted] + 1
    return update(table).where(table.c.id == bindparam(ROW_ID)).values(values)


@lru_cache(200)
def _all_at_once(table: Table, names: tuple[str, ...], counted: str) -> Update:
    new = _recorded({ROW_ID: table.c.id.type} | {name: table.c[name].type for name in names})
    values: dict[str, Any] = {name: new.c[name] for name in names}
    if counted:
        values[counted] = table.c[counted] + 1
    return update(table).where(table.c.id == new.c[ROW_ID]).values(values)


@lru_cache(200)
def _insertion(table: Table, names: tuple[str, ...], ids_by: str) -> Insert:
    new = _recorded({name: table.c[name].type for name in names})
    return _returning(insert(table).from_select(names, select(*new.c)), ids_by)


def _returning(statement: Insert, ids_by: str) -> Insert:
    columns = statement.table.c
    return statement.returning(columns[ids_by], columns.id) if ids_by else statement


def _in_json(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {"rows": json.dumps(rows, default=datetime.isoformat)}


def _recorded(types: Mapping[str, Any]) -> FromClause:
    """Rows that come as one parameter: the driver would take each value through a converter of its
    own, and the answers among them take several times as long as all the rest.
    """
    columns = [column_named(name, kind) for name, kind in types.items()]
    rows = func.json_to_recordset(cast(bindparam("rows", type_=String()), JSON))
    return rows.table_valued(*columns, name="new").render_derived(with_types=True)
