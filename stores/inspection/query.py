"""SQL over a store's tables, by DuckDB: read-only, without access to anything else."""

import contextlib
import functools
import io
import re
from collections.abc import Callable

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores.embeddings import described_table, embedding_folders
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.inspection.tables import as_text
from flowcpc.stores.records import catalog

EMBEDDINGS = "embeddings"
_SHOW_TABLES = re.compile(r"\s*show\s+(all\s+)?tables\s*;?\s*", re.IGNORECASE)
_MOST_ROWS = 1000  # of a table for people
Connection = duckdb.DuckDBPyConnection
# A function for every table, so that only the tables that a statement names are read.
TableReaders = dict[str, Callable[[], pa.Table]]


def query(store: FlowStore, sql: str) -> pd.DataFrame:
    """Return the rows of one SELECT over videos, shots, segments, frames, failures and embeddings.

    The tables follow the store's records. `embeddings` has a column `run` and FLOAT[D] vectors; if
    runs differ in D, there is a table `embeddings_<D>` for each. SHOW TABLES lists the tables.
    Raises ValueError, naming what exists, for a statement that cannot be answered.
    """
    if _SHOW_TABLES.fullmatch(sql):
        return pd.DataFrame({"name": list(_readers(store, with_embeddings=True))})
    with duckdb.connect(":memory:") as connection:
        # A statement must not reach Python's variables, files or the network, nor change that.
        connection.execute("SET python_enable_replacements = false")
        readers = _readers(store, with_embeddings=EMBEDDINGS in sql.lower())
        for name in _named_tables(connection, sql) & readers.keys():
            connection.register(name, readers[name]())
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                tables = ", ".join(readers)
                raise ValueError(f"query takes one SELECT, got {sql!r}; the tables are {tables}")
            return _exact_frame(connection, connection.sql(sql).to_arrow_table())
        except duckdb.Error as error:
            raise ValueError(_explain(error, connection, readers)) from error


def _exact_frame(connection: Connection, rows: pa.Table) -> pd.DataFrame:
    """Return `rows` as DuckDB converts them, but integers exact.

    DuckDB turns sums, and integer columns with gaps, into floats.
    """
    table: pd.DataFrame = connection.from_arrow(rows).df()
    for number, field in enumerate(rows.schema):
        column = table.iloc[:, number]
        is_decimal = pa.types.is_decimal(field.type) and field.type.scale == 0
        if (pa.types.is_integer(field.type) or is_decimal) and (
            pd.api.types.is_float_dtype(column.dtype) or column.isna().any()
        ):
            with contextlib.suppress(pa.ArrowInvalid):  # more than 64 bits
                values = pd.array(rows.column(number).cast(pa.int64()).to_pylist(), dtype="Int64")
                table.isetitem(number, values if values.isna().any() else values.to_numpy("int64"))
    return table


def _readers(store: FlowStore, *, with_embeddings: bool) -> TableReaders:
    readers: TableReaders = {name: functools.partial(_read, store, name) for name in catalog.TABLES}
    by_width: dict[int, list[pa.Table]] = {}
    for folder in embedding_folders(store) if with_embeddings else ():
        table, _ = described_table(store, folder)
        by_width.setdefault(table.schema.field("embedding").type.list_size, []).append(table)
    for width, tables in by_width.items():
        name = EMBEDDINGS if len(by_width) == 1 else f"{EMBEDDINGS}_{width}"
        readers[name] = functools.partial(pa.concat_tables, tables, promote_options="permissive")
    return readers


def _read(store: FlowStore, name: str) -> pa.Table:
    with catalog.opened_index(store.path, [name]) as files:
        if files is not None:
            return pq.read_table(files[name])
    table = catalog.build_tables(store.path, [name])[name]
    return pa.Table.from_pandas(table, preserve_index=False)


def _named_tables(connection: Connection, sql: str) -> set[str]:
    try:
        return {name.lower() for name in connection.get_table_names(sql)}
    except duckdb.Error:  # executing the statement raises the same error
        return set(re.findall(r"\w+", sql.lower()))


def _explain(error: duckdb.Error, connection: Connection, readers: TableReaders) -> str:
    """Return DuckDB's message as a sentence that ends in the names that exist."""
    message = str(error).strip().split("\n\n")[0].replace("\n", " ").rstrip(".")
    if isinstance(error, duckdb.BinderException):
        columns = "table_name, string_agg(column_name, ', ') FROM information_schema.columns"
        rows = connection.execute(f"SELECT {columns} GROUP BY 1 ORDER BY 1").fetchall()
        return f"{message}; {'; '.join(f'{table} has {names}' for table, names in rows)}"
    hint = f"the tables are {', '.join(readers)}"
    if EMBEDDINGS in message.lower() and not any(name.startswith(EMBEDDINGS) for name in readers):
        hint += "; embeddings are made by: flowcpc embed STORE RUN"
    return f"{message}; {hint}"


def remark_on_embeddings(store: FlowStore, sql: str) -> str:
    """Return a sentence on embeddings that a statement does not see; "" if there are none."""
    folders = embedding_folders(store) if EMBEDDINGS in sql.lower() else []
    return "; ".join(filter(None, (described_table(store, folder)[1] for folder in folders)))


def render(table: pd.DataFrame, form: str) -> tuple[bytes, str]:
    """Return `table` as a "table" for people, "csv" or "parquet", and a remark if it lacks rows."""
    if form == "csv":
        return table.to_csv(index=False).encode(), ""
    if form == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue(), ""
    if not len(table):
        return f"{', '.join(map(str, table.columns))}: no rows\n".encode(), ""
    shown = table.head(_MOST_ROWS).copy()
    for number, dtype in enumerate(shown.dtypes):
        # pandas would print <NA> instead of the sign for nothing.
        if isinstance(dtype, pd.api.extensions.ExtensionDtype) and dtype.na_value is pd.NA:
            column = shown.iloc[:, number].astype(object)
            shown.isetitem(number, column.where(column.notna(), float("nan")).to_numpy())
    remark = f"{len(shown)} of {len(table)} rows; --as csv writes all"
    text = as_text(shown, digits=6, most_letters=60)
    return f"{text}\n".encode(), remark if len(shown) < len(table) else ""
