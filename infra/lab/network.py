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
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PREFIX = "ftlab"
"""Beginning of every namespace's name; the maker's process id, an x and the number of its lab follow."""
CALLER = "caller"
SUBNETS = ipaddress.ip_network("10.213.0.0/16")
"""A lab takes the first /24 of these that no other lab has."""
STOP_TIMEOUT_S = 10.0
_BURST_BYTES = 64 << 10
_LATENCY = "20ms"
_numbers = itertools.count()


class LabError(Exception):
    """The lab cannot be built here; the message says what is missing."""


def why_not() -> str | None:
    """What keeps this machine from having a lab, None if nothing does; found out by making a host and removing it."""
    if os.geteuid() != 0:
        return "a lab of network namespaces needs root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"a lab needs {' and '.join(missing)}: install the package iproute2"
    name = _new_name()
    try:
        _try(f"{name}-try")
    except LabError as error:
        return f"this machine does not allow a lab: {error}"
    finally:
        _remove(name)
    return None


def _try(namespace: str) -> None:
    """One of everything that a lab is made of, in a namespace of its own."""
    _run(["ip", "netns", "add", namespace])
    _run(["ip", "-n", namespace, "link", "add", "bridge", "type", "bridge"])
    _run(["ip", "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", "port0"])
    _run(["tc", "-n", namespace, "qdisc", "replace", "dev", "eth0", *_shape(1e6)])
    _run(["ip", "netns", "exec", namespace, "true"])


@dataclass
class Network:
    """Hosts by name, each with an address; the rates of their cards, in bytes per second each way (a host without one is
    unlimited); processes that were started on them."""

    name: str
    addresses: dict[str, str]
    rates: dict[str, float] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def build(cls, hosts: Sequence[str], rates: Mapping[str, float]) -> Iterator["Network"]:
        """The hosts, until the block ends. `rates` are bytes per second, each way; a host without one is unlimited.

        LabError if it cannot be built; nothing is left of it then.
        """
        problem = why_not()
        if problem is not None:
            raise LabError(problem)
        remove_dead()
        network = cls(_new_name(), {})
        try:
            network._lay(hosts)
            for host, rate in rates.items():
                network.limit(host, rate)
            yield network
        finally:
            network.close()

    def limit(self, host: str, bytes_per_s: float | None) -> None:
        """Set the rate of a host's card, each way; None takes the limit away. It holds for what is under way too.

        ValueError if there is no such host or the rate is not above zero.
        """
        if bytes_per_s is not None and bytes_per_s < 1:
            raise ValueError(f"a card of {bytes_per_s} bytes per second lets nothing through")
        ends = [(self._namespace(host), "eth0"), (self._hub, self._port(host))]
        for namespace, interface in ends:
            device = ["tc", "-n", namespace, "qdisc"]
            if bytes_per_s is None:
                subprocess.run([*device, "del", "dev", interface, "root"], check=False, capture_output=True)
                continue
            _run([*device, "replace", "dev", interface, *_shape(bytes_per_s)])
        self.rates.pop(host, None)
        if bytes_per_s is not None:
            self.rates[host] = bytes_per_s

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """`command` as it runs on a host."""
        return ["ip", "netns", "exec", self._namespace(host), *command]

    def start(
        self,
        host: str,
        command: Sequence[str],
        log: int | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> "subprocess.Popen[bytes]":
        """Start a process on a host; it ends with the network at the latest. `prefix` starts what enters the host."""
        out = subprocess.DEVNULL if log is None else log
        process = subprocess.Popen(
            [*prefix, *self.command(host, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
        )
        self.processes.append(process)
        return process

    def kill(self, host: str) -> int:
        """Kill what runs on a host, how many processes that were. ValueError if there is no such host."""
        return _kill(self._namespace(host))

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

    def _lay(self, hosts: Sequence[str]) -> None:
        _run(["ip", "netns", "add", self._hub])
        _run(["ip", "-n", self._hub, "link", "add", "bridge", "type", "bridge"])
        _run(["ip", "-n", self._hub, "link", "set", "bridge", "up"])
        outer = _outer(self.name)
        _run(["ip", "link", "add", outer, "type", "veth", "peer", "name", "port0", "netns", self._hub])
        _run(["ip", "link", "set", outer, "up"])
        subnet = _take_subnet(outer)
        self.addresses |= {host: str(address) for host, address in zip((CALLER, *hosts), subnet.hosts(), strict=False)}
        for host, address in self.addresses.items():
            at: list[str] = []
            interface, prefix_length = outer, 32  # the route to the hosts is there, and is this lab's claim
            if host != CALLER:
                at, interface, prefix_length = ["-n", self._namespace(host)], "eth0", subnet.prefixlen
                _run(["ip", "netns", "add", self._namespace(host)])
                peer = ["peer", "name", self._port(host), "netns", self._hub]
                _run(["ip", *at, "link", "add", interface, "type", "veth", *peer])
                _run(["ip", *at, "link", "set", "lo", "up"])
                _run(["ip", *at, "link", "set", interface, "up"])
            _run(["ip", "-n", self._hub, "link", "set", self._port(host), "master", "bridge", "up"])
            _run(["ip", *at, "address", "add", f"{address}/{prefix_length}", "dev", interface])


def _take_subnet(interface: str) -> ipaddress.IPv4Network:
    """The first of SUBNETS that nobody has, routed to `interface`: the kernel gives a route once, whoever asks at once."""
    for subnet in SUBNETS.subnets(new_prefix=24):
        route = ["ip", "route", "add", str(subnet), "dev", interface]
        done = subprocess.run(route, check=False, capture_output=True, text=True)
        if not done.returncode:
            return subnet
        if "File exists" not in done.stderr:
            raise LabError(f"{' '.join(route)}: {done.stderr.strip()}")
    raise LabError(f"no subnet of {SUBNETS} is free")


def _new_name() -> str:
    return f"{PREFIX}{os.getpid()}x{next(_numbers)}"


def _outer(name: str) -> str:
    """The caller's interface of a lab; at most 15 characters."""
    return f"ft{name.removeprefix(PREFIX)}"


def _shape(bytes_per_s: float) -> list[str]:
    bits, burst = str(int(bytes_per_s * 8)), str(max(_BURST_BYTES, int(bytes_per_s / 250)))
    return ["root", "tbf", "rate", bits, "burst", burst, "latency", _LATENCY]


def remove_dead() -> None:
    """Remove what labs left whose maker is dead."""
    for name in {namespace.split("-", 1)[0] for namespace in _namespaces()}:
        pid = int(name.removeprefix(PREFIX).split("x")[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            _remove(name)


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    return [name for name in names if re.match(rf"{PREFIX}\d+x\d+-", name)]


def _remove(name: str) -> None:
    """End what runs in a lab's namespaces and delete them. Their interfaces go with them, but some time later: the
    caller's, which would be in the way of the next lab, is deleted first."""
    subprocess.run(["ip", "link", "delete", _outer(name)], check=False, capture_output=True)
    for namespace in [found for found in _namespaces() if found.startswith(f"{name}-")]:
        _kill(namespace)
        subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def _kill(namespace: str) -> int:
    """Kill what runs in a namespace; how many processes that were."""
    running = subprocess.run(["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True).stdout
    for pid in running.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return len(running.split())


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
