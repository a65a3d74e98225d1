"""Published weights by name: fetched from the Hugging Face hub into its cache, converted once into the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import seem_core.config as configurations
from seem_core.checkpoint import read_card
from seem_core.convert_file import ConvertedFile, convert_file
from seem_core.disk import is_no_room
from seem_core.errors import DiskFullError, InputError, MissingExtraError
from seem_core.model_store import stored_path
from seem_core.published import PUBLISHED, PublishedFile

_NETWORK = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3")


def fetch(
    name: str,
    *,
    classes: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertedFile:
    """The converted checkpoint of a published name; downloaded and converted unless it is in the store already.

    quiet: no progress bar of the download. classes, progress: see `convert_file`.
    Raises InputError for a name that was never published, or where the file cannot be downloaded; MissingExtraError
    without the extra `hub`; CheckpointError where the file is not what its name promises; DiskFullError.
    """
    published = PUBLISHED.get(name)
    if published is None:
        raise InputError(_not_published(name))
    path = stored_path(name)
    if path.is_file() and not overwrite:
        return ConvertedFile(path, read_card(path).metadata)
    source = download(published, quiet=quiet)
    return convert_file(
        source,
        path,
        configuration=published.configuration,
        classes=classes,
        licence=published.licence,
        overwrite=overwrite,
        progress=progress,
    )


def download(published: PublishedFile, *, quiet: bool = False) -> Path:
    """The file as it was published, in the cache of the Hugging Face hub; only what is not there yet is transferred."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError(
            "downloads need the package huggingface_hub; run: pip install 'seem-vos[hub]', "
            f"or fetch {published.file} of {published.repository} by other means, "
            f"then run: vos models convert {published.file}"
        ) from error
    try:
        with _progress_bars(quiet):
            return Path(huggingface_hub.hf_hub_download(published.repository, published.file))
    except Exception as error:  # HTTP libraries differ between versions of the hub, and so do their errors
        _translate(error, published)
        raise


def _translate(error: Exception, published: PublishedFile) -> None:
    """Raise one of our errors for what goes wrong between here and the hub; return for anything else."""
    from huggingface_hub import errors

    what = f"{published.file} of {published.repository}"
    if isinstance(error, errors.GatedRepoError):
        raise InputError(
            f"{what} is only given to users who accepted its terms: do so at "
            f"https://huggingface.co/{published.repository}, run 'hf auth login', then try again"
        ) from error
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        raise InputError(
            f"{what} cannot be downloaded: no connection to the Hugging Face hub, and the file is not in its cache; "
            f"go online, or copy the file here and run: vos models convert {published.file}"
        ) from error
    if isinstance(error, errors.RepositoryNotFoundError | errors.EntryNotFoundError | errors.RevisionNotFoundError):
        raise InputError(
            f"{what} is not on the Hugging Face hub (any more), or not for you; if you have the file, "
            f"run: vos models convert {published.file}"
        ) from error
    if isinstance(error, OSError) and is_no_room(error):
        raise DiskFullError(f"no room to download {what}; free some space and run again") from error
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _NETWORK:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{what} cannot be downloaded ({reason}); try again") from error


@contextmanager
def _progress_bars(quiet: bool) -> Iterator[None]:
    """Without the hub's bars where that is wanted; as it was, afterwards."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not quiet or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _not_published(name: str) -> str:
    names = ", ".join(PUBLISHED)
    if name in configurations.PRESETS and not configurations.PRESETS[name].official:
        return f"weights of {name} were not published; train them: vos train; published are {names}"
    if name in configurations.PRESETS:
        return (
            f"weights of {name} were never published; published are {names}; "
            f"a file of your own: vos models convert FILE.pt --config {name}"
        )
    return f"there is no published model {name!r}; published are {names}"
