"""DeiT-Tiny (arXiv 2012.12877, table 1): a vision transformer (arXiv 2010.11929) without convolutions but its first.

Parameters have the names of timm's `deit_tiny_patch16_224`, so that its weights can be loaded.
"""

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from msq.artefact import Strict
from msq.checkpoint import InputSpec

FEATURES, HEADS, MLP_RATIO = 192, 3, 4
EPSILON = 1e-6
DEVIATION = 0.02
"""Of initial weights, cut off at two of it."""


class Options(Strict):
    """Keys of a recipe's `model` section."""

    depth: int = Field(12, ge=1)
    """Blocks of attention and perceptron."""
    patch: int | None = Field(None, ge=1)
    """Side of a patch in pixels; none: 16, or less where the image would have fewer than 8 × 8 patches."""


class PatchEmbedding(nn.Module):
    """Patches of the image, each a token."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, FEATURES, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → (n, patches, features)."""
        return cast(Tensor, self.proj(x).flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """softmax(q · kᵀ / √d) · v of every head, heads side by side, projected (arXiv 2010.11929, equations 5 to 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = (FEATURES // HEADS) ** -0.5
        self.qkv = nn.Linear(FEATURES, 3 * FEATURES)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, features) → the same shape."""
        # (n, tokens, 3, heads, d) → (n, 3, heads, tokens, d); the batch stays in front, as devices want it.
        qkv = self.qkv(x).unflatten(2, (3, HEADS, FEATURES // HEADS)).permute(0, 2, 3, 1, 4)
        q, k, v = qkv.select(1, 0), qkv.select(1, 1), qkv.select(1, 2)
        attention = self.softmax(torch.matmul(q, k.transpose(2, 3)) * self.scale)
        return cast(Tensor, self.proj(torch.matmul(attention, v).transpose(1, 2).flatten(2)))


class Perceptron(nn.Module):
    """fc2(gelu(fc1(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(FEATURES, MLP_RATIO * FEATURES)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(MLP_RATIO * FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, features) → the same shape."""
        return cast(Tensor, self.fc2(self.act(self.fc1(x))))


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(FEATURES, EPSILON)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(FEATURES, EPSILON)
        self.mlp = Perceptron()

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, features) → the same shape."""
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class DeiT(nn.Module):
    """See the module."""

    def __init__(self, options: Options, input: InputSpec, classes: int) -> None:
        super().__init__()
        patch = options.patch or max(1, min(16, input.height // 8, input.width // 8))
        patches = (input.height // patch) * (input.width // patch)
        self.patch_embed = PatchEmbedding(input.channels, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, FEATURES))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, FEATURES))
        self.blocks = nn.Sequential(*(Block() for _ in range(options.depth)))
        self.norm = nn.LayerNorm(FEATURES, EPSILON)
        self.head = nn.Linear(FEATURES, classes)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        patches = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1) + self.pos_embed
        # The last layer norm acts on each token by itself, so only the class token is normalized.
        return cast(Tensor, self.head(self.norm(self.blocks(tokens)[:, 0])))


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a DeiT-Tiny for images of the input's size."""
    return DeiT(options, input, classes)
