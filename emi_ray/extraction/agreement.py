"""Agreement between the actors of a run on a value that each of them could choose differently."""

import time
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

T = TypeVar("T")

_NAME = "emi-ray-first-proposals"
_handles: list[Any] = []
"""They are kept, because Ray ends a named actor when its creator has dropped the handle."""


class _FirstProposals:
    def __init__(self) -> None:
        self._first: dict[str, Any] = {}

    def settle(self, question: str, proposal: Any) -> Any:
        return self._first.setdefault(question, proposal)


def agreed(question: str, proposal: T) -> T:
    """Return the value for ``question`` on which the processes of this Ray job agree: the one proposed first.

    Neither a disk nor an object store offers this: two processes that look first and write then may both find that
    nobody was there. Ray creates only one actor of a name. If that actor ends with the process that created it, the
    next proposal creates a new one, which knows nothing; a caller that has stored the answer should look there first
    and once more afterwards.
    """
    while ray.is_initialized():
        keeper: Any = ray.remote(num_cpus=0)(_FirstProposals).options(name=_NAME, get_if_exists=True).remote()
        _handles.append(keeper)
        with suppress(RayActorError, ActorUnavailableError):  # its creator has ended, or its node
            answer: T = ray.get(keeper.settle.remote(question, proposal))
            return answer
        time.sleep(1.0)  # until Ray knows that a node is dead, it gives the handle of the old actor
    return proposal
