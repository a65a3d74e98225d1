"""The propagate tracker: real footage, many objects, exact search, bounds, and the same masks on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from scenes import iou, scene

from seem_core.errors import LimitError, PromptError
from seem_core.prompts import MaskPrompt
from trackers.dense import Reading
from trackers.memory_bank import MEGABYTE, Entry, MemoryBank
from trackers.propagate import DenseTracker, PropagateTracker, disjoint
from trackers.propagation import (
    PropagationConfig,
    encoded_size,
    principal_components,
)

SMALL = PropagationConfig(pixels=192 * 352)


def clip(data_root: Path, name: str, frames: int) -> tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]]:
    """First frames of a DAVIS sequence: RGB images and label maps."""
    paths = sorted((data_root / "davis/JPEGImages/480p" / name).glob("*.jpg"))[:frames]
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    labels = [np.array(Pillow.open(str(p).replace("JPEGImages", "Annotations").replace("jpg", "png"))) for p in paths]
    return images, labels


def test_a_real_object_is_followed(data_root: Path) -> None:
    images, labels = clip(data_root, "soccerball", 12)
    tracker = PropagateTracker()
    tracker.step(images[0], [MaskPrompt(labels[0] > 0)])
    found = [tracker.step(image) for image in images[1:]]
    assert np.mean([iou(f.mask(1), truth > 0) for f, truth in zip(found, labels[1:], strict=True)]) > 0.75
    assert repr(tracker.memory).startswith("MemoryBank(1 objects, 8 frames, ")


def test_seven_real_objects_share_a_frame(data_root: Path) -> None:
    images, labels = clip(data_root, "schoolgirls", 4)
    tracker = PropagateTracker(config=SMALL)
    ids = [int(i) for i in np.unique(labels[0]) if i]
    tracker.step(images[0], [MaskPrompt(labels[0] == i, i) for i in ids])
    found = [tracker.step(image) for image in images[1:]][-1]
    assert found.ids == tuple(ids)
    assert np.mean([iou(found.mask(i), labels[-1] == i) for i in ids]) > 0.6


def test_a_hundred_objects_share_a_large_frame() -> None:
    height, width = 1080, 1920
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (20, 36, 3), np.uint8), (width, height))
    cells = np.arange(1, 101, dtype=np.uint8).reshape(10, 10).repeat(108, 0).repeat(192, 1)
    tracker = PropagateTracker(config=SMALL)
    tracker.step(image, [MaskPrompt(cells == i, i) for i in range(1, 101)])
    found = tracker.step(image)
    assert found.ids == tuple(range(1, 101))
    assert (found.labels == cells).mean() > 0.9


def test_a_later_object_does_not_take_what_an_earlier_one_owns() -> None:
    """Where an entry does not know an object, the others decide; where it is prompted, it excludes the others."""
    two = scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(6)])
    tracker = PropagateTracker(config=SMALL)
    tracker.step(two.images[0], [MaskPrompt(two.masks[0][0], 5)])
    tracker.step(two.images[1])
    tracker.step(two.images[2], [MaskPrompt(two.masks[2][1], 2)])
    for image, masks in zip(two.images[3:], two.masks[3:], strict=True):
        found = tracker.step(image)
        assert iou(found.mask(5), masks[0]) > 0.7
        assert iou(found.mask(2), masks[1]) > 0.7


def test_many_prompted_frames_reach_the_bound_and_say_so() -> None:
    two = scene([[(70, 60)]] * 8)
    tracker = PropagateTracker(config=SMALL, max_bytes=3 * MEGABYTE)

    def prompt_every_frame() -> None:
        for image, masks in zip(two.images, two.masks, strict=True):
            tracker.step(image, [MaskPrompt(masks[0])])

    with pytest.raises(LimitError, match="prompt fewer frames"):
        prompt_every_frame()
    assert tracker.memory.bytes <= 3 * MEGABYTE


def test_an_empty_mask_is_refused() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    with pytest.raises(PromptError, match="mask of object 3 is empty"):
        PropagateTracker(config=SMALL).step(image, [MaskPrompt(np.zeros((90, 160), np.bool_), 3)])


def test_where_prompts_overlap_the_later_one_has_the_pixel() -> None:
    a, b = np.zeros((4, 6), np.bool_), np.zeros((4, 6), np.bool_)
    a[:, :4], b[:, 2:] = True, True
    left = disjoint({7: a, 3: b})
    assert not (left[7] & left[3]).any()
    np.testing.assert_array_equal(left[3], b)
    image = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    found = PropagateTracker(config=SMALL).step(image, [MaskPrompt(a, 7), MaskPrompt(b, 3)])
    np.testing.assert_array_equal(found.mask(3), b)
    np.testing.assert_array_equal(found.mask(7), left[7])


def test_skipping_unreachable_cells_changes_nothing(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`_pick` leaves out cells whose candidates are all background; without that the masks are the same."""
    images, labels = clip(data_root, "motorbike", 5)

    def masks() -> list[npt.NDArray[np.integer]]:
        tracker = PropagateTracker(config=SMALL)
        tracker.step(images[0], [MaskPrompt(labels[0] > 0)])
        return [tracker.step(image).labels for image in images[1:]]

    sparse = masks()
    monkeypatch.setattr(
        "trackers.voting.Voters.objects",
        lambda self: [torch.ones(len(e.keys[0]), dtype=torch.bool) for e in self.entries],
    )
    for a, b in zip(sparse, masks(), strict=True):
        assert iou(a > 0, b > 0) > 0.999  # matrix products of other shapes round differently


def test_principal_components_are_an_orthonormal_basis() -> None:
    samples = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 1, 4, 1, 1, 0.1])
    mean, basis = principal_components(samples, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis[[0, 2], [0, 1]], torch.ones(2), atol=0.02, rtol=0)
    torch.testing.assert_close(mean, samples.mean(0))


@given(st.integers(16, 4320), st.integers(16, 7680))
def test_encoded_sizes_are_bounded_and_keep_the_aspect(height: int, width: int) -> None:
    h, w = encoded_size(height, width, 480 * 864)
    assert h % 32 == w % 32 == 0
    if 1 / 4 < height / width < 4:
        assert h * w < 1.15 * 480 * 864
        scale = min(2.0, (480 * 864 / (height * width)) ** 0.5)
        assert abs(h - scale * height) <= 16
        assert abs(w - scale * width) <= 16


@pytest.mark.cuda
def test_a_gpu_gives_the_same_masks() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    two = scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(12)])
    runs = []
    for device in ("cpu", "cuda"):
        tracker = PropagateTracker(device=device)
        tracker.step(two.images[0], [MaskPrompt(m, i) for i, m in enumerate(two.masks[0], 1)])
        runs.append([tracker.step(image) for image in two.images[1:]])
        resumed = PropagateTracker(device=device)
        resumed.load_state_dict(tracker.state_dict())
        assert np.array_equal(tracker.step(two.images[-1]).labels, resumed.step(two.images[-1]).labels)
    for a, b in zip(*runs, strict=True):
        for i in (1, 2):
            assert iou(a.mask(i), b.mask(i)) > 0.97  # bfloat16 or float32 there, float16 here


def test_a_reader_can_be_replaced() -> None:
    """The tracker needs no more of its dense part than `DenseReader` states."""

    class Still:
        """Says that everything stays where it was last written."""

        name, device = "still", torch.device("cpu")

        def encode(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            return image

        def look(self, features: npt.NDArray[np.uint8], bank: MemoryBank) -> SimpleNamespace:
            return SimpleNamespace(height=features.shape[0], width=features.shape[1])

        def read(self, view: SimpleNamespace, bank: MemoryBank) -> Reading:
            masks = torch.stack([bank.entries[-1].values[i] for i in bank.ids])
            return Reading(bank.ids, torch.cat([1 - masks.sum(0, keepdim=True), masks]), masks, masks.amax((1, 2)))

        def write(
            self,
            view: SimpleNamespace,
            bank: MemoryBank,
            frame: int,
            masks: Mapping[int, torch.Tensor],
            *,
            pinned: Set[int] = frozenset(),
            doubtful: Set[int] = frozenset(),
        ) -> None:
            bank.write(Entry(frame, (torch.zeros(1),), dict(masks), pinned=bool(pinned)))

        def adopt(self, bank: MemoryBank) -> None:
            bank.to(self.device, torch.float32)

    two = scene([[(70, 60)]] * 3, shift=0)
    tracker = DenseTracker(Still())
    tracker.step(two.images[0], [MaskPrompt(two.masks[0][0], 4)])
    assert iou(tracker.step(two.images[1]).mask(4), two.masks[0][0]) > 0.9
