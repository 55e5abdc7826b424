"""Read tables: CSV and Parquet files, and columns of numbers that are written as text."""

import csv
import io
import unicodedata

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from emi_ray.corpus.encodings import decode
from emi_ray.corpus.files import read_buffer
from emi_ray.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
"""Possible separators of a text table; the first one is used if the header has a single column."""

_NO_NUMBER = pa.array(["", "na", "n/a", "nan", "null", "none"])
_TRUTHS = pa.array(["true", "false"])
_DECIMAL_COMMA = r"^[-+]?\d*,\d+(?:[eE][-+]?\d+)?$"
_THOUSANDS = r"^[-+]?[1-9]\d{0,2},\d{3}$"
_HEADER_CHARACTERS = 1 << 20
_BLOCK_BYTES = 1 << 24

_PARQUET_MAGIC = b"PAR1"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook (.xlsx). Save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls). Save the sheet as CSV",
    b"\x1f\x8b": "compressed with gzip. Unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard. Unpack it",
    b"BZh": "compressed with bzip2. Unpack it",
    b"\xfd7zXZ": "compressed with xz. Unpack it",
    b"ARROW1": "an Arrow or Feather file. Save it as Parquet",
    b"FEA1": "a Feather file. Save it as Parquet",
    b"\x89HDF": "an HDF5 file. Save the table as Parquet or CSV",
    b"SQLite format 3": "an SQLite database. Save the table as Parquet or CSV",
    b"{": "JSON. Save it as Parquet or CSV",
    b"[{": "JSON. Save it as Parquet or CSV",
    b"version https://git-lfs": "the pointer of a Git LFS file. Fetch the file itself: git lfs pull",
}


def read_columns(path: str, encoding: str | None = None) -> pa.Table:
    """Read a Parquet file with its types, or a text table with every column as text, depending on the content.

    Raises:
        UserError: as :func:`read_csv` and :func:`read_parquet`.
    """
    data = read_buffer(path)
    is_parquet = data[:4].to_pybytes() == _PARQUET_MAGIC or path.partition("?")[0].lower().endswith(
        (".parquet", ".pq")
    )
    return parse_parquet(data, path) if is_parquet else parse_csv(data, path, encoding)


def read_csv(path: str, encoding: str | None = None) -> pa.Table:
    """Read a file with :func:`parse_csv`."""
    return parse_csv(read_buffer(path), path, encoding)


def parse_csv(data: pa.Buffer, path: str, encoding: str | None = None) -> pa.Table:
    """Parse a text table with every column as text, so that ``00012`` keeps its zeros.

    Columns are separated by commas, semicolons, tabs or bars; the separator that gives the header the most columns
    is used. A first line ``sep=;`` as written by Excel is accepted. For the encoding see
    :func:`~emi_ray.corpus.encodings.decode`.

    Raises:
        UserError: the file is empty, is not text in a known encoding, is not a table, or two columns have the same
            name.
    """
    for magic, what in _OTHER_FORMATS.items():
        if data[: len(magic)].to_pybytes() == magic:
            raise UserError(f"{path} is not a text table but {what}.")
    text = decode(data.to_pybytes(), path, encoding).replace("\n\ufeff", "\n")  # marks of joined files
    first, _, rest = text.partition("\n")
    announced = first.strip().strip('"').lower().removeprefix("sep=") if "sep=" in first.lower() else ""
    if announced in DELIMITERS or announced == "\\t":
        text = rest
    try:
        names, delimiter = _header(text)
        table = pacsv.read_csv(
            pa.BufferReader(text.encode()),
            read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(column_types={name: pa.string() for name in names}),
        )
    except (pa.ArrowInvalid, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as CSV: {error}. Save it as comma-separated UTF-8 with a header line, and quote "
            "values that contain the separator."
        ) from None
    return _with_clean_names(table, path)


def read_parquet(path: str) -> pa.Table:
    """Read a file with :func:`parse_parquet`."""
    return parse_parquet(read_buffer(path), path)


def parse_parquet(data: pa.Buffer, path: str) -> pa.Table:
    """Parse a Parquet file. Dictionary-encoded (categorical) columns are decoded.

    Raises:
        UserError: the file is not Parquet, or two columns have the same name.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}.") from None
    plain = [
        pa.field(field.name, field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return _with_clean_names(table.cast(pa.schema(plain)), path)


def text_column(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    """Return a column as text without surrounding white space; null if blank or absent.

    Raises:
        UserError: the type of the column cannot be converted to text.
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
    """Return a column as float64 (null if blank, NaN or ``NA``), and a mask of the values that are not numbers.

    ``true`` and ``false`` become 1 and 0, in CSV as in Parquet, if the column has nothing else. ``0,5`` is 0.5 if
    no value of the column has a point, unless all values may be thousands (``1,234``).
    """
    if not _is_text(column.type):
        try:
            values = column.cast(pa.float64(), safe=False)
        except pa.ArrowNotImplementedError:  # lists, dates, bytes
            nothing = pa.chunked_array([pa.nulls(len(column), pa.float64())])
            return nothing, pc.is_valid(column)
        known = pc.invert(pc.is_nan(values))
        return pc.if_else(known, values, pa.scalar(None, pa.float64())), pc.and_(pc.is_null(column), False)
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    text = pc.if_else(pc.is_in(pc.utf8_lower(text), _NO_NUMBER), pa.scalar(None, pa.string()), text)
    if text.null_count < len(text) and pc.all(pc.is_in(pc.utf8_lower(text.drop_null()), _TRUTHS)).as_py():
        return pc.equal(pc.utf8_lower(text), "true").cast(pa.float64()), pc.and_(pc.is_null(column), False)
    try:
        values = text.cast(pa.float64())
    except pa.ArrowInvalid:
        plain = pc.replace_substring(text, ",", ".") if has_decimal_commas(text) else text
        parsed = pd.to_numeric(plain.to_pandas(), errors="coerce").to_numpy("float64")
        values = pa.chunked_array([pa.array(parsed, from_pandas=True)])
    return values, pc.and_(pc.is_null(values), pc.is_valid(text))


def has_decimal_commas(column: pa.ChunkedArray) -> bool:
    """Return whether a text column writes its numbers with decimal commas, like ``0,5``."""
    if not _is_text(column.type):
        return False
    text = pc.utf8_trim_whitespace(column.cast(pa.string())).drop_null()
    decimal = text.filter(pc.match_substring_regex(text, _DECIMAL_COMMA))
    if not len(decimal) or pc.any(pc.match_substring(text, ".")).as_py():
        return False
    return not pc.all(pc.match_substring_regex(decimal, _THOUSANDS)).as_py()


def holds_numbers(column: pa.ChunkedArray) -> bool:
    """Return whether at least half of a column's values are numbers, so that the others count as mistakes."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return True
    if pa.types.is_boolean(kind):
        return True
    if not _is_text(kind):
        return False
    values, wrong = numbers(column)
    # A value with an ambiguous comma (decimals or thousands) was meant as a number.
    unclear = pc.match_substring_regex(column.cast(pa.string()).filter(wrong), _DECIMAL_COMMA)
    num_unclear, num_wrong = (pc.sum(mask).as_py() or 0 for mask in (unclear, wrong))
    num_meant = len(values) - values.null_count + num_unclear
    return bool(num_meant > 0 and num_meant >= num_wrong - num_unclear)


def _header(text: str) -> tuple[list[str], str]:
    """Return the names of the columns, and the separator."""
    start = text[:_HEADER_CHARACTERS]
    best: tuple[list[str], str] = ([], DELIMITERS[0])
    for delimiter in DELIMITERS:
        rows = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
        names = next((row for row in rows if row), [])
        if len(names) > len(best[0]):
            best = names, delimiter
    return best


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_blank(column: pa.ChunkedArray) -> bool:
    text = column.drop_null()
    return not len(text) or (
        _is_text(text.type) and pc.all(pc.equal(pc.utf8_trim_whitespace(text), "")).as_py()
    )


def _with_clean_names(table: pa.Table, path: str) -> pa.Table:
    """Strip white space from column names, and drop the empty columns that spreadsheets write after the last one.

    Raises:
        UserError: two columns have the same name, or a name contains a line break or another control character.
    """
    names = [name.strip() for name in table.schema.names]
    kept = [place for place, name in enumerate(names) if name or not _is_blank(table.column(place))]
    table, names = table.select(kept), [names[place] for place in kept]
    if (num_unnamed := names.count("")) > 1:
        raise UserError(f"{path}: {num_unnamed} columns have values but no name. Name or remove them.")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: column '{repeated[0]}' occurs twice. Rename or remove one.")
    if odd := next((name for name in names if any(unicodedata.category(c) == "Cc" for c in name)), None):
        raise UserError(
            f"{path}: the name of column {odd!r} contains a line break or another control character."
        )
    return table.rename_columns(names)
