"""Storage of a study, and the lock that allows only one driver at a time.

In a local workspace, a study is the file ``studies/<name>/journal.log``. Its driver holds an ``flock`` on a file next
to it, which the kernel releases however the driver ends. If the workspace is behind a URI, the study is in a database
(``--storage``). There the driver periodically writes its name and the time into the study (a heartbeat).
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from emi_ray.driver_lock import driven_by, own_name, renewing
from emi_ray.errors import UserError
from emi_ray.results.studies import study_folder
from emi_ray.tuning.settings import Direction
from emi_ray.workspace import Workspace

JOURNAL = "journal.log"
OWNER = "emi_ray:driver"

_INSTEAD = "name another study with --study"
_GRACE_S = 5
_BEAT_EVERY_S = 5.0
_SILENT_FOR_S = 30.0
_WATCHED_BEATS = 2.2
_SETTLE_S = 1.0
_INSTEAD_OF_BEATING = f"if it was killed, wait {_SILENT_FOR_S:.0f} seconds; or {_INSTEAD}"


def journal_path(workspace: Workspace, study: str) -> Path:
    """Return the path of a study's journal in a local workspace."""
    return Path(workspace.path(f"{study_folder(study)}/{JOURNAL}"))


def check_storage(workspace: Workspace, url: str | None) -> None:
    """Check, before anything is started, that a study can be stored.

    Raises:
        UserError: the workspace is behind a URI, and no database is given.
    """
    if url is None and not workspace.is_local:
        raise UserError(
            f"--workspace {workspace.root} is a URI, where the journal of a study cannot be appended to: give a "
            "database with --storage, for example postgresql://user@host/studies."
        )


def open_storage(workspace: Workspace, study: str, url: str | None) -> BaseStorage:
    """Open the storage of a study; a missing journal is created.

    Args:
        workspace: the workspace of the study.
        study: name of the study.
        url: URL of a database in SQLAlchemy's format; None for the journal.

    Raises:
        UserError: the workspace is behind a URI, and no database is given; or the database does not answer.
    """
    check_storage(workspace, url)
    if url is not None:
        return _open_database(url)
    path = journal_path(workspace, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A driver that was killed leaves its lock behind; others take it over after the grace period.
    lock = JournalFileSymlinkLock(str(path), grace_period=_GRACE_S)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


@contextmanager
def driving(
    workspace: Workspace, study: str, directions: Sequence[Direction], url: str | None = None
) -> Iterator[optuna.Study]:
    """Open or create a study, and hold its lock while the ``with`` block runs.

    Args:
        workspace: the workspace of the study.
        study: name of the study.
        directions: ``maximize`` or ``minimize`` for each objective.
        url: URL of a database, as in :func:`open_storage`.

    Raises:
        UserError: another process drives the study.
    """
    if url is not None:
        optuna_study = _open(open_storage(workspace, study, url), study, directions)
        with _beating(optuna_study):
            yield optuna_study
        return
    with workspace.driving(study_folder(study), f"Study {study}", _INSTEAD):
        # Only with the lock of the study, because a living driver may be in the middle of a line.
        drop_torn_line(journal_path(workspace, study))
        yield _open(open_storage(workspace, study, None), study, directions)


def drop_torn_line(journal: Path) -> None:
    """Remove an incomplete last line from a journal, whose writer was killed; Optuna could not read it."""
    if not journal.exists():
        return
    # Optuna writes one JSON object per line and skips no invalid ones.
    with journal.open("rb+") as file:
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def _open(storage: BaseStorage, study: str, directions: Sequence[Direction]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=study, storage=storage, directions=list(directions), load_if_exists=True
    )


def _open_database(url: str) -> BaseStorage:
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        return RDBStorage(url)
    except ArgumentError:
        raise UserError(
            "--storage: give the database as a SQLAlchemy URL, for example postgresql://user@host/studies."
        ) from None
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise UserError(f"--storage: the database cannot be opened: {error}") from None


@contextmanager
def _beating(optuna_study: optuna.Study) -> Iterator[None]:
    """Own a study in a database by a heartbeat record, which is renewed while the ``with`` block runs."""
    from sqlalchemy.exc import SQLAlchemyError

    # The token tells apart two drivers on one machine.
    claim = {"driver": own_name(), "token": uuid.uuid4().hex}
    _refuse_living(optuna_study)
    optuna_study.set_user_attr(OWNER, {**claim, "time": time.time()})
    time.sleep(_SETTLE_S)  # if two drivers start at once, the later record wins
    away = suppress(StorageInternalError, SQLAlchemyError)

    def other() -> str | None:
        owner = _owner(optuna_study)
        return None if owner.get("token") == claim["token"] else str(owner.get("driver"))

    def beat() -> str | None:
        with away:  # if the database is unreachable, the next beat tries again
            if (taken_by := other()) is not None:
                return taken_by
            optuna_study.set_user_attr(OWNER, {**claim, "time": time.time()})
        return None

    if (earlier := other()) is not None:
        raise driven_by(f"Study {optuna_study.study_name}", earlier, _INSTEAD_OF_BEATING)
    try:
        with renewing(beat, _BEAT_EVERY_S, f"Study {optuna_study.study_name}", _SILENT_FOR_S):
            yield
    finally:
        with away:
            if other() is None:
                # Given back at once, so that the next command need not wait until the heartbeat is too old.
                optuna_study.set_user_attr(OWNER, {})


def _refuse_living(optuna_study: optuna.Study) -> None:
    """Check that no other driver renews its record (raises ``UserError``).

    The record has the time of the other machine's clock. If it seems to be old, the record is watched for two beats,
    because one of the clocks may be wrong.
    """
    owner = _owner(optuna_study)
    if not owner:
        return
    is_alive = time.time() - owner.get("time", 0.0) < _SILENT_FOR_S
    if not is_alive:
        time.sleep(_WATCHED_BEATS * _BEAT_EVERY_S)
        is_alive = _owner(optuna_study) not in ({}, owner)
    if is_alive:
        raise driven_by(f"Study {optuna_study.study_name}", owner["driver"], _INSTEAD_OF_BEATING)


def _owner(optuna_study: optuna.Study) -> dict[str, Any]:
    owner: dict[str, Any] = optuna_study.user_attrs.get(OWNER, {})
    return owner
