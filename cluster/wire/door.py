"""Who may come in: callers that say at once, in a small first frame, a Hello that is known here. All others are cut off."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cluster.errors import ProtocolError
from cluster.wire.codec import read_frame
from cluster.wire.hello import Hello
from storage_tiers.strangers import INTRODUCE_WITHIN_S, Refusals, Strangers

_log = logging.getLogger(__name__)
HELLO_BYTES = 4096

Serve = Callable[[Hello, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Door:
    """What asyncio.start_server calls for each connection. `knows` decides whom to let in, `serve` talks with them.

    With `tls` set, callers must speak TLS and have a certificate that it accepts before they say anything.
    """

    def __init__(
        self, where: str, knows: Callable[[Hello], bool], serve: Serve, tls: ssl.SSLContext | None = None
    ) -> None:
        self.tls = tls
        self._knows, self._serve = knows, serve
        self._strangers: Strangers[asyncio.StreamWriter] = Strangers(lambda writer: writer.transport.abort())
        self._refusals = Refusals(_log, where)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let the caller in or cut it off; returns when it has gone."""
        try:
            hello = await self._greet(reader, writer)
            if hello is not None:
                await self._serve(hello, reader, writer)
        except (ProtocolError, OSError) as error:
            _log.warning("a caller was cut off: %s", error)
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Hello | None:
        self._strangers.admit(writer)
        try:
            async with asyncio.timeout(INTRODUCE_WITHIN_S):
                if (
                    self.tls is not None
                ):  # nothing is waited for before, or the caller's first bytes would be read as ours
                    await writer.start_tls(self.tls)
                hello = await read_frame(reader, HELLO_BYTES)
        except TimeoutError:
            why = "it did not say in time who it is"
        except ssl.SSLError:
            why = "it has no certificate that is accepted here"
        except (ProtocolError, OSError):
            why = "what it said is no greeting"
        else:
            if isinstance(hello, Hello) and self._knows(hello):
                return hello
            why = "it does not know the secret"
        finally:
            self._strangers.leave(writer)
        host = "an address that is gone"
        with suppress(TypeError, IndexError):
            host = writer.get_extra_info("peername")[0]
        self._refusals.note(host, why)
        return None
