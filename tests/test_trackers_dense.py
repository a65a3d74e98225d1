"""A dense tracker and its memory: resuming, beginning with a saved memory, referring pictures, many objects, bounds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import Scene, iou, scene

from seem_core.errors import InputError, LimitError, MaskError, PromptError
from seem_core.prompts import MaskPrompt, Prompt, ReferencePrompt
from seem_core.reader import ReaderConfig
from trackers.base import ObjectMasks
from trackers.dense import DenseReader, Reading
from trackers.gate import Gate
from trackers.learned import LearnedConfig, LearnedReader
from trackers.memory_bank import Entry, LongTerm, MemoryBank
from trackers.propagate import DenseTracker, PropagateTracker
from trackers.propagation import LabelPropagation, PropagationConfig

LENGTH = 9


@pytest.fixture(scope="module")
def propagation() -> LabelPropagation:
    return LabelPropagation(PropagationConfig(pixels=96 * 160))


@pytest.fixture(scope="module")
def learned() -> LearnedReader:
    torch.manual_seed(0)
    sizes = ReaderConfig(key=16, local_key=8, window=2, value=16, local_value=4, decoder=(16, 16, 8, 8))
    return LearnedReader(net=sizes.build(), config=LearnedConfig(pixels=96 * 160, every=2))


@pytest.fixture(scope="module", params=["propagation", "learned"])
def reader(request: pytest.FixtureRequest) -> DenseReader:
    found: DenseReader = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def three() -> Scene:
    """Three objects that move; the last appears on frame 2 and is away on frames 5 and 6."""
    return scene(
        [[(50 + 4 * t, 40), (190 - 4 * t, 60), None if t < 2 or t in (5, 6) else (110, 100)] for t in range(LENGTH)],
        120,
        240,
        radius=20,
    )


def prompts(found: Scene, frame: int, ids: dict[int, int]) -> list[MaskPrompt]:
    """Masks of a frame: object id -> which object of the scene it names."""
    return [MaskPrompt(found.masks[frame][n], i) for i, n in ids.items()]


def script(found: Scene) -> dict[int, list[MaskPrompt]]:
    """Prompts by frame: two objects first, a third on frame 3, a correction on frame 6."""
    return {0: prompts(found, 0, {7: 0, 2: 1}), 3: prompts(found, 3, {300: 2}), 6: prompts(found, 6, {7: 0})}


def same(a: ObjectMasks, b: ObjectMasks) -> bool:
    return (
        a.ids == b.ids
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.scores, b.scores)
        and np.array_equal(a.lost, b.lost)
    )


@given(at=st.integers(0, LENGTH - 2), on_disk=st.booleans(), long_term=st.booleans())
@settings(deadline=None, max_examples=5)
def test_saving_and_loading_at_any_frame_changes_nothing(
    propagation: LabelPropagation,
    learned: LearnedReader,
    three: Scene,
    tmp_path_factory: pytest.TempPathFactory,
    at: int,
    on_disk: bool,
    long_term: bool,
) -> None:
    for reader in (propagation, learned):
        cells = LongTerm(cells=128, slack=0, every=1) if long_term else None
        one, other = (DenseTracker(reader, max_recent=2, long_term=cells, gate=Gate(0.1, 0.5, 2.0)) for _ in range(2))
        for frame in range(at + 1):
            one.step(three.images[frame], script(three).get(frame, ()))
        other.load_state_dict(one.state_dict())
        if on_disk:
            path = tmp_path_factory.mktemp("resume") / "bank.safetensors"
            one.save_memory(path)
            other.memory.restore(MemoryBank.load(path, model=reader.name, max_recent=2).snapshot())
        for frame in range(at + 1, LENGTH):
            given_now = script(three).get(frame, ())
            assert same(one.step(three.images[frame], given_now), other.step(three.images[frame], given_now))


@given(order=st.permutations([3, 5, 300]))
@settings(deadline=None, max_examples=3)
def test_permuting_ids_permutes_the_result(
    propagation: LabelPropagation, learned: LearnedReader, three: Scene, order: list[int]
) -> None:
    """Up to ties: sums over objects are taken in another order."""
    names = dict(zip([3, 5, 300], order, strict=True))
    for reader in (propagation, learned):
        one, other = DenseTracker(reader), DenseTracker(reader)
        first = prompts(three, 2, {3: 0, 5: 1, 300: 2})
        one.step(three.images[2], first)
        other.step(three.images[2], [MaskPrompt(p.mask, names[p.object_id]) for p in first])
        for image in three.images[3:]:
            a, b = one.step(image), other.step(image)
            assert b.ids == a.ids
            for i, j in names.items():
                assert (a.mask(i) != b.mask(j)).mean() < 0.002
                assert a.scores[a.ids.index(i)] == pytest.approx(b.scores[b.ids.index(j)], abs=2e-2)


def test_a_saved_memory_is_followed_from_the_first_frame(reader: DenseReader, three: Scene, tmp_path: Path) -> None:
    shown = DenseTracker(reader)
    shown.step(three.images[4], prompts(three, 4, {7: 0, 300: 2}))
    shown.step(three.images[5])
    shown.save_memory(tmp_path / "shown.safetensors")
    results = []
    for memory in (tmp_path / "shown.safetensors", shown.memory):
        tracker = DenseTracker(reader, memory=memory)
        assert tracker.memory.ids == (7, 300)
        results.append([tracker.step(image) for image in three.images[:4]])
        assert results[-1][0].ids == (7, 300)
        assert {e.frame for e in tracker.memory.entries if e.pinned} == {-1}
    assert all(same(a, b) for a, b in zip(*results, strict=True))
    assert shown.memory.entries[0].frame == 0  # what was lent is not changed
    if isinstance(reader, LabelPropagation):
        assert iou(results[0][-1].mask(7), three.masks[3][0]) > 0.6
        assert iou(results[0][-1].mask(300), three.masks[3][2]) > 0.6


def test_a_memory_of_another_size_of_video_is_followed(propagation: LabelPropagation, three: Scene) -> None:
    shown = DenseTracker(propagation)
    shown.step(three.images[4], prompts(three, 4, {7: 0}))
    small = [cv2.resize(image[10:, 20:160], None, fx=0.9, fy=0.9) for image in three.images]
    mask = cv2.resize(three.masks[0][0][10:, 20:160].astype(np.uint8), small[0].shape[1::-1]) > 0
    tracker = DenseTracker(propagation, memory=shown.memory)
    assert iou(tracker.step(small[0]).mask(7), mask) > 0.5
    grids = {e.grid for e in tracker.memory.entries}
    assert len(grids) == 2


def test_a_memory_of_another_model_is_refused(
    propagation: LabelPropagation, learned: LearnedReader, three: Scene, tmp_path: Path
) -> None:
    shown = DenseTracker(propagation)
    shown.step(three.images[0], prompts(three, 0, {7: 0}))
    shown.save_memory(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"label-propagation.*dense-reader"):
        DenseTracker(learned, memory=tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="other sizes"):
        DenseTracker(learned, memory=shown.memory)
    bank = MemoryBank()
    bank.write(Entry(0, (torch.zeros(4, 2),), {1: torch.zeros(4)}, pinned=True))
    with pytest.raises(InputError, match="other sizes"):
        DenseTracker(propagation, memory=bank)
    with pytest.raises(LimitError, match="raise the bound"):
        DenseTracker(propagation, memory=shown.memory, max_bytes=1000)


def test_an_object_on_another_picture_is_found(reader: DenseReader, three: Scene) -> None:
    """Two objects of one picture share an entry; the picture has another size, and stays pinned."""
    picture = three.images[8][:, 50:190]
    first: list[Prompt] = [ReferencePrompt(picture, three.masks[8][n][:, 50:190], i) for i, n in ((4, 0), (9, 2))]
    tracker = DenseTracker(reader)
    found = tracker.step(three.images[2], first)
    assert found.ids == (4, 9)
    assert [(e.frame, sorted(e.values)) for e in tracker.memory.entries if e.pinned] == [(-1, [4, 9])]
    for image in three.images[3:5]:
        found = tracker.step(image)
    assert found.ids == (4, 9)
    assert tracker.memory.entries[0].grid != tracker.memory.entries[-1].grid
    if isinstance(reader, LabelPropagation):
        assert iou(found.mask(4), three.masks[4][0]) > 0.6
        assert iou(found.mask(9), three.masks[4][2]) > 0.6


def test_a_picture_and_a_mask_of_one_object_are_both_remembered(reader: DenseReader, three: Scene) -> None:
    tracker = DenseTracker(reader)
    first = [*prompts(three, 2, {4: 0}), ReferencePrompt(three.images[8], three.masks[8][0], 4)]
    found = tracker.step(three.images[2], first)
    assert np.array_equal(found.mask(4), three.masks[2][0])
    assert [(e.frame, e.pinned) for e in tracker.memory.entries] == [(-1, True), (0, True)]
    found = tracker.step(three.images[3], [ReferencePrompt(three.images[4], three.masks[4][2], 5)])
    assert found.ids == (4, 5)
    assert tracker.step(three.images[4]).ids == (4, 5)


@pytest.mark.parametrize("fault", ["empty reference", "empty mask", "wrong size", "no room"])
def test_a_refused_step_changes_nothing(reader: DenseReader, three: Scene, fault: str) -> None:
    one, other = DenseTracker(reader), DenseTracker(reader)
    for tracker in (one, other):
        tracker.step(three.images[2], prompts(three, 2, {7: 0}))
        tracker.step(three.images[3])
    empty, reference = np.zeros((120, 240), np.bool_), ReferencePrompt(three.images[4], three.masks[4][2], 300)
    wrong: list[Prompt] = {
        "empty reference": [ReferencePrompt(three.images[4], empty, 300)],
        "empty mask": [reference, MaskPrompt(empty, 2)],
        "wrong size": [reference, MaskPrompt(empty[1:], 2)],
        "no room": [reference, *prompts(three, 4, {2: 1})],
    }[fault]
    bound = one.memory.max_bytes
    if fault == "no room":
        one.memory.max_bytes = one.memory.bytes + 1
    with pytest.raises((PromptError, MaskError, LimitError)):
        one.step(three.images[4], wrong)
    one.memory.max_bytes = bound
    for image in three.images[4:7]:
        assert same(one.step(image), other.step(image))
    assert one.memory.ids == (7,)


def test_an_object_that_was_missed_is_searched_everywhere(propagation: LabelPropagation) -> None:
    """What only a recent frame shows of an object is found far away from there as soon as it was lost."""
    there = scene([[(40, 60)], [(210, 60)]], 120, 240, radius=20, shift=0)
    nothing = scene([[None]] * 2, 120, 240, shift=0).images[0]
    bank = MemoryBank()
    views = [propagation.look(propagation.encode(image), bank) for image in (nothing, there.images[0], nothing)]
    shown = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(there.masks[0][0])[None].float(), (views[0].height, views[0].width)
    )[0]
    grid = (views[0].rows, views[0].columns)
    absent = torch.zeros_like(shown)
    propagation.write(views[0], bank, 0, {1: absent}, pinned={1})
    far = propagation.look(propagation.encode(there.images[1]), bank)
    propagation.write(views[1], bank, 1, {1: shown})
    narrow = PropagationConfig(pixels=96 * 160, window=2.0)
    windowed = LabelPropagation(narrow)
    before = windowed.read(far, bank)
    propagation.write(views[2], bank, 2, {1: absent})  # now it is lost
    after = windowed.read(far, bank)
    assert grid == bank.entries[-1].grid
    assert before.scores[0] == 0
    right = after.masks[0][:, after.masks.shape[2] // 2 :]
    assert after.scores[0] > 0.5
    assert right.sum() > 0.9 * after.masks.sum()


def test_the_gate_keeps_doubtful_masks_out_of_recent_memory(reader: DenseReader, three: Scene) -> None:
    strict = DenseTracker(reader, gate=Gate(min_score=1.01))
    strict.step(three.images[2], prompts(three, 2, {7: 0, 2: 1}))
    for image in three.images[3:6]:
        strict.step(image)
    assert [e.frame for e in strict.memory.entries] == [0]
    if reader.name.startswith("label-propagation"):
        jumpy = DenseTracker(reader, gate=Gate(max_area=1.5))
        jumpy.step(three.images[2], prompts(three, 2, {7: 0, 2: 1}))
        jumpy._areas[7] = [1e-4] * 5  # as if it had been tiny
        jumpy.step(three.images[3])
        assert [sorted(e.values) for e in jumpy.memory.entries if not e.pinned] == [[2]]


def test_no_tensor_grows_with_time(reader: DenseReader) -> None:
    long = scene([[(60 + 3 * t, 60)] for t in range(28)], 120, 240, radius=20)
    tracker = DenseTracker(reader, max_recent=3, long_term=LongTerm(cells=256, slack=128, every=1))
    tracker.step(long.images[0], prompts(long, 0, {1: 0}))
    used = []
    for image in long.images[1:]:
        tracker.step(image)
        long_term = tracker.memory.snapshot().long_term
        assert long_term is None or long_term.cells <= 384
        used.append(tracker.memory.bytes)
    assert max(used[14:]) <= max(used[:14])


def test_a_hundred_objects_work(reader: DenseReader) -> None:
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8), (400, 400))
    labels = np.arange(1, 101, dtype=np.uint8).reshape(10, 10).repeat(40, 0).repeat(40, 1)
    tracker = DenseTracker(reader)
    tracker.step(image, [MaskPrompt(labels == i, i) for i in range(1, 101)])
    found = [tracker.step(image) for _ in range(2)][-1]
    assert found.ids == tuple(range(1, 101))
    assert len(tracker.memory.ids) == 100
    if isinstance(reader, LabelPropagation):
        assert (found.labels == labels).mean() > 0.8


def test_objects_of_which_only_tokens_are_known_are_nowhere(propagation: LabelPropagation, three: Scene) -> None:
    from seem_core.segmenter_types import ObjectTokens

    bank = MemoryBank()
    bank.write(Entry(0, (), {}, {5: ObjectTokens(5, (torch.ones(2, 3),), None)}, pinned=True))
    view = propagation.look(propagation.encode(three.images[0]), bank)
    reading: Reading = propagation.read(view, bank)
    assert reading.ids == (5,)
    assert not reading.masks.any()
    propagation.write(view, bank, 0, {7: torch.ones(view.height, view.width)}, pinned={7})
    reading = propagation.read(view, bank)
    assert reading.ids == (5, 7)
    assert not reading.masks[0].any()


def test_readers_name_what_their_memory_depends_on(propagation: LabelPropagation, learned: LearnedReader) -> None:
    other = LabelPropagation(PropagationConfig(pixels=96 * 160, channels=(32, 64)))
    assert other.name != propagation.name
    torch.manual_seed(1)
    fresh = LearnedReader(net=learned._net.config.build())
    assert fresh.name != learned.name
    assert PropagateTracker(propagation).memory_model == propagation.name
