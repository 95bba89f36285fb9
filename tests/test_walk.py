"""From README to an aligned model of one's own in three commands; a tiny random model stands in."""

import json
import re
import shlex
from pathlib import Path

import pytest

from divalign.records import RatesRecord, read_record
from tests.commands import call
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[1]
SMALL = {
    "train": "--set train.updates=2 --set train.pairs_per_update=4 --set train.pairs_per_batch=4",
    "attack": "--max-new-tokens 4",
}


def walk(page: str) -> list[str]:
    """Return a page's first commands that train, attack and judge."""
    text = (ROOT / page).read_text()
    return [re.findall(rf"^ *(divalign {verb} .+)$", text, flags=re.M)[0] for verb in ("train", "attack", "judge")]


@pytest.mark.parametrize("page", ["README.md", "docs/align-your-own-model.md"])
def test_three_commands_lead_to_an_aligned_model_and_its_rates(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny("Llama", tmp_path / "MODEL")
    rows = [{"prompt": f"how {n}", "chosen": f"no {n}", "rejected": f"yes {n}"} for n in range(8)]
    Path("ROWS.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("PROMPTS.csv").write_text("prompt,harmful\nwhat is bad,true\nwhat is good,false\n")
    for command in walk(page):
        words = shlex.split(command.replace(",gcg", ""))[1:]  # a search for suffixes takes minutes
        assert call(monkeypatch, *words, *shlex.split(SMALL.get(words[0], "")), "--quiet") == 0
    assert Path("runs/mine/model.json").is_file()
    rates = read_record(Path("runs/attack/rates.json"), RatesRecord)
    assert rates.judges[0].responses >= 3
