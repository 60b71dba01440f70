"""The strided network of the lecture without its last BatchNorm, which normalizes the logits."""

from torch import nn

from opsin.models import Network, strided_cnn


def strided_cnn_plain_logits(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """Return `strided_cnn` with the logits of its last convolution."""
    network = strided_cnn(num_logits=num_logits, in_channels=in_channels, image_size=image_size)
    network.head.norm = nn.Identity()
    return network
