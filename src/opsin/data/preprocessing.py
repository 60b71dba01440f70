"""Normalize images on the device, in whole batches: the second step of the one evaluation transform.

`opsin.data.decode` and `opsin.data.fit` are the first: they decode images and resize them on the CPU. Validation, test
and prediction use these two steps and no other.
"""

import torch


class Preprocess:
    """Normalize batches of pixels on their device.

    Args:
        mean: Mean per channel of pixels scaled to [0, 1], or one number for all channels.
        std: Standard deviation, like `mean`.
        channels: Channels of the network's input; a gray image is repeated.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> None:
        self.channels = channels
        self.mean = mean if len(mean) == channels else mean * channels
        self.std = std if len(std) == channels else std * channels
        self._constants: dict[tuple[float, int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Convert pixels ``(B, C, H, W)``, uint8, to the network's input: float32, channels last in memory."""
        return self._affine(self._float(images), 255.0)

    def to_unit_range(self, images: torch.Tensor) -> torch.Tensor:
        """Convert pixels ``(B, C, H, W)``, uint8, to [0, 1] and the network's channels, as augmentations expect."""
        return self._float(images).div_(255.0)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Convert images in [0, 1] to the network's input, in place."""
        return self._affine(images, 1.0)

    def constants(self, white: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return shift and scale per channel ``(C,)``: the network's input is pixel * scale + shift.

        Args:
            white: The largest value of a pixel.
        """
        mean, std = torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)
        return (-mean / std).float(), (1 / (std * white)).float()

    def _float(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[1] != self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        return images.to(torch.float32, memory_format=torch.channels_last)

    def _affine(self, images: torch.Tensor, white: float) -> torch.Tensor:
        key = (white, images.shape[3], images.device)
        if key not in self._constants:
            self._constants[key] = self._row(*key)
        shift, scale = self._constants[key]
        return torch.addcmul(shift, images, scale, out=images)

    def _row(self, white: float, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        # One whole row ``(1, C, 1, W)`` each, in the memory format of the images: with one constant per channel, the
        # innermost loop would run over 3 numbers, fifteen times slower on a CPU.
        pair = torch.stack(self.constants(white)).view(2, -1, 1, 1).expand(2, -1, 1, width)
        pair = pair.contiguous(memory_format=torch.channels_last).to(device)
        return pair[:1], pair[1:]
