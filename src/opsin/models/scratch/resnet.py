"""The small residual network of the lectures."""

from torch import Tensor, nn

from opsin.models.network import Network, sequential
from opsin.models.shapes import feature_shape


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input, `(N, C, H, W)` to `(N, C', H / stride, W / stride)`.

    If the shape changes, the shortcut is a 1x1 convolution with BatchNorm. The basic block of "Deep
    Residual Learning for Image Recognition" (He et al., 2016), but with biases, as in the lecture.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = sequential(
                conv=nn.Conv2d(in_channels, out_channels, 1, stride=stride),
                norm=nn.BatchNorm2d(out_channels),
            )
        self.relu2 = nn.ReLU()  # a second ReLU module, so that hooks see each activation once

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's activations."""
        residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        activations: Tensor = self.relu2(residual + self.shortcut(x))
        return activations


def mini_resnet(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """Six residual blocks, 64-128-256; 2,787,594 parameters with three channels and ten logits.

    Raises:
        UserError: The images are too small for the layers.
    """
    stages = {
        "stem": sequential(
            conv=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3), norm=nn.BatchNorm2d(64), relu=nn.ReLU()
        ),
        "layer1": nn.Sequential(ResidualBlock(64, 64), ResidualBlock(64, 64)),
        "layer2": nn.Sequential(ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128)),
        "layer3": nn.Sequential(ResidualBlock(128, 256, stride=2), ResidualBlock(256, 256)),
    }
    feature_shape("mini_resnet", stages, in_channels, image_size)
    head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(256, num_logits))
    return Network("mini_resnet", stages, head)
