"""Decode text files: all Unicode encodings are recognised, any other must be named.

A byte order mark decides. Without one, bytes that are valid UTF-8 are UTF-8, and bytes that contain zeros are
UTF-16 or UTF-32 if they are text in one of these. ISO-2022 is recognised by its escape sequences. Other encodings
cannot be distinguished by their bytes (the same file is valid cp1252, cp1251 and Latin-9), so they are never
guessed.
"""

import codecs
import unicodedata

from emi_ray.errors import UserError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, because this mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_ESCAPES = {b"\x1b$": "iso2022_jp_2", b"\x1b(": "iso2022_jp_2", b"\x1b$)C": "iso2022_kr"}
_SAMPLE_BYTES = 1 << 14
_CONTEXT = 20


def decode(data: bytes, where: str, encoding: str | None = None) -> str:
    """Decode bytes to text, without the byte order mark.

    Args:
        where: name of the file, for messages.
        encoding: encoding of files that are not Unicode (``corpus.encoding``).

    Raises:
        UserError: the bytes are text neither in Unicode nor in ``encoding``.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _strictly(data[len(mark) :], name, where)
    # Text in UTF-8 or in a national encoding has no zero bytes.
    if b"\x00" in data:
        return _wide(data, where)
    # Longest first, because one escape sequence is the beginning of another.
    for escape, name in sorted(_ESCAPES.items(), key=lambda item: -len(item[0])):
        if escape in data:
            return _strictly(data, name, where)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            return _strictly(data, encoding, where)
        raise UserError(_refusal(data, where, error.start)) from None


def _strictly(data: bytes, encoding: str, where: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {error.start:,} is not valid {encoding}. Save the file as UTF-8, or name its encoding: "
            "'corpus.encoding=cp1252'."
        ) from None


def _wide(data: bytes, where: str) -> str:
    """Decode text without a mark but with zero bytes, in the wide encoding that gives the most letters below
    U+0100.
    """
    read = {name: text for name in _WIDE if (text := _as_text(data, name)) is not None}
    if not read:
        raise UserError(
            f"{where} contains zero bytes and is not text in UTF-8, UTF-16 or UTF-32. Save it as UTF-8."
        )
    plain = {
        name: sum(letter < "\u0100" for letter in text) / max(len(text), 1) for name, text in read.items()
    }
    return read[max(plain, key=plain.__getitem__)]


def _as_text(data: bytes, encoding: str) -> str | None:
    """Decode ``data``; None if the result has characters that text does not have: control or unassigned ones."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    sample = text[: _SAMPLE_BYTES // 2]
    is_text = all(
        letter in "\t\n\r\f" or unicodedata.category(letter) not in ("Cc", "Cn", "Co") for letter in sample
    )
    return text if is_text else None


def _refusal(data: bytes, where: str, place: int) -> str:
    line = data.count(b"\n", 0, place) + 1
    before, after = data[max(place - _CONTEXT, 0) : place], data[place : place + _CONTEXT]
    around = (before.splitlines()[-1:] or [b""])[0] + after.splitlines()[0]
    shown = around.decode("cp1252", errors="replace").strip()
    return (
        f"{where} is not UTF-8 (line {line:,}). If '{shown}' is the correct text, the encoding is cp1252 (Windows, "
        "Western languages): set 'corpus.encoding=cp1252'. Otherwise name its encoding (such as cp1251, shift_jis, "
        "gb18030), or save it as UTF-8."
    )
