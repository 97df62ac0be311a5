"""A small server of the tests' own that speaks `/v1/chat/completions` and misbehaves on order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


def choice(text: str, finish: str = "stop", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}


def answer(*texts: str) -> Reply:
    return 200, {"choices": [choice(text) for text in texts]}


class Server:
    """Replies by `reply(request, number of the request)` and records what it was asked. Port 0 is any free one."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply], port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append({"path": self.path, **request})
                    server.headers.append({key.lower(): value for key, value in self.headers.items()})
                    server._now += 1
                    server.most_at_once = max(server.most_at_once, server._now)
                status, body, *more = reply(request, number)
                with server._lock:
                    server._now -= 1
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                for key, value in (more[0] if more else {}).items():
                    self.send_header(key, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class QuietServer(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that gave up is part of the test."""

        self._http = QuietServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def serving(reply: Callable[[dict[str, Any], int], Reply], port: int = 0) -> Generator[Server]:
    server = Server(reply, port)
    try:
        yield server
    finally:
        server.close()
