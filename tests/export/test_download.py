"""Downloads from a server of our own that behaves well, badly, or not at all."""

import hashlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export import catalogue, download
from export.__main__ import main
from export.catalogue import PublicWeights
from export.download import default_cache, fetch
from export.errors import DownloadError

CONTENT = bytes(range(256)) * 4096
"""1 MiB."""


@dataclass
class Files:
    """What the server has, how it behaves, and what it was asked."""

    content: bytes = CONTENT
    status: int = 200
    ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)
    """Bytes of the body until the connection is closed, for each request in turn; then it is not."""
    says_length: bool = True
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""


class Handler(BaseHTTPRequestHandler):
    files: Files

    def do_GET(self) -> None:
        files, wanted = self.files, self.headers["Range"]
        files.asked.append(wanted)
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and files.ranges else 0  # type: ignore[index]
        status = files.status
        if begin and begin >= len(files.content):
            status = 416
        self.send_response(206 if status == 200 and wanted and files.ranges else status)
        body = files.content[begin:] if status == 200 else b""
        if wanted and files.ranges and status == 200:
            self.send_header("Content-Range", f"bytes {begin}-{len(files.content) - 1}/{len(files.content)}")
        if files.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: files.breaks_after.pop(0)] if files.breaks_after else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 http.server's name
        pass


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def row(files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublicWeights]:
    """The only public weights there are, on a server of our own."""
    handler = type("OurHandler", (Handler,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        ours = public(f"http://127.0.0.1:{server.server_address[1]}/tiny.pth")
        monkeypatch.setattr(catalogue, "PUBLIC", (ours,))
        yield ours
        server.shutdown()
        thread.join()


def public(url: str) -> PublicWeights:
    prefix = hashlib.sha256(CONTENT).hexdigest()[:8]
    return PublicWeights("resnet20", "tiny.pth", prefix, url, len(CONTENT) / 2**20, 90.0, None, 32, 32, license=None)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(row: PublicWeights, files: Files, tmp_path: Path) -> None:
    assert fetch(row, tmp_path / "new" / "cache") == fetch(row, tmp_path / "new" / "cache")
    assert (tmp_path / "new" / "cache" / "tiny.pth").read_bytes() == CONTENT
    assert listing(tmp_path / "new" / "cache") == ["tiny.pth"]
    assert files.asked == ["bytes=0-"]


def test_an_earlier_part_is_taken_up(row: PublicWeights, files: Files, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth.part").write_bytes(CONTENT[:1000])
    assert fetch(row, tmp_path).read_bytes() == CONTENT
    assert files.asked == ["bytes=1000-"]
    assert listing(tmp_path) == ["tiny.pth"]


def test_a_connection_that_breaks_off_is_taken_up(row: PublicWeights, files: Files, tmp_path: Path) -> None:
    files.breaks_after = [300_000, 400_000]
    assert fetch(row, tmp_path).read_bytes() == CONTENT
    assert files.asked == ["bytes=0-", "bytes=300000-", "bytes=700000-"]


def test_a_connection_that_keeps_breaking_off_leaves_the_part_for_the_next_time(
    row: PublicWeights, files: Files, tmp_path: Path
) -> None:
    files.breaks_after = [100_000] * 5
    with pytest.raises(DownloadError, match=r"broke off at 0.5 of 1.0 MiB; the same command goes on from there"):
        fetch(row, tmp_path)
    assert listing(tmp_path) == ["tiny.pth.part"]
    assert fetch(row, tmp_path).read_bytes() == CONTENT
    assert files.asked[-1] == "bytes=500000-"


def test_a_connection_that_gives_nothing_is_not_asked_again(row: PublicWeights, files: Files, tmp_path: Path) -> None:
    files.breaks_after = [0, 0, 0]
    with pytest.raises(DownloadError, match=r"broke off at 0.0 of 1.0 MiB"):
        fetch(row, tmp_path)
    assert len(files.asked) == 1
    assert listing(tmp_path) == []


def test_a_server_that_knows_no_ranges_sends_the_whole(row: PublicWeights, files: Files, tmp_path: Path) -> None:
    files.ranges = False
    (tmp_path / "tiny.pth.part").write_bytes(CONTENT[:1000])
    assert fetch(row, tmp_path).read_bytes() == CONTENT
    assert files.asked == ["bytes=1000-"]


@pytest.mark.parametrize("part", [b"of another file" * 100, CONTENT + b"more", b"x" * len(CONTENT)])
def test_a_part_of_another_file_is_fetched_again(row: PublicWeights, files: Files, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "tiny.pth.part").write_bytes(part)
    assert fetch(row, tmp_path).read_bytes() == CONTENT
    assert files.asked == [f"bytes={len(part)}-", "bytes=0-"]


def test_a_part_that_is_the_whole_is_taken(row: PublicWeights, files: Files, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth.part").write_bytes(CONTENT)
    assert fetch(row, tmp_path).read_bytes() == CONTENT
    assert files.asked == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("says_length", [True, False])
def test_what_is_not_the_file_is_removed(row: PublicWeights, files: Files, tmp_path: Path, says_length: bool) -> None:
    files.content, files.says_length = b"<html>Please log in to this network</html>", says_length
    with pytest.raises(DownloadError, match=r"127.0.0.1 sent something else than tiny.pth .*it was removed"):
        fetch(row, tmp_path)
    assert listing(tmp_path) == []


def test_a_server_that_sends_too_much_is_not_listened_to(
    row: PublicWeights, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.content, files.says_length = bytes(20 * 2**20), False
    read: list[int] = []
    original = download.is_right

    def watched(row: PublicWeights, path: Path) -> bool:
        read.append(path.stat().st_size)
        return original(row, path)

    monkeypatch.setattr(download, "is_right", watched)
    with pytest.raises(DownloadError, match="something else"):
        fetch(row, tmp_path)
    assert read
    assert max(read) < 3 * 2**20


def test_a_damaged_file_in_the_cache_is_replaced(row: PublicWeights, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth").write_bytes(b"bit rot")
    assert fetch(row, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "answered with 404 .*; the file is no longer there"), (503, "answered with 503 .*; try again later")],
)
def test_an_error_of_the_server_is_told(
    row: PublicWeights, files: Files, tmp_path: Path, status: int, words: str
) -> None:
    files.status = status
    with pytest.raises(DownloadError, match=words):
        fetch(row, tmp_path)
    assert listing(tmp_path) == []


def test_without_a_network_it_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening
        row = public(f"http://127.0.0.1:{nobody.getsockname()[1]}/tiny.pth")
        with pytest.raises(DownloadError, match=r"127.0.0.1 cannot be reached .*refused.*may be put into") as caught:
            fetch(row, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert listing(tmp_path) == []


def test_a_name_that_does_not_resolve_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"weights.invalid cannot be reached"):
        fetch(public("http://weights.invalid/tiny.pth"), tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told(row: PublicWeights, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"no space left for tiny.pth \(1.0 MiB\) in"):
        fetch(row, tmp_path)
    assert not (tmp_path / "tiny.pth").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such lock there")
def test_two_processes_do_not_write_one_part(row: PublicWeights, tmp_path: Path) -> None:
    hold = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "tiny.pth.part")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(DownloadError, match=r"tiny.pth.part is being fetched by another process"):
            fetch(row, tmp_path)
        other.stdin.close()
    assert fetch(row, tmp_path).read_bytes() == CONTENT


def test_the_cache_is_where_the_platform_has_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/multicrop")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_cache() == Path("/home/ada/.cache/multicrop")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_cache() == Path("/home/ada/Library/Caches/multicrop")


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["weights", *arguments, "--cache", str(tmp_path)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.usefixtures("row")
def test_list_fetch_check(command: Command, tmp_path: Path) -> None:
    assert re.search(r"^resnet20 +tiny.pth +1.0 +90.00 / - +32 -> 32 +no$", command("list")[1], re.MULTILINE)
    assert command("check") == (1, "", "multicrop-export: not in the cache: all\n")
    status, out, _ = command("fetch", "resnet20", "tiny.pth")
    assert (status, out) == (0, f"{tmp_path / 'tiny.pth'}\n")
    assert re.search(r"^resnet20 +tiny.pth .* yes$", command("list")[1], re.MULTILINE)
    assert command("check")[:2] == command("check", "resnet20")[:2] == (0, "tiny.pth: right\n")
    (tmp_path / "tiny.pth").write_bytes(b"bit rot")
    assert command("check") == (1, "", "multicrop-export: damaged, fetch again: tiny.pth\n")


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("verb", ["fetch", "check"])
def test_an_unknown_name_is_one_line_and_status_1(command: Command, verb: str) -> None:
    status, out, err = command(verb, "resnet21")
    assert (status, out) == (1, "")
    assert err.startswith("multicrop-export: there are no public weights 'resnet21'")


def test_no_network_is_one_line_and_status_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "PUBLIC", (public("http://weights.invalid/tiny.pth"),))
    status, out, err = command("fetch", "all")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("multicrop-export: weights.invalid cannot be reached")
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["weights"], ["weights", "fetch"]])
def test_asked_wrongly_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert capsys.readouterr().err
