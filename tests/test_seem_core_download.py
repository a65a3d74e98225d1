"""Published weights by name, with the Hugging Face hub replaced by a stub: nothing here goes online."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from official_files import tiny_official, use_tiny_presets
from support import require

import seem_core.download as download_module
from seem_core.checkpoint import load_seem
from seem_core.config import PRESETS
from seem_core.download import download, fetch
from seem_core.errors import CheckpointError, DiskFullError, InputError, MissingExtraError, VosError
from seem_core.model_store import stored_path
from seem_core.published import PUBLISHED, PublishedFile

TINY = PublishedFile("tiny-v1", "someone/tiny", "seem_tiny.pt")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A hub that holds one small model; the downloads that were asked for."""
    try:
        import huggingface_hub
    except ImportError:
        require(False, "the extra `hub` is not installed")
        raise
    use_tiny_presets(monkeypatch)
    monkeypatch.setenv("VOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download_module, "PUBLISHED", {"tiny-v1": TINY})
    file = tmp_path / "hub" / TINY.file
    file.parent.mkdir()
    torch.save(tiny_official(), file)
    asked: list[tuple[str, str]] = []

    def hf_hub_download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return asked


def test_every_preset_is_published_or_says_that_it_is_not() -> None:
    assert {name for name, config in PRESETS.items() if config.published} == PUBLISHED.keys()
    assert all(name == published.configuration for name, published in PUBLISHED.items())


def test_fetched_converted_and_kept(hub: list[tuple[str, str]]) -> None:
    done = fetch("tiny-v1", classes=False)
    assert hub == [("someone/tiny", "seem_tiny.pt")]
    assert done.path == stored_path("tiny-v1")
    assert done.warnings == ()  # the routing of a published name is known
    assert (done.metadata.routing, done.metadata.source) == ("v1", "seem_tiny.pt")
    assert load_seem("tiny-v1").metadata == done.metadata
    assert fetch("tiny-v1") == done
    assert len(hub) == 1
    fetch("tiny-v1", classes=False, overwrite=True, quiet=True)
    assert len(hub) == 2


def test_a_file_that_is_not_what_its_name_promises(hub: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "hub" / TINY.file).write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="is no PyTorch checkpoint"):
        fetch("tiny-v1", classes=False)
    assert not stored_path("tiny-v1").parent.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seem-davit-d3-v1", "never published; published are seem-focal-t-v0, .*vos models convert FILE.pt"),
        ("seem-focal", "no published model 'seem-focal'; published are seem-focal-t-v0"),
    ],
)
def test_names_that_were_not_published(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetch(name)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'seem-vos\[hub\]'.*vos models convert seem_focalt_v0.pt"):
        download(PUBLISHED["seem-focal-t-v0"])


def response(status: int) -> object:
    """What an HTTP error of the hub carries, whichever library made it."""
    return SimpleNamespace(status_code=status, headers={}, request=None, url="https://huggingface.co/x")


def gated() -> Exception:
    from huggingface_hub.errors import GatedRepoError

    return GatedRepoError("403", response=response(403))  # type: ignore[arg-type]


def absent() -> Exception:
    from huggingface_hub.errors import RepositoryNotFoundError

    return RepositoryNotFoundError("404", response=response(404))  # type: ignore[arg-type]


def server_error() -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError("500 Server Error\nmore", response=response(500))  # type: ignore[arg-type]


def offline() -> Exception:
    from huggingface_hub.errors import LocalEntryNotFoundError

    return LocalEntryNotFoundError("not in the cache")


def switched_off() -> Exception:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled("HF_HUB_OFFLINE=1")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (gated, InputError, "accepted its terms.*https://huggingface.co/someone/tiny"),
        (absent, InputError, "seem_tiny.pt of someone/tiny is not on the Hugging Face hub"),
        (server_error, InputError, r"cannot be downloaded \(500 Server Error\)"),
        (offline, InputError, "no connection.*go online.*vos models convert seem_tiny.pt"),
        (switched_off, InputError, "no connection"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), DiskFullError, "no room to download"),
        (lambda: ConnectionResetError("reset"), InputError, r"cannot be downloaded \(reset\); try again"),
    ],
)
def test_what_goes_wrong_on_the_way(
    hub: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], Exception],
    kind: type[VosError],
    message: str,
) -> None:
    import huggingface_hub

    error = make()

    def hf_hub_download(repository: str, name: str) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(kind, match=message) as caught:
        fetch("tiny-v1")
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


def test_a_bug_stays_a_bug(hub: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def hf_hub_download(repository: str, name: str) -> str:
        raise TypeError("wrong call")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(TypeError, match="wrong call"):
        fetch("tiny-v1")


def test_the_real_hub_takes_our_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline, so that nothing is asked for; the signature and the error are the library's own."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="go online"):
        download(PUBLISHED["seem-focal-t-v0"], quiet=True)
    shutil.rmtree(tmp_path)
