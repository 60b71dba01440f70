"""Where images come from: one function per dataset, each giving its facts and readers as a `Source`."""

from opsin.data.sources.base import ArrayImages, EncodedImages, FileImages, Images, Source, Split
from opsin.data.sources.bundled import digits
from opsin.data.sources.cats_dogs import cats_vs_dogs
from opsin.data.sources.cifar import cifar10
from opsin.data.sources.folders import image_folder, loose_images
from opsin.data.sources.hub import hugging_face
from opsin.data.sources.idx import fashion_mnist, mnist
from opsin.data.sources.rows import DatasetImages
from opsin.data.sources.sharded import shards

__all__ = [
    "ArrayImages",
    "DatasetImages",
    "EncodedImages",
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
    "shards",
]
