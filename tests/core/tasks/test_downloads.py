"""Downloads from a server on this machine."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.errors import UserError
from core.tasks import downloads
from core.tasks.downloads import download

CONTENT = bytes(range(256)) * 10_000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """Its address, and what it waits for before the second half of /slow."""
    monkeypatch.setenv("no_proxy", "*")
    goes_on = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/absent" else 200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
            if self.path == "/slow":
                goes_on.wait()
            if self.path != "/half":
                self.wfile.write(CONTENT[len(CONTENT) // 2 :])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        goes_on.set()
        listening.shutdown()


def test_a_file_is_fetched_with_its_progress_and_what_a_killed_process_left_is_removed(server, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / ".a.tar.gz.abcdefgh.tmp").write_bytes(CONTENT[:1000])
    download(f"{server}/a", folder / "a.tar.gz", MD5)
    assert (folder / "a.tar.gz").read_bytes() == CONTENT
    assert list(folder.iterdir()) == [folder / "a.tar.gz"]
    assert "a.tar.gz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "md5", "told"),
    [
        ("a", "0" * 32, f"it has MD5 {MD5}, not {'0' * 32}, and was not kept"),
        ("half", MD5, f"not {MD5}, and was not kept"),
        ("absent", MD5, "HTTP Error 404"),
        ("slow", MD5, "timed out"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing_and_the_old_file(server, tmp_path, monkeypatch, path, md5, told):
    monkeypatch.setattr(downloads, "SECONDS", 0.5)
    (tmp_path / "a.tar.gz").write_bytes(b"old")
    with pytest.raises(UserError, match=rf"cannot download {server}/{path} into .*{told}"):
        download(f"{server}/{path}", tmp_path / "a.tar.gz", md5)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tar.gz"]
    assert (tmp_path / "a.tar.gz").read_bytes() == b"old"


def test_what_never_ends_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_PICKLED_BYTES", 1000)
    with pytest.raises(UserError, match="bytes or more, more than the 1,000 that are read"):
        download(f"{server}/a", tmp_path / "a", MD5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["a", "http://127.0.0.1:9"])
def test_no_network_and_no_address_are_told(tmp_path, monkeypatch, url):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError, match=f"cannot download {url} into"):
        download(url, tmp_path / "a", MD5)


def test_a_folder_that_cannot_be_made_is_told(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot download .* into .*file: .*File exists"):
        download(f"{server}/a", tmp_path / "file" / "a", MD5)
