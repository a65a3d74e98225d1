"""COCO annotations as prompts: polygons and run lengths become masks, annotations with a box alone become boxes.

``images`` have ``id``, ``file_name``, ``width``, ``height``; ``annotations`` have ``image_id``, ``category_id`` and
``segmentation`` (a list of polygons [x, y, x, y, ...], or run lengths) or ``bbox`` (x, y, width, height), in pixels
from the image's corner. Which annotations of several images are one object is told by ``track_id`` or ``instance_id``
(also under ``attributes``), else by the category where no image has it twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from seem_core.coco_masks import decode_rle
from seem_core.errors import MaskError, PromptError, VosError
from seem_core.prompts import BoxPrompt, MaskPrompt
from vos.areas import Mask, Points, Scaling, fill_polygons
from vos.json_fields import Fields, shown
from vos.prompt_json import Reading
from vos.prompts import Origin, TimedPrompt, When, at_place
from vos.wording import some

_IDENTITIES = ("track_id", "instance_id")


@dataclass(frozen=True)
class _Picture:
    id: Hashable
    place: str
    name: str
    when: When
    scaling: Scaling | None  # None: not a frame of this video


@dataclass(frozen=True)
class _Annotation:
    fields: Fields
    picture: _Picture
    category: str
    identity: Hashable


def read_coco(value: Any, reading: Reading) -> None:
    """Read COCO annotations of images that are frames of the video. Raises PromptError or MaskError."""
    top = Fields(value, reading.place, "a COCO file")
    categories = dict(_categories(top))
    pictures = {p.id: p for p in _pictures(top, reading)}
    found: list[_Annotation] = []
    passed = 0
    for i, item in enumerate(top.items("annotations", 1)):
        fields = Fields(item, top.at(f"annotations[{i}]"), "an annotation")
        image_id = _key(fields, "image_id")
        if image_id not in pictures:
            raise fields.refuse("image_id", f"{shown(image_id)} is none of the images")
        category = categories.get(_key(fields, "category_id", None), "")
        if (picture := pictures[image_id]).scaling is None:
            passed += 1
            continue
        found.append(_Annotation(fields, picture, category, _identity(fields)))
    if not found:
        name = next(iter(pictures.values())).name if pictures else "none"
        raise PromptError(f"{top.at('images')}: none of them is a frame of the video (the first one is {name})")
    if reading.timeless and len({annotation.picture.id for annotation in found}) > 1:
        raise PromptError(f"{found[-1].picture.place}: several images are called like the picture")
    objects = [reading.numbering.of(words) for words in _words(found, reading)]
    for object_id, annotation in zip(objects, found, strict=True):
        prompt = _prompt(annotation.fields, annotation.picture.scaling, object_id)
        reading.prompts.append(TimedPrompt(prompt, annotation.picture.when, Origin(annotation.fields.place)))
        if annotation.category:
            reading.names.setdefault(object_id, annotation.category)
    _say(found, objects, passed, reading)


def _say(found: Sequence[_Annotation], objects: Sequence[int], passed: int, reading: Reading) -> None:
    frames = some(sorted({a.picture.when for a in found if isinstance(a.picture.when, int)}))
    where = "" if reading.timeless else f" on frames {frames}" if frames else " on the first tracked frame"
    ids = sorted(set(objects))
    said = some(f"{reading.names[i]} = object {i}" if i in reading.names else f"object {i}" for i in ids)
    rest = f" ({passed} annotations of other images were passed over)" if passed else ""
    reading.warnings.append(f"{reading.path.name} was read as COCO annotations{where}: {said}{rest}")


def _categories(top: Fields) -> Iterable[tuple[Hashable, str]]:
    for i, item in enumerate(top.items("categories") if "categories" in top else []):
        fields = Fields(item, top.at(f"categories[{i}]"), "a category")
        yield _key(fields, "id"), fields.text("name")


def _pictures(top: Fields, reading: Reading) -> Iterable[_Picture]:
    items = top.items("images", 1)
    for i, item in enumerate(items):
        fields = Fields(item, top.at(f"images[{i}]"), "an image")
        image_id, name = _key(fields, "id"), fields.text("file_name")
        frame = reading.frame_called(name)
        if frame is None and not reading.timeless and "frame_id" in fields:
            frame = fields.whole("frame_id")
        size = (fields.whole("height", reading.size[0], 1), fields.whole("width", reading.size[1], 1))
        known = frame is not None or len(items) == 1  # the only image must be the one that is meant
        scaling = Scaling.of(size, reading.size, fields.place) if known else None
        yield _Picture(image_id, fields.place, name, None if reading.timeless else frame, scaling)


def _identity(fields: Fields) -> Hashable:
    """What the annotation says of the object that it shows, over the images."""
    attributes = fields.take("attributes", None)
    places = [fields, Fields(attributes, fields.at("attributes"), "attributes")] if attributes else [fields]
    for place in places:
        for name in _IDENTITIES:
            if name in place:
                return _key(place, name)
    return None


def _words(found: Sequence[_Annotation], reading: Reading) -> list[Hashable]:
    """What the object of each annotation is known by."""
    if all(a.identity is not None for a in found):
        return [("track", a.identity) for a in found]
    times = Counter((a.picture.id, a.category) for a in found)
    if max(times.values()) == 1 and all(a.category for a in found):
        return [a.category for a in found]
    if len({a.picture.id for a in found}) == 1:
        return [(str(reading.path), a.fields.place) for a in found]
    (_, category), count = times.most_common(1)[0]
    what = f"{count} annotations of one image are called {category!r}" if category else "there are no categories"
    why = "so it is not known which is which on the other images; add a track_id"
    raise PromptError(f"{found[0].fields.place}: {what}, {why}")


def _prompt(fields: Fields, scaling: Scaling | None, object_id: int) -> MaskPrompt | BoxPrompt:
    assert scaling is not None  # other images were passed over
    segmentation = fields.take("segmentation", None)
    if not segmentation:
        return _box(fields, scaling, object_id)
    place = fields.at("segmentation")
    try:
        mask = _mask(segmentation, place, scaling)
        if not mask.any():
            raise MaskError("the mask is empty")
        return MaskPrompt(mask, object_id)
    except VosError as error:
        raise at_place(error, place) from error


def _mask(value: Any, place: str, scaling: Scaling) -> Mask:
    if isinstance(value, list):
        polygons = [_polygon(item, f"{place}[{i}]") for i, item in enumerate(value)]
        return fill_polygons(map(scaling.points, polygons), scaling.target)
    fields = Fields(value, place, "a mask")
    height, width = (int(v) for v in fields.numbers("size", 2))
    counts = fields.take("counts")
    if (height, width) != scaling.source:
        raise MaskError(f"its size is {width}x{height}, that of the image {scaling.source[1]}x{scaling.source[0]}")
    if not isinstance(counts, str) and not (isinstance(counts, list) and all(type(run) is int for run in counts)):
        raise MaskError(f"counts is a text or a list of whole numbers, not {shown(counts)}")
    return scaling.mask(decode_rle((height, width), counts))


def _polygon(value: Any, place: str) -> Points:
    """[x, y, x, y, ...] of three corners or more."""
    if not isinstance(value, list) or len(value) % 2 or len(value) < 6:
        raise PromptError(f"{place}: a polygon is a list x, y, x, y, ... of three corners or more, not {shown(value)}")
    pairs = [list(pair) for pair in zip(value[::2], value[1::2], strict=True)]
    return Fields({"corners": pairs}, place, "a polygon").points("corners")


def _box(fields: Fields, scaling: Scaling, object_id: int) -> BoxPrompt:
    x, y, w, h = fields.numbers("bbox", 4)
    (x0, y0), (x1, y1) = scaling.points(((x, y), (x + w, y + h)))
    if not (x0 < x1 and y0 < y1):
        raise fields.refuse("bbox", f"is empty; it is x, y, width and height, not {shown([x, y, w, h])}")
    return BoxPrompt(x0, y0, x1, y1, object_id)


def _key(fields: Fields, name: str, default: Any = ...) -> Hashable:
    value = fields.take(name) if default is ... else fields.take(name, default)
    if not isinstance(value, (int, str, type(None))):
        raise fields.refuse(name, f"is a whole number, not {shown(value)}")
    return value
