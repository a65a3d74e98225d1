"""Recompute the golden files about no whole model: resizing, post-processing, clicks, losses, parts, class names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from seem_fixtures import Golden, make_normal
from seem_modules import load_part
from seem_scenarios import find_manifest
from torch import Tensor, nn

from seem_core.backbones.parts import Pyramid
from seem_core.backbones.sam_vit import SAM_VIT_B, SimplePyramid, VitBlock
from seem_core.class_embeddings import class_embeddings, class_logits
from seem_core.deformable import DeformableConfig, DeformableDecoder
from seem_core.geometry import Geometry, InputSize, resize_image, resized_size
from seem_core.positions import sine_positions
from seem_core.postprocess import instance_segmentation, panoptic_segmentation, semantic_segmentation
from seem_core.text import TextConfig, TextEncoder
from seem_core.training.clicks import ClickMarks, deepest_place, depth, first_click, next_click
from seem_core.training.losses import bce_loss, dice_loss

Named = Iterator[tuple[str, Tensor | np.ndarray]]
THINGS = frozenset({0, 1, 2})


class Parts:
    """One golden file and the filled parts that it is about."""

    def __init__(self, golden: Golden, folders: tuple[Path, ...]) -> None:
        self.golden = golden
        self.folders = folders

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.golden[key])

    def load(self, configuration: str, prefix: str, make: Callable[[], nn.Module]) -> nn.Module:
        return load_part(find_manifest(configuration, self.folders), prefix, make)

    @cached_property
    def results(self) -> dict[str, Tensor | np.ndarray]:
        scenarios = {"golden_misc": MISC, "golden_textclass": (text_classes,)}[self.golden.name]
        return {key: value for scenario in scenarios for key, value in scenario(self)}


def inputs(parts: Parts) -> Named:
    """Values that the recordings were made from; there is nothing to recompute in them."""
    for key in parts.golden.keys:
        if key in INPUTS:
            yield key, parts.golden[key]


INPUTS = frozenset(
    {
        *("u8mask_in", "u8mask2_in", "pil_in", "resize512_in_hw", "postproc_in"),
        *("pp_mask_cls", "pp_mask_pred", "pp_thresholds", "v_emb"),
        *("click_gt", "click_pred", "click_prev", "next_prev_mask_logits", "loss_in", "loss_tgt"),
    }
)


def geometry(parts: Parts) -> Named:
    yield "posenc_4x5_512", sine_positions(4, 5, 512)
    for name, size in (("u8mask", (128, 160)), ("u8mask2", (128, 192))):
        canvas = parts.tensor(f"{name}_in")
        resized = Geometry((canvas.shape[0], canvas.shape[1]), size, size).mask_to_padded((canvas > 0)[None])
        yield f"{name}_bool", resized[None]
    canvas = parts.tensor("u8mask_in")
    yield "u8mask_resized_u8", nn.functional.interpolate(canvas[None, None], size=(128, 160), mode="bilinear")
    yield "pil_resize64_bicubic", resize_image(parts.golden["pil_in"], (64, 113))
    sources = [(int(h), int(w)) for h, w in parts.golden["resize512_in_hw"]]
    yield "resize512_out_hw", np.array([resized_size(source, InputSize(512)) for source in sources])
    yield "resize800_1333_out_hw", np.array([resized_size(source, InputSize(800, 1333)) for source in sources])
    logits = parts.tensor("postproc_in")
    yield "postproc_out_50x70", Geometry((50, 70), (30, 38), (32, 40)).logits_to_source(logits, "panoptic")


def segmentations(parts: Parts) -> Named:
    classes, masks = parts.tensor("pp_mask_cls"), parts.tensor("pp_mask_pred")
    object_threshold, overlap_threshold = parts.golden["pp_thresholds"].tolist()
    panoptic = panoptic_segmentation(
        classes, masks, THINGS, object_threshold=object_threshold, overlap_threshold=overlap_threshold
    )
    yield "pp_panoptic", panoptic.ids
    yield "pp_panoptic_info", np.array([(s.id, s.is_thing, s.class_index) for s in panoptic.segments])
    yield "pp_semantic", semantic_segmentation(classes, masks)
    found = instance_segmentation(classes, masks, top=10)
    # The official order is that of an unsorted top-k: the same instances, put into the recorded order.
    rank = np.argsort(np.argsort(-parts.golden["pp_inst_scores"], kind="stable"), kind="stable")
    order = found.scores.argsort(descending=True, stable=True)[torch.from_numpy(rank)]
    yield "pp_inst_scores", found.scores[order]
    yield "pp_inst_classes", found.classes[order]


def deformable(parts: Parts) -> Named:
    prefix = "sem_seg_head.pixel_decoder."
    decoder = parts.load("samvitb", prefix, lambda: DeformableConfig().build(SAM_VIT_B.channels))
    assert isinstance(decoder, DeformableDecoder)
    sizes = ((32, 40), (16, 20), (8, 10), (4, 5))
    shapes = ((1, c, h, w) for c, (h, w) in zip(SAM_VIT_B.channels, sizes, strict=True))
    features = decoder(Pyramid(*(make_normal(name, s) for name, s in zip(Pyramid._fields, shapes, strict=True))))
    yield "deform_mask_features", decoder.mask_features(features.finest)
    yield "deform_enc_out0", features.levels[0]
    for i, level in enumerate(features.levels):
        yield f"deform_ms{i}", level


def sam_parts(parts: Parts) -> Named:
    neck = parts.load("samvitb", "backbone.neck.", lambda: SimplePyramid(768, SAM_VIT_B.channels))
    pyramid = neck(make_normal("neck_in", (1, 768, 8, 8)))
    for name, level in zip(Pyramid._fields, pyramid, strict=True):
        yield f"neck_{name}", level
    for index, window in ((0, 14), (2, 0)):
        block = parts.load("samvitb", f"backbone.blocks.{index}.", lambda window=window: VitBlock(SAM_VIT_B, window))
        yield f"vit_block{index}_out", block(make_normal("vit_tokens", (1, 20, 20, 768)))


def clicks(parts: Parts) -> Named:
    truth, answer, before = (parts.golden[f"click_{name}"] for name in ("gt", "pred", "prev"))
    for name, region in (("fn", truth & ~answer & ~before), ("fp", ~truth & answer & ~before)):
        yield f"click_{name}_dt", depth(region)[None, None]
        yield f"click_{name}_sum", np.array(region.sum())
        yield f"click_{name}_argmax_rc", np.array(deepest_place(region))
    first = first_click(truth)
    yield "click_first_rc", np.array((first.row, first.column))
    yield "click_first_dt", depth(truth)[None, None]
    logits = parts.tensor("next_prev_mask_logits")
    answer = nn.functional.interpolate(logits, size=truth.shape, mode="bilinear")[0, 0].numpy() > 0
    marks = ClickMarks(before, np.zeros_like(before))
    marks = marks.with_click(next_click(truth, answer, marks))
    yield "next_pos_mask", marks.positive[None]
    yield "next_neg_mask", marks.negative[None]


def losses(parts: Parts) -> Named:
    logits, truth = parts.tensor("loss_in"), parts.tensor("loss_tgt")
    yield "loss_dice", dice_loss(logits, truth)
    yield "loss_bce", bce_loss(logits, truth)


def text_classes(parts: Parts) -> Named:
    yield from inputs(parts)
    encoder = parts.load("focalt", "sem_seg_head.predictor.lang_encoder.", TextConfig().build)
    assert isinstance(encoder, TextEncoder)
    embeddings = class_embeddings(encoder, ["traffic light", "tree-merged", "water-other"])
    yield "class_emb_3x512", embeddings
    yield "similarity", class_logits(parts.tensor("v_emb"), embeddings, encoder.logit_scale)


MISC: tuple[Callable[[Parts], Named], ...] = (inputs, geometry, segmentations, deformable, sam_parts, clicks, losses)
STANDALONE = frozenset({"golden_misc", "golden_textclass"})
