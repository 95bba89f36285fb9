"""`divalign doctor`: what this machine has, how to mend what it lacks, and whether training is exact on it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from divalign.cli.app import app, printed

GIGA = 1e9  # bytes
LEAST_MEMORY, LEAST_DISK = 1.5, 2.0  # GB: the tour takes 1.0 and 0.2, and a system needs some too
EXTRAS = {
    "gguf": ("gguf", "GGUF files"),
    "inspect": ("inspect_ai", "logs of inspect_ai"),
    "ray": ("ray", "clusters"),
    "utility": ("lm_eval", "tasks of lm-eval"),
}


class MachineCheck(NamedTuple):
    """One line of the report: `fix` says what to do, "" where all is well; `serious` where nothing runs without it."""

    name: str
    value: str
    fix: str = ""
    serious: bool = True


@app.command(epilog="Example: divalign doctor\n\nExample: divalign doctor --trainer")
def doctor(
    trainer: Annotated[
        bool, typer.Option("--trainer", help="Run the trainer's equality checks, half a minute.")
    ] = False,
) -> None:
    """Say what this machine has and how to mend what it lacks; with --trainer, prove that training is exact on it.

    Exit 1 where something is missing that every run needs, or a check of the trainer fails.
    """
    checks = [check for function in CHECKS for check in function()]
    table = Table(show_header=False, box=None)
    for check in checks:
        mark = "[green]ok[/]" if not check.fix else "[red]NO[/]" if check.serious else "[yellow]--[/]"
        table.add_row(mark, check.name, escape(check.value + (f"; {check.fix}" if check.fix else "")))
    printed().print(table)
    failed = [check.name for check in checks if check.fix and check.serious]
    if failed:
        printed().print(f"[red]mend first:[/] {', '.join(failed)}")
    if (trainer and not _trainer_is_exact()) or failed:
        raise typer.Exit(1)


def check_packages() -> Iterator[MachineCheck]:
    """Yield the versions of Python and of what a run needs, as the installed package names them."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    from divalign import __version__

    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    yield MachineCheck("Python", version, "install Python 3.11 or later, and the package again with it" if old else "")
    yield MachineCheck("divalign", __version__)
    needs = [Requirement(text) for text in requires("divalign") or []]
    needs = [need for need in needs if need.marker is None]  # of no extra
    unfit = [need for need in needs if not need.specifier.contains(_version(need.name) or "0", prereleases=True)]
    names = " ".join(f"'{need.name}{need.specifier}'" for need in unfit)
    for need in needs:
        if need.name in ("torch", "transformers"):
            yield MachineCheck(need.name, _version(need.name) or "not installed")
    fix = f"pip install --upgrade {names}" if unfit else ""
    yield MachineCheck("packages", f"{len(needs) - len(unfit)} of {len(needs)} requirements are met", fix)


def check_devices() -> Iterator[MachineCheck]:
    """Yield where models run, and in which numbers."""
    import torch

    from divalign.lm.load import resolve

    yield MachineCheck("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    device, dtype = resolve()
    name = torch.cuda.get_device_name() if device == "cuda" else {"mps": "Apple's GPU"}.get(device, "the CPU")
    unused = device == "cpu" and shutil.which("nvidia-smi") is not None
    fix = "there is an NVIDIA driver: install a CUDA build of PyTorch (pytorch.org/get-started)" if unused else ""
    yield MachineCheck("device", f"{device} ({name}), {dtype}", fix, serious=False)


def check_room() -> Iterator[MachineCheck]:
    """Yield free memory and disk."""
    from divalign.stages.cost import free_memory

    memory, disk = free_memory("cpu") / GIGA, shutil.disk_usage(Path.cwd()).free / GIGA
    fix = "close other programs, or use a machine with more"
    yield MachineCheck("memory", f"{memory:.1f} GB free", fix if memory < LEAST_MEMORY else "", serious=memory < 1)
    fix = "make room, or work in a folder of another disk"
    yield MachineCheck("disk", f"{disk:.1f} GB free in {Path.cwd()}", fix if disk < LEAST_DISK else "")


def check_places() -> Iterator[MachineCheck]:
    """Yield the folders that are written: runs, converted models, downloads."""
    from divalign.lm.gguf import CACHE_VARIABLE, default_cache

    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    places = {
        "write access": (Path.cwd(), "go to a folder that you may write to, or name one with --out"),
        "cache": (default_cache(), f"set {CACHE_VARIABLE} to a folder that you may write to"),
        "hub's cache": (hub, "set HF_HOME to a folder that you may write to"),
    }
    for name, (place, fix) in places.items():
        yield MachineCheck(name, str(place), "" if can_write(place) else f"nothing can be written there: {fix}")


def check_extras() -> Iterator[MachineCheck]:
    """Yield what is installed for single purposes, and whether there is a key for servers; the key is not shown."""
    from importlib.util import find_spec

    for extra, (module, purpose) in EXTRAS.items():
        missing = find_spec(module) is None
        fix = f"for {purpose}: pip install 'divalign[{extra}]'" if missing else ""
        yield MachineCheck(f"extra {extra}", "not installed" if missing else "installed", fix, serious=False)
    key = "is set" if os.environ.get("DIVALIGN_API_KEY") else "is not set; a server that wants a key reads it there"
    yield MachineCheck("server key", f"DIVALIGN_API_KEY {key}")


CHECKS: tuple[Callable[[], Iterator[MachineCheck]], ...] = (
    check_packages,
    check_devices,
    check_room,
    check_places,
    check_extras,
)


def can_write(folder: Path) -> bool:
    """Tell whether a file can be written into a folder, or into the one that it would be made in."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def _version(name: str) -> str:
    """Return a package's version; "" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _trainer_is_exact() -> bool:
    from divalign.train.doctor import check_trainer

    failed = []
    for check in check_trainer():
        mark = "[green]ok[/]" if check.holds else "[red]NO[/]"
        printed().print(f"{mark}  {check.name}: apart by {check.distance:.1e}, allowed {check.allowed:.0e}")
        failed += [] if check.holds else [check.name]
    if failed:
        printed().print(f"{len(failed)} of the checks failed: do not trust training on this machine")
    return not failed
