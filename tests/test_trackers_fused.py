"""The fused tracker: with a decoder that knows the truth, one that knows nothing, and none; and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_segmenter import KnownFrame, NoiseSegmenter, OracleSegmenter, Recipe
from scenes import Position, Scene, iou, scene
from tiny_seem import tiny_seem

from seem_core.errors import InputError, PromptError
from seem_core.geometry import Geometry
from seem_core.prompts import MaskPrompt, ReferencePrompt
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import ObjectTokens, Prediction, Segmenter, masks_as_prediction
from trackers.base import ObjectMasks, Tracker
from trackers.decoder_masks import masks_as_prior, masks_on_grid
from trackers.dense import Reading
from trackers.fused import FusedTracker, FusionConfig
from trackers.memory_bank import MemoryBank
from trackers.merge import soft_aggregate
from trackers.object_views import ViewBudget
from trackers.propagate import PropagateTracker
from trackers.propagation import Keys, LabelPropagation, PropagationConfig
from vos.images import read_image
from vos.label_files import read_labels
from vos.metrics import measure_labels

SMALL = PropagationConfig(pixels=128 * 224)
EXACT = Recipe(drop=0, swap=0, grow=(0, 0), scores=(1, 1, 1), spread=0)

Images = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def two() -> Scene:
    return scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(8)])


def truths(of: Scene) -> list[dict[int, npt.NDArray[np.bool_]]]:
    return [dict(enumerate(masks, 1)) for masks in of.masks]


def prompts(of: Scene, frame: int = 0) -> list[MaskPrompt]:
    return [MaskPrompt(mask, i) for i, mask in enumerate(of.masks[frame], 1) if mask.any()]


def follow(tracker: Tracker, of: Scene) -> list[ObjectMasks]:
    return [tracker.step(image, prompts(of) if n == 0 else ()) for n, image in enumerate(of.images)]


def same(a: Sequence[ObjectMasks], b: Sequence[ObjectMasks], scores: bool = True) -> bool:
    return all(
        np.array_equal(x.labels, y.labels) and (not scores or np.array_equal(x.scores, y.scores))
        for x, y in zip(a, b, strict=True)
    )


# --- whether the decoder is used ---


def test_without_a_trained_decoder_it_is_propagation_and_says_so(two: Scene) -> None:
    expected = follow(PropagateTracker(config=SMALL), two)
    for trained in ("none", "backbone"):
        noise = NoiseSegmenter(two.images, trained=trained)
        tracker = FusedTracker(noise, reader=LabelPropagation(SMALL))
        assert same(follow(tracker, two), expected)
        assert noise.encoded == 0
        assert f"propagation alone: the weights of noise are not trained (trained: {trained})" in tracker.notes[0]
    tracker = FusedTracker(reader=LabelPropagation(SMALL))
    assert same(follow(tracker, two), expected)
    assert "propagation alone: it was given no model" in tracker.notes[0]
    assert tracker.memory_model == tracker.reader.name


def test_on_and_off_override(two: Scene) -> None:
    oracle = OracleSegmenter(two.images, truths(two))
    off = FusedTracker(oracle, decoder="off", reader=LabelPropagation(SMALL))
    follow(off, two)
    assert oracle.encoded == 0
    assert "switched off" in off.notes[0]
    assert off.segmenter is oracle  # which may read prompts all the same
    untrained = NoiseSegmenter(two.images, trained="none")
    on = FusedTracker(untrained, decoder="on", reader=LabelPropagation(SMALL))
    follow(on, two)
    assert untrained.encoded == len(two.images)
    assert "knows nothing" in on.notes[0]
    assert FusedTracker(oracle, reader=LabelPropagation(SMALL)).notes == ()
    with pytest.raises(InputError, match="decoder on needs a SEEM model"):
        FusedTracker(decoder="on")
    with pytest.raises(InputError, match="use auto, on or off"):
        FusedTracker(oracle, decoder="maybe")


# --- what it finds ---


def j_and_f(tracker: Tracker, images: Images, labels: Images) -> float:
    found = [tracker.step(image, [MaskPrompt(labels[0] > 0)] if n == 0 else ()) for n, image in enumerate(images)]
    measured = [measure_labels(f.labels, t, range(1, 2)) for f, t in list(zip(found, labels, strict=True))[1:-1]]
    return float(np.mean(measured))


def clip(data_root: Path, name: str, frames: int) -> tuple[Images, Images]:
    """First frames of a DAVIS sequence: RGB images and label maps."""
    paths = sorted((data_root / "davis/JPEGImages/480p" / name).glob("*.jpg"))[:frames]
    masks = [Path(str(path).replace("JPEGImages", "Annotations")).with_suffix(".png") for path in paths]
    return [read_image(path) for path in paths], [(read_labels(path) > 0).astype(np.uint8) for path in masks]


@pytest.fixture(scope="module")
def dance(data_root: Path) -> tuple[Images, Images, float]:
    """A sequence that propagation alone finds hard, with what it scores there."""
    images, labels = clip(data_root, "dance-jump", 20)
    return images, labels, j_and_f(PropagateTracker(config=SMALL), images, labels)


RECIPES = {
    "as ever": Recipe(),
    "drops": Recipe(drop=0.4),
    "erodes": Recipe(grow=(-0.2, 0.0)),
    "constant scores": Recipe(scores=(0.7, 0.7, 0.7), spread=0.0),
    "scores that mislead": Recipe(scores=(0.4, 0.6, 0.8)),
    "long swaps": Recipe(swap=0.06, swap_frames=5.0),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_on_real_footage_a_decoder_that_knows_helps(dance: tuple[Images, Images, float], recipe: str) -> None:
    images, labels, alone = dance
    oracle = OracleSegmenter(images, [{1: truth > 0} for truth in labels], RECIPES[recipe], seed=2)
    assert j_and_f(FusedTracker(oracle, reader=LabelPropagation(SMALL)), images, labels) > alone + 0.03


def test_on_real_footage_noise_does_no_harm(dance: tuple[Images, Images, float]) -> None:
    images, labels, alone = dance
    assert j_and_f(FusedTracker(NoiseSegmenter(images), reader=LabelPropagation(SMALL)), images, labels) > alone - 0.01


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_noise_changes_nothing_where_propagation_is_right(two: Scene, seed: int, stuck: bool) -> None:
    expected = follow(PropagateTracker(config=SMALL), two)
    tracker = FusedTracker(NoiseSegmenter(two.images, seed=seed, stuck=stuck), reader=LabelPropagation(SMALL))
    found = follow(tracker, two)
    measured = [iou(f.mask(i), m) for f, t in zip(found, truths(two), strict=True) for i, m in t.items()]
    before = [iou(f.mask(i), m) for f, t in zip(expected, truths(two), strict=True) for i, m in t.items()]
    assert np.mean(measured) > np.mean(before) - 0.01


class Blind(LabelPropagation):
    """Does not see object 1 any more, once ``blind`` is set."""

    blind = False

    def read(self, view: Keys, bank: MemoryBank) -> Reading:
        found = super().read(view, bank)
        if not self.blind:
            return found
        masks = found.masks * torch.tensor([float(i != 1) for i in found.ids])[:, None, None]
        return Reading(found.ids, soft_aggregate(masks), masks, found.scores)


def there_and_back(away: int) -> Scene:
    """An object leaves after six frames, and returns elsewhere for six."""
    here: list[list[Position]] = [[(60 + 4 * t, 70), (200, 130)] for t in range(6)]
    gone: list[list[Position]] = [[None, (200, 130)]] * away
    back: list[list[Position]] = [[(260 - 4 * t, 50), (200, 130)] for t in range(6)]
    return scene([*here, *gone, *back])


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_an_object_that_left_for_20_frames_is_found_within_3(seed: int, blind: bool) -> None:
    """Also where propagation never finds it again, so that the decoder has to."""
    drawn = there_and_back(20)
    oracle = OracleSegmenter(drawn.images, truths(drawn), seed=seed)
    reader = Blind(SMALL)
    tracker = FusedTracker(oracle, reader=reader)
    found = []
    for n, image in enumerate(drawn.images):
        reader.blind = blind and n >= 6
        found.append(tracker.step(image, prompts(drawn) if n == 0 else ()))
    overlap = [iou(f.mask(1), t[1]) for f, t in zip(found[26:], truths(drawn)[26:], strict=True)]
    assert max(overlap[:3]) > 0.5
    assert sum(not f.lost[0] for f in found[6:26]) <= 2  # leaving may be noticed late


def test_a_frame_in_doubt_is_not_remembered(two: Scene) -> None:
    """After some agreement the decoder finds the object elsewhere: until it is clear who is right, nothing is kept."""
    wrong = [m if n < 5 else {**m, 1: np.roll(m[1], 60, 1)} for n, m in enumerate(truths(two))]
    tracker = FusedTracker(OracleSegmenter(two.images, wrong, EXACT), reader=LabelPropagation(SMALL))
    found = follow(tracker, two)
    frames = {e.frame for e in tracker.memory.dense if 1 in e.values}
    assert {1, 2, 3, 4} <= frames
    assert not {5, 6, 7} <= frames
    assert found[5].scores[0] < found[4].scores[0]
    assert {5, 6, 7} <= {e.frame for e in tracker.memory.dense if 2 in e.values}  # others are not in doubt


def test_an_object_that_left_is_not_found_in_another() -> None:
    """The decoder takes the second object for the first, which is not there any more."""
    path: list[list[Position]] = [[(70, 60) if t < 4 else None, (230 - 3 * t, 110)] for t in range(12)]
    drawn = scene(path)
    taken = [m if n < 4 else {1: m[2], 2: m[2]} for n, m in enumerate(truths(drawn))]
    found = follow(FusedTracker(OracleSegmenter(drawn.images, taken, EXACT), reader=LabelPropagation(SMALL)), drawn)
    assert all(f.lost[0] for f in found[6:])
    assert min(iou(f.mask(2), t[2]) for f, t in zip(found, truths(drawn), strict=True)) > 0.7


# --- how the decoder is asked ---


class Recorder(OracleSegmenter):
    """Remembers what `recall` was given: by frame, views per object, and ids of the prior."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.asked: list[tuple[dict[int, int], tuple[int, ...]]] = []

    def recall(
        self, features: KnownFrame, memory: Sequence[ObjectTokens], prior: Prediction | None = None
    ) -> Prediction:
        ids = [tokens.object_id for tokens in memory]
        self.asked.append(({i: ids.count(i) for i in ids}, () if prior is None else prior.ids))
        return super().recall(features, memory, prior)


def test_all_objects_are_asked_for_in_one_call_over_one_encoding(two: Scene) -> None:
    oracle = Recorder(two.images, truths(two), EXACT)
    follow(FusedTracker(oracle, reader=LabelPropagation(SMALL)), two)
    assert oracle.encoded == len(two.images)
    assert oracle.asked == [({1: 2, 2: 2}, (1, 2))] * (len(two.images) - 1)  # memory and the place on this frame


def test_an_object_that_propagation_does_not_see_is_asked_for_without_a_place() -> None:
    changed = there_and_back(6)
    oracle = Recorder(changed.images, truths(changed), EXACT)
    follow(FusedTracker(oracle, reader=LabelPropagation(SMALL)), changed)
    assert oracle.asked[9] == ({1: 1, 2: 2}, (2,))


def test_views_live_in_the_bank_and_are_bounded(two: Scene) -> None:
    oracle = OracleSegmenter(two.images, truths(two), EXACT)
    fusion = FusionConfig(views=ViewBudget(frames=2), every=2)
    tracker = FusedTracker(oracle, reader=LabelPropagation(SMALL), fusion=fusion)
    follow(tracker, two)
    views = [e for e in tracker.memory.entries if e.tokens]
    assert [(e.frame, e.pinned) for e in views if e.pinned] == [(0, True)]
    assert all(set(e.tokens) == {1, 2} for e in views)
    plain = PropagateTracker(config=SMALL)
    follow(plain, two)
    assert tracker.memory.bytes == plain.memory.bytes + sum(e.bytes for e in views)
    tracker.forget(1)
    assert tracker.memory.views(1) == ()
    assert "oracle" in tracker.memory_model


def test_another_picture_gives_views_too(two: Scene) -> None:
    oracle = Recorder(two.images, truths(two), EXACT)
    tracker = FusedTracker(oracle, reader=LabelPropagation(SMALL))
    tracker.step(two.images[1], [ReferencePrompt(two.images[0], two.masks[0][0], 1)])
    assert oracle.asked == [({1: 1}, ())] or oracle.asked == [({1: 2}, (1,))]
    assert [e.frame for e in tracker.memory.entries if e.tokens and e.pinned] == [-1]


def test_class_names_come_from_the_model(two: Scene) -> None:
    names = {1: "ball"}
    tracker = FusedTracker(OracleSegmenter(two.images, truths(two), EXACT, names=names), reader=LabelPropagation(SMALL))
    follow(tracker, two)
    assert tracker.class_names == names
    other = FusedTracker(OracleSegmenter(two.images, truths(two), EXACT), reader=LabelPropagation(SMALL))
    other.load_state_dict(tracker.state_dict())
    assert other.class_names == names


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_a_random_seem_changes_nothing(routing: str, two: Scene) -> None:
    segmenter: Segmenter = SeemSegmenter(tiny_seem(routing))  # type: ignore[arg-type]
    found = follow(FusedTracker(segmenter, decoder="on", reader=LabelPropagation(SMALL)), two)
    assert same(found, follow(PropagateTracker(config=SMALL), two), scores=False)


# --- what it learns ---


def test_a_correction_counts_for_the_decoder_that_was_right(two: Scene) -> None:
    right = FusedTracker(OracleSegmenter(two.images, truths(two), EXACT), reader=LabelPropagation(SMALL))
    wrong = FusedTracker(NoiseSegmenter(two.images), reader=LabelPropagation(SMALL))
    believed = []
    for tracker in (right, wrong):
        tracker.step(two.images[0], prompts(two))
        tracker.step(two.images[1])
        before = tracker.trust_in(1)
        tracker.step(two.images[2], prompts(two, 2))
        after = tracker.trust_in(1)
        assert after.followed == 1.0
        believed.append((before.here, after.here))
    assert believed[0][1].at(0.8) > believed[0][0].at(0.8)  # type: ignore[union-attr]
    assert believed[1][1].at(0.8) < believed[1][0].at(0.8)  # type: ignore[union-attr]


def test_a_refused_prompt_leaves_everything_as_it_was(two: Scene) -> None:
    tracker = FusedTracker(OracleSegmenter(two.images, truths(two), EXACT), reader=LabelPropagation(SMALL))
    tracker.step(two.images[0], prompts(two))
    tracker.step(two.images[1])
    before = tracker.trust_in(1)
    with pytest.raises(PromptError):
        tracker.step(two.images[2], [MaskPrompt(np.zeros((180, 320), np.bool_), 1)])
    assert tracker.trust_in(1) == before


# --- masks from grid to grid ---


@settings(max_examples=30, deadline=None)
@given(st.integers(100, 300), st.integers(100, 300), st.integers(0, 31), st.integers(0, 31))
def test_masks_keep_their_place_between_grids(height: int, width: int, below: int, right: int) -> None:
    geometry = Geometry(
        (height, width), (height, width), (height + -height % 4 + 4 * below, width + -width % 4 + 4 * right)
    )
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, height // 4 : height // 2, width // 3 : 3 * width // 4] = True
    there = masks_on_grid(masks_as_prediction(mask, geometry), 64, 96)
    assert there.shape == (1, 64, 96)
    expected = torch.zeros(64, 96, dtype=torch.bool)
    expected[16:32, 32:72] = True
    assert ((there[0] > 0) ^ expected).float().mean() < 0.05
    back = masks_as_prior((there > 0).float(), [1], geometry)
    assert iou(back.mask(1), mask[0].numpy()) > 0.75
    assert not (back.logits[0, -(-height // 4) + 1 :] > 0).any()  # the padding is outside
