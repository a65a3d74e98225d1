"""Training clips: image and mask move together, plans are functions of the seed, slots mean what they say."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seem_core.training.loop import Stage
from seem_core.training.pack import Pack, PackOptions, pack
from seem_core.training.picture_store import FILL, PictureStore
from seem_core.training.plan_queue import PlanQueue
from seem_core.training.pseudo_clips import CONTROL, ClipConfig, ClipPlanner, render, thin_plate_basis

COLOURS = {1: (250, 20, 20), 2: (20, 250, 20)}  # RGB of the objects; the background is blue
BLUE = (20, 20, 250)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Stills and a sequence whose objects have the colour of their id."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(12):
        image, labels = np.zeros((160, 200, 3), np.uint8), np.zeros((160, 200), np.uint8)
        for object_id, (x, y) in ((1, rng.integers(30, 80, 2)), (2, rng.integers(90, 130, 2))):
            cv2.circle(labels, (int(x), int(y)), 26, object_id, -1)
        image[:] = BLUE[::-1]
        for object_id, colour in COLOURS.items():
            image[labels == object_id] = colour[::-1]
        name = f"s{i}" if i < 6 else f"{i:05d}"
        pictures, masks = (
            (root / "still/a/images", root / "still/a/masks")
            if i < 6
            else (root / "clips/JPEGImages/c", root / "clips/Annotations/c")
        )
        pictures.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(pictures / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
        cv2.imwrite(str(masks / f"{name}.png"), labels)
    return pack(root, Path(root) / "train.pack", PackOptions(still_quality=100, clip_quality=100))


PLAIN = ClipConfig(blur=0, grey=0)


def without_look(plan):  # type: ignore[no-untyped-def]
    """The same motion in the pictures' own colours."""
    colour = np.zeros_like(plan.colour)
    colour[..., :3] = np.eye(3)
    return replace(
        plan,
        colour=colour,
        light=np.ones_like(plan.light),
        gamma=np.ones_like(plan.gamma),
        noise=np.zeros_like(plan.noise),
    )


@pytest.mark.parametrize("real", [0.0, 1.0])
def test_mask_moves_with_its_colour(coloured: Pack, real: float) -> None:
    store = PictureStore.of(coloured)
    planner = ClipPlanner(coloured, replace(PLAIN, real=real))
    colours = torch.tensor([BLUE, COLOURS[1], COLOURS[2], (FILL,) * 3], dtype=torch.float)
    seen = 0
    for step in range(6):
        plan = without_look(planner.plan(0, step, 4, 4))
        batch = render(plan, store, 96)
        nearest = (
            (batch.images[:, :, None] - colours[None, None, :, :, None, None]).norm(dim=3).argmin(2)
        )  # ids, 3 fill
        for clip in range(4):
            for slot in range(2):
                if not batch.valid[clip, slot]:
                    continue
                mask = batch.labels[:, clip] == slot + 1
                pasted = np.flatnonzero(plan.paste_slot[clip] == slot)
                object_id = int(plan.paste_ids[clip, pasted[0]] if len(pasted) else plan.base_ids[clip, slot])
                assert object_id in COLOURS
                inner = -F.max_pool2d(-mask.float()[:, None], 5, 1, 2)[:, 0] > 0  # without the blurred border
                assert (nearest[:, clip][inner] == object_id).float().mean() > 0.99, (step, clip, slot)
                seen += 1
    assert seen > 10


def test_every_pixel_of_an_unpasted_object_is_in_its_mask(coloured: Pack) -> None:
    store = PictureStore.of(coloured)
    planner = ClipPlanner(coloured, replace(PLAIN, paste_on_still=0, paste_on_real=0))
    for step in range(4):
        plan = without_look(planner.plan(1, step, 4, 3))
        batch = render(plan, store, 96)
        for clip in range(4):
            for slot in range(2):
                if not batch.valid[clip, slot]:
                    continue
                target = torch.tensor(COLOURS[int(plan.base_ids[clip, slot])], dtype=torch.float)
                coloured_pixels = (batch.images[:, clip] - target[None, :, None, None]).norm(dim=1) < 40
                inside = (batch.labels[:, clip] == slot + 1)[coloured_pixels].float().mean()
                assert inside > 0.98


def test_a_thin_plate_goes_through_its_control_points_and_keeps_planes() -> None:
    size = 160
    basis = thin_plate_basis(size, torch.device("cpu")).double()
    assert torch.allclose(basis.sum(0), torch.ones(size * size, dtype=torch.float64), atol=1e-5)  # a shift is a shift
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, CONTROL, dtype=torch.float64)] * 2, indexing="ij")
    rows, columns = torch.meshgrid(*[(torch.arange(size) + 0.5) * (2 / size) - 1] * 2, indexing="ij")
    plane = ((2 * x - 3 * y).flatten() @ basis).view(size, size)
    assert torch.allclose(plane, (2 * columns - 3 * rows).double(), atol=1e-4)
    moves = torch.randn(CONTROL * CONTROL, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = (moves @ basis).view(size, size)
    for i in range(1, CONTROL - 1):
        for j in range(1, CONTROL - 1):  # between four pixels
            at = [round(size * k / (CONTROL - 1)) for k in (i, j)]
            around = field[at[0] - 1 : at[0] + 1, at[1] - 1 : at[1] + 1].mean()
            assert float(around) == pytest.approx(float(moves[i * CONTROL + j]), abs=0.01)


def test_plans_are_functions_of_seed_and_step(coloured: Pack) -> None:
    planner = ClipPlanner(coloured)
    one, two, other = planner.plan(3, 5, 4, 4), planner.plan(3, 5, 4, 4), planner.plan(3, 6, 4, 4)
    assert all(np.array_equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(one))
    assert not np.array_equal(one.matrix, other.matrix)


def test_workers_give_the_same_plans(coloured: Pack) -> None:
    planner, stage = ClipPlanner(coloured), Stage(1.0, 96, 2, 3)
    queue = PlanQueue(planner, workers=1, ahead=3)
    try:
        for step in (0, 1, 5):
            plan, expected = queue.get(0, step, stage), planner.plan(0, step, 2, 3)
            assert all(np.array_equal(getattr(plan, f.name), getattr(expected, f.name)) for f in fields(plan))
    finally:
        queue.close()


def test_valid_slots_are_visible_first_and_others_nowhere(coloured: Pack) -> None:
    store = PictureStore.of(coloured)
    batch = render(ClipPlanner(coloured).plan(2, 0, 8, 4), store, 64)
    for clip in range(8):
        for slot in range(2):
            anywhere = bool((batch.labels[:, clip] == slot + 1).any())
            at_first = bool((batch.labels[0, clip] == slot + 1).any())
            assert bool(batch.valid[clip, slot]) == at_first
            assert anywhere == at_first
    assert batch.images.min() >= 0
    assert batch.images.max() <= 255


def test_sampling_at_pixel_centres_returns_the_picture(coloured: Pack) -> None:
    store = PictureStore.of(coloured)
    frame = coloured.clips[0].frames[0]
    image, labels = coloured.decode(frame)
    side = 64
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    colour, masks = store.sample(torch.tensor([0]), torch.stack([x, y])[:, None], torch.tensor([[1, 0]]))
    assert np.array_equal(colour[0].permute(1, 2, 0).numpy(), image[:side, :side].astype(np.float32))
    assert np.array_equal(masks[0, 0].numpy(), (labels[:side, :side] == 1).astype(np.float32))
    assert not masks[0, 1].any()
    outside, none = store.sample(torch.tensor([0]), torch.stack([x - 500, y])[:, None], torch.tensor([[1]]))
    assert (outside == FILL).all()
    assert not none.any()


@pytest.mark.cuda
def test_rendering_is_the_same_on_cuda(coloured: Pack) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    plan = without_look(ClipPlanner(coloured, PLAIN).plan(4, 0, 4, 4))
    here = render(plan, PictureStore.of(coloured), 96)
    there = render(plan, PictureStore.of(coloured, "cuda"), 96)
    assert (here.images - there.images.cpu()).abs().mean() < 0.1
    assert (here.labels != there.labels.cpu()).float().mean() < 1e-3
