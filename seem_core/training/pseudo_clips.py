"""Training clips: what happens in them is planned on the CPU from a seed, and rendered on the training device.

A clip is T frames of one picture (moved by smooth affine, perspective and thin-plate motion) or of one real sequence
(random gaps, forwards or backwards, a shaking crop), with up to two objects cut from other pictures, or a copy of the
object itself, passing over it. Pasted objects may be targets, so that objects move against their background; the
others are occluders and look-alikes. The idea of training on moving stills is that of STM (arXiv:1904.00607, section
4.1); pasted objects and look-alikes are ours.

Everything is a function of (seed, step): a run that was cut goes on with the very clips it would have had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.training.pack import ObjectBox, Pack, PackedClip
from seem_core.training.picture_store import PictureStore

LAYERS = 3  # the picture itself and two pasted objects
CONTROL = 5  # control points per side of the elastic motion
MAX_DRIFT = 0.4  # farthest that a picture moves, in crop sides
KERNEL = 9  # side of the blur kernel, pixels
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipConfig:
    """How clips vary. Speeds are medians in crop sides per frame; probabilities are per clip.

    real          share of clips from real sequences
    objects       most targets per clip (slots)
    max_gap       most packed frames between two frames of a real clip
    """

    real: float = 0.4
    objects: int = 2
    max_gap: int = 3
    still_speed: float = 0.03
    shake_speed: float = 0.008
    paste_speed: float = 0.05
    paste_on_still: float = 0.65
    paste_on_real: float = 0.35
    look_alike: float = 0.3
    blur: float = 0.3
    grey: float = 0.04


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """B clips of T frames in L layers, N target slots; a row of ``matrix`` .. ``elastic`` describes how a point u of
    the rendered square (-1..1) maps to a pixel of the layer's picture:

        v = u + elastic(u);  pixel = origin + matrix @ ((v - centre) / (1 + tilt . v))
    """

    frame: IntArray  # (B, T, L) index in the store, -1 = layer not used
    matrix: FloatArray  # (B, T, L, 2, 2)
    origin: FloatArray  # (B, T, L, 2)
    centre: FloatArray  # (B, T, L, 2)
    tilt: FloatArray  # (B, T, L, 2)
    elastic: FloatArray  # (B, T, L, 2, CONTROL, CONTROL)
    base_ids: IntArray  # (B, N) ids of the targets in layer 0, 0 = slot not used there
    paste_ids: IntArray  # (B, L) id of the pasted object in its own picture
    paste_slot: IntArray  # (B, L) slot of a pasted target, -1 = not a target
    colour: FloatArray  # (B, T, 3, 4) affine map of RGB in 0..1
    light: FloatArray  # (B, T, 4, 4) coarse brightness factors
    gamma: FloatArray  # (B,)
    kernel: FloatArray  # (B, T, KERNEL, KERNEL) sums to 1
    noise: FloatArray  # (B,) standard deviation, 0..255


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """images (T, B, 3, S, S) float 0..255; labels (T, B, S, S) uint8, slot + 1, 0 = background; valid (B, N) bool:
    the slot holds an object that is visible on the first frame."""

    images: Tensor
    labels: Tensor
    valid: Tensor


class ClipPlanner:
    """Draws clip plans from the index of a pack."""

    def __init__(self, pack: Pack, config: ClipConfig | None = None) -> None:
        self.config = config or ClipConfig()
        self._clips = pack.clips
        counts = [len(clip.frames) for clip in pack.clips]
        self._first = np.r_[0, np.cumsum(counts)]  # store index of a clip's first frame
        usable = [i for i, clip in enumerate(pack.clips) if any(f.objects for f in clip.frames)]
        self._real = [i for i in usable if not pack.clips[i].is_still]
        self._still = [i for i in usable if pack.clips[i].is_still]
        self._real_weight = _normalised([math.sqrt(counts[i]) for i in self._real])
        sources: dict[str, int] = {}
        for i in self._still:
            sources[pack.clips[i].source] = sources.get(pack.clips[i].source, 0) + 1
        # a folder counts by n^0.75, so that the small ones (several objects per picture) are seen more often
        self._still_weight = _normalised([sources[pack.clips[i].source] ** -0.25 for i in self._still])

    def plan(self, seed: int, step: int, clips: int, frames: int, size: int = 0) -> ClipPlan:
        """``clips`` clips of ``frames`` frames each, a pure function of the arguments; valid for any rendered size."""
        rng = np.random.default_rng([seed, step])
        parts = [self._one(rng, frames) for _ in range(clips)]
        return ClipPlan(**{f.name: np.stack([p[f.name] for p in parts]) for f in fields(ClipPlan)})

    def _one(self, rng: np.random.Generator, frames: int) -> dict[str, npt.NDArray[np.generic]]:
        config = self.config
        real = bool(self._real) and (not self._still or rng.random() < config.real)
        index = int(
            rng.choice(self._real, p=self._real_weight) if real else rng.choice(self._still, p=self._still_weight)
        )
        clip = self._clips[index]
        picks = _frame_picks(rng, clip, frames, config.max_gap) if real else [0] * frames
        targets = _choose_targets(rng, clip.frames[picks[0]].objects, config.objects)
        layers = [_base_layer(rng, clip, picks, targets, config, real)]
        layers[0]["frame"] = np.array(picks) + self._first[index]
        n = config.objects
        slots = rng.permutation(n)
        base_ids = np.zeros(n, np.int64)
        base_ids[slots[: len(targets)]] = [t.id for t in targets]
        free = list(slots[len(targets) :])
        paste_ids, paste_slot = np.zeros(LAYERS, np.int64), np.full(LAYERS, -1, np.int64)
        for layer in range(1, LAYERS):
            if rng.random() > (config.paste_on_real if real else config.paste_on_still):
                layers.append(_unused_layer(frames))
                continue
            if targets and rng.random() < config.look_alike:
                source, frame, cut, target = index, picks[0], targets[int(rng.integers(len(targets)))], False
            else:
                source = int(rng.choice(self._still, p=self._still_weight)) if self._still else index
                frame = 0 if self._clips[source].is_still else picks[0]
                objects = self._clips[source].frames[frame].objects
                if not objects:
                    layers.append(_unused_layer(frames))
                    continue
                cut = objects[int(rng.integers(len(objects)))]
                target = bool(free) and rng.random() < (0.4 if targets else 1.0)
            layers.append(_paste_layer(rng, cut, frames, config, target))
            layers[layer]["frame"] = np.full(frames, self._first[source] + frame)
            paste_ids[layer] = cut.id
            if target:
                paste_slot[layer] = free.pop()
        stacked = {k: np.stack([layer[k] for layer in layers], 1) for k in layers[0]}  # (T, L, ..)
        return {
            **stacked,
            "base_ids": base_ids,
            "paste_ids": paste_ids,
            "paste_slot": paste_slot,
            **_look(rng, frames, config),
        }


def render(plan: ClipPlan, store: PictureStore, size: int, seed: int = 0) -> ClipBatch:
    """Render ``plan`` at size x size pixels on the store's device. ``seed`` draws the pixel noise."""
    p = _on_device(plan, store.device)
    b, t, _ = plan.frame.shape
    n = plan.base_ids.shape[1]
    axis = (torch.arange(size, device=store.device) + 0.5) * (2 / size) - 1
    u = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))  # (2, S, S): x, y
    frames = p["frame"].flatten(0, 1)  # (B T, L)
    ids = p["base_ids"][:, None].expand(b, t, n).flatten(0, 1)
    colour, masks = store.sample(frames[:, 0], _pixel_of(p, 0, u, None), ids)
    for layer in range(1, LAYERS):
        used = np.flatnonzero((plan.frame[:, :, layer] >= 0).ravel())
        if not len(used):
            continue
        rows = _send(used, store.device)
        object_id = p["paste_ids"][:, layer, None].expand(b, t).flatten()[rows, None]
        over, alpha = store.sample(frames[rows, layer], _pixel_of(p, layer, u, rows), object_id)
        slot = p["paste_slot"][:, layer, None].expand(b, t).flatten()[rows]
        owner = (slot[:, None] == torch.arange(n, device=store.device)).float()[:, :, None, None]
        colour[rows] = torch.lerp(colour[rows], over, alpha)
        masks[rows] = torch.lerp(masks[rows], owner, alpha)
    background = 1 - masks.sum(1, keepdim=True)
    labels = torch.cat([background, masks], 1).argmax(1).to(torch.uint8).view(b, t, size, size)
    share = torch.stack([(labels[:, 0] == i + 1).float().mean((1, 2)) for i in range(n)], 1)
    valid = share > 1e-3
    lookup = torch.cat([torch.zeros_like(valid[:, :1]), valid], 1) * torch.arange(n + 1, device=store.device)
    labels = lookup.gather(1, labels.flatten(1).long()).view(labels.shape).to(torch.uint8)
    blurred = np.flatnonzero((plan.kernel.max((2, 3)) < 1).ravel())
    images = _apply_look(p, colour, seed, _send(blurred, store.device)).view(b, t, 3, size, size)
    return ClipBatch(images.transpose(0, 1).contiguous(), labels.transpose(0, 1).contiguous(), valid)


def _pixel_of(p: dict[str, Tensor], layer: int, u: Tensor, rows: Tensor | None) -> Tensor:
    """(2, F, S, S) pixel coordinates x, y of a layer."""
    matrix, origin, centre, tilt, elastic = (
        p[k][:, :, layer].flatten(0, 1) if rows is None else p[k][:, :, layer].flatten(0, 1)[rows]
        for k in ("matrix", "origin", "centre", "tilt", "elastic")
    )
    size = u.shape[1]
    bent = (elastic.flatten(2) @ thin_plate_basis(size, u.device)).view(-1, 2, size, size)
    vx, vy = u[0] + bent[:, 0], u[1] + bent[:, 1]  # (F, S, S)
    m, o, c, k = (a[..., None, None] for a in (matrix, origin, centre, tilt))
    depth = (1 + k[:, 0] * vx + k[:, 1] * vy).clamp(min=0.2)
    wx, wy = (vx - c[:, 0]) / depth, (vy - c[:, 1]) / depth
    return torch.stack([o[:, 0] + m[:, 0, 0] * wx + m[:, 0, 1] * wy, o[:, 1] + m[:, 1, 0] * wx + m[:, 1, 1] * wy])


@lru_cache(maxsize=8)
def thin_plate_basis(size: int, device: torch.device) -> Tensor:
    """(CONTROL * CONTROL, S * S) float32: how far a unit move of each control point moves each pixel's centre.

    The thin-plate spline through the control points, the surface that bends least (Bookstein, IEEE TPAMI 11(6), 1989).
    Control points lie on a grid whose corners are those of the square, row by row.
    """
    grid = torch.linspace(-1, 1, CONTROL, dtype=torch.float64)
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) * (2 / size) - 1
    knots, pixels = (torch.cartesian_prod(a, a) for a in (grid, axis))  # rows of (y, x)
    spline = torch.cat((_plate_kernel(knots, knots), torch.ones(len(knots), 1), knots), 1)  # (K, K + 3)
    constraints = torch.cat((spline[:, len(knots) :].T, torch.zeros(3, 3)), 1)  # the bending part has no linear trend
    coefficients = torch.linalg.inv(torch.cat((spline, constraints)))[:, : len(knots)]  # (K + 3, K)
    at_pixels = torch.cat((_plate_kernel(pixels, knots), torch.ones(len(pixels), 1), pixels), 1)  # (S S, K + 3)
    basis: Tensor = (at_pixels @ coefficients).T.float().contiguous()
    return basis.to(device)


def _plate_kernel(a: Tensor, b: Tensor) -> Tensor:
    """r^2 log r^2 between places (n, 2) and (m, 2): (n, m)."""
    squared = (a[:, None] - b[None]).square().sum(2)
    return squared * squared.clamp(min=1e-30).log()


def _apply_look(p: dict[str, Tensor], colour: Tensor, seed: int, blurred: Tensor) -> Tensor:
    """Colour, light, gamma, blur (of the rows ``blurred``) and noise on (B T, 3, S, S) in 0..255."""
    b, t = p["colour"].shape[:2]
    side = colour.shape[-1]
    mix = p["colour"].flatten(0, 1)
    x = torch.einsum("fij,fjhw->fihw", mix[:, :, :3], colour / 255) + mix[:, :, 3, None, None]
    light = F.interpolate(p["light"].flatten(0, 1)[:, None], size=(side, side), mode="bicubic", align_corners=True)
    x = (x * light).clamp(1e-3, 1)
    x = x ** p["gamma"][:, None].expand(b, t).flatten()[:, None, None, None]
    count = len(blurred)
    if count:
        kernel = p["kernel"].flatten(0, 1)[blurred, None].expand(count, 3, KERNEL, KERNEL).flatten(0, 1)[:, None]
        padded = F.pad(x[blurred], (KERNEL // 2,) * 4, mode="replicate").flatten(0, 1)[None]
        x[blurred] = F.conv2d(padded, kernel, groups=3 * count).view(count, 3, side, side)
    x = x * 255
    generator = torch.Generator(device=x.device).manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    x = x + noise * p["noise"][:, None].expand(b, t).flatten()[:, None, None, None]
    return x.clamp(0, 255)


def _on_device(plan: ClipPlan, device: torch.device) -> dict[str, Tensor]:
    return {f.name: _send(getattr(plan, f.name), device) for f in fields(plan)}


def _send(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from pinned memory a copy does not make the host wait for the device
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _normalised(weights: list[float]) -> npt.NDArray[np.float64]:
    total = np.asarray(weights, np.float64)
    return total / total.sum() if len(total) else total


def _frame_picks(rng: np.random.Generator, clip: PackedClip, frames: int, max_gap: int) -> list[int]:
    """Positions in a real clip: one direction, one mean gap, turning round at the ends; the first shows an object."""
    count = len(clip.frames)
    with_object = [i for i, f in enumerate(clip.frames) if f.objects]
    start = int(rng.choice(with_object))
    gap = int(rng.integers(1, max_gap + 1)) if count > 8 else 1
    direction = 1 if rng.random() < 0.5 else -1
    if not 0 <= start + direction * gap * (frames - 1) < count:
        direction = -direction
    picks, at = [start], start
    for _ in range(frames - 1):
        step = max(1, gap + int(rng.integers(-1, 2))) if gap > 1 else 1
        if not 0 <= at + direction * step < count:
            direction = -direction
        at = int(np.clip(at + direction * step, 0, count - 1))
        picks.append(at)
    return picks


def _choose_targets(rng: np.random.Generator, objects: tuple[ObjectBox, ...], most: int) -> list[ObjectBox]:
    if not objects:
        return []
    count = min(len(objects), most, int(rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15])))
    weight = _normalised([math.sqrt(o.area) for o in objects])
    return [objects[i] for i in rng.choice(len(objects), count, replace=False, p=weight)]


def _walk(rng: np.random.Generator, frames: int, speed: float, dims: int = 2) -> FloatArray:
    """(T, dims) smooth path from 0: a heading, kept with some inertia."""
    velocity = rng.normal(size=dims) * speed * math.exp(0.7 * rng.normal())
    turns = rng.normal(size=(frames - 1, dims)) * 0.5 * np.linalg.norm(velocity)
    steps = velocity + np.cumsum(turns, 0) * 0.5
    return np.concatenate([np.zeros((1, dims)), np.cumsum(steps, 0)]).astype(np.float32)


def _matrices(
    rng: np.random.Generator, frames: int, scale: float, strength: float, flip: bool, aspect: float
) -> FloatArray:
    """(T, 2, 2): from half-sides of the rendered square to pixels, ``scale`` pixels per unit."""
    zoom = np.exp(_walk(rng, frames, 0.025 * strength, 1)[:, 0])
    angle = rng.normal() * 0.12 * min(strength, 1) + _walk(rng, frames, 0.04 * strength, 1)[:, 0]
    shear = _walk(rng, frames, 0.015 * strength, 1)[:, 0]
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)  # (T, 2, 2)
    stretch = np.zeros((frames, 2, 2))
    stretch[:, 0, 0] = zoom * aspect * (-1 if flip else 1)
    stretch[:, 1, 1] = zoom / aspect
    stretch[:, 0, 1] = shear
    return (scale * rotation @ stretch).astype(np.float32)


def _warp(rng: np.random.Generator, frames: int, strength: float) -> dict[str, FloatArray]:
    tilt = rng.normal(size=2) * 0.03 * strength + _walk(rng, frames, 0.02 * strength)
    bend = _walk(rng, frames, 0.02 * strength, 2 * CONTROL * CONTROL) / 1.5
    return {
        "tilt": np.clip(tilt, -0.25, 0.25).astype(np.float32),
        "elastic": np.clip(bend, -0.15, 0.15).reshape(frames, 2, CONTROL, CONTROL),
    }


def _base_layer(
    rng: np.random.Generator, clip: PackedClip, picks: list[int], targets: list[ObjectBox], config: ClipConfig,
    real: bool,
) -> dict[str, npt.NDArray[np.generic]]:  # fmt: skip
    first = clip.frames[picks[0]]
    short = min(first.height, first.width)
    ids = {t.id for t in targets}
    seen = [o for i in set(picks) for o in clip.frames[i].objects if o.id in ids] if real else targets
    if not seen or rng.random() < 0.15:  # anywhere
        box = np.array([0, 0, first.width, first.height], float)
    else:
        corners = np.array([(o.x0, o.y0, o.x1, o.y1) for o in seen], float)
        box = np.r_[corners[:, :2].min(0), corners[:, 2:].max(0)]
    extent = max(box[2] - box[0], box[3] - box[1])
    side = float(np.clip(max(extent * rng.uniform(0.9, 1.8), short * rng.uniform(0.45, 1.1)), 48, 1.15 * short))
    half, size = side / 2, np.array([first.width, first.height], float)
    middle = (box[:2] + box[2:]) / 2 + rng.uniform(-0.3, 0.3, 2) * side
    middle = np.where(size > side, np.clip(middle, half, np.maximum(size - half, half)), size / 2)
    strength = 0.25 if real else 0.7
    path = _walk(rng, len(picks), config.shake_speed if real else config.still_speed)
    path = np.tanh(path / MAX_DRIFT) * MAX_DRIFT * side  # the picture stays in view
    return {
        "frame": np.array(picks),
        "matrix": _matrices(rng, len(picks), half, strength, bool(rng.random() < 0.5), math.exp(0.08 * rng.normal())),
        "origin": (middle + path).astype(np.float32),
        "centre": np.zeros((len(picks), 2), np.float32),
        **_warp(rng, len(picks), strength),
    }


def _paste_layer(
    rng: np.random.Generator, cut: ObjectBox, frames: int, config: ClipConfig, target: bool
) -> dict[str, npt.NDArray[np.generic]]:
    extent = max(cut.x1 - cut.x0, cut.y1 - cut.y0)
    radius = rng.uniform(0.12, 0.5)  # half the object's side, in half-sides of the square
    path = 2 * _walk(rng, frames, config.paste_speed)
    if target:
        start = rng.uniform(-0.7, 0.7, 2)
    else:  # an occluder is somewhere near the middle at a random moment of the clip
        start = rng.uniform(-0.6, 0.6, 2) - path[int(rng.integers(frames))]
    middle = np.array([cut.x0 + cut.x1, cut.y0 + cut.y1], np.float32) / 2
    flip, aspect = bool(rng.random() < 0.5), math.exp(0.1 * rng.normal())
    return {
        "frame": np.zeros(frames, np.int64),
        "matrix": _matrices(rng, frames, extent / 2 / radius, 1.2, flip, aspect),
        "origin": np.repeat(middle[None], frames, 0),
        "centre": (start + path).astype(np.float32),
        **_warp(rng, frames, 0.6),
    }


def _unused_layer(frames: int) -> dict[str, npt.NDArray[np.generic]]:
    zeros = np.zeros((frames, 2), np.float32)
    return {
        "frame": np.full(frames, -1),
        "matrix": np.zeros((frames, 2, 2), np.float32),
        "origin": zeros,
        "centre": zeros,
        "tilt": zeros,
        "elastic": np.zeros((frames, 2, CONTROL, CONTROL), np.float32),
    }


def _look(rng: np.random.Generator, frames: int, config: ClipConfig) -> dict[str, npt.NDArray[np.generic]]:
    grey = np.full((3, 3), 1 / 3)
    saturation = 0.0 if rng.random() < config.grey else float(np.clip(rng.normal(1.0, 0.3), 0.1, 2.0))
    mix = (saturation * np.eye(3) + (1 - saturation) * grey) * np.exp(0.08 * rng.normal(size=(3, 1)))
    contrast, brightness = math.exp(0.2 * rng.normal()), 0.08 * rng.normal()
    contrast_t = contrast * np.exp(_walk(rng, frames, 0.02, 1))[:, :, None]  # (T, 1, 1)
    brightness_t = brightness + _walk(rng, frames, 0.012, 1)[:, :, None]
    matrix = contrast_t * mix
    offset = brightness_t + 0.5 * (1 - contrast_t) * np.ones((1, 3, 1))
    light = 1 + 0.08 * rng.normal(size=(1, 4, 4)) + _walk(rng, frames, 0.015, 16).reshape(frames, 4, 4)
    blurred = rng.random() < config.blur
    kernels = np.stack([_blur_kernel(rng, blurred) for _ in range(frames)])
    return {
        "colour": np.concatenate([matrix, offset], 2).astype(np.float32),
        "light": np.clip(light, 0.4, 1.6).astype(np.float32),
        "gamma": np.array(math.exp(0.15 * rng.normal()), np.float32),
        "kernel": kernels.astype(np.float32),
        "noise": np.array(abs(rng.normal()) * 4 if rng.random() < 0.5 else 0.0, np.float32),
    }


def _blur_kernel(rng: np.random.Generator, blurred: bool) -> npt.NDArray[np.float64]:
    """A Gaussian of random width, drawn out along a line for motion blur; the identity if not ``blurred``."""
    axis = np.arange(KERNEL) - KERNEL // 2
    if not blurred:
        return np.outer(axis == 0, axis == 0).astype(float)
    angle, length, width = rng.uniform(0, np.pi), rng.exponential(1.2), rng.uniform(0.3, 0.9)
    x, y = np.meshgrid(axis, axis)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * (along / (width + length)) ** 2 - 0.5 * (across / width) ** 2)
    return np.asarray(kernel / kernel.sum())
