"""Several processes train as one does: DDP and FSDP2 over gloo on CPUs, float64, uneven batches, a rare class."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.commands import make_world
from tests.zygote import ENVIRONMENT, Zygote

EXACT = 1e-6  # relative to the numbers' size; Trainer sums losses in float32


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


def launch(zygote: Zygote, folder: Path, world: int, name: str, env: dict[str, str], resumed: str | None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    sharded, logs = "ACCELERATE_USE_FSDP" in env, [folder / f"{name}-{rank}.log" for rank in range(world)]
    jobs = []
    for rank in range(world):
        place: dict[str, Any] = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world,
                                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        jobs.append(
            {
                "call": "tests.train.processes:main",
                "arguments": [str(folder), name, sharded, resumed],
                "env": {**env, **({key: str(value) for key, value in place.items()} if world > 1 else {})},
                "log": str(logs[rank]),
            }
        )
    ended = zygote.together(jobs)
    assert [entry.code for entry in ended] == [0] * world, "\n".join(log.read_text()[-3000:] for log in logs)


def environment(name: str) -> dict[str, str]:
    """Return what `accelerate launch --config_file configs/accelerate/NAME` tells its processes, but for precision."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_multi_gpu_env

    path = Path(__file__).parents[2] / "configs" / "accelerate" / f"{name}.yaml"
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(path), "--num_processes", "2", "-m", "divalign"]
    )
    arguments, *_ = _validate_launch_command(arguments)
    env = prepare_multi_gpu_env(arguments)
    told = {key: value for key, value in env.items() if key.startswith(("ACCELERATE_", "FSDP_"))}
    return {**told, "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "true"}


# What is launched: how many processes, how, and whose checkpoints they resume.
LAUNCHES: dict[str, tuple[int, str | None, str | None]] = {
    "1": (1, None, None),
    "2 ddp": (2, "ddp", "1"),
    "2 fsdp2": (2, "fsdp2", None),
    "4 ddp": (4, "ddp", "2 ddp"),
    "4 fsdp2": (4, "fsdp2", "2 fsdp2"),
}
Launched = Callable[[str], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def launched(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Return what some processes leave; each launch is made once, after those that it resumes."""
    folder = tmp_path_factory.mktemp("processes")

    def results(name: str) -> dict[str, torch.Tensor]:
        world, config, resumed = LAUNCHES[name]
        path = folder / f"{name}.safetensors"
        if resumed:
            results(resumed)
        if not path.exists():
            launch(zygote, folder, world, name, environment(config) if config else {}, resumed)
        return load_file(path)

    return results


SEVERAL = [
    pytest.param("2 fsdp2"),
    *(pytest.param(name, marks=pytest.mark.long) for name in ("2 ddp", "4 ddp", "4 fsdp2")),
]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_processes_find_what_one_finds(launched: Launched, name: str) -> None:
    """Weights, saved weights, loss, gradient norm, rewards, held-out metrics, reference: kldo, bco, kto, dpo."""
    several, single = launched(name), launched("1")
    assert len(several) >= 50
    assert single["kldo, full: log"][-1, 0] < single["kldo, full: log"][0, 0] - 0.01  # training moves the weights
    apart = {}
    for key, value in several.items():
        expected = single[key.replace(", resumed", "")]  # resumed or not, the same comes out
        apart[key] = float((value - expected).norm() / expected.norm())
    assert max(apart.values()) < EXACT, {key: value for key, value in apart.items() if not value < EXACT}
    resumed = [key for key in several if "resumed" in key]
    assert len(resumed) == (10 if LAUNCHES[name][2] else 0)


def finished(command: list[str], *, cut: Path | None = None) -> tuple[int, str]:
    """Run a command to its end, or send it SIGTERM once a folder is there; return its exit code and its words."""
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while cut is not None and not cut.exists() and process.poll() is None:
        time.sleep(0.01)
    if cut is not None:
        process.send_signal(signal.SIGTERM)
    words, _ = process.communicate(timeout=600)
    return process.returncode, " ".join(words.split())


@pytest.mark.long
def test_launchers_start_the_verb_and_sigterm_lets_every_process_save(tmp_path: Path) -> None:
    """torchrun with two, stopped by SIGTERM and resumed by `accelerate launch` with one, equals one process."""
    world = make_world(tmp_path)
    python = [sys.executable, "-m"]
    torchrun = [*python, "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "divalign"]
    config = Path(__file__).parents[2] / "configs" / "accelerate" / "one_gpu.yaml"
    accelerate = [
        *python,
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--cpu",
        "--mixed_precision",
        "no",
    ]
    whole, out = tmp_path / "whole", tmp_path / "out"
    longer = "train.updates=60"
    assert finished([*python, "divalign", *world.train(whole, longer)])[0] == 0
    code, words = finished([*torchrun, *world.train(out, longer)], cut=out / "work" / "checkpoint-6")
    assert code != 0
    assert words.count("which is saved; the same command resumes") == 2, words[-3000:]
    code, words = finished([*accelerate, "-m", "divalign", *world.train(out, longer)])
    assert code == 0, words[-3000:]
    start, expected, weights = (
        load_file(folder / "model.safetensors") for folder in (world.model, whole / "checkpoint", out / "checkpoint")
    )
    moved, apart = (
        float(torch.cat([(first[name] - expected[name]).flatten() for name in expected]).norm())
        for first in (start, weights)
    )
    assert apart < 0.01 * moved  # float32, and Adam divides by small sums that are in another order


def test_every_accelerate_configuration_is_one_that_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    folder = Path(__file__).parents[2] / "configs" / "accelerate"
    kinds = {path.stem: load_config_from_file(str(path)).distributed_type.value for path in folder.glob("*.yaml")}
    assert kinds == {"one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
