"""A sweep on a local Ray cluster survives a killed worker and equals the sequential one byte for byte, times aside.

The tests of a cluster skip without the extra "ray". With it they take a minute: `pytest -m "not ray"` leaves them out.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from divalign.cluster.on_ray import RayTraining, ray_address, ray_executor, shortage
from divalign.stages.folder import silent
from divalign.stages.models import model_spec
from divalign.stages.train import train
from divalign.stages.train_plan import TrainPlan
from divalign.store import read_json, read_rows
from divalign.study.sweep import sweep
from divalign.study.sweep_config import load_sweep
from divalign.study.sweep_runs import FailedRunsError
from divalign.toy.world import requests
from divalign.train.speed import TIMES

TWELVE = """
run:
  data: {recipes: [cr], n_train: 16, n_test: 20, n_held_out: 20}
  train: {methods_on: {}, warmup_updates: 0, pairs_per_update: 4, pairs_per_batch: 4}
  measure: {attacks: [direct], max_new_tokens: 4, divergences: [js]}
grid:
  method: {kldo: {train.methods: [kldo]}, dpo: {train.methods: [dpo]}, bco: {train.methods: [bco]}}
  length: {a: {train.updates: 1}, b: {train.updates: 2}, c: {train.updates: 3}, d: {train.updates: 4}}
draws: 100
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.parametrize(
    ("where", "address"),
    [("ray", None), ("ray://head", "ray://head:10001"), ("ray://10.0.0.1:6", "ray://10.0.0.1:6")],
)
def test_an_address_has_rays_port_where_it_names_none(where: str, address: str | None) -> None:
    assert ray_address(where) == address


@pytest.mark.parametrize("where", ["slurm", "ray:", "ray://", "http://head"])
def test_another_place_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="expected ray, or ray://HOST"):
        ray_address(where)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'divalign\[ray\]'"):
        ray_executor("ray")


SMALL, GPU, LOST = (
    {"Alive": alive, "Resources": {"CPU": cpus, "memory": 1e9, **gpus}}
    for alive, cpus, gpus in ((True, 8.0, {}), (True, 4.0, {"GPU": 1.0}), (False, 99.0, {"GPU": 9.0}))
)


@pytest.mark.parametrize(
    ("cpus", "gpus", "nearest"),
    [(16, 0, "8 CPUs and 0 GPUs"), (8, 1, "4 CPUs and 1 GPUs"), (1, 2, "4 CPUs and 1 GPUs")],
)
def test_a_run_that_fits_no_node_is_named_with_what_the_largest_node_has(
    cpus: float, gpus: float, nearest: str
) -> None:
    resources = {"fits": _resources(4, 1), "large": _resources(cpus, gpus), "larger": _resources(200, 0)}
    sentence = shortage(resources, [SMALL, GPU, LOST])
    assert sentence is not None
    assert sentence.startswith(f"the run 'large' asks for {cpus} CPUs and {gpus} GPUs")
    assert f"the largest node of the Ray cluster for it has {nearest}" in sentence
    assert shortage({"none": _resources(1, 0)}, []) is not None


def test_a_run_fits_where_one_node_has_what_it_asks_for() -> None:
    assert shortage({"a": _resources(8, 0), "b": _resources(4, 1), "c": _resources(0.5, 0.1)}, [SMALL, GPU]) is None


def _resources(cpus: float, gpus: float) -> dict[str, float]:
    return {"num_cpus": float(cpus), "num_gpus": float(gpus)}


@pytest.mark.ray
def test_a_run_that_no_node_can_hold_is_refused_before_the_work(cluster: Any, tmp_path: Path) -> None:
    large = {**yaml.safe_load(TWELVE), "resources": {"b": {"cpus": 64}}}
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(large))
    with pytest.raises(ValueError, match=r"the run 'b-bco' asks for 64 CPUs and 0 GPUs.* has 2 CPUs and 0 GPUs"):
        sweep(load_sweep(tmp_path / "large.yaml"), tmp_path / "out", execute=ray_executor("ray"))
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.ray
def test_a_killed_worker_costs_a_sweep_nothing(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "twelve.yaml").write_text(TWELVE)
    plan = load_sweep(tmp_path / "twelve.yaml")
    killed: list[str] = []
    killer = threading.Thread(target=_kill_a_worker, args=(tmp_path / "ray", killed))
    killer.start()
    record = sweep(plan, tmp_path / "ray", execute=ray_executor("ray"))
    killer.join()
    assert len(killed) == 1
    assert len({model.run for model in record.models}) == 12
    sweep(plan, tmp_path / "alone")
    assert _differences(tmp_path / "alone", tmp_path / "ray") == []


@pytest.mark.ray
def test_a_run_that_fails_on_the_cluster_ends_no_other(cluster: Any, tmp_path: Path) -> None:
    two = yaml.safe_load(TWELVE)
    two["grid"] = {"length": {"a": {"train.updates": 1}, "b": {"train.updates": 2}}}
    two["run"]["train"]["methods"] = ["kldo"]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    out = tmp_path / "out"
    plan = load_sweep(tmp_path / "two.yaml")
    with pytest.raises(FailedRunsError, match="1 of 2 runs failed") as error:
        sweep(plan, out, execute=_blocking(out / "runs" / "a"))
    assert (out / "runs" / "b" / "results.json").is_file()
    assert "exists and is no run folder" in str(error.value)


def _blocking(folder: Path) -> Any:
    """Return Ray's executor, behind a file of another kind in one run's folder."""

    def execute(tasks: Any, progress: Any) -> Any:
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_text("mine")
        return ray_executor("ray")(tasks, progress)

    return execute


@pytest.mark.ray
def test_two_workers_of_ray_train_leave_the_files_of_one_process(cluster: Any, tmp_path: Path) -> None:
    from divalign.data.recipes import compliance_refusal

    rows = [compliance_refusal(request) for request in requests("train", held_out=False)[:16]]
    plan = TrainPlan("dpo", updates=2, pairs_per_update=8, pairs_per_batch=4, warmup_updates=0, max_length=256)
    ray_train, base = RayTraining("ray", 2), model_spec("toy")
    spec = ray_train(base, rows, plan, tmp_path / "two", progress=silent)
    assert spec.source == str(tmp_path / "two" / "checkpoint")
    train(base, rows, plan, tmp_path / "one", progress=silent)
    logs = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert [row["loss"] for row in logs[0]] == pytest.approx([row["loss"] for row in logs[1]], rel=1e-4)


def _kill_a_worker(out: Path, killed: list[str]) -> None:
    """Kill the first worker that is in the middle of a run, once another run is finished."""
    deadline = time.monotonic() + 300
    while not killed and time.monotonic() < deadline:
        time.sleep(0.05)
        if not list(out.glob("runs/*/results.json")):
            continue
        for process in psutil.Process().children(recursive=True):
            name = process.name().removeprefix("ray::")
            folder = out / "runs" / name
            if (folder / "models").is_dir() and not (folder / "results.json").is_file():
                process.kill()
                killed.append(name)
                return


def _differences(first: Path, second: Path) -> list[str]:
    """Return the files of two sweeps that differ in more than times."""
    trees = [
        {path.relative_to(root): path for path in root.rglob("*") if path.is_file() and path.name[0] != "."}
        for root in (first, second)
    ]
    names = sorted(trees[0].keys() | trees[1].keys(), key=str)
    return [str(name) for name in names if _content(trees[0].get(name)) != _content(trees[1].get(name))]


def _content(path: Path | None) -> Any:
    """Return a file's bytes; without seconds and speeds, and of a journal the values of its whole lines."""
    if path is None or path.name == "clock.json":
        return None
    if path.name in ("results.json", "sweep.json", "training.json"):
        return {name: value for name, value in read_json(path).items() if name not in ("seconds", *TIMES)}
    if path.suffix == ".journal":  # a kill may leave a torn line, which is written again
        return [line for line in path.read_bytes().split(b"\n") if _is_whole(line)]
    return path.read_bytes()


def _is_whole(line: bytes) -> bool:
    try:
        return bool(json.loads(line))
    except ValueError:
        return False
