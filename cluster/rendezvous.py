"""Where the stages of a group find each other: a store on the node of the first stage, on the node's address alone."""

import socket

import psutil


class Rendezvous:
    """A torch TCPStore that lives as long as the agent; groups keep apart by their prefix."""

    def __init__(self, host: str) -> None:
        from torch.distributed import TCPStore

        listener = socket.create_server((host, 0))
        self.port: int = listener.getsockname()[1]
        self._store: TCPStore | None = TCPStore(
            host, self.port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )

    def close(self) -> None:
        """Stop listening."""
        self._store = None


def interface_of(host: str) -> str:
    """The network interface that has the address `host`; gloo binds to it. ValueError if there is none."""
    address = socket.gethostbyname(host)
    for interface, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return interface
    raise ValueError(f"no network interface of this machine has the address {host}: set node.host to one that does")
