"""An HTTP server on loopback that behaves well or badly, as the path of the URL says."""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from .photos import png

PHOTO = png(7)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "PhotoServer"

    def do_GET(self) -> None:
        server = self.server
        path = self.path.partition("?")[0]
        with server.lock:
            server.asked[path] += 1
            server.now += 1
            server.most = max(server.most, server.now)
            server.headers.append(dict(self.headers))
        try:
            parts = unquote(path).strip("/").split("/")
            getattr(self, parts[0].replace("-", "_"))(*parts[1:])
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            with server.lock:
                server.now -= 1

    def answer(self, status: int = 200, body: bytes = PHOTO, type_: str | None = "image/png", **headers: str) -> None:
        self.send_response(status)
        if type_ is not None:
            self.send_header("Content-Type", type_)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def photo(self, red: str = "7", latency_s: str = "0") -> None:
        time.sleep(float(latency_s))
        self.answer(body=png(int(red)))

    def file(self, *path: str) -> None:
        assert self.server.folder is not None
        self.answer(body=self.server.folder.joinpath(*path).read_bytes())

    def zeros(self, size: str) -> None:
        self.answer(body=bytes(int(size)))

    def odd(self, name: str) -> None:
        self.answer(body=name.encode())

    def chunked(self) -> None:
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (PHOTO[:20], PHOTO[20:])) + b"0\r\n\r\n"
        self.answer(body=body, Transfer_Encoding="chunked")

    def typed(self, *type_: str) -> None:
        self.answer(type_="/".join(type_) or None)

    def zipped(self) -> None:
        self.answer(Content_Encoding="gzip")

    def status(self, code: str) -> None:
        self.answer(int(code), b"no", "text/plain")

    def busy(self, code: str, times: str, after: str = "0") -> None:
        if self.server.asked[self.path] <= int(times):
            self.answer(int(code), b"later", "text/plain", Retry_After=after)
        else:
            self.answer()

    def busy_until_date(self) -> None:
        if self.server.asked[self.path] > 1:
            self.answer()
            return
        self.send_response_only(503)
        self.send_header("Date", "Tue, 01 Jan 2030 00:00:00 GMT")
        self.send_header("Retry-After", "Tue, 01 Jan 2030 00:00:01 GMT")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def stall(self) -> None:
        self.server.stopped.wait(20)

    def stall_inside(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(PHOTO[:30])
        self.server.stopped.wait(20)

    def drip(self) -> None:
        """Byte for byte, so that no wait is ever long."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self._drip(b"x")

    def drip_header(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self._drip(b"x")

    def drip_chunks(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._drip(b"0")

    def _drip(self, what: bytes) -> None:
        while not self.server.stopped.wait(0.05):
            self.wfile.write(what)

    def break_off(self, times: str = "1000") -> None:
        if self.server.asked[self.path] > int(times):
            self.answer()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(PHOTO)))
        self.end_headers()
        self.wfile.write(PHOTO[:30])
        self.close_connection = True

    def hang_up(self) -> None:
        self.close_connection = True

    def garbage(self) -> None:
        self.wfile.write(b"\x00\xff" * 50 + b"\r\n\r\n")
        self.close_connection = True

    def endless(self) -> None:
        """No length, no end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
        while not self.server.stopped.is_set():
            self.wfile.write(bytes(1 << 16))
            self.server.sent += 1 << 16

    def announce(self, size: str) -> None:
        """A length that is not kept."""
        self.send_response(200)
        self.send_header("Content-Length", size)
        self.end_headers()
        self.server.stopped.wait(20)

    def lie(self) -> None:
        """Chunks without end, with a length that says otherwise."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not self.server.stopped.is_set():
            self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def to(self, *where: str) -> None:
        """A redirect to what follows."""
        self.answer(302, b"", None, Location="/".join(where))

    def round(self, *_: str) -> None:
        self.answer(301, b"", None, Location=self.path + "/x")

    def once(self) -> None:
        """Close after the answer, without saying so."""
        self.answer()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class PhotoServer(ThreadingHTTPServer):
    """Counts what it is asked.

    Attributes:
        asked: Requests of each path.
        most: Requests at one time.
        sent: Bytes of endless answers.
        folder: Whose files it has, if any.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, tls: ssl.SSLContext | None = None, folder: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.folder = folder
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.now = self.most = self.sent = self.connections = 0

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: object, client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is what is tested


@contextmanager
def photo_server(tls: ssl.SSLContext | None = None, folder: Path | None = None) -> Iterator[PhotoServer]:
    """A running server."""
    with PhotoServer(tls, folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()
