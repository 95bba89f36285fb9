"""Several processes train as one does: DDP and FSDP2 over gloo on CPUs, float64, uneven batches, a rare class."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.commands import make_world
from tests.zygote import ENVIRONMENT, Zygote

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
WHOLE = "checkpoint"  # where a finished training leaves its model
EXACT = 1e-6  # relative to the numbers' size; Trainer sums losses in float32


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


def places(world: int) -> list[dict[str, str]]:
    """Return what tells each process of a launch its place; nothing where it is alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**told, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {} for rank in range(world)]


def launch(zygote: Zygote, folder: Path, world: int, name: str, env: dict[str, str], resumed: str | None) -> None:
    sharded, logs = "ACCELERATE_USE_FSDP" in env, [folder / f"{name}-{rank}.log" for rank in range(world)]
    jobs = [
        {
            "call": "tests.train.processes:main",
            "arguments": [str(folder), name, sharded, resumed],
            "env": {**env, **place},
            "log": str(log),
        }
        for place, log in zip(places(world), logs, strict=True)
    ]
    ended = zygote.together(jobs)
    assert [entry.code for entry in ended] == [0] * world, "\n".join(log.read_text()[-3000:] for log in logs)


def environment(name: str) -> dict[str, str]:
    """Return what `accelerate launch --config_file configs/accelerate/NAME` tells its processes, but for precision."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_multi_gpu_env

    path = CONFIGS / f"{name}.yaml"
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
    *(pytest.param(name) for name in ("2 ddp", "2 fsdp2")),
    *(pytest.param(name, marks=pytest.mark.long) for name in ("4 ddp", "4 fsdp2")),
]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_processes_find_what_one_finds(launched: Launched, name: str) -> None:
    """Weights, saved weights, loss, gradient norm, rewards, held-out metrics, reference: kldo, bco, kto, dpo."""
    several, single = launched(name), launched("1")
    assert len(several) >= 50
    assert single["kldo, full: log"][-1, 0] < single["kldo, full: log"][0, 0] - 0.01  # training moves the weights
    apart = {}
    for key, value in several.items():
        if key.startswith("released"):
            continue
        expected = single[key.replace(", resumed", "")]  # resumed or not, the same comes out
        apart[key] = float((value - expected).norm() / expected.norm())
    assert max(apart.values()) < EXACT, {key: value for key, value in apart.items() if not value < EXACT}
    resumed = [key for key in apart if "resumed" in key]
    assert len(resumed) == (10 if LAUNCHES[name][2] else 0)


@pytest.mark.parametrize("name", ["1", "2 ddp", pytest.param("4 ddp", marks=pytest.mark.long)])
def test_the_released_average_of_each_process_survives_a_stop(launched: Launched, name: str) -> None:
    found = launched(name)
    for part in ("weights", "log"):
        whole, resumed = (found[f"released {kind}: {part}"] for kind in ("whole", "resumed"))
        assert (whole - resumed).norm() <= 1e-12 * whole.norm()


def finished(command: list[str], *, cut: Path | None = None, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end, or send it SIGTERM once a folder is there; return its exit code and its words."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env={**ENVIRONMENT, **(env or {})}, **pipes)
    while cut is not None and not cut.exists() and process.poll() is None:
        time.sleep(0.01)
    if cut is not None:
        process.send_signal(signal.SIGTERM)
    words, _ = process.communicate(timeout=600)
    return process.returncode, " ".join(words.split())


def distance(start: Path, expected: Path, found: Path) -> float:
    """Return how far apart two trainings' weights are, against how far the first moved them from the start."""
    first, second = (load_file(path) for path in (expected, found))
    base = load_file(start) if start.exists() else {name: torch.zeros(()) for name in first}  # an adapter starts near 0
    assert first.keys() == second.keys()
    apart, moved = (
        float(torch.cat([(first[name] - other[name]).flatten() for name in first]).norm()) for other in (second, base)
    )
    return apart / moved


@pytest.mark.long
def test_launchers_start_the_verb_and_sigterm_lets_every_process_save(tmp_path: Path) -> None:
    """torchrun with two, stopped by SIGTERM and resumed by `accelerate launch` with one, equals one process."""
    world = make_world(tmp_path)
    python = [sys.executable, "-m"]
    torchrun = [*python, "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "divalign"]
    config = CONFIGS / "one_gpu.yaml"
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
    start, expected, found = (folder / "model.safetensors" for folder in (world.model, whole / WHOLE, out / WHOLE))
    assert distance(start, expected, found) < 0.01  # float32, and Adam divides by small sums that are in another order


@pytest.mark.long
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install deepspeed")
@pytest.mark.parametrize("lora", ["null", "{rank: 2}"])
def test_deepspeed_stopped_within_an_epoch_and_resumed_equals_one_process(tmp_path: Path, lora: str) -> None:
    """ZeRO-3 on two processes, by the verb; DeepSpeed trains on CPUs in float32."""
    world, verb = make_world(tmp_path), [sys.executable, "-m", "divalign"]
    settings = ("train.updates=16", f"train.lora={lora}")
    name = "model.safetensors" if lora == "null" else "adapter_model.safetensors"
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert finished([*verb, *world.train(whole, *settings)])[0] == 0
    launch = [*verb[:2], "accelerate.commands.launch", "--config_file", str(CONFIGS / "zero3.yaml")]
    launch += ["--num_processes", "2", "--mixed_precision", "no", *verb[1:]]
    for cut in (out / "work" / "checkpoint-6", None):  # the first of three updates of an epoch is the seventh
        command = [*launch, *world.train(out, *settings)]
        code, words = finished(command, cut=cut, env={"DS_ACCELERATOR": "cpu"})
        assert (code != 0, words.count("the same command resumes")) == ((True, 2) if cut else (False, 0)), words[-3000:]
        if cut:
            code, words = finished([*verb, *world.train(out, *settings)])
            assert code == 2, words[-3000:]
            assert "has weights of DeepSpeed on 2 processes, and this training reads whole weights" in words
    assert distance(world.model / name, whole / WHOLE / name, out / WHOLE / name) < 0.01


def test_every_accelerate_configuration_is_one_that_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {path.stem: load_config_from_file(str(path)).distributed_type.value for path in CONFIGS.glob("*.yaml")}
    assert kinds == {"one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
