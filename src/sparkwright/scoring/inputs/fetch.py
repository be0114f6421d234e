"""Photos over HTTP: every wait, size and redirect is bounded, and nothing that a server says is trusted.

Runs on the workers, with the standard library alone. URLs in a table come from anywhere, so a request goes only to an
address that was itself checked: the name is resolved once, the result judged, and the connection made to just that
address, anew for each redirect. A name that resolves differently a moment later (DNS rebinding) gains nothing.
"""

import contextlib
import http.client
import random
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, cast
from urllib.parse import urljoin

import sparkwright
from sparkwright.errors import InputError
from sparkwright.networks.preprocessing import ImageError
from sparkwright.scoring.inputs.addresses import Place, is_public

__all__ = ["FetchLimits", "Web"]

_CHUNK = 64 << 10
_LARGE = 16 << 20  # what is larger is read one photo at a time, so that memory stays bounded
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 8.0

# What may be better the next time; all other statuses will not change.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_FOUND = {404, 410}
_NOT_ALLOWED = {401, 403, 407, 451}
_OPAQUE = {"", "application/octet-stream", "binary/octet-stream"}  # says nothing: the decoder will see


@dataclass(frozen=True)
class FetchLimits:
    """What fetching a photo from a URL or path may take. Each scoring task has its own connections and counts.

    Args:
        timeout_s: Seconds for one photo, all attempts and pauses together.
        connect_timeout_s: Seconds until a connection is there.
        silence_timeout_s: Seconds in which a server may send nothing.
        retries: Further attempts when a connection fails or breaks off, or the server answers 408, 425, 429, 500, 502,
            503 or 504. The pauses between them double, and are random by half; ``Retry-After`` lengthens them.
        redirects: How many a URL may take.
        max_bytes: Largest photo; reading stops there, whatever the server announced.
        concurrency: Photos that a task fetches at once.
        per_host: Of those, from one host.
        allow_private: Fetch from private, loopback and link-local addresses too. Only for tables whose URLs you trust:
            they may then name services that only the cluster can reach.

    Raises:
        InputError: A limit is out of its range.
    """

    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 10.0
    retries: int = 3
    redirects: int = 5
    max_bytes: int = 64 << 20
    concurrency: int = 16
    per_host: int = 8
    allow_private: bool = False

    def __post_init__(self) -> None:
        least = {"retries": 0, "redirects": 0, "max_bytes": 1, "concurrency": 1, "per_host": 1, "allow_private": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not (isinstance(value, bool) and field.name != "allow_private")
            if not number or not (value >= least[field.name] if field.name in least else value > 0):
                bound = f"at least {least[field.name]}" if field.name in least else "above 0"
                raise InputError(f"FetchLimits: `{field.name}` must be a number {bound}; got {value!r}.")


_Server = tuple[bool, str, int]  # whether by TLS, host, port


class _PassingError(ImageError):
    """A failure that another attempt may mend; `pause_s` is the pause that the server asked for."""

    def __init__(self, kind: str, message: str, pause_s: float | None = None) -> None:
        super().__init__(kind, message)
        self.pause_s = pause_s


class _Clock:
    """The time that is left for one photo."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        return self._ends - time.monotonic()

    def patience(self, limit_s: float) -> float:
        """Return how long the next step may take.

        Raises:
            TimeoutError: no time is left.
        """
        left = self.left()
        if left <= 0:
            raise TimeoutError
        return min(limit_s, left)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the body's time: waiting for one's turn is no fault of the server."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._ends += time.monotonic() - start


class _Socket(socket.socket):
    """A socket whose reads end when the photo's time does, so that a server gains nothing by sending byte for byte."""

    clock: _Clock
    silence_s: float

    def recv_into(self, *args: Any) -> int:
        self.settimeout(self.clock.patience(self.silence_s))
        return super().recv_into(*args)


class _TlsSocket(_Socket, ssl.SSLSocket):
    """The same over TLS."""


class Web:
    """Fetches photos; keeps connections open between them. Many threads may use it at once.

    Args:
        limits: What a photo may take.

    Example:
        >>> Web(FetchLimits()).get("https://example.com/cat.jpg")  # doctest: +SKIP
    """

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(limits.per_host))
        self._idle: list[tuple[_Server, http.client.HTTPConnection]] = []  # the one used last at the end
        self._busy: set[socket.socket] = set()
        self._large = threading.Lock()
        self._closed = threading.Event()

    def get(self, url: str) -> bytes:
        """Return what lies at a URL.

        Raises:
            ImageError: of the kinds ``not found``, ``not allowed``, ``network failure``, ``timeout``, ``too large``,
                ``wrong type``, ``unsupported``. Messages name the host, but not the rest: it may hold secrets, and
                equal messages are counted.
        """
        clock = _Clock(self._limits.timeout_s)
        for _ in range(self._limits.redirects + 1):
            place = Place.of(url)
            with self._turn(place.host, clock):
                answer = self._insist(place, clock)
            if isinstance(answer, bytes):
                return answer
            try:
                url = urljoin(url, answer)
            except ValueError as error:
                raise ImageError("network failure", f"{place.host} redirects to what is no URL.") from error
        raise ImageError("network failure", f"There were more than {self._limits.redirects} redirects.")

    def close(self) -> None:
        """Drop all connections; fetches that are under way fail at once."""
        with self._lock:
            self._closed.set()
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for _, connection in idle:
            connection.close()
        for sock in busy:  # its thread closes it
            with contextlib.suppress(OSError):  # it may be done just now
                sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _turn(self, host: str, clock: _Clock) -> Iterator[None]:
        """Wait until fewer than `per_host` fetches use this host. Pauses before a retry count as use: that is kind."""
        with self._lock:
            turn = self._turns[host]
        with clock.stopped():
            turn.acquire()
        try:
            yield
        finally:
            turn.release()

    def _insist(self, place: Place, clock: _Clock) -> bytes | str:
        """Ask until there is an answer: the photo's bytes, or where else to look."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._ask(place, clock)
            except _PassingError as failure:
                tried = f" ({attempt} attempts)" if attempt > 1 else ""
                pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
                pause = max(pause, failure.pause_s or 0)
                if attempt > self._limits.retries or self._closed.is_set():
                    raise ImageError(failure.kind, f"{failure}{tried}.") from failure
                if pause >= clock.left():
                    raise ImageError(failure.kind, f"{failure}{tried}, and no time was left to try again.") from failure
            self._closed.wait(pause)

    def _ask(self, place: Place, clock: _Clock) -> bytes | str:
        """Make one request, over a connection that is open or a new one."""
        kept = self._kept(place)
        try:
            if kept is not None:
                # The server may have closed it while it was idle; that says nothing about the photo.
                with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                    return self._exchange(kept, place, clock)
            return self._exchange(self._connect(place, clock), place, clock)
        except ImageError:
            raise
        except TimeoutError as error:
            what = f"{place.host} did not answer" if clock.left() > 0 else f"{place.host}: the photo was not there"
            raise _PassingError("timeout", f"{what} in time") from error
        except ssl.SSLCertVerificationError as error:
            raise ImageError("network failure", f"{place.host}: {error.verify_message}.") from error
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise _PassingError("network failure", f"{place.host} cannot be resolved now") from error
            raise ImageError("network failure", f"There is no host {place.host}.") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise _PassingError("network failure", f"{place.host}: {reason}") from error

    def _kept(self, place: Place) -> http.client.HTTPConnection | None:
        """Take the connection to this server that was used last."""
        with self._lock:
            for index in reversed(range(len(self._idle))):
                if self._idle[index][0] == _server(place):
                    return self._idle.pop(index)[1]
        return None

    def _keep(self, place: Place, connection: http.client.HTTPConnection) -> None:
        """Keep a connection for the next photo; of all kept ones, the one unused longest gives way."""
        with self._lock:
            self._idle.append((_server(place), connection))
            most = 0 if self._closed.is_set() else self._limits.concurrency
            surplus = self._idle.pop(0)[1] if len(self._idle) > most else None
        if surplus is not None:
            surplus.close()

    def _connect(self, place: Place, clock: _Clock) -> http.client.HTTPConnection:
        """Connect to an address that may be connected to.

        Raises:
            ImageError: the host has none.
            OSError: none of them answers.
        """
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        allowed = [info for info in found if self._limits.allow_private or is_public(str(info[4][0]))]
        if not allowed:
            raise ImageError(
                "not allowed", f"{place.host} is at a private address; only allow_private=True lets it be fetched."
            )
        failure: OSError | None = None
        for family, _, _, _, address in allowed:
            try:
                sock = self._dial(family, address, place, clock)
            except OSError as error:
                failure = error
                continue
            kind = http.client.HTTPSConnection if place.secure else http.client.HTTPConnection
            connection = kind(place.host, place.port)
            connection.sock = sock
            connection.auto_open = 0  # it must not connect by itself: to an address that nobody checked
            return connection
        assert failure is not None
        raise failure

    def _dial(self, family: int, address: Any, place: Place, clock: _Clock) -> _Socket:
        sock = _Socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(clock.patience(self._limits.connect_timeout_s))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return cast(_Socket, self._tls.wrap_socket(sock, server_hostname=place.host)) if place.secure else sock
        except OSError:
            sock.close()
            raise

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.sslsocket_class = _TlsSocket
        return context

    def _exchange(self, connection: http.client.HTTPConnection, place: Place, clock: _Clock) -> bytes | str:
        """Send a request and read the answer; keep the connection if another can follow."""
        sock = cast(_Socket, connection.sock)
        sock.clock, sock.silence_s = clock, self._limits.silence_timeout_s
        with self._lock:
            self._busy.add(sock)
        keep = False
        try:
            if self._closed.is_set():
                raise ImageError("network failure", "Scoring was stopped.")
            sock.settimeout(clock.patience(sock.silence_s))
            connection.request("GET", place.target, headers=_headers(place))
            with connection.getresponse() as response:
                try:
                    return self._judge(response, place) or self._body(response, clock)
                finally:
                    keep = response.isclosed() and not (response.will_close or response.length)
        finally:
            with self._lock:
                self._busy.discard(sock)
            if keep:
                self._keep(place, connection)
            else:
                connection.close()

    def _judge(self, response: http.client.HTTPResponse, place: Place) -> str:
        """Return where a redirect leads; an empty string if a photo may follow."""
        if response.status != 200 and response.length is not None and response.length <= _CHUNK:
            response.read()  # then another request can follow on this connection
        status = response.status
        reason = f"{place.host}: HTTP {status} {http.client.responses.get(status, '')}".rstrip()
        if status in _REDIRECTS and (location := response.getheader("Location")):
            return location.encode("latin-1", "replace").decode("utf-8", "replace")  # http.client reads Latin-1
        if status in _PASSING:
            kind = "timeout" if status in (408, 504) else "network failure"
            raise _PassingError(kind, reason, _asked_pause(response))
        if status in _NOT_FOUND:
            raise ImageError("not found", f"{reason}.")
        if status in _NOT_ALLOWED:
            raise ImageError("not allowed", f"{reason}.")
        if status != 200:
            raise ImageError("network failure", f"{reason}.")
        type_ = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
        coding = (response.getheader("Content-Encoding") or "identity").strip().lower()
        if type_ not in _OPAQUE and not type_.startswith("image/"):
            raise ImageError("wrong type", f"{place.host} sent {type_[:50]}, no image.")
        if coding != "identity":
            raise ImageError("wrong type", f"{place.host} sent {coding[:50]} data that was not asked for.")
        if response.length is not None and response.length > self._limits.max_bytes:
            raise self._too_large()
        return ""

    def _body(self, response: http.client.HTTPResponse, clock: _Clock) -> bytes:
        """Read the photo, but no more than a photo may have."""
        content = bytearray()
        with contextlib.ExitStack() as alone:
            while chunk := response.read(_CHUNK):
                if len(content) <= _LARGE < len(content) + len(chunk):
                    with clock.stopped():
                        alone.enter_context(self._large)
                content += chunk
                if len(content) > self._limits.max_bytes:
                    raise self._too_large()
            if response.length:  # `read` itself says nothing of it
                raise http.client.IncompleteRead(b"", response.length)
            return bytes(content)

    def _too_large(self) -> ImageError:
        return ImageError("too large", f"The photo has more than {self._limits.max_bytes:,} bytes (max_bytes).")


def _server(place: Place) -> _Server:
    return place.secure, place.host, place.port


def _headers(place: Place) -> dict[str, str]:
    headers = {
        "User-Agent": f"sparkwright/{sparkwright.__version__}",
        "Accept": "image/*, application/octet-stream;q=0.9, */*;q=0.1",
        "Accept-Encoding": "identity",
    }
    if place.login:
        headers["Authorization"] = "Basic " + b64encode(place.login.encode()).decode()
    return headers


def _asked_pause(response: http.client.HTTPResponse) -> float | None:
    """Return the seconds of ``Retry-After``; a date counts from the server's own ``Date``: clocks differ."""
    asked = (response.getheader("Retry-After") or "").strip()
    if asked.isdigit():
        return float(asked)
    try:
        start, end = parsedate_to_datetime(response.getheader("Date") or ""), parsedate_to_datetime(asked)
        return max(0.0, (end - start).total_seconds())
    except (TypeError, ValueError):
        return None
