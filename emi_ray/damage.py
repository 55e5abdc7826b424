"""Files that were once complete and cannot be read any more, for example after a power failure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from emi_ray.errors import UserError

_CORRUPT = re.compile("corrupt|deserializ", re.IGNORECASE)
"""Words in Arrow's messages on damaged pages. The errors have the same type as those of a storage."""

_NO_COLUMN = "No match for FieldRef"
"""How Arrow's message begins if a file lacks a column. The error has the same type as that for a damaged file."""


class DamagedFileError(UserError):
    """A file of a workspace is cut off, empty or otherwise not what was written."""


@contextmanager
def naming_damage(path: str, *further: type[Exception], is_remote: bool = False) -> Iterator[None]:
    """Replace an error of decoding a file, raised in the ``with`` block, by one that names the file.

    Args:
        path: the file, as users should see it.
        further: types of errors of other decoders.
        is_remote: whether the block reads from a storage behind a URI, whose errors have no number either.

    Raises:
        DamagedFileError: the content is not valid JSON, UTF-8 or Parquet, or a decoder raised one of ``further``.
    """
    # json, bytes.decode and pyarrow raise ValueErrors.
    decoding: tuple[type[Exception], ...] = (ValueError, *further)
    try:
        yield
    except decoding as error:
        if _NO_COLUMN in str(error):
            raise
        raise _damaged(path, error) from error
    except OSError as error:
        # An error of the disk has a number or a type of its own (FileNotFoundError), one of decoding has neither.
        is_of_disk = error.errno is not None or type(error) is not OSError
        if is_of_disk or (is_remote and not _CORRUPT.search(str(error))):
            raise
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> DamagedFileError:
    reason = str(error).partition("\n")[0].rstrip(".")
    return DamagedFileError(
        f"{path} is damaged: {reason}. Delete this file; emi-ray status then names the command that makes it again."
    )
