"""Networks as named stages and a head: those of the lectures, trained from scratch, and pretrained ones.

torchvision and timm are imported when a network of theirs is built, not before.
"""

from opsin.models.load_weights import LoadedWeights, load_weights
from opsin.models.network import Network
from opsin.models.pretrained.timm import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    timm,
)
from opsin.models.pretrained.torchvision import (
    alexnet,
    convnext_tiny,
    densenet121,
    efficientnet_b0,
    googlenet,
    inception_v3,
    mobilenet_v2,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    vgg16,
    vgg19,
)
from opsin.models.scratch.cnn import (
    cats_dogs_cnn,
    cnn_batchnorm,
    cnn_deep,
    cnn_flatten,
    cnn_gap,
    cnn_plain,
    lenet5,
    lenet_relu,
    mlp,
    simple_cnn,
)
from opsin.models.scratch.fast_cnn import cnn_strided_stem, cnn_whitened
from opsin.models.scratch.resnet import mini_resnet
from opsin.models.scratch.strided_cnn import strided_cats_dogs, strided_cnn
from opsin.models.summary.model_summary import (
    layers_text,
    summarize,
    summarize_layers,
    summary_table,
    summary_text,
)
from opsin.models.trainable import Trainable
from opsin.models.weights import Weights, weights_facts
from opsin.runs.result import NetworkSummary

__all__ = [
    "LoadedWeights",
    "Network",
    "NetworkSummary",
    "Trainable",
    "Weights",
    "alexnet",
    "cats_dogs_cnn",
    "cnn_batchnorm",
    "cnn_deep",
    "cnn_flatten",
    "cnn_gap",
    "cnn_plain",
    "cnn_strided_stem",
    "cnn_whitened",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "googlenet",
    "inception_v3",
    "layers_text",
    "lenet5",
    "lenet_relu",
    "load_weights",
    "mini_resnet",
    "mlp",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "simple_cnn",
    "strided_cats_dogs",
    "strided_cnn",
    "summarize",
    "summarize_layers",
    "summary_table",
    "summary_text",
    "timm",
    "vgg16",
    "vgg19",
    "weights_facts",
]
