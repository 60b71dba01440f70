"""Where images come from: one function per dataset, each giving its facts and readers as a `Source`."""

from opsin.data.sources.base import ArrayImages, FileImages, Images, Source, Split
from opsin.data.sources.bundled import digits
from opsin.data.sources.cats_dogs import cats_vs_dogs
from opsin.data.sources.cifar import cifar10
from opsin.data.sources.folders import image_folder, loose_images
from opsin.data.sources.hub import hugging_face
from opsin.data.sources.idx import fashion_mnist, mnist
from opsin.data.sources.rows import DatasetImages

__all__ = [
    "ArrayImages",
    "DatasetImages",
    "FileImages",
    "Images",
    "Source",
    "Split",
    "cats_vs_dogs",
    "cifar10",
    "digits",
    "fashion_mnist",
    "hugging_face",
    "image_folder",
    "loose_images",
    "mnist",
]
