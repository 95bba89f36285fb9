"""The files behind a source: in a folder of the user's, or fetched into it from the hub or the web, and checked."""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divalign.store import jsonl, write_bytes

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
    """Return the file's place in `folder`; with `download`, fetch it where it is missing.

    Raises ValueError where it is missing, cannot be had, needs a token that is not there, or is another version.
    """
    path = folder / file.path
    if not path.is_file():
        if not download:
            raise ValueError(f"no file {path}; set the folder to one that holds {file.path}, or allow the download")
        write_bytes(path, _download(file))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if file.sha256 and found != file.sha256:
        raise ValueError(
            f"{path} is not the version this source was written for (sha256 {found[:12]}, expected "
            f"{file.sha256[:12]}); delete it to fetch it again, or name the file as file:{path}"
        )
    return path


def _download(file: File) -> bytes:
    if file.hub:
        return _from_hub(file)
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as answer:
            return answer.read()
    except OSError as error:  # URLError and TimeoutError are such
        raise ValueError(f"{file.url} cannot be fetched ({error}); fetch it by hand to {file.path}") from error


def _from_hub(file: File) -> bytes:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import get_token

    if file.gated and not get_token():
        raise ValueError(f"{file.hub} is gated: accept its terms on the hub, then log in with `hf auth login`")
    try:
        found: Any = load_dataset(file.hub, file.config, split=file.split, revision=file.revision)
    except (DatasetNotFoundError, OSError) as error:
        raise ValueError(
            f"{file.hub} cannot be fetched from the hub ({type(error).__name__}); put its {file.split} split, as JSON "
            f"lines, at {file.path} in the folder"
        ) from error
    return jsonl(dict(row) for row in found)
