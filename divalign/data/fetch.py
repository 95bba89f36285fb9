"""The files behind a source: in a folder of the user's, or fetched into it by pooch and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divalign.store import apply_umask, file_digest, jsonl

TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class File:
    """A source's file: where it lies in a folder of sets, where it comes from, and the hash of the version we know.

    It comes from `url`, or from the split `split` of the data set `hub` on the Hugging Face hub, which is written down
    as JSON lines. An empty `sha256` is a file whose content we could not see: it is taken as it comes.
    """

    path: str
    url: str = ""
    hub: str = ""
    config: str | None = None
    split: str = "train"
    revision: str = "main"
    gated: bool = False
    sha256: str = ""


def fetched(file: File, folder: Path, *, download: bool = False) -> Path:
    """Return the file's place: in `folder`, as the set's own folder or as one that holds many sets.

    With `download`, it is fetched where it is missing. A file that is there is never replaced. Raises ValueError where
    it is missing, cannot be had, needs a token that is not there, or is another version.
    """
    places = [folder / Path(file.path).name, folder / file.path]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        if not download:
            raise ValueError(
                f"no file {places[0]}, nor {file.path} there; name the folder that holds it, or allow the download"
            )
        return _download(file, places[1])
    if file.sha256 and (actual := file_digest(path)) != file.sha256:
        raise ValueError(
            f"{path} is not the version this source was written for (sha256 {actual[:12]}, expected "
            f"{file.sha256[:12]}); delete it to fetch it again, or name the file as file:{path}"
        )
    return path


def _download(file: File, path: Path) -> Path:
    """Fetch a file to `path`, which then holds all of it or nothing, or raise ValueError in a sentence."""
    import pooch  # with requests behind it: 0.3 s that only a download needs

    downloader: Any = _from_hub(file) if file.hub else pooch.HTTPDownloader(timeout=TIMEOUT)
    try:
        pooch.retrieve(
            file.url or f"https://huggingface.co/datasets/{file.hub}",
            f"sha256:{file.sha256}" if file.sha256 else None,
            fname=path.name,
            path=path.parent,
            downloader=downloader,
        )
    except OSError as error:  # requests' errors are such
        raise ValueError(f"{file.url} cannot be fetched ({error}); fetch it by hand to {path}") from error
    except ValueError as error:
        if "hash" not in str(error):
            raise
        raise ValueError(f"what {file.url} gives is not the version this source was written for ({error})") from error
    apply_umask(path)  # pooch leaves it to its owner alone, and folders of sets may be shared
    return path


def _from_hub(file: File) -> Callable[[str, Any, Any], None]:
    """Return a downloader, as pooch calls it, that writes a split of a data set as JSON lines."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import get_token

    def write(url: str, output: Any, registry: Any) -> None:
        if file.gated and not get_token():
            raise ValueError(f"{file.hub} is gated: accept its terms on the hub, then log in with `hf auth login`")
        try:
            rows: Any = load_dataset(file.hub, file.config, split=file.split, revision=file.revision)
        except (DatasetNotFoundError, OSError) as error:
            raise ValueError(
                f"{file.hub} cannot be fetched from the hub ({type(error).__name__}); put its {file.split} split, as "
                f"JSON lines, at {file.path} in the folder"
            ) from error
        Path(output).write_bytes(jsonl(dict(row) for row in rows))

    return write
