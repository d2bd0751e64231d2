"""What a caller says before anything else, at a stage as at a rendezvous."""

import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hello:
    """Proves that the caller was told of the group. `owner` is whose the group is, where that matters: what another owner
    asked of it is over. Who comes for `kv` (cluster.wire.kv) owns nothing, and is not counted among those who have the group.
    """

    group: str
    secret: str = field(repr=False)
    owner: str = ""
    kv: bool = False


def group_secret(node_secret: str, group: str) -> str:
    """What the stages of a group show at a node; who knows it knows nothing of the node's other groups."""
    return hmac.new(node_secret.encode(), group.encode(), "sha256").hexdigest()
