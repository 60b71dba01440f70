"""The benchmark of decoding compares three ways to the same pixels."""

from benchmarks.decoding import decoding
from benchmarks.session import Session


def test_the_ways_to_decode_are_timed_and_their_pixels_compared(tmp_path):
    figures, (speed, pixels) = decoding(Session(tmp_path / "none", tmp_path, rounds=1, quick=True, log=lambda _: None))
    assert set(figures["seconds"]) == {"pillow", "draft", "opsin"}
    assert speed.value == figures["seconds"]["pillow"]["median"] / figures["seconds"]["opsin"]["median"]
    assert pixels.value == figures["mean_difference"]
    assert pixels.met
    assert pixels.value > 0  # the images were reduced
    assert not figures["real_images"]
