import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from sparkwright.errors import DownloadError, InputError, ModelError, NotFoundError
from sparkwright.events import Event, Progress, StageEnded, StageStarted
from sparkwright.networks import weights
from sparkwright.networks.weights import fetch, find_weights, read_weights

STATE = {"a.weight": torch.arange(60000.0).reshape(200, 300), "a.bias": torch.ones(3)}


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


PUBLISHED = pickled(STATE)
NAME = f"net-{hashlib.sha256(PUBLISHED).hexdigest()[:8]}.pth"


@dataclass
class Server:
    """A server of files on loopback; `cuts` says after how many bytes each connection breaks, in turn."""

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)  # what was asked for
    address: str = ""

    def url(self, name: str = NAME) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server({f"/{NAME}": PUBLISHED})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.knows_ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else None
            self.wfile.write(content[start:end])

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.address = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARKWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(weights, "_PAUSES_S", (0.0, 0.0, 0.0))
    return tmp_path / "home" / "weights"


def same(read: object) -> bool:
    return isinstance(read, dict) and read.keys() == STATE.keys() and all(torch.equal(read[k], STATE[k]) for k in STATE)


def test_download_is_kept_as_safetensors_and_pinned(server: Server, cache: Path) -> None:
    path = fetch(server.url())
    assert same(read_weights(path))
    assert path == cache / NAME.replace(".pth", ".safetensors")
    pin = json.loads((cache / f"{NAME}.sha256.json").read_text())
    assert pin["published"] == hashlib.sha256(PUBLISHED).hexdigest()
    assert pin["kept"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not list(cache.glob("*.pth"))
    assert not list(cache.glob("*.part"))


def test_second_use_downloads_nothing(server: Server) -> None:
    fetch(server.url())
    assert same(find_weights("net", server.url()))
    assert server.ranges == [None]


def test_interrupted_download_goes_on_where_it_stopped(server: Server) -> None:
    server.cuts = [1000, 5000]
    assert same(read_weights(fetch(server.url())))
    assert server.ranges == [None, "bytes=1000-", "bytes=6000-"]


def test_download_of_an_earlier_process_goes_on(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{NAME}.part").write_bytes(PUBLISHED[:777])
    assert same(read_weights(fetch(server.url())))
    assert server.ranges == ["bytes=777-"]


def test_complete_part_is_used(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{NAME}.part").write_bytes(PUBLISHED)
    assert same(read_weights(fetch(server.url())))


def test_server_without_ranges_sends_all_again(server: Server, cache: Path) -> None:
    server.knows_ranges = False
    server.cuts = [1000]
    assert same(read_weights(fetch(server.url())))
    assert server.ranges == [None, "bytes=1000-"]


def test_download_that_always_breaks_keeps_its_part(server: Server, cache: Path) -> None:
    server.cuts = [1000] * 4
    with pytest.raises(DownloadError, match=r"cannot be downloaded from .*put it at .*weights/net-"):
        fetch(server.url())
    assert (cache / f"{NAME}.part").stat().st_size == 4000
    assert same(read_weights(fetch(server.url())))


def test_wrong_checksum_deletes_the_file(server: Server, cache: Path) -> None:
    server.files[f"/{NAME}"] = PUBLISHED[:-1] + b"x"
    with pytest.raises(
        DownloadError, match=rf"{NAME} has SHA-256 [0-9a-f]{{64}}, which should be {NAME[4:12]}….*deleted"
    ):
        fetch(server.url())
    assert not list(cache.glob("*.pth"))
    assert not list(cache.glob("*.safetensors"))
    server.files[f"/{NAME}"] = PUBLISHED
    assert same(read_weights(fetch(server.url())))


def test_damaged_part_is_found_and_not_kept(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{NAME}.part").write_bytes(b"x" * 500)
    with pytest.raises(DownloadError, match="the file is damaged or not the one that was published"):
        fetch(server.url())
    assert same(read_weights(fetch(server.url())))


def test_later_download_must_have_the_pinned_hash(server: Server) -> None:
    # Without a hash in its name the first download alone says what is right.
    server.files["/plain.pth"] = PUBLISHED
    path = fetch(server.url("plain.pth"))
    path.unlink()
    server.files["/plain.pth"] = pickled({"a": torch.zeros(1)})
    with pytest.raises(DownloadError, match=hashlib.sha256(PUBLISHED).hexdigest()):
        fetch(server.url("plain.pth"))


def test_altered_cache_is_found(server: Server) -> None:
    path = fetch(server.url())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"was altered after it was fetched.*Delete it, and it is fetched again"):
        fetch(server.url())
    path.unlink()
    assert same(read_weights(fetch(server.url())))


def test_missing_file_on_the_server_is_an_error_at_once(server: Server) -> None:
    with pytest.raises(DownloadError, match="the server answered 404 Not Found"):
        fetch(server.url("none-12345678.pth"))
    assert server.ranges == [None]


def test_no_network_says_where_to_put_the_file(server: Server, cache: Path) -> None:
    url = "http://127.0.0.1:9/net-00000000.pth"  # the discard port: nobody listens
    with pytest.raises(DownloadError) as caught:
        fetch(url)
    assert url in str(caught.value)
    assert f"put it at {cache}/net-00000000.pth" in str(caught.value)


def test_file_put_there_by_hand_is_used(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(PUBLISHED)
    assert same(read_weights(fetch(f"http://127.0.0.1:9/{NAME}")))


def test_cache_that_cannot_be_written_says_what_to_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:  # root may write to any folder of mode 555; nobody may make one in /sys
        folder = Path("/sys")
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o555)
    monkeypatch.setenv("SPARKWRIGHT_HOME", str(folder / "home"))
    with pytest.raises(DownloadError, match=r"cannot be kept in .*home/weights: .*Set SPARKWRIGHT_HOME to a folder"):
        fetch(server.url())


def test_full_disk_is_explained(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_atomically", full)
    with pytest.raises(DownloadError, match=r"No space left on device\. Set SPARKWRIGHT_HOME to a folder with enough"):
        fetch(server.url())


def test_weights_in_a_cache_that_cannot_be_written_are_read(server: Server, cache: Path) -> None:
    path = fetch(server.url())
    for file in cache.iterdir():
        file.chmod(0o444)
    cache.chmod(0o555)
    try:
        assert fetch(server.url()) == path
    finally:
        cache.chmod(0o755)


def test_two_processes_at_once_download_once(server: Server, cache: Path) -> None:
    code = "import sys; from sparkwright.networks.weights import fetch; print(fetch(sys.argv[1]))"
    started = [
        subprocess.Popen([sys.executable, "-c", code, server.url()], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = {process.communicate(timeout=60)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert printed == {str(cache / NAME.replace(".pth", ".safetensors"))}
    assert server.ranges == [None]


def test_progress_is_emitted(server: Server) -> None:
    seen: list[Event] = []
    fetch(server.url(), seen.append)
    assert seen[0] == StageStarted("download", len(PUBLISHED), "bytes")
    assert seen[-2] == Progress("download", NAME, len(PUBLISHED))
    assert isinstance(seen[-1], StageEnded)


def test_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    file.write_bytes(pickled([1, 2]))
    with pytest.raises(ModelError, match=r"must hold tensors by name \(a state_dict\); it holds a list"):
        read_weights(file)
    file.write_bytes(b"no pickle")
    with pytest.raises(ModelError, match="cannot be read without running code, or are damaged"):
        read_weights(file)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda folder: folder / "none.safetensors", NotFoundError, "There is no file .*none.safetensors"),
        (lambda folder: folder, InputError, r"must hold net\.safetensors, or one \.safetensors file; it holds 0"),
    ],
)
def test_given_file_that_is_not_there_is_named(
    tmp_path: Path, given: Callable[[Path], Path], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_weights("net", None, given(tmp_path))
