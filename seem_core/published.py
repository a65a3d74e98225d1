"""Which weights have been published, where, and what their file names say: one table (SPEC §1.1).

File names are not unique over time. On the official repository's older branch ``main`` the files
``seem_focalt_v2.pt`` and ``seem_focall_v1.pt`` held what is published as v0 today; the second of these names was given
again, to other weights. The names below are those of the Hugging Face repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import cast

from seem_core.routing import RoutingName

REPOSITORY = "xdecoder/SEEM"
LICENCE = f"AFL-3.0 as stated by the model card of {REPOSITORY}, not verified"
UNKNOWN_LICENCE = "not stated by the file"


@dataclass(frozen=True)
class PublishedFile:
    """One published checkpoint: the configuration it is of, and where it lies on the Hugging Face hub."""

    configuration: str
    repository: str
    file: str
    licence: str = LICENCE


PUBLISHED: Mapping[str, PublishedFile] = MappingProxyType(
    {
        name: PublishedFile(name, REPOSITORY, file)
        for name, file in (
            ("seem-focal-t-v0", "seem_focalt_v0.pt"),
            ("seem-focal-t-v1", "seem_focalt_v1.pt"),
            ("seem-focal-l-v0", "seem_focall_v0.pt"),
            ("seem-focal-l-v1", "seem_focall_v1.pt"),
            ("seem-sam-b-v1", "seem_samvitb_v1.pt"),
            ("seem-sam-l-v1", "seem_samvitl_v1.pt"),
        )
    }
)

_OLD_V0 = "seem_focalt_v2.pt"
_AMBIGUOUS = "seem_focall_v1.pt"
_ROUTING_IN_NAME = re.compile(r"(?:^|[_\-.])(demo|v0|v1)(?=$|[_\-.])")


def published_licence(file_name: str) -> str:
    """What the source of an official file name states about its licence."""
    return next((p.licence for p in PUBLISHED.values() if p.file == file_name), UNKNOWN_LICENCE)


def routing_of_file(path: PurePath) -> tuple[RoutingName | None, str]:
    """The routing that a checkpoint's file name speaks of, and a sentence about how sure that is.

    Parameters do not tell; None where the name does not tell either, or says two things.
    """
    if path.name == _OLD_V0:
        return "v0", f"routing v0: {path.name} is the old name of seem_focalt_v0.pt"
    found = set(_ROUTING_IN_NAME.findall(path.stem.lower()))
    if len(found) != 1:
        return None, ""
    routing = cast(RoutingName, found.pop())
    text = f"routing {routing} was taken from the file name {path.name}; parameters do not tell"
    if path.name == _AMBIGUOUS:
        text += "; a file of this name from before v1.0 holds v0 weights, for which the routing is v0"
    return routing, text
