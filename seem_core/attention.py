"""The three layers of a SEEM decoder step, all residual and post-norm: read the image, read each other, feed forward.

Products may run in half precision (the weights' own); sums and norms keep the precision of the rows.

Source: Cheng et al., "Masked-attention Mask Transformer" (arXiv:2112.01527) section 3.2; SPEC §5. Shapes: B batch,
R rows (queries and carried tokens), T prompt tokens, N image cells, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with the packed projection of `torch.nn.MultiheadAttention` (same parameter names)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        allowed: Tensor | None = None,
        readers: Tensor | None = None,
    ) -> Tensor:
        """(B, R, C), (B, T, C), (B, T, C) -> (B, R, C), computed in the precision of the weights.

        allowed: (B or 1, R, T) bool, the same for all heads. readers: (B or 1, R) bool, rows that may read anything at
        all; the others get only the output bias. None where every row may.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x.to(w.dtype), w, b)
            .view(*x.shape[:2], self.heads, -1)
            .transpose(1, 2)  # (B, heads, R or T, C / heads)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / math.sqrt(q.shape[-1]))
        if readers is not None:
            out = out.masked_fill(~readers[:, None, :, None], 0.0)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected


class CrossAttentionLayer(nn.Module):
    """Queries read the cells of one feature level, each inside its own mask."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, x_position: Tensor, source: Tensor, source_key: Tensor, inside: Tensor) -> Tensor:
        """(B, R, C) -> (B, R, C).

        source: (F, N, C) values, source_key: (F, N, C) values plus positions, F == B or 1.
        inside: (B, R, N) bool; a query with an empty mask reads the whole image.
        Rows never see each other here, so with one image (F == 1) all B objects read it as one long list of rows:
        the image is projected once and not copied.
        """
        query = x + x_position
        allowed = inside | ~inside.any(dim=-1, keepdim=True)
        if source.shape[0] == 1:
            query, allowed = query.flatten(0, 1)[None], allowed.flatten(0, 1)[None]
        read = self.attention(query, source_key, source, allowed).reshape(x.shape)
        updated: Tensor = self.norm(x + read.to(x.dtype))
        return updated


@dataclass(frozen=True, eq=False)
class PromptSource:
    """Prompt tokens as self-attention reads them, and who may read whom.

    They are read but not updated: every layer starts them anew, so what official code computes for them is thrown away.
    value: (B, T, C) tokens, or None. key: the same with positions; a prompt token's position is the token itself.
    allowed: (B or 1, R, R + T) bool. readers: (B or 1, R) bool, rows that may read anything.
    """

    value: Tensor | None
    key: Tensor | None
    allowed: Tensor
    readers: Tensor

    @classmethod
    def of(cls, tokens: Tensor | None, allowed: Tensor, dtype: torch.dtype) -> PromptSource:
        """From (B, T, C) tokens, for products in `dtype`."""
        readers = allowed.any(dim=-1)
        if tokens is None:
            return cls(None, None, allowed, readers)
        return cls(tokens.to(dtype), (2 * tokens).to(dtype), allowed, readers)


class SelfAttentionLayer(nn.Module):
    """Queries and carried tokens read each other and the prompt tokens, as the routing allows."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, x_position: Tensor, prompt: PromptSource) -> Tensor:
        """(B, R, C) -> (B, R, C)."""
        query = x + x_position
        key, value = query, x
        if prompt.key is not None and prompt.value is not None:
            key = torch.cat((query.to(prompt.key.dtype), prompt.key), dim=1)
            value = torch.cat((x.to(prompt.value.dtype), prompt.value), dim=1)
        read = self.attention(query, key, value, prompt.allowed, prompt.readers)
        updated: Tensor = self.norm(x + read.to(x.dtype))
        return updated


class FeedForwardLayer(nn.Module):
    """Two linear layers with a ReLU on every row."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.linear1(x.to(self.linear1.weight.dtype)))
        updated: Tensor = self.norm(x + self.linear2(hidden).to(x.dtype))
        return updated
