"""Files that were once complete and cannot be read any more, for example after a power failure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from emi_ray.errors import UserError

_CORRUPT = re.compile("corrupt|deserializ", re.IGNORECASE)
"""Words of Arrow's errors for a damaged page, which have the same type as errors of the disk."""


class DamagedFileError(UserError):
    """A file of a workspace is cut off, empty or otherwise not what was written."""


@contextmanager
def naming_damage(path: str, *further: type[Exception]) -> Iterator[None]:
    """Replace an error of decoding a file, raised in the ``with`` block, by one that names the file.

    Args:
        path: the file, as users should see it.
        further: types of errors of other decoders.

    Raises:
        DamagedFileError: the content is not valid JSON, UTF-8 or Parquet, or a decoder raised one of ``further``.
    """
    decoding: tuple[type[Exception], ...] = (
        ValueError,
        *further,
    )  # json, bytes.decode and pyarrow: ValueError
    try:
        yield
    except decoding as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if not _CORRUPT.search(str(error)):
            raise
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> DamagedFileError:
    reason = str(error).partition("\n")[0].rstrip(".")
    return DamagedFileError(
        f"{path} is damaged: {reason}. Delete this file; emi-ray status then names the command that makes it again."
    )
