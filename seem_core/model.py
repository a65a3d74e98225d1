"""SEEM in one piece: encode an image once, then decode any number of prompts on it.

    image -> backbone -> pixel decoder -> ImageFeatures --+
    words -> text encoder -> TextTokens ------------------+-> decoder -> DecoderOutput -> pick a query -> mask
    marks -> visual sampler (on ImageFeatures) -> tokens --+

The model keeps no state between calls. What lasts from image to image (tokens of a reference, the previous mask) is
returned to the caller and handed back in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.config import SeemConfig
from seem_core.decoder import Decoder, DecoderOutput, DecoderPrompts, TextTokens
from seem_core.errors import InputError, PromptError
from seem_core.image_features import ImageFeatures, MaskFeatures
from seem_core.routing import ROUTINGS
from seem_core.visual_sampler import VisualTokens


class Seem(nn.Module):
    """Backbone, pixel decoder, decoder and, unless the configuration leaves it out, text encoder."""

    def __init__(self, config: SeemConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.pixel_decoder = config.pixel_decoder.build(config.backbone.channels)
        self.decoder = Decoder(config.decoder, ROUTINGS[config.routing])
        self.text_encoder = None if config.text is None else config.text.build()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.query_content.device

    def set_precision(self, dtype: torch.dtype) -> Seem:
        """Encode images, and multiply matrices in the decoder, in `dtype` (bfloat16, float16); returns the model.

        Softmax and the statistics of norms are float32 inside; queries, prompts, heads and masks are float32.
        """
        self.backbone.to(dtype)
        self.pixel_decoder.to(dtype)
        self.decoder.set_product_precision(dtype)
        return self

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Features of F images: (F, 3, H, W) RGB in 0..255 (any dtype), already of the size to be encoded.

        They are normalised, then padded with zeros on the right and below to multiples of `config.divisor`.
        """
        normalised = self.normalise(images)
        h, w = images.shape[2:]
        d = self.config.divisor
        padded = F.pad(normalised, (0, -w % d, 0, -h % d))
        pixel_features = self.pixel_decoder(self.backbone(padded))
        mask_features = MaskFeatures.before(self.pixel_decoder.mask_features, pixel_features.finest)
        return ImageFeatures(pixel_features.levels, mask_features, (padded.shape[2], padded.shape[3]), (h, w))

    def encode_text(self, texts: Sequence[str]) -> TextTokens:
        """Words as the decoder reads them. Raises PromptError for a model without text encoder."""
        if self.text_encoder is None:
            raise PromptError(
                f"model {self.config.name} has no text encoder; use another model, or points, boxes, masks"
            )
        return self.text_encoder.ground(texts)

    def normalise(self, images: Tensor) -> Tensor:
        """(F, 3, H, W) RGB in 0..255 to zero mean and unit deviation per channel, in the precision of the weights."""
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise InputError(f"images are (F, 3, H, W) RGB, not {tuple(images.shape)}")
        mean = torch.tensor(self.config.pixel_mean, device=self.device)[:, None, None]
        std = torch.tensor(self.config.pixel_std, device=self.device)[:, None, None]
        return ((images.to(self.device, torch.float32) - mean) / std).to(self.pixel_decoder.mask_features.weight.dtype)

    def sample(
        self,
        features: ImageFeatures,
        positive: Tensor,
        negative: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> VisualTokens:
        """Prompt tokens of the objects marked by (N, H, W) bool masks on the padded input of `features`."""
        return self.decoder.sample(features, positive, negative, generator=generator)

    def decode(
        self,
        features: ImageFeatures,
        prompts: DecoderPrompts | None = None,
        *,
        objects: bool = True,
        masks: bool = False,
        earlier: bool = False,
    ) -> DecoderOutput:
        """Predictions of all queries, see `Decoder.forward`; `features.mask_features.logits` makes masks of some."""
        output: DecoderOutput = self.decoder(features, prompts, objects=objects, masks=masks, earlier=earlier)
        return output
