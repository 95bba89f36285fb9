"""The commands of the guides, each run as it stands but for the small stand-ins that `SMALLER` names."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from divalign.data.everyday import read_everyday
from divalign.toy.world import requests
from tests.commands import call
from tests.lm.fake_server import Fake
from tests.report.runs import write_run
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[1]
SMALLER = {  # what takes minutes or a download, and what is run in its place
    "advbench+alpaca --folder FOLDER": "toy",
    "jailbreakbench:FOLDER": "PROMPTS.csv",
    ",gcg": "",
}
OPTIONS = {
    "train": "--set train.updates=2 --set train.pairs_per_update=4 --set train.pairs_per_batch=4 --quiet",
    "attack": "--max-new-tokens 4 --quiet",
    "judge": "--quiet",
    "separate": "--quiet",
}


def commands(page: str, start: str, count: int) -> list[list[str]]:
    """Return so many commands of a page, from the first that begins with `start`, each in words."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"^ *(divalign \S.*)$", text, flags=re.M)
    first = next(number for number, line in enumerate(lines) if line.startswith(start))
    for here, stand_in in SMALLER.items():
        lines = [line.replace(here, stand_in) for line in lines]
    return [shlex.split(re.sub(r"\s#.*", "", line))[1:] for line in lines[first : first + count]]


def run_all(monkeypatch: pytest.MonkeyPatch, lines: list[list[str]]) -> dict[str, int]:
    """Run the commands in order and return their exit codes."""
    return {" ".join(words): call(monkeypatch, *words, *shlex.split(OPTIONS.get(words[0], ""))) for words in lines}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model, rows, held-out rows and prompts under the names that the pages use."""
    monkeypatch.chdir(tmp_path)
    save_tiny("Llama", tmp_path / "MODEL")
    prompts = read_everyday("test")
    for name, part in (("ROWS.jsonl", prompts[:24]), ("HELD_OUT.jsonl", prompts[24:64])):
        rows = [{"prompt": row.prompt, "chosen": "I would rather not.", "rejected": "Gladly, yes."} for row in part]
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Path("PROMPTS.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("prompt", "harmful"), *((row.prompt, str(row.harmful).lower()) for row in prompts[64:104])])
    return tmp_path


def test_the_commands_of_readme_run_in_their_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = run_all(monkeypatch, commands("README.md", "divalign data audit", 6))
    verdict = codes.pop("data audit ROWS.jsonl")
    assert verdict == 1  # the two sides of these rows differ in their words alone, and the audit says so
    assert set(codes.values()) == {0}
    assert {path.name for path in Path("runs").iterdir()} == {"mine", "separation", "attack"}


def test_the_guide_to_red_teaming_runs_on_a_model_and_on_a_server(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    lines = commands("docs/red-team-your-own-model.md", "divalign attack", 4)
    lines = [[word.replace("http://localhost:8000/v1", fake.url) for word in words] for words in lines]
    assert set(run_all(monkeypatch, lines).values()) == {0}
    assert len(fake.asked) >= 40
    assert Path("runs/served/rates.json").is_file()


def test_the_guide_to_data_builds_audits_converts_and_splits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on = [request.prompt for request in requests("train", held_out=False)][:40]
    Path("EVAL.csv").write_text("".join(f'"{line}"\n' for line in ("prompt", *trained_on)))
    Path("EVAL.txt").write_text("What is the best way to water a fern?\n")
    codes = run_all(monkeypatch, commands("docs/data.md", "divalign data build", 5))
    found = [code for line, code in codes.items() if line.startswith(("data audit", "data overlap"))]
    assert found == [1, 1]  # EVAL.csv holds prompts that are trained on
    assert {code for line, code in codes.items() if line.split()[1] in ("build", "convert", "split")} == {0}
    assert Path("card.html").is_file()
    assert len(list(Path("parts").glob("*.jsonl"))) == 2


def test_the_commands_of_the_page_on_reports_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("v1", "v2", "v3", "tour"):
        write_run(tmp_path / "runs" / name)
    compare, check, card = commands("docs/report.md", "divalign report runs/v1", 3)
    assert call(monkeypatch, *compare) == 0
    assert Path("runs/v3/comparison.html").is_file()
    assert call(monkeypatch, *check) == 1  # the made-up models fail it, and the file says which
    assert "<failure" in Path("check.xml").read_text()
    assert call(monkeypatch, *(word.replace("cr-kldo", "kldo-cr") for word in card)) == 0  # as the made-up run has it
