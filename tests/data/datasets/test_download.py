"""Downloads from a local server: checksums, repeated attempts and messages."""

import gzip
import hashlib
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from opsin.data.datasets import mnist
from opsin.data.datasets.download import DownloadError, fetch
from opsin.errors import UserError

mnist_module = sys.modules["opsin.data.datasets.mnist"]  # not the function


class Server:
    """Answers each path with its list of (status, body, announced length); repeats the last one."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, bytes, int]]] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                answers = server.answers.get(self.path, [(404, b"", 0)])
                status, body, length = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def answer(self, path: str, *bodies: bytes | int) -> None:
        self.answers[path] = [(body, b"", 0) if isinstance(body, int) else (200, body, len(body)) for body in bodies]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def test_the_first_mirror_with_the_right_checksum_is_used(server: Server) -> None:
    server.answer("/bad/file", b"damaged")
    server.answer("/good/file", b"content")
    mirrors = [server.url + "none/", server.url + "bad/", server.url + "good/", server.url + "never/"]
    assert fetch(mirrors, "file", md5(b"content")) == b"content"
    assert server.asked == ["/none/file", "/bad/file", "/good/file"]


def test_every_mirror_is_tried_twice(server: Server) -> None:
    server.answer("/file", 503, b"content")
    assert fetch([server.url], "file", md5(b"content")) == b"content"
    assert server.asked == ["/file", "/file"]


def test_an_incomplete_response_is_refused(server: Server) -> None:
    server.answers["/file"] = [(200, b"cont", 7), (200, b"content", 7)]
    assert fetch([server.url], "file", md5(b"content")) == b"content"


def test_each_reason_is_reported_once(server: Server) -> None:
    server.answer("/wrong/file", b"other")
    with pytest.raises(DownloadError) as raised:
        fetch([server.url, server.url + "wrong/", "http://127.0.0.1:1/"], "file", md5(b"content"))
    first, second, third = str(raised.value).split("\n  ")
    assert first == f"{server.url}file: HTTP Error 404: Not Found"
    assert second == f"{server.url}wrong/file: its md5 is {md5(b'other')}, not {md5(b'content')}"
    assert third == "http://127.0.0.1:1/file: <urlopen error [Errno 111] Connection refused>"


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.data.datasets.download._READ_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/"
        with pytest.raises(DownloadError, match=r"timed out$"):
            fetch([url], "file", "")


def idx_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", 6), ("t10k", 4)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        for name, values in ((f"{prefix}-images-idx3-ubyte", pixels), (f"{prefix}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            files[name] = header + values.tobytes()
    return files


def test_mnist_is_downloaded_and_unpacked_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {name: gzip.compress(content) for name, content in idx_files().items()}
    for name, content in packed.items():
        server.answer(f"/{name}.gz", content)
    sums = {name: md5(content) for name, content in packed.items()}
    monkeypatch.setattr(mnist_module, "_MNIST", replace(mnist_module._MNIST, mirrors=(server.url,), md5=sums))
    first = mnist(data_dir=str(tmp_path))
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(packed)
    assert [len(first.splits[split]) for split in ("train", "test")] == [6, 4]
    asked = len(server.asked)
    assert mnist(data_dir=str(tmp_path)).splits["train"].fingerprint == first.splits["train"].fingerprint
    assert len(server.asked) == asked


def test_without_a_network_one_message_names_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_module, "_MNIST", replace(mnist_module._MNIST, mirrors=("http://127.0.0.1:1/",)))
    with pytest.raises(UserError) as raised:
        mnist(data_dir=str(tmp_path))
    assert str(raised.value) == (
        "MNIST was not found: it could not be downloaded.\n"
        "  http://127.0.0.1:1/train-images-idx3-ubyte.gz: <urlopen error [Errno 111] Connection refused>\n"
        "Put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
        f"(each plain or .gz) into\n  {tmp_path}/MNIST/raw\n"
        "or name their folder with datamodule.path=FOLDER.\n"
        "Without internet access, use datamodule=digits: its images are part of scikit-learn."
    )
    assert not (tmp_path / "MNIST").exists()


def test_addresses_and_checksums_equal_torchvisions() -> None:
    torchvision = pytest.importorskip("torchvision")
    for facts, known in (
        (mnist_module._MNIST, torchvision.datasets.MNIST),
        (mnist_module._FASHION_MNIST, torchvision.datasets.FashionMNIST),
    ):
        assert {f"{name}.gz": digest for name, digest in facts.md5.items()} == dict(known.resources)
        assert facts.mirrors[0] == known.mirrors[0]
        assert known.__name__ == facts.folder.split("/")[0]
    assert mnist_module._FASHION_MNIST.classes == tuple(torchvision.datasets.FashionMNIST.classes)
