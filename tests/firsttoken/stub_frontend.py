"""A front end that answers by heart, over real HTTP."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

STATUS = {
    "nodes": [
        {
            "name": "node-1", "host": "127.0.0.1", "dram_used_bytes": 1000, "dram_bytes": 2000, "ssd_used_bytes": 3000,
            "ssd_bytes": 4000, "device_reserved_bytes": 500, "device_bytes": 5000,
            "stage_processes": {"idle": 1, "busy": 2}, "draining": True,
            "rates": {
                "nic": {"mean": 25_000_000.0, "bad": 20_000_000.0, "samples": 9},
                "reach": {"mean": 0.0015, "bad": 0.002, "samples": 4},
            },
        }
    ],
    "replicas": [
        {"model": "tiny", "group": "g1", "state": "serving", "degree": 1, "nodes": ["node-1"], "requests": 3},
        {"model": "other", "group": None, "state": "wanted", "degree": None, "nodes": [], "requests": 2},
    ],
    "moves": [
        {
            "move": "g1m2", "kind": "drain", "step": "switching", "reason": "node node-1 is to be left", "why": "",
            "node": "node-1", "request": "", "wish": "w1", "carrier": "flow", "predicted_s": {"ready": 1.5},
            "handovers": [
                {
                    "group": "g1", "model": "tiny", "degree": 1, "nodes": ["node-1"],
                    "heirs": [{"group": "g3", "degree": 1, "nodes": ["node-2"]}],
                }
            ],
            "requests": {"shifted": 2, "stayed": 0, "copied": 2, "recomputed": 0, "copied_bytes": 2000},
            "pauses_s": [0.02, 0.04], "ordered_at": 1.0, "ready_at": 2.0, "switching_at": 2.5, "done_at": None,
        }
    ],
}  # fmt: skip
COLD_STARTS = {
    "cold_starts": [
        {
            "model": "tiny", "group": "g1", "degree": 2, "nodes": ["node-1", "node-2"], "arrived_at": 1.0, "ttft_s": 0.5,
            "phases": [
                {"name": "fetch", "where": "node-1", "start_s": 0.1, "end_s": 0.3, "bytes": 2_000_000},
                {"name": "first step", "where": "node-2", "start_s": 0.3, "end_s": 0.5, "bytes": None},
            ],
        }
    ]
}  # fmt: skip
EXPLAINED = {
    "model": "tiny",
    "objectives": {
        "ttft_s": 2.0, "tpot_s": None, "min_replicas": 0, "max_replicas": 2, "keep_alive_s": 300.0, "priority": 1,
        "max_degree": 2, "kv_tokens": 16384,
    },
    "now": {
        "policy": "planned", "outcome": "start", "reason": "degree 2: the cheapest of 1 that meet the service level",
        "candidates": [
            {
                "degree": 1, "nodes": ["node-1"], "chosen": False, "ruled_out": "first token after 3.10 s at the bad end",
                "moves": [],
                "prediction": {
                    "ttft_s": 2.7, "ttft_bad_s": 3.1, "tpot_s": 0.02, "tpot_bad_s": 0.03, "cost_byte_s": 4e9, "parts": {},
                },
            },
            {
                "degree": 2, "nodes": ["node-1", "node-2"], "chosen": True, "ruled_out": "",
                "moves": [{"group": "g7", "model": "other", "to": "", "takes_s": 0.0}],
                "prediction": {
                    "ttft_s": 1.4, "ttft_bad_s": 1.75, "tpot_s": 0.025, "tpot_bad_s": 0.03, "cost_byte_s": 6.5e9,
                    "parts": {},
                },
            },
        ],
    },
    "cold_starts": [
        {
            **COLD_STARTS["cold_starts"][0], "prediction_error": 0.25,
            "predicted": {"ttft_s": 0.4, "ttft_bad_s": 0.6, "parts": {"fetch": 0.19, "compute": 0.1}},
        }
    ],
}  # fmt: skip
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


class Handler(BaseHTTPRequestHandler):
    """`requests` of the server collects the bodies that came. The model "absent" does not exist,
    "breaks" fails midway, "poet" separates lines as Unicode does, and "stalls" goes on only when the server ends."""

    def do_GET(self) -> None:
        answers = {"/admin/status": STATUS, "/admin/cold-starts": COLD_STARTS, "/admin/explain/tiny": EXPLAINED}
        path = urlsplit(self.path).path
        if path in answers:
            self._answer(200, answers[path])
        else:
            name = unquote(path.rpartition("/")[2])
            self._answer(404, {"error": {"message": f"no model {name!r}", "type": "x", "param": None, "code": None}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)  # type: ignore[attr-defined]
        if body["model"] == "absent":
            self._answer(404, {"error": {"message": "no model 'absent'", "type": "x", "param": None, "code": None}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b": starting, ready in 2 s\n\n")
        chat = self.path.endswith("/chat/completions")
        for text in ("A\u2028B\u0085", "C") if body["model"] == "poet" else ("Hello", " there"):
            self._event({"choices": [{"delta": {"content": text}} if chat else {"text": text}]})
            if body["model"] == "stalls":
                self.server.hurry.wait(30)  # type: ignore[attr-defined]
            if body["model"] == "breaks":
                self._event({"error": {"message": "the last node is gone"}})
                return
        self._event({"choices": [{"delta": {}, "finish_reason": "stop"} if chat else {"finish_reason": "stop"}]})
        self._event({"choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _event(self, value: Any) -> None:
        self.wfile.write(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def stub_frontend() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The port it answers on, and the bodies of the requests that came."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        requests: list[dict[str, Any]] = []
        server.requests = requests  # type: ignore[attr-defined]
        server.hurry = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port, requests
        finally:
            server.hurry.set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()
