"""Turn images upright, as their EXIF orientation says."""

from PIL import ExifTags, Image

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
_MIRRORED_X = {_UPRIGHT[orientation] for orientation in (2, 3, 6, 7)}
_MIRRORED_Y = {_UPRIGHT[orientation] for orientation in (3, 4, 7, 8)}


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the operation that turns an image upright; None if it is upright, or if its EXIF block is damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None  # damaged EXIF but intact pixels: keep the stored orientation, as viewers do
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned upright."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def turned_size(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    """Return the width and height that an image has after an operation; the operation is its own inverse here."""
    return size[::-1] if turn in _SIDEWAYS else size


def turned_box(
    corner: tuple[float, float], size: tuple[int, int], turn: Image.Transpose | None
) -> tuple[float, float, float, float]:
    """Return where a part of an image is after an operation: left, top, right and bottom edge, in pixels.

    Args:
        corner: Right and bottom edge of the part, which begins at the upper left corner of the image.
        size: Width and height of the image before the operation.
        turn: The operation.
    """
    width, height = corner[::-1] if turn in _SIDEWAYS else corner
    whole = turned_size(size, turn)
    left = whole[0] - width if turn in _MIRRORED_X else 0.0
    top = whole[1] - height if turn in _MIRRORED_Y else 0.0
    return left, top, left + width, top + height
