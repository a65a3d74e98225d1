"""``vos doctor``: what is installed, what the machine can do, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.console import emit, emit_json
from cli.options import Json, Quiet

if TYPE_CHECKING:
    from vos.doctor import Diagnosis


def doctor(json: Json = False, quiet: Quiet = False) -> int:
    """Show versions, devices, codecs, CPU features and thread settings, and what is missing and how to install it.

    Ends with 0 where everything that tracking needs is there, else with 3.
    """
    from vos.doctor import examine

    found = examine()
    if json:
        emit_json({**asdict(found), "healthy": found.healthy})
    else:
        emit(*(_verdict(found) if quiet else (*_facts(found), *_verdict(found))))
    return 0 if found.healthy else 3


def _facts(found: Diagnosis) -> Iterator[str]:
    yield from _table("Versions", found.versions)
    yield from _table("Devices", found.devices)
    yield from _table("Decoders", _yes_no(found.decoders))
    yield from _table("Encoders", _yes_no(found.encoders))
    yield from _table("Extras", _yes_no(found.extras))
    features = ", ".join(found.cpu_features) or "none known"
    yield from _table("CPU", {"model": found.cpu, "features": features, "kernels": found.cpu_capability})
    yield from _table("Threads", found.threads)


def _verdict(found: Diagnosis) -> Iterator[str]:
    if not found.missing:
        yield "Nothing is missing."
    for item in found.missing:
        kind = "MISSING" if item.required else "optional"
        yield f"{kind}: {item.name} ({item.purpose}): {item.remedy}"


def _yes_no(table: Mapping[str, bool]) -> dict[str, str]:
    return {name: "yes" if there else "no" for name, there in table.items()}


def _table(title: str, rows: Mapping[str, str]) -> Iterator[str]:
    yield title
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        yield f"  {name:<{width}}  {value}"
    yield ""
