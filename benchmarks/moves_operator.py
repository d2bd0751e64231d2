"""An operator who orders moves over HTTP, and what became of them."""

import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

KEY = "operator-of-benchmarks"
SETTINGS = {"operator_key": KEY}
"""Of the section [frontend], with which a front end knows this operator."""
ENDS = ("done", "given up")
DEADLINE_S = 120.0
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once: httpx reads all authorities' certificates for every client, which takes a fiftieth of a second of a core."""
Move = Mapping[str, Any]


class Refused(Exception):
    """The front end does not follow the wish; the message says why."""


@dataclass(frozen=True)
class Operator:
    """Of the front end at `url`."""

    url: str

    def order(self, kind: str, **wish: str) -> Move:
        """The move that follows a wish. Refused if none does."""
        return self._post("/v1/moves", {"kind": kind, **wish})

    def go_on(self, move: str, step: str) -> Move:
        """Carry a move out one step further; it must have been ordered with the carrier "caller"."""
        return self._post(f"/v1/moves/{move}/go_on", {"step": step, "timeout_s": DEADLINE_S})

    def give_up(self, move: str, reason: str) -> Move:
        """Leave everything as it is."""
        return self._post(f"/v1/moves/{move}/give_up", {"reason": reason})

    def drain(self, node: str) -> Move:
        return self._post(f"/v1/nodes/{node}/drain", {})

    def undrain(self, node: str) -> None:
        self._post(f"/v1/nodes/{node}/undrain", {})

    def move(self, move: str) -> Move:
        return self._get(f"/v1/moves/{move}")

    def moves(self, limit: int = 20) -> list[Move]:
        """The latest, newest first."""
        found = self._get("/v1/moves", {"limit": limit})
        return list(found["moves"])

    def status(self) -> Mapping[str, Any]:
        return self._get("/admin/status")

    def replicas(self, model: str, state: str = "serving") -> list[Mapping[str, Any]]:
        return [each for each in self.status()["replicas"] if (each["model"], each["state"]) == (model, state)]

    def await_step(self, move: str, steps: Collection[str] = ENDS) -> Move:
        """The move once it stands at one of these steps. TimeoutError if that takes too long."""
        until_s = time.monotonic() + DEADLINE_S
        while (found := self.move(move))["step"] not in steps:
            if time.monotonic() > until_s:
                raise TimeoutError(f"move {move} stands at {found['step']!r} after {DEADLINE_S:.0f} s")
            time.sleep(0.1)
        return found

    def await_done(self, move: str) -> Move:
        """The move once it is over. RuntimeError if it was given up."""
        found = self.await_step(move)
        if found["step"] != "done":
            raise RuntimeError(f"move {move} was given up: {found['why']}")
        return found

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return _answer(httpx.get(self.url + path, params=query, **_OPTIONS))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return _answer(httpx.post(self.url + path, json=body, **_OPTIONS))


_OPTIONS: dict[str, Any] = {
    "headers": {"Authorization": f"Bearer {KEY}"}, "timeout": DEADLINE_S + 10, "verify": NO_AUTHORITIES,
}  # fmt: skip


def _answer(answer: httpx.Response) -> Any:
    if answer.status_code in (404, 409):
        raise Refused(answer.json()["error"]["message"])
    return answer.raise_for_status().json()
