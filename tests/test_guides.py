"""Every command of the documentation is run: as it stands, but for the small stand-ins that are named here."""

import csv
import gc
import json
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from divalign.config import load_config
from divalign.core.losses import METHODS
from divalign.data.everyday import read_everyday
from divalign.lab.worlds import draw_worlds
from divalign.stages.train import Trainer, train
from divalign.study.run import run
from divalign.study.sweep_config import Resources, load_sweep, planned_runs
from divalign.study.sweep_runs import Execute, in_turn
from divalign.toy.world import requests
from tests.commands import call
from tests.lm.fake_server import Fake
from tests.lm.gguf_files import write_gguf
from tests.report.claim_sweeps import sweep as planted_sweep
from tests.report.claim_sweeps import write_record
from tests.report.runs import write_run
from tests.tiny import save_tiny
from tests.zygote import ENVIRONMENT

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?: {4})+((?:divalign|accelerate|python -m|sbatch|vllm|tensorboard) \S.*)$", flags=re.M)
MAKE = re.compile(r"^(?: {4})*(make \S.*?)(?:\s+#.*)?$", flags=re.M)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)

SMALLER = {  # what takes minutes, a download, other programs or processes, and what is run in its place
    "advbench+alpaca --folder FOLDER": "toy",
    "jailbreakbench:FOLDER": "PROMPTS.csv",
    "advbench.csv": "PROMPTS.csv",
    ",gcg": "",
    "direct,prefill,wrapper,refusal_suppression,prefix_injection,base64,rot13,leetspeak,many_shot,best_of_n(25)": (
        "direct,base64,best_of_n(2)"
    ),
    "best_of_n(5)": "best_of_n(2)",
    "--max-new-tokens 32": "--max-new-tokens 4",
    "cr-kldo --prompts toy": "cr-kldo --prompts PROMPTS.csv",
    "--gcg-steps 20 --gcg-prompts 100": "--gcg-steps 1 --gcg-prompts 1",
    "train.updates=120 --set data.n_train=768": "train.updates=2",
    "train.updates=300": "train.updates=2",
    "data.n_train=384 --set data.n_test=96": "data.n_train=24 --set data.n_test=24",
    "train.updates=48": "train.updates=2",
    "RUN/models/": "runs/tour/models/",
    "runs/real_study/runs/long-anchor/models/cr-kldo --attacks gcg --gcg-steps 50 --gcg-width 64": (
        "MODEL --attacks gcg --gcg-steps 1 --gcg-width 8 --gcg-prompts 1"
    ),
    "runs/paper/runs/Qwen2.5-1.5B-cr-corrected/models/cr-kldo-seed0": "MODEL",
    "sweep runs/real_study/sweep.yaml": "sweep runs/real_study/sweep.yaml --set run.data.folder=FOLDER",
    "report runs/real_study": "report runs/planted",
    "data.source=advbench+alpaca": "data.source=toy --set data.answers=source",
    "train.lora={rank: 16}": "train.lora={rank: 2}",
    "model.device=cuda": "model.device=cpu",
    "--set 'train.seeds=[K]'": "--set train.seeds=[0] --set data.recipes=[ranked_refusals] --set train.methods=[kldo]",
    "run CONFIG": "run CONFIG --set data.recipes=[cr] --set train.methods=[kldo]",
    "measure.judge=refusal_rubric": "data.recipes=[cr] --set train.methods=[kldo] --set measure.judge=refusal_rubric",
    "run.data.folder=FOLDER": "run.data.folder=FOLDER --set run.model.source=toy",
    "--random-weights": "--random-weights --set run.model.source=Qwen/Qwen2.5-1.5B",
    "--worlds 20": "--worlds 1",
    "harmbench_13b --question FILE": "harmbench_13b@MODEL --question QUESTION",
    "strongreject_finetuned@qylu4156/strongreject-15k-v1": "strongreject_finetuned@MODEL",
    "--judge harmbench_7b --judge wildguard": "--judge harmbench_7b@MODEL --judge wildguard@MODEL",
    "FILE --dtype": "QUESTION --dtype",
    "harmbench_7b=FILE --question wildguard=FILE": "harmbench_7b=QUESTION --question wildguard=QUESTION",
    "$SLURM_ARRAY_TASK_ID/20": "1/20",
}
SIZE = "train.updates=2 train.warmup_updates=0 train.pairs_per_update=8 train.pairs_per_batch=4"
SET = "data.recipes=[cr] data.n_train=24 data.n_test=24 data.n_held_out=20"
RUN = f"{SIZE} train.methods=[kldo,dpo] train.seeds=[0] {SET}"
MEASURE = "measure.max_new_tokens=4 measure.gcg=null measure.attacks=[direct,prefill]"
SWEEP = (  # one run of one model; the keys of a run stand under `run`
    "draws=100",
    "grid={length: {short: {train.updates: 1}}}",
    "controls={}",
    "abliterate=null",
    "run.data={recipes: [cr], n_train: 16, n_test: 20, n_held_out: 20}",
    "run.train={methods: [kldo], methods_on: {}, warmup_updates: 0, pairs_per_update: 4, pairs_per_batch: 4}",
    "run.measure={attacks: [direct], max_new_tokens: 4, divergences: [js]}",
)
SWEEPS = tuple(  # pages that name the same sweeps, in this order
    f"docs/{page}.md" for page in ("study", "cluster", "paper", "real-study-protocol", "real-study")
)
LAB = ("kldo", "bco", "hdo", "dpo")  # the methods that the lab examines here, in a world of two prompts


def settings(*overrides: str) -> list[str]:
    """Return `--quiet` and the options that set these keys."""
    return ["--quiet", *(word for override in overrides for word in ("--set", override))]


OPTIONS = {  # what is added to each verb before its own options, so that it takes a few seconds at most
    "train": settings(*SIZE.split(), "data.n_train=24"),
    "run": settings(*RUN.split(), *MEASURE.split()),
    "sweep": settings(*SWEEP),
    "attack": ["--max-new-tokens", "4", "--quiet"],
    "judge": ["--quiet"],
    "separate": ["--quiet"],
}
ELSEWHERE = {  # what is not run here: the test, and its words that show that it does the same
    # Here it would take 15 seconds more.
    "divalign sweep configs/paper/sweep.yaml --dry-run": (
        "tests/forecast/test_paper_configs.py",
        '["divalign", "sweep", str(SWEEP), "--dry-run"]',
    ),
    # No test starts vLLM: the client meets a server of ours on the loopback that answers by the same protocol.
    "vllm serve": ("tests/lm/test_server.py", 'set(fake.paths) == {"/v1/chat/completions"}'),
}
RUN_SMALLER = {  # what is run here in part, and the words of the test that runs the rest
    # Ray is replaced by this process here; that test skips where Ray is not installed.
    "divalign sweep configs/study.yaml --out runs/study --on ray": (
        "tests/cluster/test_on_ray.py",
        'sweep(plan, tmp_path / "ray", execute=ray_executor("ray"))',
    ),
    "--on ray --workers 4": ("tests/cluster/test_on_ray.py", 'RayTraining("ray", 2)'),
    # accelerate reads the line and its file here, and what it would start runs in one process; several processes train
    # there, as this file tells them, and a test marked "long" runs the launcher. All on CPUs: no test shards over GPUs.
    "accelerate launch --config_file configs/accelerate/fsdp2.yaml": ("tests/train/test_processes.py", '"2 fsdp2": (2'),
    # The sweeps are of one run here; there the whole grids are planned, and two of the architectures walked.
    "divalign sweep configs/study.yaml": ("tests/study/test_sweep.py", '"study.yaml"'),
    "divalign sweep configs/real_study.yaml": ("tests/study/test_sweep.py", '"real_study.yaml", ["run.data.folder='),
    "divalign sweep configs/paper/sweep.yaml --random-weights": (
        "tests/forecast/test_paper_configs.py",
        "with_random_weights(plan.model_copy",
    ),
    # A random model judges here and answers nonsense; no test has the weights of these judges.
    "--judge harmbench_13b": ("tests/safety/test_model_judges.py", '("harmbench_13b", "Yes", UNSAFE)'),
    "--judge harmbench_7b": ("tests/safety/test_model_judges.py", '("harmbench_7b", "no.", SAFE)'),
    "--judge strongreject_finetuned": ("tests/stages/test_open_judge.py", 'f"strongreject_finetuned@{folder}"'),
    "divalign lab": ("tests/lab/test_claims.py", "free_critic(draw_worlds(2, seed=1))"),  # over all methods
}


def all_commands(page: str) -> list[str]:
    """Return the commands of a page's blocks, indented or fenced."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    text = FENCED.sub(lambda block: re.sub("^", "    ", block[2], flags=re.M) if block[1] in ("", "bash") else "", text)
    return [" ".join(re.sub(r"\s+#.*", "", line).split()) for line in COMMAND.findall(text)]


def commands(page: str) -> list[str]:
    """Return the commands of a page's blocks, without those that are run elsewhere."""
    return [line for line in all_commands(page) if not line.startswith(tuple(ELSEWHERE))]


def run_all(monkeypatch: pytest.MonkeyPatch, lines: list[str], more: dict[str, str] | None = None) -> dict[str, int]:
    """Run commands in order, with their stand-ins, and return their exit codes."""
    codes = {}
    for line in lines:
        small = line
        for here, stand_in in {**SMALLER, **(more or {})}.items():
            small = small.replace(here, stand_in)
        codes[line] = run_words(monkeypatch, shlex.split(small))
    return codes


def run_words(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    """Run one command and return its exit code; of programs of others the process is their own."""
    return {
        "divalign": lambda: run_verb(monkeypatch, words[1:]),
        "python": lambda: run_module(monkeypatch, words[2:]),
        "sbatch": lambda: run_words(monkeypatch, shlex.split(words[-1])),  # one job of its array
        "accelerate": lambda: run_verb(monkeypatch, launched(words[2:])),
        "tensorboard": lambda: show_board(words[1:]),
    }[words[0]]()


def run_verb(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    return call(monkeypatch, words[0], *OPTIONS.get(words[0], []), *words[1:])


def run_module(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    """Run `python -m MODULE ... > FILE`; 0 where the file is not empty."""
    *words, _, file = words
    monkeypatch.setattr(sys, "argv", words)
    with Path(file).open("w") as stream, redirect_stdout(stream):
        runpy.run_module(words[0], run_name="__main__")
    return int(not Path(file).stat().st_size)


def launched(words: list[str]) -> list[str]:
    """Return what `accelerate launch` would start in each of its processes: of divalign, the verb and its options."""
    options, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert options.module
    assert options.training_script == "divalign"
    return options.training_script_args


def show_board(words: list[str]) -> int:
    """Start TensorBoard on a free port of the loopback; 0 where it shows the loss of the folder's run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tensorboard.main", *words, "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen([*command, "--load_fast=false"], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    address, deadline = f"http://127.0.0.1:{port}/data/plugin/scalars/tags", time.monotonic() + 120
    try:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(httpx2.HTTPError):
                if "train/loss" in httpx2.get(address, trust_env=False).text:
                    return 0
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    return 1


def save_rows(path: Path, prompts: list[Any]) -> None:
    rows = [{"prompt": row.prompt, "chosen": "I would rather not.", "rejected": "Gladly, yes."} for row in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Keep what the imports left out of garbage collections: a training makes three, of half a second each."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the embedded model, small."""
    folder = tmp_path_factory.mktemp("tour") / "tour"
    run(load_config(None, [*RUN.split(), *MEASURE.split()]), folder)
    return folder


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Let this process stand in for Ray's cluster; return where work was sent, and to how many workers."""
    sent: list[tuple[str, int]] = []

    def executor(where: str) -> Execute:
        sent.append((where, 1))
        return in_turn

    def trainer(where: str, workers: int) -> Trainer:
        sent.append((where, workers))
        return train

    monkeypatch.setattr("divalign.cluster.on_ray.ray_executor", executor)
    monkeypatch.setattr("divalign.cluster.on_ray.on_cluster", trainer)
    return sent


@pytest.fixture
def small_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divalign.lab.claims.METHODS", {name: METHODS[name] for name in LAB})
    monkeypatch.setattr("divalign.lab.claims.draw_worlds", partial(draw_worlds, prompts=2, responses=3, rows=6))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tour: Path, cluster: Any, small_lab: None) -> Path:
    """A folder with everything that the pages take as given, under the names that they use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where completion is installed
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # a runner of tests may have none
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_tiny("Llama", tmp_path / "MODEL")
    write_gguf(tmp_path / "FILE.gguf")
    prompts = read_everyday("test")
    for name, part in (("ROWS.jsonl", prompts[:24]), ("HELD_OUT.jsonl", prompts[24:64]), ("OTHER.jsonl", prompts[:8])):
        save_rows(tmp_path / name, part)
    for name in ("PROMPTS.csv", "FILE"):
        with Path(name).open("w", newline="") as file:
            rows = [(row.prompt, str(row.harmful).lower()) for row in prompts[64:104]]
            csv.writer(file).writerows([("prompt", "harmful"), *rows])
    trained_on = [request.prompt for request in requests("train", held_out=False)][:40]
    Path("EVAL.csv").write_text("".join(f'"{line}"\n' for line in ("prompt", *trained_on)))
    Path("EVAL.txt").write_text("What is the best way to water a fern?\n")
    Path("QUESTION").write_text("Request: {prompt}\nAnswer: {response}\nGrade: ")
    Path("CONFIG").write_text((ROOT / "configs/short.yaml").read_text())
    Path("configs").symlink_to(ROOT / "configs")
    Path("docs").mkdir()
    Path("runs").mkdir()
    Path("runs/tour").symlink_to(tour)
    return tmp_path


def test_the_commands_of_readme_run_in_their_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = run_all(monkeypatch, commands("README.md"))
    verdict = codes.pop("divalign data audit ROWS.jsonl")
    assert verdict == 1  # the two sides of these rows differ in their words alone, and the audit says so
    assert set(codes.values()) == {0}
    assert {path.name for path in Path("runs").iterdir()} == {"tour", "mine", "separation", "attack"}


def test_the_guide_to_red_teaming_runs_on_a_model_and_on_a_server(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    codes = run_all(monkeypatch, commands("docs/red-team-your-own-model.md"), {"http://localhost:8000/v1": fake.url})
    assert set(codes.values()) == {0}
    assert len(fake.asked) >= 40
    assert Path("runs/served/rates.json").is_file()


def test_the_guide_to_data_builds_audits_converts_and_splits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = run_all(monkeypatch, commands("docs/data.md"))
    found = [code for line, code in codes.items() if line.startswith(("divalign data audit", "divalign data overlap"))]
    assert found == [1, 1]  # EVAL.csv holds prompts that are trained on
    assert {code for line, code in codes.items() if line.split()[2] in ("build", "convert", "split")} == {0}
    assert Path("card.html").is_file()
    assert len(list(Path("parts").glob("*.jsonl"))) == 2


def test_the_commands_of_the_page_on_reports_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("v1", "v2", "v3", "tour"):
        write_run(tmp_path / "runs" / name)
    compare, check, card = run_all(monkeypatch, commands("docs/report.md"), {"cr-kldo": "kldo-cr"}).values()
    assert (compare, check, card) == (0, 1, 0)  # the made-up models fail the check, and the file says which
    assert Path("runs/v3/comparison.html").is_file()
    assert "<failure" in Path("check.xml").read_text()


def test_the_workflow_of_the_page_on_reports_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/report.md").read_text(), flags=re.M | re.S)[0]
    steps = [step["run"] for step in yaml.safe_load(workflow)["jobs"]["gate"]["steps"] if "run" in step]
    made, checked = run_all(monkeypatch, [step for step in steps if step.startswith("divalign")]).values()
    assert (made, checked) == (0, 1)  # a model of two updates fails the gate
    assert "<failure" in Path("gate.xml").read_text()


def test_the_loop_of_the_page_on_separation_takes_directions_out(here: Path, capsys: pytest.CaptureFixture) -> None:
    page = (ROOT / "docs/separation.md").read_text()
    block = next(one for one in re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S) if "rounds" in one)
    exec(block.replace("(1, 2, 4, 6)", "(1, 2)").replace("max_new_tokens=32", "max_new_tokens=4"), {})
    rates = dict(map(float, line.split()) for line in capsys.readouterr().out.splitlines())
    assert rates.keys() == {1, 2}
    assert all(0 <= rate <= 1 for rate in rates.values())


def test_the_pages_on_sweeps_run_and_send_work_to_ray(
    here: Path, cluster: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder, where the same sweep is found done."""
    write_record(Path("runs/planted"), planted_sweep(Path("runs/planted"), own=4.0, difference=0.8))
    lines = [line for page in SWEEPS for line in commands(page)]
    assert set(run_all(monkeypatch, lines).values()) == {0}
    assert cluster == [("ray", 1), ("ray", 4), ("ray", 4), ("ray", 1)]
    assert {path.name for path in Path("docs").glob("*.md")} >= {"study.md", "real-study.md"}
    assert {path.name for path in Path("runs").iterdir()} >= {"study", "paper", "paper-random", "advbench", "gcg"}
    assert Path("runs/large/results.json").is_file()
    assert Path("runs/large-kldo/checkpoint").is_dir()


def test_the_resources_of_the_page_on_clusters_are_those_of_runs(tmp_path: Path) -> None:
    block = re.findall(r"^    (resources:.*\n(?:    .+\n)+)", (ROOT / "docs/cluster.md").read_text(), flags=re.M)[0]
    sweep = yaml.safe_load((ROOT / "configs/paper/sweep.yaml").read_text())
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**sweep, **yaml.safe_load(block)}))
    runs = {planned.name: planned.resources for planned in planned_runs(load_sweep(tmp_path / "sweep.yaml"))}
    assert runs["Mistral-7B-cr-corrected"] == Resources(cpus=8, gpus=1)
    assert runs["gemma-2-2b-cr-corrected"] == Resources(cpus=4, gpus=1)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_knows_how_to_make_what_the_pages_name() -> None:
    lines = {line for page in [*PAGES, "CONTRIBUTING.md"] for line in MAKE.findall((ROOT / page).read_text())}
    assert {"make tour", "make test", "make faults TIMES=10"} <= lines
    for line in lines:  # -n: says what would be done
        subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


OWN_TEST = ("README.md", "docs/red-team-your-own-model.md", "docs/data.md", "docs/report.md", *SWEEPS)
OTHERS = [page for page in PAGES if page not in OWN_TEST and commands(page)]


@pytest.mark.parametrize("page", OTHERS)
def test_the_commands_of_a_page_run(page: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    given = {"http://localhost:8000/v1": fake.url, "refusal_rubric@MODEL": f"refusal_rubric@{fake.url}#MODEL"}
    assert {line: code for line, code in run_all(monkeypatch, commands(page), given).items() if code} == {}


def test_every_stand_in_is_of_a_command_and_every_other_test_does_the_same() -> None:
    lines = [line for page in PAGES for line in all_commands(page)]
    for part in (*SMALLER, *ELSEWHERE, *RUN_SMALLER):
        assert any(part in line for line in lines), part
    for test, words in (*ELSEWHERE.values(), *RUN_SMALLER.values()):
        assert words in (ROOT / test).read_text(), words
