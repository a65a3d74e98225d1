"""The training loop: the loss falls, a run that was cut goes on exactly, faults are named and cost nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seem_core.errors import CheckpointError, DiskFullError, InputError
from seem_core.reader import ReaderConfig
from seem_core.reader_weights import load_reader, save_reader
from seem_core.training.data_sources import DataSpec
from seem_core.training.loop import PUBLISHED_DROPS, LoopConfig, Stage, Trainer, read_log
from seem_core.training.pack import Pack, pack
from seem_core.training.reader_task import ReaderTask
from seem_core.training.run_folder import RunFolder
from seem_core.training.sample_sheet import HEADER, SIDE, Sample
from seem_core.training.train_reader import ReaderRun, parse_stages, train_reader

SMALL = ReaderConfig(key=16, local_key=8, window=2, value=16, local_value=8, decoder=(16, 16, 8, 8))
STAGE = Stage(1.0, 64, 2, 3)


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


@pytest.fixture(scope="module")
def first_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "first.safetensors"
    save_reader(SMALL.build().state_dict(), SMALL, path, facts={})
    return path


def a_run(small_pack: Pack, first: Path, folder: Path, **changes: object) -> ReaderRun:
    settings: dict[str, object] = {
        "steps": 8, "stages": (STAGE,), "log_steps": 1, "checkpoint_steps": 4, "init": first, "precision": "float32",
        "device": "cpu",
    }  # fmt: skip
    return ReaderRun(data=(DataSpec(small_pack.path),), folder=folder, **{**settings, **changes})  # type: ignore[arg-type]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / "log.csv")]


def test_loss_falls_on_one_batch(small_pack: Pack, first_weights: Path) -> None:
    task = ReaderTask(load_reader(first_weights).train(), small_pack, torch.device("cpu"))
    batch = task.batch(0, 0, STAGE)
    optimizer = torch.optim.AdamW(list(task.parameter_groups(3e-3)))
    seen = []
    for _ in range(15):
        loss, _ = task.loss(batch, 0, 0, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.8 * seen[0], seen


def test_weights_come_out_trained_and_the_frozen_part_untouched(
    small_pack: Pack, first_weights: Path, tmp_path: Path
) -> None:
    out = train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=3))
    before, after = load_reader(first_weights), load_reader(out)
    assert not torch.equal(before.to_key.weight, after.to_key.weight)
    for old, new in zip(before.frozen_parameters(), after.frozen_parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_run_in_two_sittings_is_the_run(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    train_reader(a_run(small_pack, first_weights, tmp_path / "whole"))
    pack_again, weights = Pack(small_pack.path), load_reader(first_weights)
    task = ReaderTask(weights.train(), pack_again, torch.device("cpu"))
    trainer = Trainer(task, LoopConfig(steps=8, stages=(STAGE,), log_steps=1), tmp_path / "cut")
    while trainer.step < 5:  # saved after 4, went on to 5, died
        window = _window()
        trainer._step(window)
        trainer.step += 1
        trainer._log(window)
        if trainer.step == 4:
            trainer.save()
    train_reader(a_run(small_pack, first_weights, tmp_path / "cut"))
    whole, cut = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert len(whole) == len(cut) == 8
    assert whole == pytest.approx(cut, rel=1e-4)
    one, two = (load_reader(tmp_path / name / "reader.safetensors").state_dict() for name in ("whole", "cut"))
    assert all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)


def _window():  # type: ignore[no-untyped-def]
    from seem_core.training.loop import _Window

    return _Window(time.perf_counter())


def test_killed_and_resumed(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = tmp_path / "run.json"
    content = {
        "task": "reader", "folder": str(folder), "data": [{"path": str(small_pack.path)}], "steps": 400,
        "stages": [{"until": 1, "size": 64, "clips": 2, "frames": 3}], "init": str(first_weights), "log_steps": 1,
        "checkpoint_steps": 2, "precision": "float32", "device": "cpu",
    }  # fmt: skip
    config.write_text(json.dumps(content))
    command = [sys.executable, "-m", "seem_core.training", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "last" / "state.json").exists():
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = RunFolder(folder).state()
    assert state is not None
    done = state.step
    assert 0 < done < 400
    train_reader(a_run(small_pack, first_weights, folder, steps=done + 2))
    assert [row["step"] for row in read_log(folder / "log.csv")] == list(range(1, done + 3))


def test_other_data_or_seed_is_refused(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=1))
    with pytest.raises(InputError, match="another seed"):
        train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=2, seed=1))
    save_reader(ReaderConfig().build().state_dict(), ReaderConfig(), tmp_path / "big.safetensors", facts={})
    with pytest.raises(CheckpointError, match=r"another configuration: model\.key was 16, now 64"):
        train_reader(a_run(small_pack, tmp_path / "big.safetensors", tmp_path / "run", steps=2))
    with pytest.raises(InputError, match=r"other settings: rate was 0\.001, now 0\.002"):
        train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=2, rate=2e-3))


def test_other_frozen_weights_are_refused(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=1))
    torch.manual_seed(9)
    save_reader(SMALL.build().state_dict(), SMALL, tmp_path / "other.safetensors", facts={})
    with pytest.raises(CheckpointError, match="started from other weights"):
        train_reader(a_run(small_pack, tmp_path / "other.safetensors", tmp_path / "run", steps=2))


def test_stages_come_from_the_checkpoint(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=1))
    train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=2, stages=None))
    state = RunFolder(tmp_path / "run").state()
    assert state is not None
    assert state.config["stages"] == [{"until": 1.0, "size": 64, "clips": 2, "frames": 3}]


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    task = Poisoned(set())
    Trainer(task, LoopConfig(steps=1, rate=0.1, accumulate=2, clip_norm=1e9, warmup=0), tmp_path / "a").run()
    expected = Poisoned(set())
    losses = [expected.loss(expected.batch(0, k, STAGE), 0, k, 0)[0] for k in range(2)]
    torch.autograd.backward(sum(losses) / 2)
    optimizer = torch.optim.AdamW(expected.parameter_groups(0.1), betas=(0.9, 0.99))
    optimizer.step()
    assert torch.allclose(task.model.weight, expected.model.weight, atol=1e-6)


def test_published_schedule_drops_twice() -> None:
    config = LoopConfig(steps=10, schedule="steps", warmup=0.0)
    found = [config.rate_factor(p) for p in (0.0, 0.5, PUBLISHED_DROPS[0], PUBLISHED_DROPS[1], 1.0)]
    assert found == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_a_page_of_samples_is_drawn(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=2, sheet_steps=1))
    pages = sorted(p.name for p in (tmp_path / "run/samples").iterdir())
    assert pages == ["0000001.png", "0000002.png"]
    page = cv2.imread(str(tmp_path / "run/samples/0000002.png"))
    assert page.shape[1] == 4 * SIDE
    assert page.shape[0] == HEADER + 6 * SIDE


def test_drawing_samples_changes_nothing(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    train_reader(a_run(small_pack, first_weights, tmp_path / "with", steps=3, sheet_steps=1))
    train_reader(a_run(small_pack, first_weights, tmp_path / "without", steps=3, sheet_seconds=None))
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert not (tmp_path / "without/samples").exists()


def test_full_disk_leaves_the_checkpoint_before(
    small_pack: Pack, first_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("seem_core.training.run_folder.save_file", full)
    with pytest.raises(DiskFullError, match="the one before stays"):
        train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=2))
    found = RunFolder(tmp_path / "run").state()
    assert found is not None
    assert found.step == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk_under_the_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=r"log\.csv cannot be written"):
        Trainer(Poisoned(set()), LoopConfig(steps=2, log_steps=1), tmp_path).run()


class Poisoned:
    """A task whose loss is not a number at some steps."""

    fingerprint = "0"
    identity: ClassVar[dict[str, str]] = {"task": "poisoned"}

    def __init__(self, bad: set[int]) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.bad = bad

    def parameter_groups(self, rate: float):  # type: ignore[no-untyped-def]
        yield {"params": list(self.model.parameters()), "lr": rate}

    def batch(self, seed: int, step: int, stage: Stage) -> Tensor:
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

    def loss(self, batch: Tensor, seed: int, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.model(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss * float("nan") if step in self.bad else loss, {}

    def samples(self, seed: int, stage: Stage) -> list[Sample]:
        return []


def test_step_without_finite_gradient_changes_nothing(tmp_path: Path) -> None:
    trainer = Trainer(Poisoned({3}), LoopConfig(steps=10, rate=0.1, log_steps=1), tmp_path)
    for _ in range(3):
        trainer._step(_window())
        trainer.step += 1
    before = [p.detach().clone() for p in trainer.parameters]
    trainer._step(_window())
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    trainer.step += 1
    trainer.run()
    assert all(torch.isfinite(p).all() for p in trainer.parameters)
    assert int(read_log(tmp_path / "log.csv")[-1]["skipped"]) == 1


def test_no_checkpoint_takes_the_place_of_the_last_good_one(tmp_path: Path) -> None:
    trainer = Trainer(Poisoned({3}), LoopConfig(steps=4, rate=0.1), tmp_path)
    for _ in range(3):
        trainer._step(_window())
        trainer.step += 1
    trainer.save()
    trainer._step(_window())
    trainer.step += 1
    trainer.save()
    state = RunFolder(tmp_path).state()
    assert state is not None
    assert state.step == 3


def test_log_lines_are_the_same_however_the_run_is_cut(tmp_path: Path) -> None:
    config = LoopConfig(steps=10, rate=0.1, log_steps=4)
    Trainer(Poisoned(set()), config, tmp_path / "whole").run()
    stop = Event()

    class Stopping(Poisoned):
        def loss(self, batch: Tensor, seed: int, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
            if step == 5:
                stop.set()
            return super().loss(batch, seed, step, progress)

    Trainer(Stopping(set()), config, tmp_path / "cut", stop).run()
    assert [row["step"] for row in read_log(tmp_path / "cut" / "log.csv")] == [4]
    Trainer(Poisoned(set()), config, tmp_path / "cut").run()
    rows = [[(r["step"], r["loss"]) for r in read_log(tmp_path / name / "log.csv")] for name in ("whole", "cut")]
    assert [step for step, _ in rows[0]] == [4, 8, 10]
    assert rows[0] == rows[1]


def test_divergence_is_named(tmp_path: Path) -> None:
    config = LoopConfig(steps=50, patience=5, log_steps=1)
    with pytest.raises(InputError, match="not a finite number for 5 steps"):
        Trainer(Poisoned(set(range(2, 50))), config, tmp_path).run()


def test_stops_after_the_minutes_given(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    out = train_reader(a_run(small_pack, first_weights, tmp_path / "run", steps=None, minutes=0.02))
    rows = read_log(tmp_path / "run" / "log.csv")
    assert out.is_file()
    assert rows[-1]["progress"] >= 1
    assert rows[-2]["progress"] < 1 if len(rows) > 1 else True


def test_settings_are_checked() -> None:
    for wrong in (
        {},
        {"steps": 1, "minutes": 1.0},
        {"steps": 0},
        {"steps": 1, "stages": (Stage(1, 50, 1, 2),)},
        {"steps": 1, "accumulate": 0},
        {"steps": 1, "rate": -1.0},
    ):
        with pytest.raises(InputError):
            LoopConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="UNTIL:SIZE"):
        parse_stages(["1:2"])
    stages = parse_stages(["1:96:2:3", "0.5:64:4:2"])
    assert stages == (Stage(0.5, 64, 4, 2), Stage(1.0, 96, 2, 3))
    assert LoopConfig(steps=10, stages=stages).stage(0.6).size == 96


@pytest.mark.cuda
def test_a_run_goes_on_on_the_other_kind_of_machine(small_pack: Pack, first_weights: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder = tmp_path / "run"
    train_reader(a_run(small_pack, first_weights, folder, steps=4, device="cuda", precision="bfloat16", workers=1))
    train_reader(a_run(small_pack, first_weights, folder, steps=6))
    train_reader(a_run(small_pack, first_weights, folder, steps=8, device="cuda", precision=None))
    assert len(losses(folder)) == 8
    assert all(np.isfinite(losses(folder)))
