"""Training of the border refiner: the loss falls, its own masks go back into memory, clips are used both ways."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from seem_core.errors import InputError
from seem_core.refiner import RefinerConfig
from seem_core.refiner_weights import load_refiner
from seem_core.training.data_sources import DataSpec
from seem_core.training.loop import Stage, read_log
from seem_core.training.pack import Pack, pack
from seem_core.training.pseudo_clips import ClipBatch
from seem_core.training.refiner_task import (
    RefinerTask,
    RefinerTaskConfig,
    border_band,
    cell_shares,
    strongest_others,
    turned_round,
)
from seem_core.training.train_refiner import RefinerRun, train_refiner
from trackers.prior_clip import open_clip

STAGE = Stage(1.0, 96, 1, 3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small_pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Six pictures of a disk on a textured ground."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / "still/a" / folder).mkdir(parents=True)
    for i in range(6):
        image = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (128, 96))
        labels = np.zeros((96, 128), np.uint8)
        cv2.circle(labels, (int(rng.integers(40, 90)), int(rng.integers(35, 60))), 24, 1, -1)
        image[labels == 1] = rng.integers(0, 255, 3)
        cv2.imwrite(str(root / f"still/a/images/{i}.jpg"), image)
        cv2.imwrite(str(root / f"still/a/masks/{i}.png"), labels)
    return pack(root, root / "train.pack")


class WornClip:
    """A prior without a network: the mask that was remembered last, blurred. What it was given is noted."""

    def __init__(self) -> None:
        self.written: list[Tensor] = []

    def begin(self, image: npt.NDArray[np.uint8], masks: Tensor) -> None:
        self.written.append(masks)

    def read(self, image: npt.NDArray[np.uint8]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        colour = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 128 - 1
        levels = [torch.nn.functional.avg_pool2d(colour, stride)[0] for stride in (2, 4, 8)]
        last = self.written[-1]
        versions = last if last.dim() == 4 else torch.stack([last, last], 1)
        worn = torch.nn.functional.avg_pool2d(versions, 5, 1, 2, count_include_pad=False)
        return (levels[0], levels[1], levels[2]), worn, torch.zeros_like(worn[:, 0])

    def write(self, masks: Tensor) -> None:
        self.written.append(masks)


def at_stride_4(batch: ClipBatch) -> Tensor:
    """True shares of cells on the first frame of the first clip."""
    return torch.nn.functional.avg_pool2d(cell_shares(batch)[0, 0, batch.valid[0]], 2)


def a_task(small_pack: Pack, opened: list[WornClip] | None = None, **config: float) -> RefinerTask:
    opened = [] if opened is None else opened

    def open_prior(size: int) -> WornClip:
        opened.append(WornClip())
        return opened[-1]

    torch.manual_seed(0)
    model = RefinerConfig(half=3, quarter=3, eighth=3, cues=8, finest=8, fine=16, coarse=16).build()
    return RefinerTask(model, small_pack, CPU, open_prior, RefinerTaskConfig(**config))  # type: ignore[arg-type]


def test_a_few_steps_lower_the_loss_and_sharpen(small_pack: Pack) -> None:
    task = a_task(small_pack, spoilt=0)
    task.calibrate(0, STAGE)
    batch = next(b for b in (task.batch(0, n, Stage(1.0, 96, 3, 3)) for n in range(0, 20, 2)) if b.valid.sum() > 2)
    optimizer = torch.optim.AdamW(list(task.parameter_groups(4e-3)))
    seen: list[dict[str, float]] = []
    for _ in range(25):
        loss, parts = task.loss(batch, 0, 0, 0.5)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        seen.append({"loss": float(loss.detach()), **{k: float(v) for k, v in parts.items()}})
    assert seen[-1]["loss"] < 0.7 * seen[0]["loss"]
    assert seen[-1]["iou"] > seen[-1]["prior_iou"]


def test_the_masks_that_it_made_go_into_memory(small_pack: Pack) -> None:
    opened: list[WornClip] = []
    task = a_task(small_pack, opened, spoilt=0)
    with torch.no_grad():
        next(p for name, p in task.model.named_parameters() if name == "leave.bias").fill_(0.7)
    batch = next(b for b in (task.batch(0, n, STAGE) for n in range(0, 20, 2)) if b.valid.any())
    frames = [examples[0] for examples in task.unroll(batch, random.Random(0))]
    assert torch.equal(opened[-1].written[1][:, 0], frames[0].own[:, 0])
    assert torch.equal(opened[-1].written[1][:, 1], torch.nn.functional.avg_pool2d(frames[0].found, 2))
    assert torch.equal(opened[-1].written[0], at_stride_4(batch))
    border = (frames[0].own[:, 0] > 0.3) & (frames[0].own[:, 0] < 0.7)
    assert (opened[-1].written[1][:, 1] > frames[0].own[:, 0])[border].float().mean() > 0.9


def test_a_spoilt_first_mask_is_still_a_mask(small_pack: Pack) -> None:
    opened: list[WornClip] = []
    task = a_task(small_pack, opened, spoilt=1)
    batch = next(b for b in (task.batch(0, n, STAGE) for n in range(0, 20, 2)) if b.valid.any())
    list(task.unroll(batch, random.Random(0)))
    truth = at_stride_4(batch)
    given = opened[-1].written[0]
    assert not torch.equal(given, truth)
    assert float((given - truth).abs().mean()) < 0.1


def test_every_clip_is_used_backwards_and_mirrored(small_pack: Pack) -> None:
    task = a_task(small_pack)
    forwards, backwards = task.batch(0, 4, STAGE), task.batch(0, 5, STAGE)
    assert torch.equal(backwards.images[0], forwards.images[-1].flip(3))
    assert torch.equal(backwards.labels[-1], forwards.labels[0].flip(2))
    assert torch.equal(turned_round(backwards).labels, forwards.labels)
    assert torch.equal(task.batch(0, 4, STAGE).images, forwards.images)
    again = a_task(small_pack)
    assert torch.equal(again.batch(0, 5, STAGE).images, backwards.images)  # what a run has that goes on there


def test_nothing_to_learn_from_is_no_fault(small_pack: Pack) -> None:
    task = a_task(small_pack)
    batch = task.batch(0, 0, STAGE)
    batch.valid.zero_()
    loss, _ = task.loss(batch, 0, 0, 0.0)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0


def test_strongest_others_and_the_border_band() -> None:
    masks = torch.tensor([0.1, 0.7, 0.4])[:, None, None].expand(3, 2, 2)
    assert strongest_others(masks)[:, 0, 0].tolist() == pytest.approx([0.7, 0.4, 0.7])
    assert strongest_others(masks[:1]).count_nonzero() == 0
    mask = torch.zeros(1, 20, 20)
    mask[0, :, 10:] = 1
    assert border_band(mask, 2)[0, 5].nonzero()[:, 0].tolist() == [8, 9, 10, 11]


@pytest.mark.slow
def test_a_run_with_the_tracker_writes_weights_that_load(small_pack: Pack, tmp_path: Path) -> None:
    run = RefinerRun(
        data=(DataSpec(small_pack.path),), folder=tmp_path / "run", steps=4, stages=(STAGE,), log_steps=1,
        device="cpu", precision="float32", sheet_seconds=None, sheet_steps=4,
    )  # fmt: skip
    out = train_refiner(run, prior=open_clip)
    assert load_refiner(out).config == RefinerConfig()
    rows = read_log(tmp_path / "run/log.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert list((tmp_path / "run/samples").glob("*.png"))


def test_what_a_run_needs_is_said(small_pack: Pack, tmp_path: Path) -> None:
    def run(stages: tuple[Stage, ...] | None = None) -> RefinerRun:
        return RefinerRun(data=(DataSpec(small_pack.path),), folder=tmp_path, steps=1, device="cpu", stages=stages)

    with pytest.raises(InputError, match="vos train"):
        train_refiner(run())
    with pytest.raises(InputError, match="multiples of 32"):
        train_refiner(run((Stage(1.0, 80, 1, 3),)), prior=open_clip)
