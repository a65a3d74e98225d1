"""Training SEEM: the loss falls in every setting, what is frozen stays, a run in two sittings is the run."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint
from tiny_seem import TINY, tiny_seem

from seem_core.checkpoint import load_seem, read_card
from seem_core.coco import BACKGROUND
from seem_core.errors import CheckpointError, InputError, MissingExtraError
from seem_core.model import Seem
from seem_core.routing import RoutingName
from seem_core.segmenter_types import Prediction
from seem_core.training.data_sources import DataSpec
from seem_core.training.loop import Stage, read_log
from seem_core.training.losses import CODE, PAPER
from seem_core.training.pack import Pack, PackOptions, pack
from seem_core.training.picture_batches import PictureConfig, PicturePlanner
from seem_core.training.seem_task import SeemTask
from seem_core.training.seem_task_config import SeemTaskConfig, Setting, VideoConfig
from seem_core.training.train_seem import SeemRun, train_seem
from seem_core.vocabulary import Vocabulary, make_vocabulary
from trackers.clip import track_clip

STAGE = Stage(1.0, 64, 2, 1)
CPU = torch.device("cpu")
FEW = SeemTaskConfig(points=200, pictures=PictureConfig(rounds=1))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Pictures of a red disk, a cat, and a green box, a dog."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for i in range(4):
        image = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (128, 96))
        labels = np.zeros((96, 128), np.uint8)
        cv2.circle(labels, (int(rng.integers(30, 60)), 40), 22, 1, -1)
        cv2.rectangle(labels, (80, 30), (115, 80), 2, -1)
        image[labels == 1], image[labels == 2] = (30, 30, 200), (30, 220, 30)
        cv2.imwrite(str(root / f"images/{i}.jpg"), image)
        cv2.imwrite(str(root / f"masks/{i}.png"), labels)
    (root / "names.json").write_text(json.dumps({str(i): ["background", "cat", "dog"] for i in range(4)}))
    return pack(root, root / "a.pack", PackOptions(still_side=96, still_quality=95))


@pytest.fixture(scope="module")
def vocabulary(packed: Pack) -> Vocabulary:
    encoder = tiny_seem("v1").text_encoder
    assert encoder is not None
    return make_vocabulary(encoder, packed.classes)


@pytest.mark.parametrize("routing", ["v0", "v1"])
@pytest.mark.parametrize("setting", ["decoder", "all-but-text"])
def test_the_loss_falls(packed: Pack, vocabulary: Vocabulary, routing: RoutingName, setting: Setting) -> None:
    model = tiny_seem(routing)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task = SeemTask(model, packed, CPU, replace(FEW, setting=setting), vocabulary=vocabulary)
    optimizer = torch.optim.AdamW(list(task.parameter_groups(3e-3)))
    batch = task.batch(0, 0, STAGE)
    seen = []
    for _ in range(6):
        loss, parts = task.loss(batch, 0, 0, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.95 * seen[0], seen
    assert all(float(parts[name]) > 0 for name in ("marks", "segmentation", "words"))
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == ({"decoder"} if setting == "decoder" else {"backbone", "pixel_decoder", "decoder"})
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_every_parameter_is_in_one_group_and_norms_do_not_decay(packed: Pack) -> None:
    model = tiny_seem("v1")
    task = SeemTask(model, packed, CPU, replace(FEW, setting="all-but-text"))
    groups = list(task.parameter_groups(1.0))
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    decoder = model.decoder
    assert (
        decays[id(decoder.norm.weight)] == decays[id(decoder.query_content)] == decays[id(decoder.sampler.signs)] == 0
    )
    linear = decoder.layers[0].feed_forward.linear1
    assert decays[id(linear.weight)] == decays[id(linear.bias)] == decays[id(decoder.class_projection)] == 0.05
    assert rates[id(linear.weight)] == 1
    assert {rates[id(p)] for p in model.backbone.parameters()} == {0.1}


def test_presets_of_the_losses(packed: Pack) -> None:
    for name, weights in (("paper", PAPER), ("code", CODE)):
        assert SeemTask(tiny_seem("v1"), packed, CPU, replace(FEW, losses=name)).weights is weights  # type: ignore[arg-type]


def test_bfloat16_gives_about_the_same_loss(packed: Pack, vocabulary: Vocabulary) -> None:
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        task = SeemTask(tiny_seem("v1"), packed, CPU, FEW, vocabulary=vocabulary, precision=precision)
        losses.append(float(task.loss(task.batch(0, 1, STAGE), 0, 1, 0.0)[0].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_clips_are_learned_from_through_a_tracker(packed: Pack) -> None:
    model = tiny_seem("v1")
    config = replace(FEW, video=VideoConfig(every=1, frames=3))
    task = SeemTask(model, packed, CPU, config, clip_function=track_clip)
    batch = task.batch(0, 0, STAGE)
    assert batch.clips is not None
    loss, parts = task.loss(batch, 0, 0, 0.0)
    loss.backward()
    assert float(parts["video"]) == pytest.approx(float(loss.detach()))
    moved = [p for p in model.decoder.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) > 20


def test_the_tracker_is_given_the_first_masks_and_judged_on_the_others(packed: Pack) -> None:
    seen = []

    def follow(segmenter, frames, masks):  # type: ignore[no-untyped-def]
        seen.append((len(frames), tuple(masks.shape), bool(masks.flatten(1).any(1).all())))
        geometry = segmenter.encode(frames[0]).geometry
        h, w = geometry.padded[0] // 4, geometry.padded[1] // 4
        logits = torch.full((len(masks), h, w), -20.0, requires_grad=True)
        ids = tuple(range(1, len(masks) + 1))
        return [Prediction(ids, logits, torch.ones(len(masks)), geometry) for _ in frames[1:]]

    config = replace(FEW, video=VideoConfig(every=1, frames=3, clips=2))
    task = SeemTask(tiny_seem("v1"), packed, CPU, config, clip_function=follow)
    for step in range(3):
        _, parts = task.loss(task.batch(0, step, STAGE), 0, step, 0.0)
        assert float(parts["iou"]) < 0.2
    assert seen
    assert all(frames == 3 and shape[1:] == (64, 64) and filled for frames, shape, filled in seen)


def test_what_cannot_be_trained_is_named(packed: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="routing demo"):
        SeemTask(tiny_seem("demo"), packed, CPU, FEW)
    with pytest.raises(InputError, match="needs a tracker"):
        SeemTask(tiny_seem("v1"), packed, CPU, replace(FEW, video=VideoConfig()))

    def missing() -> None:
        raise MissingExtraError("text prompts need a package")

    monkeypatch.setattr("seem_core.training.seem_task.byte_pairs", missing)
    with pytest.raises(MissingExtraError, match='"words": false'):
        SeemTask(tiny_seem("v1"), packed, CPU, FEW)
    SeemTask(tiny_seem("v1"), packed, CPU, replace(FEW, words=False))


# --- pictures --------------------------------------------------------------------------------------------------------


def test_marks_lie_on_their_objects_and_colours_on_their_masks(packed: Pack) -> None:
    kinds = ("point", "scribble", "circle", "polygon")
    planner = PicturePlanner(packed, PictureConfig(kinds=kinds), fill=(1.0, 2.0, 3.0), words=True)
    seen = {"flipped": False, "padded": False, "some": False}
    for step in range(12):
        for plan in planner.plan(0, step, 2, 1, 96):
            masks = plan.masks(plan.marked)
            assert (plan.marks <= masks).all()
            assert plan.marks.any(axis=(1, 2)).all()
            assert np.array_equal(plan.categories, plan.ids - 1)  # cat is object 1, dog object 2
            assert {c for c, _ in plan.words} <= set(plan.categories.tolist())
            red = plan.image[..., 0].astype(int) - plan.image[..., 1] > 100
            inside = cv2.erode((plan.labels == 1).astype(np.uint8), np.ones((3, 3))) > 0
            assert red[inside].mean() > 0.95 if inside.any() else True
            seen["padded"] |= bool((plan.image[-1, -1] == (1, 2, 3)).all())
            seen["some"] |= len(plan.marked) < len(plan.ids)
            both = [np.flatnonzero((plan.labels == i).any(0)).mean() for i in (1, 2) if (plan.labels == i).any()]
            seen["flipped"] |= len(both) == 2 and both[0] > both[1]
    assert all(seen.values()), seen


def test_pictures_are_functions_of_seed_and_step(packed: Pack) -> None:
    planner = PicturePlanner(packed, PictureConfig(), fill=(0, 0, 0), words=True)
    one, two = planner.plan(3, 5, 2, 1, 64), planner.plan(3, 5, 2, 1, 64)
    assert all(
        np.array_equal(a.image, b.image) and np.array_equal(a.marks, b.marks) for a, b in zip(one, two, strict=True)
    )
    assert not np.array_equal(one[0].image, planner.plan(3, 6, 2, 1, 64)[0].image)


# --- runs ------------------------------------------------------------------------------------------------------------


def a_run(model: Path, packed: Pack, folder: Path, **changes: object) -> SeemRun:
    settings: dict[str, object] = {
        "steps": 4, "stages": (STAGE,), "training": FEW, "log_steps": 1, "checkpoint_steps": 2, "rate": 1e-3,
        "device": "cpu", "precision": "float32", "sheet_steps": 4,
    }  # fmt: skip
    return SeemRun(model=str(model), data=(DataSpec(packed.path),), folder=folder, **{**settings, **changes})  # type: ignore[arg-type]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / "log.csv")]


def test_a_run_in_two_sittings_is_the_run(packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where some weights had no gradient at some steps (words and clips take turns)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_tiny_checkpoint(tmp_path / "tiny.safetensors", monkeypatch, routing="v1", trained="full")
    training = replace(FEW, video=VideoConfig(every=2, frames=2))
    whole = train_seem(a_run(model, packed, tmp_path / "whole", training=training), clip_function=track_clip)
    first = a_run(model, packed, tmp_path / "cut", training=training, stages=None)
    first = replace(first, stages=(STAGE,))

    class Cut(Exception):
        pass

    steps = []
    append = "seem_core.training.run_folder.RunFolder.append_log"
    from seem_core.training.run_folder import RunFolder

    original = RunFolder.append_log

    def cut_after_three(self: RunFolder, row: dict[str, object]) -> None:
        original(self, row)
        steps.append(row["step"])
        if len(steps) == 3:
            raise Cut

    monkeypatch.setattr(append, cut_after_three)
    with pytest.raises(Cut):
        train_seem(first, clip_function=track_clip)
    monkeypatch.setattr(append, original)
    cut = train_seem(first, clip_function=track_clip)
    assert len(losses(tmp_path / "cut")) == 4
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    one, two = load_seem(whole), load_seem(cut)
    for (name, a), (_, b) in zip(one.model.state_dict().items(), two.model.state_dict().items(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    assert (tmp_path / "whole/samples/0000004.png").is_file()
    assert one.metadata.trained == "full"
    assert one.metadata.classes == ("cat", "dog", BACKGROUND)
    assert one.metadata.converter == "vos train, 4 steps"
    kept = tmp_path / "whole/last/model.safetensors"
    assert kept.stat().st_size < model.stat().st_size / 2  # what is frozen is not repeated


def test_other_settings_models_and_sizes_are_refused(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_checkpoint(tmp_path / "tiny.safetensors", monkeypatch, routing="v1")
    quiet = replace(FEW, segmentation=False, words=False)
    folder = tmp_path / "run"
    out = train_seem(a_run(model, packed, folder, steps=1, training=quiet))
    assert load_seem(out).metadata.trained == "none"  # the decoder of a backbone that never saw a picture
    with pytest.raises(CheckpointError, match=r'training\.losses was "paper", now "code"'):
        train_seem(a_run(model, packed, folder, steps=2, training=replace(quiet, losses="code")))
    with pytest.raises(CheckpointError, match=r'model\.routing was "v1", now "v0"'):
        train_seem(a_run(model, packed, folder, steps=2, training=quiet, routing="v0"))
    with pytest.raises(InputError, match="multiples of 32, not 48"):
        train_seem(a_run(model, packed, tmp_path / "other", stages=(Stage(1.0, 48, 1, 1),)))
    other = write_tiny_checkpoint(tmp_path / "o.safetensors", monkeypatch, config=replace(TINY, name="other"))
    with pytest.raises(CheckpointError, match="another configuration"):
        train_seem(a_run(other, packed, folder, steps=2, training=quiet))


def test_a_model_that_ships_is_written_in_half_precision(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_checkpoint(tmp_path / "tiny.safetensors", monkeypatch, routing="v1")
    quiet = replace(FEW, segmentation=False, words=False)
    whole, half = (
        train_seem(a_run(model, packed, tmp_path / str(half), steps=1, training=quiet, half=half))
        for half in (False, True)
    )
    assert read_card(half).dtype == "F16"
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for (name, a), (_, b) in zip(*(load_seem(f).model.state_dict().items() for f in (whole, half)), strict=True):
        assert torch.allclose(a, b, atol=1e-3, rtol=1e-3), name


def test_a_model_without_text_encoder_learns_marks_alone(packed: Pack) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Seem(replace(TINY, text=None, routing="v1"))
    task = SeemTask(model, packed, CPU, replace(FEW, setting="all-but-text"))
    loss, parts = task.loss(task.batch(0, 0, STAGE), 0, 0, 0.0)
    loss.backward()
    assert float(parts["segmentation"]) == float(parts["words"]) == 0
    assert float(parts["marks"]) == pytest.approx(float(loss.detach()))


def test_planners_travel_to_worker_processes(packed: Pack) -> None:
    planner = PicturePlanner(packed, PictureConfig(), fill=(0, 0, 0), words=True)
    again = pickle.loads(pickle.dumps(planner))
    one, two = planner.plan(0, 1, 1, 1, 64)[0], again.plan(0, 1, 1, 1, 64)[0]
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.marks, two.marks)
    assert one.words == two.words


def test_a_page_shows_marks_truth_and_answers(packed: Pack) -> None:
    task = SeemTask(tiny_seem("v1"), packed, CPU, FEW)
    with torch.no_grad():
        samples = task.samples(0, STAGE)
    assert len(samples) == 6
    for sample in samples:
        assert sample.image.shape == (64, 64, 3)
        assert sample.truth.any()
        assert sample.prompt.any()
        assert set(np.unique(sample.prompt)) <= {0, *np.unique(sample.truth)}
    again = task.samples(0, STAGE)
    assert all(np.array_equal(a.prediction, b.prediction) for a, b in zip(samples, again, strict=True))


@pytest.mark.parametrize("routing", ["v0", "v1"])
def test_rounds_of_clicks_come_before_the_one_that_is_learned(packed: Pack, routing: RoutingName) -> None:
    """Without a gradient; each adds a click to the marks, and its answer is the memory prompt of the next."""
    model = tiny_seem(routing)
    task = SeemTask(model, packed, CPU, replace(FEW, words=False))
    (picture,) = task.plans.planner.plan(0, 3, 1, 1, 64)
    point = np.zeros_like(picture.marks)
    for mark, mask in zip(point, picture.masks(picture.marked), strict=True):
        mark[tuple(np.argwhere(mask)[0])] = True
    picture = replace(picture, rounds=2, marks=point)
    calls = []
    decode = model.decode

    def spy(features, prompts, **options):  # type: ignore[no-untyped-def]
        tokens = int((~prompts.stroke.padding[0]).sum())
        calls.append((torch.is_grad_enabled(), tokens, prompts.previous_mask))
        return decode(features, prompts, **options)

    model.decode = spy  # type: ignore[method-assign]
    features = task._encode(torch.from_numpy(picture.image).permute(2, 0, 1)[None].float())
    parts = task._picture_loss(features, picture, torch.Generator().manual_seed(0))
    assert parts["marks"].requires_grad
    assert [graded for graded, _, _ in calls] == [False, False, True]
    assert [memory is None for _, _, memory in calls] == [True, False, False]
    assert calls[0][1] < calls[1][1] < calls[2][1]
    assert not calls[2][2].requires_grad


@pytest.mark.cuda
def test_a_run_goes_on_on_the_other_kind_of_machine(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_tiny_checkpoint(tmp_path / "tiny.safetensors", monkeypatch, routing="v1", trained="full")
    training = replace(FEW, setting="all-but-text", video=VideoConfig(every=2, frames=2))
    settings = {"training": training, "steps": 2, "device": "cuda", "precision": None, "workers": 1}
    train_seem(a_run(model, packed, tmp_path / "run", **settings), clip_function=track_clip)
    train_seem(a_run(model, packed, tmp_path / "run", training=training, steps=4), clip_function=track_clip)
    found = losses(tmp_path / "run")
    assert len(found) == 4
    assert np.isfinite(found).all()
