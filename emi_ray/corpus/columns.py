"""Tables as people keep them: CSV and Parquet files, and columns of numbers written as text."""

import csv
import io
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from emi_ray.corpus.files import read_buffer
from emi_ray.errors import UserError
from emi_ray.workspace import suffix_of

_NO_NUMBER = pa.array(["", "na", "n/a", "nan", "null", "none"])
_HEADER_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 24


def read_columns(path: str) -> pa.Table:
    """A ``.parquet`` (or ``.pq``) file with its types, or a CSV file with every column as text."""
    return read_parquet(path) if suffix_of(path) in (".parquet", ".pq") else read_csv(path)


def read_csv(path: str) -> pa.Table:
    """A comma-separated file, every column as text: ``00012`` keeps its zeros. A UTF-8 BOM is skipped.

    Raises:
        UserError: the file is empty, not UTF-8, not comma-separated, or two columns have one name.
    """
    data = read_buffer(path)
    header = data[:_HEADER_BYTES].to_pybytes().decode("utf-8-sig", errors="ignore")
    try:
        names = next(csv.reader(io.StringIO(header)), [])
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(column_types={name: pa.string() for name in names}),
        )
        names = [name.strip() for name in table.schema.names]
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as CSV: {error}. Save it as comma-separated UTF-8 with a header line."
        ) from None
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise UserError(f"{path}: the header '{names[0]}' has no comma. Save the file comma-separated.")
    _refuse_repeated(path, names)
    return table.rename_columns(names)


def read_parquet(path: str) -> pa.Table:
    """A Parquet file; columns of categories are read as what they stand for.

    Raises:
        UserError: the file is not Parquet, or two columns have one name.
    """
    try:
        table = pq.read_table(pa.BufferReader(read_buffer(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}.") from None
    _refuse_repeated(path, table.schema.names)
    plain = [
        pa.field(field.name, field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(plain))


def text_column(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    """A column as text without surrounding white space; null where blank or absent.

    Raises:
        UserError: the column holds what cannot be written as text.
    """
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    column = table[name]
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise UserError(f"{where}: column '{name}' is of type {table[name].type}: give text.") from None
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def numbers(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """A column as float64 (null where blank, NaN or ``NA``), and a mask of what is no number at all."""
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        values = column.cast(pa.float64(), safe=False)
        known = pc.invert(pc.is_nan(values))
        return pc.if_else(known, values, pa.scalar(None, pa.float64())), pc.and_(pc.is_null(column), False)
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    text = pc.if_else(pc.is_in(pc.utf8_lower(text), _NO_NUMBER), pa.scalar(None, pa.string()), text)
    try:
        values = text.cast(pa.float64())
    except pa.ArrowInvalid:
        parsed = pd.to_numeric(text.to_pandas(), errors="coerce").to_numpy("float64")
        values = pa.chunked_array([pa.array(parsed, from_pandas=True)])
    return values, pc.and_(pc.is_null(values), pc.is_valid(text))


def holds_numbers(column: pa.ChunkedArray) -> bool:
    """Whether at least half of what a column holds are numbers: then the rest are mistakes, not words."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return True
    if pa.types.is_boolean(kind):
        return True
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return False
    values, wrong = numbers(column)
    num_numbers = len(values) - values.null_count
    return num_numbers > 0 and num_numbers >= (pc.sum(wrong).as_py() or 0)


def _refuse_repeated(path: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise UserError(f"{path}: column '{repeated[0]}' stands there twice. Rename or remove one.")
