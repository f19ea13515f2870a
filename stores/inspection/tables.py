"""Tables for people and for programs: aligned text, and rows as JSON values."""

import json
from typing import Any

import pandas as pd


def as_text(table: pd.DataFrame, digits: int = 4, most_letters: int = 100) -> str:
    """Return `table` as aligned columns; floats have `digits` digits, "-" is nothing."""
    number = f"{{:.{digits}g}}".format
    return table.to_string(index=False, na_rep="-", float_format=number, max_colwidth=most_letters)


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of `table` as JSON values; None stands for nothing."""
    return list(json.loads(table.to_json(orient="records")))
