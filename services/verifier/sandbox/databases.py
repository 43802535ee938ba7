"""A database of the tests' that a program works on: it may run statements, and reach nothing but the tables."""

from __future__ import annotations

from typing import Any

NAMES = frozenset(
    ("execute", "executemany", "executescript", "cursor", "commit", "rollback", "close", "fetchone", "fetchall")
    + ("fetchmany", "rowcount", "lastrowid", "description", "total_changes", "in_transaction", "keys", "row_factory")
    + ("connection", "isolation_level", "arraysize")
)
"""What a program may ask of connections, cursors and rows. No functions, factories or hooks: they would act on what the
tests ask afterwards."""

_ATTACH, _DETACH, _PRAGMA, _FUNCTION = 24, 25, 19, 31
_PRAGMAS = frozenset(
    ("foreign_keys", "table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list")
    + ("user_version", "journal_mode", "synchronous", "integrity_check", "foreign_key_check")
)
_DENIED = 1
_fenced: list[Any] = []


def is_of_one(value: Any) -> bool:
    """A connection, a cursor or a row."""
    return type(value).__module__ == "sqlite3"


def fence(value: Any) -> None:
    """Before a program gets it, or a cursor of it: no other files, no code in shared libraries."""
    if type(value).__name__ == "Cursor":
        value = value.connection
    if type(value).__name__ == "Connection" and not any(known is value for known in _fenced):
        _fenced.append(value)
        value.set_authorizer(_authorized)


def _authorized(action: int, first: str | None, second: str | None, *_: Any) -> int:
    if action in (_ATTACH, _DETACH) or (action == _PRAGMA and (first or "").lower() not in _PRAGMAS):
        return _DENIED
    return _DENIED if action == _FUNCTION and (second or "").lower() in ("load_extension", "fts3_tokenizer") else 0


def set_row_factory(connection: Any, value: Any) -> None:
    """The library's own rows, or tuples. Raises ValueError for anything else."""
    import sqlite3

    if value is not None and value is not sqlite3.Row:
        raise ValueError("a program's row factory would answer for the tests' own queries")
    connection.row_factory = value
