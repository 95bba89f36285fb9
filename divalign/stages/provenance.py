"""What a run folder says of its origin beside its numbers: the versions it was made with, audits of its training sets.

environment.json               versions of Python and packages and the machine, as the run began
data/NAME.jsonl.audit.json     the audit of a training set, with the evaluation prompts that it holds
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from divalign import __version__
from divalign.data.audit.checks import audit
from divalign.data.audit.facts import gather
from divalign.records import EnvironmentRecord
from divalign.store import cached_json, digest, file_digest, read_rows, write_json

PACKAGES = ("torch", "transformers", "peft", "trl", "numpy", "scipy", "scikit-learn", "statsmodels")
TRAINING_SETS = "*-seed*.jsonl"


def write_environment(out: Path) -> None:
    """Write environment.json unless the run has one: the versions that count are those of its beginning."""
    path = out / "environment.json"
    if not path.is_file():
        write_json(path, EnvironmentRecord(versions=versions()).plain())


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on; packages that are not installed are left out."""
    installed = {name: number for name in PACKAGES if (number := _installed(name))}
    machine = f"{platform.system()} {platform.machine()}"
    return {"divalign": __version__, "Python": platform.python_version(), **installed, "machine": machine}


def audit_training_sets(run: Path) -> dict[str, dict[str, Any]]:
    """Audit every training set of a run against its evaluation prompts, unless the audit stands there; return all."""
    folder = run / "data"
    evaluation = folder / "prompts.jsonl"
    prompts = [row["prompt"] for row in read_rows(evaluation)] if evaluation.is_file() else []
    sets = [path for path in sorted(folder.glob(TRAINING_SETS)) if not path.name.startswith(".")]
    return {path.name: _audit(path, {"evaluation prompts": prompts} if prompts else {}) for path in sets}


def _audit(path: Path, evaluations: dict[str, list[str]]) -> dict[str, Any]:
    sha256 = file_digest(path)

    def make() -> dict[str, Any]:
        content = audit(gather(read_rows(path), evaluations=evaluations)).as_plain()
        return {**content, "file": path.name, "sha256": sha256}

    key = digest("audit", __version__, sha256, evaluations)
    return cached_json(path.with_name(f"{path.name}.audit.json"), key, make)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
