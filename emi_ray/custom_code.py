"""A user's own code that settings name as ``module:object``: how it is imported, and a hash of its source.

What is derived from such code (features, encoders, runs) keeps the name and the hash, so that nothing that other code
made is reused.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
from typing import Any

from emi_ray.errors import UserError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_custom(name: str) -> bool:
    """Return whether ``name`` has the form ``module:object``."""
    return _NAME.fullmatch(name) is not None


def import_custom(name: str, where: str) -> Any:
    """Import the object that ``name`` stands for. Modules in the working directory are found, as by ``python -m``.

    Raises:
        UserError: it cannot be imported; ``where`` is the setting that names it.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} = '{name}' cannot be imported: {type(error).__name__}: {error}. Give module:object, where the "
            f"module is installed on every node or is in the working directory."
        ) from None


def source_digest(found: Any, otherwise: str = "") -> str:
    """Return a hash of the source of the module that defines an object, 12 hexadecimal digits.

    Code that the module imports from elsewhere is not covered. Where there is no source, ``otherwise`` is hashed.
    """
    try:
        source = inspect.getsource(inspect.getmodule(found) or found)
    except (OSError, TypeError):
        source = otherwise
    return hashlib.blake2b(source.encode(), digest_size=6).hexdigest()


def require_same(name: str, code: str | None, found: Any, where: str) -> None:
    """Refuse code that differs from what a recipe or a trained model was made with.

    Args:
        code: the hash that was recorded; None: nothing was recorded yet.

    Raises:
        UserError: the source of ``found`` has another hash.
    """
    now = source_digest(found)
    if code is not None and code != now:
        raise UserError(
            f"{where} = '{name}': the source of its module has changed (hash {now}, recorded {code}). Restore the "
            "code that the model was trained with, or train again."
        )
