"""Placement groups of Ray Train: those that it leaves behind are removed, and a long wait for one is reported.

If a worker dies while its group starts, Ray Train (2.60, ``WorkerGroup._start``) may not remove the placement group.
Its resources then stay reserved as long as the driver lives, and the cluster may have no room for the next group.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup, PlacementGroupID

_EVERY_S = 3.0
_SAY_AFTER_S = 20.0
_LOG = logging.getLogger(__name__)


@dataclass
class WorkerPlaces:
    """Watches the placement groups that Ray Train makes for one run. It is created before the run starts.

    Attributes:
        name: name of the run, for the message.
        num_workers: number of workers, by which the groups are known among others of the same program.
        clock: returns the time in seconds.
    """

    name: str
    num_workers: int
    clock: Callable[[], float] = time.monotonic
    _others: frozenset[str] = field(init=False)
    _looked_at: float = float("-inf")
    _waiting_since: float | None = None
    _is_said: bool = False

    def __post_init__(self) -> None:
        self._others = frozenset(_groups_of_this_job())

    def update(self) -> None:
        """Remove groups that no worker uses any more, and report a long wait. Calls within three seconds of the
        last one do nothing.
        """
        if self.clock() - self._looked_at < _EVERY_S:
            return
        self._looked_at = self.clock()
        groups = self._groups()
        wanted = [group for group in groups.values() if group["state"] == "PENDING"]
        if not wanted:
            self._waiting_since, self._is_said = None, False
            return
        # Ray Train has one group of workers at a time, and asks for the next one after it has removed the last.
        self._free(key for key, group in groups.items() if group["state"] != "PENDING")
        self._report_wait(wanted)

    def close(self) -> None:
        """Remove all groups of the run, which has ended."""
        self._free(self._groups())

    def _groups(self) -> dict[str, Mapping[str, Any]]:
        return {
            key: group
            for key, group in _groups_of_this_job().items()
            if key not in self._others
            and group["state"] != "REMOVED"
            and not group["name"]
            and len(group["bundles"]) == self.num_workers
        }

    def _free(self, groups: Iterable[str]) -> None:
        for key in groups:
            _LOG.info("Freeing the places of workers of %s, which no worker uses any more.", self.name)
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(key)))

    def _report_wait(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        if self._waiting_since is None:
            self._waiting_since = self.clock()
        if self._is_said or self.clock() - self._waiting_since < _SAY_AFTER_S:
            return
        self._is_said = True
        bundles = list(wanted[0]["bundles"].values())
        each = " and ".join(f"{amount:g} {name}" for name, amount in sorted(bundles[0].items()))
        _LOG.warning(
            "%s waits for room for %d workers, each with %s; the cluster has %s.",
            *(self.name, len(bundles), each, whole_cluster()),
        )


def _groups_of_this_job() -> dict[str, Mapping[str, Any]]:
    """Return the placement groups of this driver's job, by id. The id ends with that of the job."""
    job = ray.get_runtime_context().get_job_id()
    return {key: group for key, group in placement_group_table().items() if key.endswith(job)}


def whole_cluster() -> str:
    """Return the CPUs and GPUs of all nodes together, in words."""
    resources = ray.cluster_resources()
    return " and ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
