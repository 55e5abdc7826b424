"""A user's own code that settings name as ``module:object``: how it is imported, and a hash of its source.

What is derived from such code (features, encoders, runs) keeps the name and the hash, so that nothing that other code
made is reused.
"""

import hashlib
import importlib
import inspect
import linecache
import os
import re
import socket
import sys
from types import ModuleType
from typing import Any

from emi_ray.errors import UserError

_SOURCES: dict[str, tuple[Any, str]] = {}
"""Module name → its spec and its source as of the first look."""

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
        # Appended and not put first, so that a file of the user cannot hide an installed package.
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # noqa: BLE001 - whatever a module of the user's own raises when it is imported
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
    return _hash(source)


def code_digest(name: str, found: Any) -> str:
    """Return a hash of the source of an object that :func:`import_custom` has imported.

    It covers the module that ``name`` gives, and for a class or a function also the module that defines it. An
    instance, such as a ``functools.partial``, is defined by the module that makes it, not by that of its type.

    Raises:
        UserError: a module has no source.
    """
    defined_in = found.__module__ if inspect.isclass(found) or inspect.isfunction(found) else None
    modules = dict.fromkeys(each for each in (name.partition(":")[0], defined_in) if each)
    return _hash("\n".join(_source_of(sys.modules[module], name) for module in modules))


def _source_of(module: ModuleType, name: str) -> str:
    # The file may have been edited since the module was imported, but the old code runs until it is imported anew. A
    # reload gives the module a new spec.
    spec, source = _SOURCES.get(module.__name__, (None, ""))
    if spec is None or spec is not module.__spec__:
        try:
            # inspect reads through linecache, which would return the text of an earlier look.
            linecache.checkcache(getattr(module, "__file__", None))
            source = inspect.getsource(module)
        except (OSError, TypeError):
            raise UserError(
                f"'{name}': {module.__name__} has no source, so changes of it could not be noticed."
            ) from None
        _SOURCES[module.__name__] = (module.__spec__, source)
    return source


def _hash(source: str) -> str:
    return hashlib.blake2b(source.encode(), digest_size=6).hexdigest()


def require_same(name: str, code: str | None, found: Any, where: str) -> None:
    """Refuse code that differs from what a recipe or a trained model was made with.

    Args:
        code: the hash that was recorded; None: nothing was recorded yet.

    Raises:
        UserError: the source of ``found`` has another hash.
    """
    now = code_digest(name, found)
    if code is not None and code != now:
        raise UserError(
            f"{where} = '{name}': the source of its module has changed (on {socket.gethostname()} its hash is {now}, "
            f"recorded is {code}). Restore the recorded code or train again. If the file was edited after this "
            "process had imported it, start a new process."
        )
