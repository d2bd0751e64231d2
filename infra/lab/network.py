"""Network namespaces that stand for hosts, joined by a bridge, each behind a card whose rate the kernel enforces.

    with Network.build(["store", "node-0"], {"node-0": 25e6}) as network:
        process = network.start("node-0", [sys.executable, "-m", "firsttoken", "node", ...])

The bridge has a namespace of its own, so that nothing of the machine's own network is touched but one interface, by
which the caller reaches the hosts. A host's card is a pair of virtual interfaces with a token bucket (tbf) at each end:
what it sends and what it receives are limited apart, as on a real one. Everything is gone when the block ends; what a
killed lab left is removed by the next. Needs root, iproute2 and a kernel with tbf.
"""

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PREFIX = "ftlab"
"""Beginning of every namespace's and interface's name; the maker's process id follows."""
CALLER = "caller"
STOP_TIMEOUT_S = 10.0
_BURST_BYTES = 64 << 10
_LATENCY = "20ms"


class LabError(Exception):
    """The lab cannot be built here; the message says what is missing."""


def why_not() -> str | None:
    """What keeps this machine from having a lab, None if nothing does."""
    if os.geteuid() != 0:
        return "a lab of network namespaces needs root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"a lab needs {' and '.join(missing)}: install the package iproute2"
    return None


@dataclass
class Network:
    """Hosts by name, each with an address; processes that were started on them."""

    name: str
    addresses: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def build(
        cls, hosts: Sequence[str], rates: Mapping[str, float], subnet: str = "10.213.0.0/24"
    ) -> Iterator["Network"]:
        """The hosts, until the block ends. `rates` are bytes per second, each way; a host without one is unlimited.

        LabError if it cannot be built; nothing is left of it then.
        """
        problem = why_not()
        if problem is not None:
            raise LabError(problem)
        remove_dead()
        free = ipaddress.ip_network(subnet).hosts()
        network = cls(f"{PREFIX}{os.getpid()}", {host: str(next(free)) for host in (CALLER, *hosts)})
        try:
            network._lay(ipaddress.ip_network(subnet).prefixlen)
            for host, rate in rates.items():
                network.limit(host, rate)
            yield network
        finally:
            network.close()

    def limit(self, host: str, bytes_per_s: float | None) -> None:
        """Set the rate of a host's card, each way; None takes the limit away. It holds for what is under way too."""
        ends = [(self._namespace(host), "eth0"), (self._hub, self._port(host))]
        for namespace, interface in ends:
            device = ["tc", "-n", namespace, "qdisc"]
            if bytes_per_s is None:
                subprocess.run([*device, "del", "dev", interface, "root"], check=False, capture_output=True)
                continue
            bits = str(int(bytes_per_s * 8))
            burst = str(max(_BURST_BYTES, int(bytes_per_s / 250)))
            shape = ["root", "tbf", "rate", bits, "burst", burst, "latency", _LATENCY]
            _run([*device, "replace", "dev", interface, *shape])

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """`command` as it runs on a host."""
        return ["ip", "netns", "exec", self._namespace(host), *command]

    def start(
        self, host: str, command: Sequence[str], log: int | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a process on a host; it ends with the network at the latest."""
        out = subprocess.DEVNULL if log is None else log
        process = subprocess.Popen(
            self.command(host, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End every process and remove every namespace and interface. What is gone already is no error."""
        for process in self.processes:
            process.terminate()
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline_s - time.monotonic()))
        _remove(self.name)
        for process in self.processes:
            process.wait()

    @property
    def _hub(self) -> str:
        return f"{self.name}-hub"

    def _namespace(self, host: str) -> str:
        if host not in self.addresses or host == CALLER:
            raise ValueError(f"the lab has no host {host!r}")
        return f"{self.name}-{host}"

    def _port(self, host: str) -> str:
        return f"port{list(self.addresses).index(host)}"

    def _lay(self, prefix_length: int) -> None:
        _run(["ip", "netns", "add", self._hub])
        _run(["ip", "-n", self._hub, "link", "add", "bridge", "type", "bridge"])
        _run(["ip", "-n", self._hub, "link", "set", "bridge", "up"])
        for host, address in self.addresses.items():
            outer = f"{PREFIX[:2]}{os.getpid()}x{list(self.addresses).index(host)}"  # at most 15 characters
            if host == CALLER:
                _run(["ip", "link", "add", outer, "type", "veth", "peer", "name", self._port(host), "netns", self._hub])
                at: list[str] = []
                interface = outer
            else:
                namespace, interface = self._namespace(host), "eth0"
                _run(["ip", "netns", "add", namespace])
                at = ["-n", namespace]
                peer = ["peer", "name", self._port(host), "netns", self._hub]
                _run(["ip", *at, "link", "add", interface, "type", "veth", *peer])
                _run(["ip", *at, "link", "set", "lo", "up"])
            _run(["ip", "-n", self._hub, "link", "set", self._port(host), "master", "bridge", "up"])
            _run(["ip", *at, "address", "add", f"{address}/{prefix_length}", "dev", interface])
            _run(["ip", *at, "link", "set", interface, "up"])


def remove_dead() -> None:
    """Remove what labs left whose maker is dead."""
    for name in {namespace.split("-", 1)[0] for namespace in _namespaces()}:
        pid = int(name.removeprefix(PREFIX))
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            _remove(name)


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    return [name for name in names if name.startswith(PREFIX) and name.removeprefix(PREFIX).split("-")[0].isdigit()]


def _remove(name: str) -> None:
    """End what runs in a lab's namespaces and delete them; their interfaces go with them, and so do their peers."""
    for namespace in [found for found in _namespaces() if found.startswith(f"{name}-")]:
        running = subprocess.run(["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True).stdout
        for pid in running.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
