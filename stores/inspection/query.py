"""SQL over a store's tables, by DuckDB: nothing is written and nothing outside the store can be read."""

import contextlib
import io
import re
from collections.abc import Callable

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores.embeddings import described_table, embedding_folders
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.records import catalog

EMBEDDINGS = "embeddings"


_SHOW_TABLES = re.compile(r"\s*show\s+(all\s+)?tables\s*;?\s*", re.IGNORECASE)


def query(store: FlowStore, sql: str) -> pd.DataFrame:
    """Return the rows of one SELECT over the tables videos, shots, segments, frames, failures and embeddings.

    The tables follow the store's records. `embeddings` has a column `run` and FLOAT[D] vectors; runs of several D are tables of their own,
    `embeddings_<D>`. SHOW TABLES names the tables. Raises ValueError, naming what is there, when the statement is none that can be answered.
    """
    if _SHOW_TABLES.fullmatch(sql):
        return pd.DataFrame({"name": list(_tables(store, with_embeddings=True))})
    with duckdb.connect(":memory:") as connection:
        # Names in a statement must not reach Python's variables, files or the network, and nobody may switch that on again.
        connection.execute("SET python_enable_replacements = false")
        tables = _tables(store, with_embeddings=EMBEDDINGS in sql.lower())
        for name in _named_tables(connection, sql):
            if name in tables:
                connection.register(name, tables[name]())
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise ValueError(
                    f"query takes one SELECT and {sql!r} is none; the tables are {', '.join(tables)}"
                )
            return _exact_frame(connection, connection.sql(sql).to_arrow_table())
        except duckdb.Error as error:
            raise ValueError(_explain(error, connection, tables)) from error


def _exact_frame(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> pd.DataFrame:
    """Return `rows` as DuckDB makes a DataFrame of them, but whole numbers exact: sums, and columns with gaps, must not go through floats."""
    table: pd.DataFrame = connection.from_arrow(rows).df()
    for place, field in enumerate(rows.schema):
        whole = pa.types.is_integer(field.type) or (
            pa.types.is_decimal(field.type) and field.type.scale == 0
        )
        if whole and (
            pd.api.types.is_float_dtype(table.dtypes.iloc[place])
            or table.iloc[:, place].isna().any()
        ):
            with contextlib.suppress(pa.ArrowInvalid):  # more than 64 bits
                values = pd.array(rows.column(place).cast(pa.int64()).to_pylist(), dtype="Int64")
                table.isetitem(place, values if values.isna().any() else values.to_numpy("int64"))
    return table


def _tables(store: FlowStore, *, with_embeddings: bool) -> dict[str, Callable[[], pa.Table]]:
    """Return a function for every table, so that only what a statement names is read."""

    def read(name: str) -> Callable[[], pa.Table]:
        def table() -> pa.Table:
            with catalog.opened_index(store.path, [name]) as files:
                if files is not None:
                    return pq.read_table(files[name])
            return pa.Table.from_pandas(
                catalog.build_tables(store.path, [name])[name], preserve_index=False
            )

        return table

    tables = {name: read(name) for name in catalog.TABLES}
    by_width: dict[int, list[pa.Table]] = {}
    for folder in embedding_folders(store) if with_embeddings else ():
        table, _ = described_table(store, folder)
        by_width.setdefault(table.schema.field("embedding").type.list_size, []).append(table)
    for width, found in by_width.items():
        name = EMBEDDINGS if len(by_width) == 1 else f"{EMBEDDINGS}_{width}"
        tables[name] = lambda found=found: pa.concat_tables(found, promote_options="permissive")  # type: ignore[misc]
    return tables


def _named_tables(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    try:
        return {name.lower() for name in connection.get_table_names(sql)}
    except duckdb.Error:  # executing it says what is wrong
        return set(re.findall(r"\w+", sql.lower()))


def _explain(
    error: duckdb.Error,
    connection: duckdb.DuckDBPyConnection,
    tables: dict[str, Callable[[], pa.Table]],
) -> str:
    """Return DuckDB's message as a sentence that ends in what could have been asked for."""
    message = str(error).strip().split("\n\n")[0].replace("\n", " ").rstrip(".")
    if isinstance(error, duckdb.BinderException):
        columns = connection.execute(
            "SELECT table_name, string_agg(column_name, ', ') FROM information_schema.columns GROUP BY 1 ORDER BY 1"
        ).fetchall()
        known = "; ".join(f"{table} has {names}" for table, names in columns)
    else:
        known = f"the tables are {', '.join(tables)}"
        if EMBEDDINGS in message.lower() and not any(
            name.startswith(EMBEDDINGS) for name in tables
        ):
            known += "; embeddings are made by: flowcpc embed STORE RUN"
    return f"{message}; {known}"


def remark_on_embeddings(store: FlowStore, sql: str) -> str:
    """Return a sentence on embeddings that a statement does not see; nothing where there are none, or it asks for no embeddings."""
    found = [
        described_table(store, folder)[1]
        for folder in embedding_folders(store)
        if EMBEDDINGS in sql.lower()
    ]
    return "; ".join(filter(None, found))


_MOST_ROWS = 1000


def render(table: pd.DataFrame, form: str) -> tuple[bytes, str]:
    """Return `table` as bytes in `form` (table, csv or parquet), and a remark where rows were left out of a table for people."""
    if form == "csv":
        return table.to_csv(index=False).encode(), ""
    if form == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue(), ""
    shown = table.head(_MOST_ROWS).copy()
    for place, dtype in enumerate(shown.dtypes):
        if (
            isinstance(dtype, pd.api.extensions.ExtensionDtype) and dtype.na_value is pd.NA
        ):  # which is shown as <NA>
            column = shown.iloc[:, place].astype(object)
            shown.isetitem(place, column.where(column.notna(), float("nan")).to_numpy())
    text = shown.to_string(
        index=False, na_rep="-", float_format=lambda value: f"{value:.6g}", max_colwidth=60
    )
    remark = (
        ""
        if len(shown) == len(table)
        else f"{len(shown)} of {len(table)} rows; --as csv writes all"
    )
    return (
        f"{text if len(table) else ', '.join(map(str, table.columns)) + ': no rows'}\n".encode(),
        remark,
    )
