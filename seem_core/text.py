"""Words to vectors: CLIP's tokenizer, and SEEM's own causal text encoder.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv:2103.00020), section 2.4;
SEEM takes the architecture with weights of its own (SPEC §4). A text is <start> words <end>; the state at the end token
stands for the sentence, the states of all its tokens are what the decoder's queries read.

A causal encoder never looks ahead, so whatever follows the end token changes nothing before it: texts are padded to the
longest of their batch, not to the 77 places that were learned.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from seem_core.attention import Attention
from seem_core.decoder import TextTokens
from seem_core.errors import MissingExtraError, PromptError

START, END = 49406, 49407
"""Token ids that open and close a text; END also pads."""


class BytePairs(Protocol):
    """CLIP's byte-pair encoding: text to token ids, without START and END."""

    def encode(self, text: str) -> list[int]:
        """Ids of the lower-cased text."""


@lru_cache(maxsize=1)
def byte_pairs() -> BytePairs:
    """The vocabulary of 49,408 tokens. Raises MissingExtraError without the extra `text`."""
    try:
        import instant_clip_tokenizer
    except ImportError as error:
        raise MissingExtraError(
            "text prompts need the package instant-clip-tokenizer; run: pip install 'seem-vos[text]'"
        ) from error
    return cast(BytePairs, instant_clip_tokenizer.Tokenizer())


def tokenize(texts: Sequence[str], context: int = 77) -> tuple[Tensor, Tensor]:
    """(n, longest) int64 ids, padded with END, and (n,) lengths that count START and END.

    Case and spacing make no difference. Texts of more than `context` tokens lose their last words, but not their END.
    Raises PromptError for no text at all, and for a text without a word.
    """
    if not texts:
        raise PromptError("no text was given; give at least one")
    rows = []
    for text in texts:
        words = byte_pairs().encode(unicodedata.normalize("NFC", text))
        if not words:
            raise PromptError(f"the text {text!r} holds no word")
        rows.append([START, *words[: context - 2], END])
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), END)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, lengths


@dataclass(frozen=True)
class TextConfig:
    """What to build; the defaults are SEEM's."""

    channels: int = 512
    layers: int = 12
    heads: int = 8
    context: int = 77
    vocabulary: int = 49408
    projected: int = 512

    def build(self) -> TextEncoder:
        """A text encoder with untrained weights."""
        return TextEncoder(self)


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), the approximation of GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Perceptron(nn.Module):
    """Linear, QuickGELU, linear on the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(channels, 4 * channels)
        self.activation = QuickGelu()
        self.c_proj = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c_proj(self.activation(self.c_fc(x)))
        return y


class TextLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(channels, eps=1e-12)
        self.attn = Attention(channels, heads)
        self.ln_2 = nn.LayerNorm(channels, eps=1e-12)
        self.mlp = Perceptron(channels)

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        """x: (n, T, C), earlier: (1, T, T) bool, True where a row may read a column -> (n, T, C)."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, earlier)
        z: Tensor = x + self.mlp(self.ln_2(x))
        return z


class TextEncoder(nn.Module):
    """Token ids -> token states. `logit_scale` is the learned temperature of class scores, as a logarithm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        C = config.channels
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, C)
        self.positional_embedding = nn.Parameter(torch.randn(config.context, C) * 0.01)
        self.layers = nn.ModuleList(TextLayer(C, config.heads) for _ in range(config.layers))
        self.ln_final = nn.LayerNorm(C, eps=1e-12)
        self.projection = nn.Parameter(torch.randn(C, config.projected) / C**0.5)
        self.logit_scale = nn.Parameter(torch.ones(()))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projection.device

    def forward(self, ids: Tensor) -> Tensor:
        """(n, T) ids, T at most the context -> (n, T, C) states after the last norm, not yet projected."""
        T = ids.shape[1]
        x = self.token_embedding(ids.to(self.device)) + self.positional_embedding[:T]
        earlier = torch.ones(1, T, T, dtype=torch.bool, device=x.device).tril()
        for layer in self.layers:
            x = layer(x, earlier)
        y: Tensor = self.ln_final(x)
        return y

    def sentences(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """(n, C') projected state at the END of each text; `ids` and `lengths` come from `tokenize`."""
        states = self(ids)
        return self.at_end(states, lengths) @ self.projection

    def at_end(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(n, T, C) -> (n, C): the state of each text's END token."""
        return states[torch.arange(len(states), device=states.device), lengths.to(states.device) - 1]

    def ground(self, texts: Sequence[str]) -> TextTokens:
        """Texts as the decoder reads them: projected tokens, text after text, and one vector per text.

        Tokens: (1, L, C'), L the lengths of all texts together; sentences: (S, C'). Neither is normalised.
        """
        ids, lengths = tokenize(texts, self.config.context)
        states = self(ids) @ self.projection  # (S, T, C')
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        tokens = states[real.to(states.device)][None]  # (1, L, C')
        return TextTokens(tokens=tokens, padding=None, sentences=self.at_end(states, lengths))
