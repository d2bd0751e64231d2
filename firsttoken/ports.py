"""Ports of a platform on this machine: checked, or picked where a setting leaves the choice."""

import contextlib
import errno
import random
import socket

from firsttoken.errors import PortInUse
from firsttoken.settings import Settings, environment_name

# section and key of every port that a component listens on; the address is the section's `host`
_PORTS = (("frontend", "port"), ("prefect", "port"), ("cluster", "scheduler_port"), ("cluster", "dashboard_port"))

_NOBODYS = range(20_000, 32_000)
"""Ports that a system gives to nobody by itself, so that what is picked here is still free when its component listens."""
_TRIES = 64


def assign_ports(settings: Settings, *, move_defaults: bool = False) -> Settings:
    """`settings` with every port a free one: 0 becomes any. PortInUse says which setting clashes.

    With `move_defaults` a busy port that nobody chose (it has its default) is replaced by a free one.
    """
    with contextlib.ExitStack() as held:  # all at once, so that no port is handed out twice
        for section, key in _PORTS:
            values = getattr(settings, section)
            host, wanted = values.host, getattr(values, key)
            try:
                listener = _listen(host, wanted) if wanted else _listen_anywhere(host)
            except OSError as error:
                if not move_defaults or wanted != type(values).model_fields[key].default:
                    raise PortInUse(_explain(host, wanted, f"{section}.{key}", error)) from error
                listener = _listen_anywhere(host)
            held.enter_context(listener)
            chosen = values.model_copy(update={key: listener.getsockname()[1]})
            settings = settings.model_copy(update={section: chosen})
    return settings


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, nor is given by the system. OSError if there is none, or no such address."""
    with _listen_anywhere(host) as listener:
        port: int = listener.getsockname()[1]
        return port


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
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: set {setting} ({environment_name(setting)}) or stop what listens there"
    return f"cannot listen on {host}:{port} ({setting}): {error.strerror or error}"
