"""Work on a Ray cluster: the runs of a sweep as tasks, and one training on several workers of Ray Train.

"ray" is the cluster of the environment variable RAY_ADDRESS, else one on this machine for as long as the work lasts;
"ray://HOST" is a cluster's head, through Ray's client port. All nodes need divalign, and the output folder under the
same path. Ray is the extra "ray", imported where it is used.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from divalign.data.examples import Row
from divalign.stages.folder import Progress, silent
from divalign.stages.models import ModelSpec
from divalign.stages.train import is_trained, train
from divalign.stages.train_plan import TrainPlan
from divalign.study.sweep_runs import Execute, Outcome, RunTask, attempt, failed

logger = logging.getLogger(__name__)
RETRIES = 3  # of a task whose process died; an exception is a failure at once
CLIENT_PORT = 10001  # Ray's own default


def ray_executor(where: str) -> Execute:
    """Return what does the runs of a sweep as tasks of the cluster `where`, each with its resources.

    A task whose worker dies is done again, on any node, and resumes from its run folder. Raises ValueError for an
    address that is none, and where Ray is not installed.
    """
    address = ray_address(where)
    _ray()
    return partial(_execute, address)


def on_cluster(where: str, workers: int) -> RayTraining:
    """Return what trains on a cluster. Raises ValueError as `ray_executor` does."""
    ray_address(where)
    _ray()
    return RayTraining(where, workers)


def ray_address(where: str) -> str | None:
    """Return the address of "ray://HOST" with its port, None for "ray". Raises ValueError for anything else."""
    kind, _, host = where.partition("://")
    if kind != "ray" or (host == "") != (where == "ray"):
        raise ValueError(f"got --on {where!r}, expected ray, or ray://HOST or ray://HOST:PORT of a cluster's head")
    if not host:
        return None
    return f"ray://{host}" if ":" in host else f"ray://{host}:{CLIENT_PORT}"


@dataclass(frozen=True)
class RayTraining:
    """Training on `workers` processes of the cluster `where`, each with a core, and a GPU if the base is on one.

    It is called as `stages.train.train`, with the same files and the same result. A worker that dies ends the attempt;
    the next resumes from the last complete checkpoint.
    """

    where: str
    workers: int

    def __call__(
        self, base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, folder: Path, *, progress: Progress, **options: Any
    ) -> ModelSpec:
        """Train as `stages.train.train` does. Raises what it raises, and ConnectionError where workers keep dying."""
        if not is_trained(base, rows, plan, folder, held_out=options.get("held_out")):
            cache = options.get("cache")
            places = {"folder": folder.absolute(), "cache": cache and cache.absolute()}
            job = {"base": base, "rows": list(rows), "plan": plan, **options, **places}
            with _cluster(ray_address(self.where)), progress(f"train {folder.name} on ray", 1, "trainings") as advance:
                _fit(job, self.workers, on_gpu=base.device.startswith("cuda"))
                advance(1)
        return train(base, rows, plan, folder, progress=progress, **options)  # which finds it


def _fit(job: dict[str, Any], workers: int, *, on_gpu: bool) -> None:
    ray_train, storage = import_module("ray.train"), job["folder"] / "ray"  # Ray Train's own state
    trainer = import_module("ray.train.torch").TorchTrainer(
        _train_worker,
        train_loop_config={**job, "cwd": str(Path.cwd())},
        scaling_config=ray_train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
        run_config=ray_train.RunConfig(
            name="train",
            storage_path=str(storage),
            failure_config=ray_train.FailureConfig(max_failures=RETRIES, controller_failure_limit=RETRIES),
        ),
    )
    try:
        trainer.fit()
    except ray_train.TrainingFailedError as error:
        raise ConnectionError(f"training on {workers} workers of Ray failed: {error}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _train_worker(job: dict[str, Any]) -> None:
    """Train on one of the workers: Ray has set the environment that accelerate reads, and the process group."""
    cwd = job.pop("cwd")
    if Path(cwd).is_dir():
        os.chdir(cwd)
    train(**job, progress=silent)


def _execute(address: str | None, tasks: Sequence[RunTask], progress: Progress) -> list[Outcome]:
    ray = _ray()
    outcomes: dict[int, Outcome] = {}
    with _cluster(address), progress("runs on ray", len(tasks), "runs") as advance:
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        resources = {task.run.name: _resources(task, has_gpus) for task in tasks}
        _check_resources(ray, resources)
        remote = ray.remote(_attempt_there)
        running = {
            remote.options(name=task.run.name, max_retries=RETRIES, **resources[task.run.name]).remote(
                task._replace(out=task.out.absolute()), str(Path.cwd())
            ): number
            for number, task in enumerate(tasks)
        }
        while running:
            for done in ray.wait(list(running))[0]:
                number = running.pop(done)
                outcomes[number] = _outcome(ray, done, tasks[number])
                advance(1)
    return [outcomes[number] for number in range(len(tasks))]


def _attempt_there(task: RunTask, cwd: str) -> Outcome:
    """Do a task in a worker of the cluster, where paths of the configuration mean what they mean here."""
    if Path(cwd).is_dir():
        os.chdir(cwd)
    return attempt(task, silent)


def _resources(task: RunTask, has_gpus: bool) -> dict[str, float]:
    resources = task.run.resources
    on_cpu = task.run.config.model.device == "cpu"
    default = 1.0 if has_gpus and not on_cpu else 0.0
    return {"num_cpus": resources.cpus, "num_gpus": default if resources.gpus is None else resources.gpus}


def shortage(resources: Mapping[str, Mapping[str, float]], nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a sentence on the first run whose resources no node has, None where each run fits some node.

    `resources` are Ray's options by a run's name, `nodes` what `ray.nodes()` returns.
    """
    there = [node["Resources"] for node in nodes if node["Alive"]]
    sizes = [(size.get("CPU", 0.0), size.get("GPU", 0.0)) for size in there] or [(0.0, 0.0)]
    for name, options in resources.items():
        cpus, gpus = options["num_cpus"], options["num_gpus"]
        if not any(size[0] >= cpus and size[1] >= gpus for size in sizes):
            nearest = max(sizes, key=lambda size: (min(size[1], gpus), min(size[0], cpus), size))
            return (
                f"the run {name!r} asks for {cpus:g} CPUs and {gpus:g} GPUs, and the largest node of the Ray cluster "
                f"for it has {nearest[0]:g} CPUs and {nearest[1]:g} GPUs; lower `resources` in the sweep's file, or "
                "name a larger cluster"
            )
    return None


def _check_resources(ray: Any, resources: Mapping[str, Mapping[str, float]]) -> None:
    """Raise ValueError for a run that would wait for ever; warn where the cluster may still get a larger node."""
    sentence = shortage(resources, ray.nodes())
    if sentence and _is_own():
        raise ValueError(sentence)
    if sentence:
        logger.warning("%s; it waits until the cluster has such a node", sentence)


def _is_own() -> bool:
    """Tell whether this process started the cluster, which then gets no further nodes.

    Ray tells nobody; its own node is private, and without it the cluster counts as another's.
    """
    node = getattr(import_module("ray._private.worker"), "_global_node", None)
    return bool(getattr(node, "head", False))


def _outcome(ray: Any, reference: Any, task: RunTask) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # the worker died too often, or ran out of memory
        return failed(task, f"{type(error).__name__}: {error}", str(error))


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, unless this process is connected already."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, **({"log_to_driver": False} if address is None else {}))  # a client takes less
    except (ConnectionError, TimeoutError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ValueError("Ray is not installed; install the extra: pip install 'divalign[ray]'") from None
