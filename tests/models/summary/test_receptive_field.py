"""Receptive fields of networks whose positions are mixed by products: attention and dense layers over tokens."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.models import Network, summarize

SIDE, PATCH, WIDTH = 16, 4, 16  # as many patches as channels: sizes alone cannot tell the axes apart


class Tokens(nn.Module):
    """Patches as tokens, with a class token on request."""

    def __init__(self, class_token: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH)) if class_token else None
        self.places = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2 + class_token, WIDTH))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        return tokens + self.places


class Residual(nn.Module):
    """A function of normalized tokens, added to them."""

    def __init__(self, function: Callable[["Residual", Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)
        self.tokens = nn.Linear(WIDTH, WIDTH)  # as many tokens as channels
        self.mixing = nn.Conv1d(WIDTH, WIDTH, 1)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return x + self.function(self, self.norm(x))


def heads(block: Residual, x: Tensor) -> tuple[Tensor, ...]:
    return block.wide(x).view(*x.shape[:2], 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind(0)


def fused(block: Residual, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*heads(block, x)).transpose(1, 2).flatten(2)


def explicit(block: Residual, x: Tensor) -> Tensor:
    query, key, value = heads(block, x)
    return ((query @ key.transpose(-2, -1)).softmax(-1) @ value).transpose(1, 2).flatten(2)


def over_channels(block: Residual, x: Tensor) -> Tensor:
    return block.mixing(block.narrow(F.gelu(block.wide(x))).transpose(1, 2)).transpose(1, 2)


MIXING = {
    "fused attention": fused,
    "explicit attention": explicit,
    "einsum": lambda block, x: torch.einsum("nij,njc->nic", torch.einsum("nic,njc->nij", x, x).softmax(-1), x),
    "torch's attention": lambda block, x: block.attention(x, x, x, need_weights=False)[0],
    "torch's encoder": lambda block, x: block.encoder(x),
    "dense over tokens": lambda block, x: block.tokens(x.transpose(1, 2)).transpose(1, 2),
    "product from the left": lambda block, x: block.tokens.weight @ x,
    "Fourier transform": lambda block, x: torch.view_as_real(torch.fft.fft(x, dim=1))[..., 0],
    "convolution over tokens": lambda block, x: block.mixing(x),
}


def fields(*stages: nn.Module) -> list[int | None]:
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    network = Network("it", {f"stage{i}": stage for i, stage in enumerate(stages)}, head)
    with torch.no_grad():
        network(torch.zeros(1, 3, SIDE, SIDE))
    return [row.receptive_field for row in summarize(network.eval(), (3, SIDE, SIDE)).rows]


@pytest.mark.parametrize("name", MIXING)
def test_mixed_tokens_see_the_whole_image(name: str) -> None:
    mixing, local = Residual(MIXING[name]), Residual(over_channels)
    assert fields(Tokens(), local, mixing, local) == [PATCH, PATCH, None, None, None]


@pytest.mark.parametrize("name", ["fused attention", "explicit attention", "torch's attention"])
def test_a_class_token_does_not_hide_the_patches(name: str) -> None:
    channels = Residual(lambda block, x: block.narrow(block.wide(x)))
    assert fields(Tokens(class_token=True), channels, Residual(MIXING[name])) == [PATCH, PATCH, None, None]


def test_operations_on_the_cpu_are_recognized_too() -> None:
    class Counted(nn.Module):  # its operations depend on values, so the network runs on the CPU
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 if float(x.sum()) > 0 else 2)

    for name in MIXING:
        assert fields(Tokens(), Counted(), Residual(MIXING[name])) == [PATCH, PATCH, None, None], name


class Rows(nn.Module):
    """Channels last, a dense layer per pixel, and values in another order: nothing of this mixes pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.norm = nn.Linear(8, 32), nn.Linear(16, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x.permute(0, 2, 3, 1).roll(1, 1))
        first, second = self.wide(rows).chunk(2, -1)
        return x + self.narrow(F.gelu(first) * second).permute(0, 3, 1, 2)


def test_dense_layers_per_pixel_stay_local() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    shuffled = nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.Conv2d(8, 8, 3))
    assert fields(stem, Rows(), shuffled) == [8, 8, 12, None]
