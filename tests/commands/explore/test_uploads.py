from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.commands.explore import uploads
from opsin.commands.explore.uploads import read_upload
from opsin.errors import UserError


def test_a_picture_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a 'b' <c>.png")
    np.testing.assert_array_equal(read_upload(tmp_path / "a 'b' <c>.png"), pixels)
    assert read_upload(tmp_path / "a 'b' <c>.png", channels=1).shape == (7, 9, 1)


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read x\.png as an image"):
        read_upload(tmp_path / "x.png")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    monkeypatch.setattr(uploads, "decode_image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="exceeds the limit of 64 million pixels"):
        read_upload(tmp_path / "huge.png")


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 2**20)
    (tmp_path / "big.png").write_bytes(bytes(2**20 + 1))
    with pytest.raises(UserError, match="the limit is 1 MB"):
        read_upload(tmp_path / "big.png")


def test_a_deleted_upload_is_asked_for_again(tmp_path: Path) -> None:
    for read in (read_upload, uploads.check_upload):
        with pytest.raises(UserError, match=r"x\.png: the upload is no longer there; drop the image again"):
            read(tmp_path / "x.png")


def test_only_uploaded_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(own))
    (own / "x.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"")
    (own / "link.png").symlink_to(tmp_path / "secret.png")
    assert uploads._uploaded({"path": str(own / "x.png")}) == (own / "x.png").resolve()
    for path in (
        tmp_path / "secret.png",
        own / ".." / "secret.png",
        own / "link.png",
        own,
        "https://example.com/x.png",
        "\0",
    ):
        assert uploads._uploaded({"path": str(path)}) is None
    for payload in (None, "x", {}, {"path": 3}, {"url": str(own / "x.png")}):
        assert uploads._uploaded(payload) is None
