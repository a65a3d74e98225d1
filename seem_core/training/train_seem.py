"""One training run of SEEM, from a checkpoint and pictures to a checkpoint; the start may be first weights."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Literal

import torch

from seem_core.checkpoint import CheckpointMetadata, LoadedSeem, load_seem, save_seem
from seem_core.class_embeddings import clean_name, default_cache
from seem_core.coco import BACKGROUND
from seem_core.errors import InputError
from seem_core.model import Seem
from seem_core.routing import ROUTINGS, RoutingName
from seem_core.segmenter_types import Trained
from seem_core.training.loop import Stage, Trainer
from seem_core.training.pack import Pack
from seem_core.training.packing import PICTURES
from seem_core.training.run_settings import (
    Run,
    choose_precision,
    choose_stages,
    count_workers,
    loop_config,
    open_data,
    use_device,
    within_sitting,
)
from seem_core.training.seem_task import ClipFunction, SeemTask
from seem_core.training.seem_task_config import SeemTaskConfig
from seem_core.vocabulary import Vocabulary, make_vocabulary, stored_vocabulary

__all__ = ["ClipFunction", "SeemRun", "train_seem"]

log = logging.getLogger(__name__)

PUBLISHED_RATE = 1e-4
PUBLISHED_BETAS = (0.9, 0.999)
PUBLISHED_CLIP_NORM = 5.0
CPU_CLIPS, CUDA_CLIPS = 2, 8  # pictures per batch


@dataclass(frozen=True, kw_only=True)
class SeemRun(Run):
    """A run of SEEM; the published optimiser unless told otherwise (AdamW, SPEC §9).

    model      a converted file, the name of a model of the store, or a file of `vos train init`
    routing    v0 or v1, where it is to be another than the file's
    schedule   of the rate: cosine, or the published steps
    half       write the weights in float16: half the size, for a model that ships
    training   what is learned, and how
    """

    task: Literal["seem"] = "seem"
    model: str
    routing: Literal["v0", "v1"] | None = None
    rate: float = PUBLISHED_RATE
    schedule: Literal["cosine", "steps"] = "cosine"
    warmup: float = 0.03
    ema: float = 0.998
    half: bool = False
    training: SeemTaskConfig = field(default_factory=SeemTaskConfig)


def train_seem(run: SeemRun, stop: Event | None = None, clip_function: ClipFunction | None = None) -> Path:
    """Train, and write a checkpoint with the averaged weights. Returns its path.

    clip_function: see `SeemTask`; only a loss on clips needs it.
    Raises DatasetError (data), CheckpointError (model, checkpoint of another configuration), DeviceError, InputError,
    MissingExtraError (words without a tokenizer), OutputError.
    """
    started = time.perf_counter()
    device = use_device(run)
    loaded = load_seem(run.model)
    model = _with_routing(_own_memory(loaded.model), run.routing)
    stages = choose_stages(run, [Stage(1.0, _default_size(model), CUDA_CLIPS if device.type == "cuda" else CPU_CLIPS)])
    _check_sizes(model, stages)
    config = loop_config(
        run, stages, schedule=run.schedule, warmup=run.warmup, ema=run.ema, betas=PUBLISHED_BETAS,
        clip_norm=PUBLISHED_CLIP_NORM,
    )  # fmt: skip
    pack = open_data(run, PICTURES)
    vocabulary = _vocabulary(loaded, pack) if run.training.segmentation else None
    task = SeemTask(
        model, pack, device, run.training, vocabulary=vocabulary, workers=count_workers(run, device),
        precision=choose_precision(run, device), clip_function=clip_function,
    )  # fmt: skip
    log.info("%s, %r on %s in %.1f s", model.config.name, pack, device, time.perf_counter() - started)
    try:
        trainer = Trainer(task, within_sitting(run, config, started), run.folder, stop)
        trainer.run()
    finally:
        task.close()
    out = run.out or run.folder / f"{model.config.name}.safetensors"
    _save(trainer, loaded, model, vocabulary, run, out)
    log.info("wrote %s after %d steps, %.0f s of training", out, trainer.step, trainer.elapsed)
    return out


def _own_memory(model: Seem) -> Seem:
    """The model with weights of its own: those that were loaded are mapped from the file, which must not change."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _with_routing(model: Seem, routing: RoutingName | None) -> Seem:
    if routing is not None and routing != model.config.routing:
        model.config = replace(model.config, routing=routing)
        model.decoder.routing = ROUTINGS[routing]
        model.decoder.sampler.separate_objects = model.decoder.routing.separate_objects
    return model


def _default_size(model: Seem) -> int:
    """The input side at which the model is used, as a multiple of what it divides by."""
    divisor, short = model.config.divisor, model.config.input_size.short
    return max(1, -(-short // divisor)) * divisor


def _check_sizes(model: Seem, stages: tuple[Stage, ...]) -> None:
    divisor = model.config.divisor
    odd = [stage.size for stage in stages if stage.size % divisor]
    if odd:
        raise InputError(f"{model.config.name} takes sizes in multiples of {divisor}, not {odd[0]}")


def _vocabulary(loaded: LoadedSeem, pack: Pack) -> Vocabulary | None:
    """The checkpoint's classes where they hold those of the data, else the data's own; None without classes.

    The text encoder does not learn, so that embeddings can be made once.
    """
    encoder = loaded.model.text_encoder
    if encoder is None or not pack.classes:
        return None
    if loaded.class_embeddings is not None:
        known = stored_vocabulary(loaded.metadata.classes, loaded.class_embeddings)
        if {clean_name(c) for c in pack.classes} <= {clean_name(c) for c in known.names}:
            return known
    log.info("embedding the names of %d classes", len(pack.classes))
    return make_vocabulary(encoder, pack.classes, cache=default_cache())


def _save(
    trainer: Trainer, loaded: LoadedSeem, model: Seem, vocabulary: Vocabulary | None, run: SeemRun, out: Path
) -> None:
    """The averaged weights as a checkpoint that every command takes."""
    before = loaded.metadata
    trained: Trained = "none" if before.trained == "none" and run.training.setting == "decoder" else "full"
    classes, embeddings = before.classes, loaded.class_embeddings
    if vocabulary is not None:
        classes, embeddings = (*vocabulary.names, BACKGROUND), vocabulary.embeddings
    metadata = CheckpointMetadata(
        before.configuration, model.config.routing, trained, before.source, before.source_sha256, before.licence,
        f"vos train, {trainer.step} steps", classes,
    )  # fmt: skip
    precision = torch.float16 if run.half else torch.float32
    weights = {name: value.detach().to("cpu", precision).contiguous() for name, value in trainer.averaged().items()}
    save_seem(weights, out, metadata, class_embeddings=embeddings, overwrite=True)
