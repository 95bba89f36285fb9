"""Every command of the documentation is run: as it stands, but for the small stand-ins that are named here."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from divalign.config import load_config
from divalign.data.everyday import read_everyday
from divalign.study.run import run
from divalign.toy.world import requests
from tests.commands import call
from tests.lm.fake_server import Fake
from tests.lm.gguf_files import write_gguf
from tests.report.runs import write_run
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?: {4})+((?:divalign|accelerate|python -m|vllm|tensorboard) \S.*)$", flags=re.M)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)

SMALLER = {  # what takes minutes or a download, and what is run in its place
    "advbench+alpaca --folder FOLDER": "toy",
    "jailbreakbench:FOLDER": "PROMPTS.csv",
    "advbench.csv": "PROMPTS.csv",
    ",gcg": "",
    "direct,prefill,wrapper,refusal_suppression,prefix_injection,base64,rot13,leetspeak,many_shot,best_of_n(25)": (
        "direct,base64,best_of_n(2)"
    ),
    "cr-kldo --prompts toy": "cr-kldo --prompts PROMPTS.csv",
    "--gcg-steps 20 --gcg-prompts 100": "--gcg-steps 1 --gcg-prompts 1",
    "train.updates=120 --set data.n_train=768": "train.updates=2",
    "RUN/models/": "runs/tour/models/",
    "runs/real_study/runs/long-anchor/models/cr-kldo --attacks gcg --gcg-steps 50 --gcg-width 64": (
        "MODEL --attacks gcg --gcg-steps 1 --gcg-width 8 --gcg-prompts 1"
    ),
    "runs/paper/runs/Qwen2.5-1.5B-cr-corrected/models/cr-kldo-seed0": "MODEL",
    "data.source=advbench+alpaca": "data.source=toy --set data.answers=source",
    "train.lora={rank: 16}": "train.lora={rank: 2}",
    "model.device=cuda": "model.device=cpu",
}
SIZE = "train.updates=2 train.warmup_updates=0 train.pairs_per_update=8 train.pairs_per_batch=4"
SET = "data.recipes=[cr] data.n_train=24 data.n_test=24 data.n_held_out=20"
RUN = f"{SIZE} train.methods=[kldo,dpo] train.seeds=[0] {SET}"
MEASURE = "measure.max_new_tokens=4 measure.gcg=null measure.attacks=[direct,prefill]"
OPTIONS = {  # what is added to each verb, so that it takes a second or two
    "train": "--quiet " + " ".join(f"--set {one}" for one in f"{SIZE} data.n_train=24".split()),
    "run": "--quiet " + " ".join(f"--set {one}" for one in f"{RUN} {MEASURE}".split()),
    "attack": "--max-new-tokens 4 --quiet",
    "judge": "--quiet",
    "separate": "--quiet",
}
ELSEWHERE = {  # commands that need several processes, other programs or models of others: the test of what they do
    "divalign sweep configs/study.yaml --out runs/study --on ray": "tests/cluster/test_on_ray.py",
    "divalign sweep configs/paper/sweep.yaml --out runs/paper --on ray": "tests/cluster/test_on_ray.py",
    "divalign run CONFIG --out runs/large --on ray": "tests/cluster/test_on_ray.py",
    "divalign train CONFIG --method kldo --out runs/large-kldo --on ray": "tests/cluster/test_on_ray.py",
    "divalign sweep configs/paper/sweep.yaml --random-weights": "tests/forecast/test_paper_configs.py",
    "divalign sweep configs/paper/sweep.yaml --dry-run": "tests/forecast/test_paper_configs.py",
    "divalign sweep configs/": "tests/study/test_sweep.py",
    "divalign sweep runs/real_study/sweep.yaml": "tests/study/test_sweep.py",
    "divalign report runs/real_study --claims": "tests/report/test_claims.py",
    "divalign run configs/recipes.yaml": "tests/study/test_run.py",
    "divalign run --set 'measure.attacks=[direct,prefill,best_of_n(5)]'": "tests/study/test_run_equals_verbs.py",
    "divalign judge runs/advbench --judge harmbench_13b": "tests/safety/test_model_judges.py",
    "divalign judge DIR --judge strongreject_finetuned": "tests/safety/test_model_judges.py",
    "divalign judge DIR --judge harmbench_7b": "tests/safety/test_model_judges.py",
    "divalign lab": "tests/lab",
    "accelerate launch": "tests/train/test_processes.py",
    "python -m bench.": "tests/bench",
    "vllm serve": "tests/lm/test_server.py",
    "tensorboard": "tests/stages/test_tracking.py",
}


def all_commands(page: str) -> list[str]:
    """Return the commands of a page's blocks, indented or fenced."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    text = FENCED.sub(lambda block: re.sub("^", "    ", block[2], flags=re.M) if block[1] in ("", "bash") else "", text)
    return [re.sub(r"\s+#.*", "", line).strip() for line in COMMAND.findall(text)]


def commands(page: str) -> list[str]:
    """Return the commands of a page's blocks, without those that are run elsewhere."""
    lines = all_commands(page)
    return [line for line in lines if not line.startswith(tuple(ELSEWHERE))]


def run_all(monkeypatch: pytest.MonkeyPatch, lines: list[str], more: dict[str, str] | None = None) -> dict[str, int]:
    """Run commands in order, with their stand-ins, and return their exit codes."""
    codes = {}
    for line in lines:
        small = line
        for here, stand_in in {**SMALLER, **(more or {})}.items():
            small = small.replace(here, stand_in)
        words = shlex.split(small)[1:]
        codes[" ".join(line.split())] = call(monkeypatch, *words, *shlex.split(OPTIONS.get(words[0], "")))
    return codes


def save_rows(path: Path, prompts: list[Any]) -> None:
    rows = [{"prompt": row.prompt, "chosen": "I would rather not.", "rejected": "Gladly, yes."} for row in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the embedded model, small."""
    folder = tmp_path_factory.mktemp("tour") / "tour"
    run(load_config(None, [*RUN.split(), *MEASURE.split()]), folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tour: Path) -> Path:
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


OWN_TEST = ("README.md", "docs/red-team-your-own-model.md", "docs/data.md", "docs/report.md")
OTHERS = [page for page in PAGES if page not in OWN_TEST and commands(page)]


@pytest.mark.parametrize("page", OTHERS)
def test_the_commands_of_a_page_run(page: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    given = {"http://localhost:8000/v1": fake.url}
    assert {line: code for line, code in run_all(monkeypatch, commands(page), given).items() if code} == {}


def test_what_is_run_elsewhere_is_named_on_a_page_and_has_its_test() -> None:
    lines = [line for page in PAGES for line in all_commands(page)]
    for start, test in ELSEWHERE.items():
        assert any(line.startswith(start) for line in lines), start
        assert (ROOT / test).exists(), test
