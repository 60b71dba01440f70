"""Names that published datasets give their splits, and names compared without regard to their Unicode form."""

import re
import unicodedata
from typing import Final

from opsin.data.types import Split
from opsin.runs.escaping import escape_controls, valid_text

SPLIT_NAMES: Final[dict[Split, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Names of each split, in lower case."""

# Words next to the name of a split that say nothing more: training_set, test-images, seg_train, validset, train2017.
_FILLERS = frozenset({"set", "split", "data", "dataset", "folder", "image", "images", "img", "imgs", "seg"})
_SPLIT_OF_WORD: Final = {
    name + suffix: split for split, names in SPLIT_NAMES.items() for name in names for suffix in ("", "set", "data")
}


def split_named(name: str) -> Split | None:
    """Return the split that the name of a folder or of a published split means; None for any other name.

    Case, separators, digits at the end and words such as `set`, `data`, `images` or `seg` do not count:
    `Training`, `test_set`, `seg_train`, `val2017`, `ValidationSet`. Any further word makes it another name:
    `test_tube`, `train station`.
    """
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", name.casefold())]
    rest = [word for word in words if word and word not in _FILLERS]
    return _SPLIT_OF_WORD.get(rest[0]) if len(rest) == 1 else None


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which the same letters are the same text.

    macOS and archives made there write names decomposed (NFD): an umlaut as a letter and a combining mark. Bytes of
    file names that are not UTF-8 are escaped, and so are line breaks and other control characters except tabs.
    """
    return escape_controls(unicodedata.normalize("NFC", valid_text(name))).replace("\n", r"\n")
