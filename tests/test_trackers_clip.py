"""Training clips: the same masks as the tracker's, and gradients through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, scene
from tiny_seem import tiny_seem
from torch import Tensor

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import MaskPrompt
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import ObjectTokens
from trackers.clip import track_clip
from trackers.gate import Gate
from trackers.object_views import ViewBudget
from trackers.prompt_memory import PromptMemoryConfig, PromptMemoryTracker
from trackers.recall import object_masks

OPEN = PromptMemoryConfig(gate=Gate())  # everything is worth remembering: random weights give low scores


@pytest.fixture(scope="module")
def clip() -> Scene:
    return scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(4)])


def tensors(found: Scene) -> tuple[list[Tensor], Tensor]:
    """Frames and first masks as `track_clip` takes them."""
    frames = [torch.from_numpy(image).permute(2, 0, 1) for image in found.images]
    return frames, torch.from_numpy(np.stack(found.masks[0]))


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_clip_gives_the_masks_of_the_tracker(clip: Scene, routing: Any, gradients: bool) -> None:
    """To the last bit, unless gradients take the model's sums another way: then up to rounding."""
    tracker = PromptMemoryTracker(SeemSegmenter(tiny_seem(routing)), config=OPEN)
    tracker.step(clip.images[0], [MaskPrompt(mask, i) for i, mask in zip((9, 4), clip.masks[0], strict=True)])
    expected = [tracker.step(image) for image in clip.images[1:]]
    segmenter = SeemSegmenter(tiny_seem(routing), gradients=gradients)
    predictions = track_clip(segmenter, *tensors(clip), ids=(9, 4), config=OPEN)
    for seen, found in zip(predictions, expected, strict=True):
        assert seen.ids == (4, 9)
        assert seen.logits.requires_grad == gradients
        masks = object_masks(seen, clip.images[0].shape[:2], least=OPEN.least_score)
        if not gradients:
            assert np.array_equal(masks.labels, found.labels)
            assert np.array_equal(masks.scores, found.scores)
        assert np.mean(masks.labels != found.labels) < 1e-4
        assert masks.scores == pytest.approx(found.scores, abs=1e-5)


class Forgetful(SeemSegmenter):
    """Cuts the graph at what it remembers of the frames after the first."""

    def remember(self, features: Any, masks: Tensor, ids: Sequence[int] | None = None) -> list[ObjectTokens]:
        views = super().remember(features, masks, ids)
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken <= 2:  # the two objects of the first frame
            return views
        return [ObjectTokens(v.object_id, tuple(t.detach() for t in v.levels), _cut(v.positive)) for v in views]


def _cut(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.detach()


def gradients_of(segmenter: SeemSegmenter, clip: Scene, config: PromptMemoryConfig) -> dict[str, Tensor]:
    """What a loss on the last frame alone asks of each weight."""
    last = track_clip(segmenter, *tensors(clip), config=config)[-1]
    torch.nn.functional.softplus(-last.logits).mean().backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in segmenter.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_gradients_reach_the_decoder_and_earlier_frames(clip: Scene, routing: Any) -> None:
    whole = gradients_of(SeemSegmenter(tiny_seem(routing), gradients=True), clip, OPEN)
    for part in ("decoder.layers.0.mutual", "decoder.sampler", "pixel_decoder", "backbone"):
        moved = [g for name, g in whole.items() if name.startswith(part)]
        assert moved, part
        assert any(bool(g.abs().max() > 0) for g in moved), part
    assert all(bool(g.isfinite().all()) for g in whole.values())
    cut = gradients_of(Forgetful(tiny_seem(routing), gradients=True), clip, OPEN)
    sampler = next(name for name in whole if name.startswith("decoder.sampler.level_projections"))
    assert not torch.allclose(whole[sampler], cut[sampler])  # the views of frames between carry a gradient of their own


def test_without_recent_frames_only_the_first_carries_a_gradient(clip: Scene) -> None:
    alone = PromptMemoryConfig(views=ViewBudget(frames=0), gate=Gate())
    whole = gradients_of(SeemSegmenter(tiny_seem("v0"), gradients=True), clip, alone)
    cut = gradients_of(Forgetful(tiny_seem("v0"), gradients=True), clip, alone)
    assert all(torch.allclose(whole[name], cut[name]) for name in whole)


def test_wrong_clips_are_named(clip: Scene) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"))
    frames, masks = tensors(clip)
    with pytest.raises(PromptError, match="at least two frames"):
        track_clip(segmenter, frames[:1], masks)
    with pytest.raises(PromptError, match="of one size"):
        track_clip(segmenter, [frames[0], frames[1][:, :50]], masks)
    with pytest.raises(MaskError):
        track_clip(segmenter, frames, masks[:, :50])
    with pytest.raises(MaskError):
        track_clip(segmenter, frames, masks, ids=(1, 2, 3))
    with pytest.raises(PromptError, match="first mask of object 2 is empty"):
        track_clip(segmenter, frames, torch.stack([masks[0], torch.zeros_like(masks[0])]))
