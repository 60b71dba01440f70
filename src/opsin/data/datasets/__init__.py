"""Datasets: one function per dataset, which returns its facts and images as a `Source`."""

from opsin.data.datasets.cats_vs_dogs import cats_vs_dogs
from opsin.data.datasets.cifar10 import cifar10
from opsin.data.datasets.digits import digits
from opsin.data.datasets.hugging_face import hugging_face
from opsin.data.datasets.hugging_face_columns import DatasetImages
from opsin.data.datasets.image_folder import image_folder, unlabeled_images
from opsin.data.datasets.mnist import fashion_mnist, mnist
from opsin.data.datasets.sharded import shards
from opsin.data.source import ArrayImages, EncodedImages, FileImages, Images, Source
from opsin.data.types import Split

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
    "mnist",
    "shards",
    "unlabeled_images",
]
