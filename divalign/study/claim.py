"""Whose folder is it: a run's folder belongs to one configuration, and to results of this version."""

from __future__ import annotations

from pathlib import Path

from divalign.config import Config
from divalign.limits import read_text
from divalign.records import Results, read_record
from divalign.sections import as_yaml
from divalign.stages.folder import check_unclaimed
from divalign.store import write_bytes


def is_new(out: Path, config: Config) -> bool:
    """Tell whether `out` is yet to become this configuration's run folder, or is so already.

    Raises ValueError where it belongs to another run or is something else.
    """
    path, results = out / "config.yaml", out / "results.json"
    if not path.is_file():
        check_unclaimed(out, "run")
        return True
    if read_text(path) != untracked(config):
        raise ValueError(
            f"{out} holds a run with another configuration (see {path}); choose another --out or delete the folder"
        )
    if results.is_file():
        _refuse_old(results)
    return False


def untracked(config: Config) -> str:
    """Return a configuration as YAML without its trackers, which decide nothing: a run may go on with others."""
    return as_yaml(config.model_copy(update={"train": config.train.model_copy(update={"report_to": ()})}))


def _refuse_old(path: Path) -> None:
    """Raise ValueError for results of another schema; torn ones are written again."""
    try:
        read_record(path, Results)
    except ValueError as error:
        if "has schema" in str(error):
            raise


def claim(out: Path, config: Config) -> None:
    """Write the configuration, unless it is there; looked at again, as another process may have come first."""
    if not is_new(out, config):
        return
    try:
        write_bytes(out / "config.yaml", untracked(config).encode())
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; choose an --out that you may write to") from error
