"""Check that a Ray cluster answers at an address, within a time limit, before Ray connects.

Ray itself keeps trying an address without an answer for ten minutes and more.
"""

import os
import time
from typing import Any

from emi_ray.errors import UserError

ANSWER_WITHIN_S = 15.0
"""Time limit for an answer of the cluster."""

NODE_WITHIN_S = 12.0
"""Time limit for a cluster that is just starting to have a node on this machine."""

_TOKEN_HELP = (
    "Set RAY_AUTH_MODE=token, and the cluster's token as RAY_AUTH_TOKEN, as RAY_AUTH_TOKEN_PATH (a file) or in "
    "~/.ray/auth_token."
)


def resolve(address: str) -> str:
    """Return ``HOST:PORT`` of a cluster's head.

    Raises:
        UserError: this is not such an address.
    """
    from ray._private.services import canonicalize_bootstrap_address

    if address.startswith(("http://", "https://")):
        raise UserError(
            f"--address {address} is the address of the job API: use it with ray job submit. To run from here, "
            f"give the cluster's own address, HOST:6379, on one of its nodes."
        )
    if address.startswith("ray://"):
        raise UserError(
            f"--address {address}: a session through Ray Client (ray://) can run neither extraction nor training. "
            f"Give HOST:6379 on a node of the cluster, or submit the command as a job: "
            f"RAY_ADDRESS=http://HOST:8265 ray job submit --working-dir . -- emi-ray …"
        )
    try:
        resolved = canonicalize_bootstrap_address(address)
    except (ValueError, ConnectionError) as error:
        raise UserError(f"--address {address}: {error}. Give HOST:PORT, as in 10.0.0.1:6379.") from None
    if resolved is None:
        raise UserError(
            f"--address {address}: no Ray cluster runs on this machine. Give its address, HOST:6379, or leave "
            f"--address out to use this machine alone."
        )
    return resolved


def check_cluster(address: str, named: str | None = None, timeout_s: float = ANSWER_WITHIN_S) -> None:
    """Check that a cluster with our version of Ray answers, accepts our token, and has a node on this machine.

    Args:
        address: the result of :func:`resolve`.
        named: the address in the spelling of the user, for messages.

    Raises:
        UserError: it does not; the message states the reason.
    """
    import grpc
    import ray
    from ray._private.services import find_node_ids

    option = f"--address {named or address}"
    _require_token(option)
    try:
        with _Head(address) as head:
            version = head.check_alive(timeout_s)
            if version and version != ray.__version__:
                raise UserError(
                    f"{option}: the cluster runs Ray {version}, but this machine has Ray {ray.__version__}. "
                    f"Install the same version in both places."
                )
            deadline = time.monotonic() + NODE_WITHIN_S
            while not (nodes := head.living_nodes(timeout_s)) & set(find_node_ids()):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            else:
                return
    except grpc.RpcError as error:
        raise UserError(f"{option}: {_reason_of(error, timeout_s)}") from None
    raise UserError(
        f"{option}: a Ray cluster answers there, but this machine is not one of its {len(nodes)} nodes. "
        f"Run the command on one of them, join with ray start --address={address}, or submit it as a job: "
        f"RAY_ADDRESS=http://HOST:8265 ray job submit --working-dir . -- emi-ray …"
    )


def answers(address: str, timeout_s: float = 5.0) -> bool:
    """Return whether the head of a cluster still answers."""
    import grpc

    try:
        with _Head(address) as head:
            head.check_alive(timeout_s)
    except grpc.RpcError as error:
        return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return True


class _Head:
    """A connection to a cluster's head, with the token and the certificates that Ray itself would use."""

    def __init__(self, address: str) -> None:
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

        # A pool of its own: gRPC would otherwise share connections, and their pauses after failures, among channels.
        self._channel = init_grpc_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._service = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(self._channel)
        self._messages: Any = gcs_service_pb2

    def __enter__(self) -> "_Head":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def check_alive(self, timeout_s: float) -> str:
        """Return the version of Ray that the head runs."""
        request = self._messages.CheckAliveRequest()
        return str(self._service.CheckAlive(request, timeout=timeout_s).ray_version)

    def living_nodes(self, timeout_s: float) -> set[str]:
        """Return the ids of the nodes that are alive."""
        request = self._messages.GetAllNodeInfoRequest()
        nodes = self._service.GetAllNodeInfo(request, timeout=timeout_s).node_info_list
        return {node.node_id.hex() for node in nodes if node.state == node.ALIVE}


def _require_token(option: str) -> None:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    if not is_token_auth_enabled():
        return
    try:
        held = AuthenticationTokenLoader.instance().has_token()
    except AuthenticationError as error:
        raise UserError(f"{option}: the token cannot be read: {error}. {_TOKEN_HELP}") from None
    if not held:
        raise UserError(f"{option}: RAY_AUTH_MODE is token, but no token is set. {_TOKEN_HELP}")


def _reason_of(error: Any, timeout_s: float) -> str:
    import grpc

    code = error.code()
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
            return f"the cluster refuses the token that is set here. {_TOKEN_HELP}"
        return f"the cluster requires a token, but none is set here. {_TOKEN_HELP}"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"no Ray cluster answers there: no response within {timeout_s:.0f} s. Check host, port and "
            f"firewall."
        )
    return f"no Ray cluster answers there ({error.details()}). Check host and port; a head listens on 6379."
