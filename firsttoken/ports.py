"""Ports of a platform on this machine: checked, or picked where a setting leaves the choice, and kept from other platforms.

Components listen seconds after their ports were found free, in processes of their own that may be started anew: of two
platforms that start at once each found all free, and got some. So who has a port also has a name of the kernel's (an abstract
socket), which goes with the supervisor and, as the port does, belongs to the network namespace.
"""

import contextlib
import errno
import random
import socket
from collections.abc import Iterator

from firsttoken.errors import PortInUse
from firsttoken.settings import Settings, environment_name

# section and key of every port that a component listens on; the address is the section's `host`
_PORTS = (("frontend", "port"), ("prefect", "port"), ("cluster", "scheduler_port"), ("cluster", "dashboard_port"))

_NOBODYS = range(20_000, 32_000)
"""Ports that a system gives to nobody by itself, so that what is picked here is still free when its component listens."""
_TRIES = 64
_NAMED = 64
"""Letters of a host's name by which its ports are held: the kernel takes no names that are much longer."""


class _GivenAway(OSError):
    """Another component has the port, though it may not listen yet."""


@contextlib.contextmanager
def assigned_ports(settings: Settings, *, move_defaults: bool = False) -> Iterator[Settings]:
    """`settings` with every port a free one: 0 becomes any. Until the block ends no other platform is given any of them.
    PortInUse says which setting clashes.

    With `move_defaults` a busy port that nobody chose (it has its default) is replaced by a free one.
    """
    with contextlib.ExitStack() as holding:
        for section, key in _PORTS:
            values = getattr(settings, section)
            host, wanted = values.host, getattr(values, key)
            try:
                port = holding.enter_context(_held(host, wanted)) if wanted else _hold_any(host, holding)
            except OSError as error:
                if not move_defaults or wanted != type(values).model_fields[key].default:
                    raise PortInUse(_explain(host, wanted, f"{section}.{key}", error)) from error
                port = _hold_any(host, holding)
            settings = settings.model_copy(update={section: values.model_copy(update={key: port})})
        yield settings


def check_ports(settings: Settings, of: str) -> None:
    """PortInUse says which setting clashes, if a port of the section `of` cannot be listened on: servers say it worse. To be
    asked when nothing of ours listens there."""
    for section, key in _PORTS:
        values = getattr(settings, section)
        host, port = values.host, getattr(values, key)
        if section != of or not port:
            continue
        try:
            _listen(host, port).close()
        except OSError as error:
            raise PortInUse(_explain(host, port, f"{section}.{key}", error)) from error


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, nor is given by the system. OSError if there is none, or no such address."""
    with _listen_anywhere(host) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def _held(host: str, port: int) -> Iterator[int]:
    """Hold a port that nobody listens on. OSError if it cannot be listened on, _GivenAway if somebody holds it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name:
        try:
            name.bind(f"\0firsttoken {host[:_NAMED]}:{port}")
        except OSError as error:
            raise _GivenAway(error.errno, error.strerror) from error
        _listen(host, port).close()
        yield port


def _hold_any(host: str, holding: contextlib.ExitStack) -> int:
    while True:
        with contextlib.suppress(_GivenAway):
            return holding.enter_context(_held(host, free_port(host)))


def _listen_anywhere(host: str) -> socket.socket:
    for port in random.sample(_NOBODYS, _TRIES):
        with contextlib.suppress(OSError):
            return _listen(host, port)
    return _listen(host, 0)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def _explain(host: str, port: int, setting: str, error: OSError) -> str:
    if isinstance(error, _GivenAway):
        return (
            f"port {port} is another component's, of this platform or of one that is starting: set {setting} "
            f"({environment_name(setting)})"
        )
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: set {setting} ({environment_name(setting)}) or stop what listens there"
    section = setting.partition(".")[0]
    return f"cannot listen on {host}:{port} ({section}.host, {setting}): {error.strerror or error}"
