"""Figures of earlier runs in the same folder: kept beside new ones where all settings are the same, else refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seem_core.errors import OutputError
from vos.benchmarks.davis_prompts import PromptChoice
from vos.benchmarks.layouts import Layout
from vos.benchmarks.protocols import ProtocolName
from vos.wording import some

SETTINGS = "settings"


def settings_of(layout: Layout, names: Sequence[str], protocol: ProtocolName, prompt: PromptChoice) -> dict[str, Any]:
    """Everything on which the figures of all trackers depend, as JSON holds it."""
    return {
        "truth": os.path.abspath(layout.annotations),
        "sequences": list(names),
        "protocol": protocol,
        "prompt": prompt.label,
        "seed": prompt.seed if prompt.is_random else None,
    }


def kept_scores(path: Path, settings: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """Tracker -> figures that the file of scores already has with these settings; empty where there is no file.

    Raises OutputError where it has figures of other settings, or is no file of scores, unless it may be overwritten.
    """
    if not path.exists():
        return {}
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        found = {tracker: figures[SETTINGS] for tracker, figures in there.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if overwrite:
            return {}
        raise OutputError(f"{path} is not a file of scores; use --overwrite, or another folder with -o") from error
    kept = {tracker: there[tracker] for tracker, its in found.items() if its == settings}
    if len(kept) == len(there) or overwrite:
        return kept
    other = next(its for its in found.values() if its != settings)
    differing = [name for name in settings if not isinstance(other, dict) or other.get(name) != settings[name]]
    raise OutputError(
        f"{path} holds scores of other settings ({some(differing)}); use --overwrite, or another folder with -o"
    )
