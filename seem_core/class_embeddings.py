"""One vector per class name of any vocabulary, and a cache of them on disk.

A name is put into 81 sentences (`templates.py`), each is encoded and brought to unit length, and the mean of them,
again of unit length, is the class (SPEC §4). COCO's 134 classes make 10,854 sentences; sentences of like length are
encoded together, so that next to nothing is spent on padding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from seem_core.errors import PromptError
from seem_core.templates import CLASS_TEMPLATES
from seem_core.text import TextEncoder, tokenize
from seem_core.user_cache import user_cache

logger = logging.getLogger(__name__)

TOKENS_PER_BATCH = 4096
CACHED_VOCABULARIES = 64
"""Files kept in the cache; the one that was used least recently goes first. 274 kB each for COCO's vocabulary."""

_EPS = 1e-7
_SUFFIXES = re.compile(r"(-other|-merged|-stuff)+$")


def clean_name(name: str) -> str:
    """A class name as one would say it: without COCO's endings -other, -merged and -stuff."""
    return _SUFFIXES.sub("", name.strip())


def class_embeddings(
    encoder: TextEncoder,
    names: Sequence[str],
    *,
    templates: Sequence[str] = CLASS_TEMPLATES,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(K, C) float32 unit vectors of `names`, on the encoder's device.

    cache: folder to look in and to write to (`default_cache()` is the user's), None for neither. An entry belongs to
    these weights, names and templates. progress: called with sentences done and sentences in all.
    Raises PromptError for an empty vocabulary or name, MissingExtraError without the tokenizer.
    """
    cleaned = [clean_name(name) for name in names]
    if not cleaned:
        raise PromptError("the vocabulary is empty; give at least one class name")
    if "" in cleaned:
        raise PromptError(f"class name {cleaned.index('') + 1} of the vocabulary is empty")
    if cache is None:
        return embed_names(encoder, cleaned, templates, progress)
    path = cache / f"{_fingerprint(encoder, cleaned, templates)}.safetensors"
    found = _read(path, (len(cleaned), encoder.config.projected))
    if found is None:
        found = embed_names(encoder, cleaned, templates, progress)
        _write(path, found)
    return found.to(encoder.device)


@torch.inference_mode()
def embed_names(
    encoder: TextEncoder,
    names: Sequence[str],
    templates: Sequence[str] = CLASS_TEMPLATES,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The work of `class_embeddings`, on names as they are."""
    ids, lengths = tokenize([t.format(name) for name in names for t in templates], encoder.config.context)
    vectors = torch.empty(len(ids), encoder.config.projected, device=encoder.device)
    done = 0
    for rows in _batches(lengths):
        longest = int(lengths[rows].max())
        sentences = encoder.sentences(ids[rows, :longest], lengths[rows]).float()
        vectors[rows.to(vectors.device)] = sentences / (sentences.norm(dim=-1, keepdim=True) + _EPS)
        done += len(rows)
        if progress is not None:
            progress(done, len(ids))
    means = vectors.view(len(names), len(templates), -1).mean(dim=1)
    unit: Tensor = means / means.norm(dim=-1, keepdim=True)
    return unit


def _batches(lengths: Tensor) -> list[Tensor]:
    """Row indices in batches of about `TOKENS_PER_BATCH` tokens, short texts first."""
    batches, start = [], 0
    order = lengths.argsort(stable=True)
    while start < len(order):
        # All that is left is at least this long; a batch of n costs n times its longest, which is its last.
        count = max(1, TOKENS_PER_BATCH // int(lengths[order[start]]))
        while count > 1 and count * int(lengths[order[min(start + count, len(order)) - 1]]) > TOKENS_PER_BATCH:
            count -= 1
        batches.append(order[start : start + count])
        start += count
    return batches


def class_logits(class_vectors: Tensor, embeddings: Tensor, logit_scale: Tensor) -> Tensor:
    """Class scores before softmax: (B, Q, C) query vectors, (K, C) class embeddings -> (B, Q, K).

    Cosine similarity times exp(logit_scale), which is not clamped here (SPEC §4). Computed in float32.
    """
    vectors = class_vectors.float()
    vectors = vectors / (vectors.norm(dim=-1, keepdim=True) + _EPS)
    logits: Tensor = logit_scale.float().exp() * vectors @ embeddings.float().T
    return logits


# --- cache -----------------------------------------------------------------------------------------------------------


def default_cache() -> Path:
    """The user's folder for class embeddings."""
    return user_cache() / "class-embeddings"


def _fingerprint(encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> str:
    """Hex digest of everything the embeddings depend on: the weights to the last bit, names, templates, in order."""
    digest = hashlib.sha256()
    for key, value in sorted(encoder.state_dict().items()):
        if key == "logit_scale":  # scales scores, not embeddings
            continue
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(json.dumps([list(names), list(templates)]).encode())
    return digest.hexdigest()[:40]


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """The stored embeddings; None where there are none, or where the file is not what was written."""
    try:
        data = path.read_bytes()
        embeddings = load(data)["embeddings"]
        os.utime(path)  # last use, for `_prune`
    except FileNotFoundError:
        return None
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        logger.warning("class embeddings in %s cannot be read (%s); computing them again", path, error)
        return None
    unit = embeddings.dtype == torch.float32 and bool(((embeddings.norm(dim=-1) - 1).abs() < 1e-3).all())
    if embeddings.shape != shape or not unit:
        logger.warning("class embeddings in %s are damaged; computing them again", path)
        return None
    return embeddings


def _write(path: Path, embeddings: Tensor) -> None:
    """Store in one step: a reader sees the whole file or none. A cache that cannot be written is only slower."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(save({"embeddings": embeddings.cpu().contiguous()}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _prune(path.parent)
    except OSError as error:
        logger.warning("class embeddings cannot be kept in %s (%s)", path.parent, error)


def _prune(folder: Path) -> None:
    """Delete what was used least recently beyond `CACHED_VOCABULARIES` files."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[CACHED_VOCABULARIES:]:
        file.unlink(missing_ok=True)
