import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sparkwright.errors import InputError
from sparkwright.networks.preprocessing import ImageError
from sparkwright.scoring.inputs import fetch
from sparkwright.scoring.inputs.addresses import Place, is_public
from sparkwright.scoring.inputs.fetch import FetchLimits, Web

from .photo_server import PHOTO, PhotoServer, photo_server
from .photos import png

pytestmark = pytest.mark.timeout(30)

LIMITS = FetchLimits(timeout_s=5, connect_timeout_s=1, silence_timeout_s=0.5, retries=2, allow_private=True)


@pytest.fixture
def server() -> Iterator[PhotoServer]:
    with photo_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.02)


def get(url: str, **changes: object) -> bytes:
    web = Web(replace(LIMITS, **changes))
    try:
        return web.get(url)
    finally:
        web.close()


def failure(url: str, **changes: object) -> tuple[str, str]:
    """Kind and message."""
    with pytest.raises(ImageError, match=r"\w") as raised:
        get(url, **changes)
    return raised.value.kind, str(raised.value)


def test_the_documented_settings_are_all_there() -> None:
    documented = FetchLimits.__doc__ or ""
    assert [f.name for f in fields(FetchLimits) if f"        {f.name}: " not in documented] == []


@pytest.mark.parametrize(("name", "value"), [("timeout_s", 0), ("retries", -1), ("per_host", 0), ("max_bytes", "1 MB")])
def test_a_limit_out_of_its_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be a number"):
        FetchLimits(**{name: value})


def test_photos_arrive_whole_with_a_length_in_chunks_and_until_the_connection_ends(server: PhotoServer) -> None:
    assert get(f"{server.url}/photo") == PHOTO
    assert get(f"{server.url}/chunked") == PHOTO
    assert get(f"{server.url}/zeros/200000") == bytes(200_000)
    assert get(f"{server.url}/photo?token=a b&x=ö") == PHOTO
    assert get(f"{server.url}/odd/ä b%20c[1]") == "ä b c[1]".encode()


def test_one_connection_serves_many_photos_and_one_that_was_closed_meanwhile_is_replaced(server: PhotoServer) -> None:
    web = Web(LIMITS)
    for _ in range(5):
        assert web.get(f"{server.url}/photo") == PHOTO
        with pytest.raises(ImageError, match="HTTP 404 Not Found"):
            web.get(f"{server.url}/status/404")
    assert server.connections == 1
    for _ in range(3):
        assert web.get(f"{server.url}/once") == PHOTO
    assert server.asked["/once"] == 3
    web.close()


@pytest.mark.parametrize("code", [404, 410])
def test_what_is_not_there_is_not_found_and_not_asked_for_again(server: PhotoServer, code: int) -> None:
    kind, message = failure(f"{server.url}/status/{code}?secret=1")
    assert kind == "not found"
    assert f"HTTP {code}" in message
    assert "secret" not in message
    assert sum(server.asked.values()) == 1


@pytest.mark.parametrize(("code", "kind"), [(401, "not allowed"), (403, "not allowed"), (400, "network failure")])
def test_refusals_are_not_repeated(server: PhotoServer, code: int, kind: str) -> None:
    assert failure(f"{server.url}/status/{code}")[0] == kind
    assert sum(server.asked.values()) == 1


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(server: PhotoServer, code: int) -> None:
    assert get(f"{server.url}/busy/{code}/2") == PHOTO
    assert server.asked[f"/busy/{code}/2"] == 3


def test_an_error_that_stays_ends_after_the_retries(server: PhotoServer) -> None:
    kind, message = failure(f"{server.url}/status/500")
    assert (kind, message) == ("network failure", "127.0.0.1: HTTP 500 Internal Server Error (3 attempts).")
    assert server.asked["/status/500"] == 3


def test_retry_after_is_kept_in_seconds_and_as_a_date_by_the_servers_own_clock(server: PhotoServer) -> None:
    for path in ("busy/429/1/1", "busy-until-date"):
        start = time.monotonic()
        assert get(f"{server.url}/{path}") == PHOTO
        assert 1 <= time.monotonic() - start < 3


def test_a_server_that_asks_for_more_time_than_there_is_gets_no_further_request(server: PhotoServer) -> None:
    start = time.monotonic()
    kind, message = failure(f"{server.url}/busy/429/9/3600")
    assert kind == "network failure"
    assert message == "127.0.0.1: HTTP 429 Too Many Requests, and no time was left to try again."
    assert time.monotonic() - start < 1
    assert server.asked["/busy/429/9/3600"] == 1


def test_connections_that_break_off_are_tried_again(server: PhotoServer) -> None:
    assert get(f"{server.url}/break-off/2") == PHOTO
    for path in ("break-off", "hang-up", "garbage"):
        kind, message = failure(f"{server.url}/{path}")
        assert (path, kind) == (path, "network failure")
        assert "(3 attempts)" in message


def test_a_port_that_nobody_listens_on_is_a_network_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    kind, message = failure(f"http://127.0.0.1:{port}/")
    assert (kind, message) == ("network failure", "127.0.0.1: Connection refused (3 attempts).")


def test_a_host_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert failure("http://nowhere.invalid/x") == ("network failure", "There is no host nowhere.invalid.")


@pytest.mark.parametrize("path", ["stall", "stall-inside"])
def test_silence_ends_an_attempt(server: PhotoServer, path: str) -> None:
    start = time.monotonic()
    kind, message = failure(f"{server.url}/{path}", retries=1, silence_timeout_s=0.3)
    assert (kind, message) == ("timeout", "127.0.0.1 did not answer in time (2 attempts).")
    assert 0.6 <= time.monotonic() - start < 2


@pytest.mark.parametrize("path", ["drip", "drip-header", "drip-chunks"])
def test_a_slow_drip_ends_at_the_deadline_wherever_it_drips(server: PhotoServer, path: str) -> None:
    start = time.monotonic()
    kind, message = failure(f"{server.url}/{path}", timeout_s=0.6)
    assert kind == "timeout"
    assert "the photo was not there in time" in message
    assert 0.6 <= time.monotonic() - start < 1.5


@pytest.mark.parametrize("path", ["endless", "announce/5368709120", "lie", "zeros/100001"])
def test_a_body_above_the_limit_is_not_read_to_its_end(server: PhotoServer, path: str) -> None:
    kind, message = failure(f"{server.url}/{path}", max_bytes=100_000)
    assert (kind, message) == ("too large", "The photo has more than 100,000 bytes (max_bytes).")
    assert server.asked[f"/{path}"] == 1
    assert server.sent < 20 << 20  # what the sockets' buffers hold


def test_a_body_of_the_limit_itself_is_read(server: PhotoServer) -> None:
    assert len(get(f"{server.url}/zeros/100000", max_bytes=100_000)) == 100_000


def test_images_octets_and_no_type_are_accepted_and_pages_are_not(server: PhotoServer) -> None:
    for type_ in ("image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream", "binary/octet-stream", ""):
        assert get(f"{server.url}/typed/{type_}") == PHOTO
    kind, message = failure(f"{server.url}/typed/text/html; charset=utf-8")
    assert (kind, message) == ("wrong type", "127.0.0.1 sent text/html, no image.")
    assert failure(f"{server.url}/zipped")[0] == "wrong type"


def test_redirects_are_followed_so_far_and_no_further(server: PhotoServer) -> None:
    assert get(f"{server.url}/to/{server.url}/photo/9") == png(9)
    assert get(f"{server.url}/to//photo") == PHOTO
    assert failure(f"{server.url}/round") == ("network failure", "There were more than 5 redirects.")
    assert sum(count for path, count in server.asked.items() if path.startswith("/round")) == 6
    assert failure(f"{server.url}/to//photo", redirects=0)[0] == "network failure"


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png,x"])
def test_a_redirect_leads_to_http_alone(server: PhotoServer, where: str) -> None:
    assert failure(f"{server.url}/to/{where}")[0] == "not allowed"


def test_private_addresses_are_refused_before_any_connection(server: PhotoServer) -> None:
    kind, message = failure(f"{server.url}/photo", allow_private=False)
    assert kind == "not allowed"
    assert message == "127.0.0.1 is at a private address; only allow_private=True lets it be fetched."
    for host in ("localhost", "[::1]", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"):
        assert failure(f"http://{host}:{server.server_address[1]}/photo", allow_private=False)[0] == "not allowed"
    assert server.connections == 0


def test_a_redirect_to_a_private_address_is_refused(server: PhotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    port = server.server_address[1]
    assert get(f"{server.url}/to//photo", allow_private=False) == PHOTO
    kind, message = failure(f"{server.url}/to/http://127.0.0.2:{port}/photo", allow_private=False)
    assert kind == "not allowed"
    assert "127.0.0.2 is at a private address" in message
    assert server.asked["/photo"] == 1


def test_a_name_is_resolved_once_and_just_the_checked_address_connected_to(
    server: PhotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.server_address[1]
    answers = iter(["127.0.0.3", "127.0.0.1"])  # a name that changes between the check and the connection
    asked = []

    def rebinding(host: str, port: int, **kwargs: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    assert failure(f"http://rebind.example:{port}/photo", allow_private=False)[0] == "not allowed"
    assert server.connections == 0
    assert get(f"http://rebind.example:{port}/photo", allow_private=False) == PHOTO
    assert asked == ["rebind.example"] * 2
    assert server.headers[0]["Host"] == f"rebind.example:{port}"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%1", "fc00::1", "fec0::1", "ff02::1"),
        *("::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"),
    ],
)
def test_addresses_that_are_not_the_internets(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://[::1", "http://a:b/", "http://a b/", "http://a..b/"])
def test_what_is_no_url_is_said_so(url: str) -> None:
    assert failure(url)[0] == "unsupported"


def test_a_url_is_sent_as_a_request_can_hold_it() -> None:
    place = Place.of("https://us%40er:pa:ss@Bücher.example/ä b/%41?q=ö\r\nX: y#part")
    assert (place.secure, place.host, place.port) == (True, "xn--bcher-kva.example", 443)
    assert place.target == "/%C3%A4%20b/%41?q=%C3%B6X:%20y"
    assert place.login == "us@er:pa:ss"


def test_a_login_in_the_url_is_sent_to_its_own_host_alone(server: PhotoServer) -> None:
    port = server.server_address[1]
    login = "Basic bWU6c2VjcmV0"
    assert get(f"http://me:secret@127.0.0.1:{port}/to//photo") == PHOTO
    assert get(f"http://me:secret@127.0.0.1:{port}/to/http://localhost:{port}/photo") == PHOTO
    assert [headers.get("Authorization") for headers in server.headers] == [login, login, login, None]


def test_a_host_gets_no_more_requests_at_once_than_allowed(server: PhotoServer) -> None:
    web = Web(replace(LIMITS, per_host=3, timeout_s=0.5))
    with ThreadPoolExecutor(12) as pool:
        start = time.monotonic()
        photos = list(pool.map(web.get, [f"{server.url}/photo/7/0.1"] * 24))
        seconds = time.monotonic() - start
    assert photos == [PHOTO] * 24
    assert server.most == 3
    assert seconds > 0.75  # 8 rounds: above a photo's own time, in which waiting for one's turn does not count
    web.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificates_are_checked_and_the_limits_hold_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=photos"
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with photo_server(tls) as server:
        kind, message = failure(f"{server.url}/photo")
        assert (kind, message) == ("network failure", "127.0.0.1: self-signed certificate.")
        assert server.asked == {}
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        web = Web(replace(LIMITS, timeout_s=0.6, max_bytes=100_000))
        assert [web.get(f"{server.url}/{path}") for path in ("photo", "chunked", "to//photo")] == [PHOTO] * 3
        for path, kind in {"drip": "timeout", "stall-inside": "timeout", "endless": "too large"}.items():
            with pytest.raises(ImageError, match=r"\w") as raised:
                web.get(f"{server.url}/{path}")
            assert (path, raised.value.kind) == (path, kind)
        web.close()
        port = server.server_address[1]
        assert failure(f"https://localhost:{port}/photo")[1].startswith("localhost: Hostname mismatch")
        assert failure(f"http://127.0.0.1:{port}/photo", retries=0)[0] in ("network failure", "timeout")


def test_large_photos_are_read_one_at_a_time_and_all_arrive(
    server: PhotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_LARGE", 100_000)
    web = Web(replace(LIMITS, max_bytes=3_000_000))
    urls = [f"{server.url}/zeros/2000000", f"{server.url}/zeros/50000", f"{server.url}/endless"] * 4
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(web.get, url) for url in urls]
        assert [answer.exception() is None for answer in answers] == [True, True, False] * 4
    assert sum(len(answer.result()) for answer in answers if not answer.exception()) == 4 * 2_050_000
    web.close()


def test_closing_ends_fetches_that_are_under_way(server: PhotoServer) -> None:
    web = Web(replace(LIMITS, silence_timeout_s=20, timeout_s=20, retries=0))
    errors: list[str] = []

    def fetch_it() -> None:
        try:
            web.get(f"{server.url}/stall-inside")
        except ImageError as error:
            errors.append(error.kind)

    thread = threading.Thread(target=fetch_it)
    thread.start()
    while not server.now:
        time.sleep(0.01)
    time.sleep(0.1)
    start = time.monotonic()
    web.close()
    thread.join(5)
    assert errors == ["network failure"]
    assert time.monotonic() - start < 2
    with pytest.raises(ImageError, match="stopped"):
        web.get(f"{server.url}/photo")
