"""The Python blocks of the pages run as they stand, on a tiny random model and made-up states."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divalign import DivergenceConfig
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
PROMPTS = [{"id": str(n), "prompt": f"what is {n}", "harmful": n % 2 == 0} for n in range(4)]
ROWS = [{"prompt": f"how {n}", "chosen": f"no {n}", "rejected": f"yes {n}"} for n in range(4)]


def run_block(page: str, name: str, **given: Any) -> dict[str, Any]:
    """Run the block of a page that has `name` in it; return the names that it leaves."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.M | re.S)
    exec(next(block for block in blocks if name in block), given)
    return given


@pytest.fixture
def lm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tiny model and its tokenizer, and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    model, tokenizer = tiny_model()
    return {"model": model, "tokenizer": tokenizer}


def test_the_readme_trains_a_model(lm: dict[str, Any]) -> None:
    assert run_block("README.md", "trainer.train()", rows=ROWS, **lm)["trainer"].state.global_step > 0


def test_the_page_on_safety_attacks_and_judges(lm: dict[str, Any]) -> None:
    Path("runs/mine").mkdir(parents=True)
    names = run_block("docs/safety.md", "attack_prompts", prompts=PROMPTS, model_sha256="0" * 64, **lm)
    assert {row["attack"] for row in names["rows"]} >= {"direct", "prefill"}
    assert len(names["verdicts"]) == len(names["rows"])


def test_the_page_on_separation_measures_states() -> None:
    draw = np.random.default_rng(0)
    texts = {"safe_texts": [f"bake {n}" for n in range(20)], "harmful_texts": [f"break {n}" for n in range(20)]}
    states = {"safe_states": draw.normal(size=(20, 4)), "harmful_states": draw.normal(1, size=(20, 4))}
    assert run_block("docs/separation.md", "lexical_auc(", **texts, **states)["result"].bhattacharyya.value > 0


def test_the_page_on_training_watches_another_trainer(lm: dict[str, Any]) -> None:
    """The trainer of the block is TRL's; ours takes the same arguments but for the tokenizer."""
    from divalign import DivergenceTrainer

    def trainer(model: Any, args: Any, **options: Any) -> DivergenceTrainer:
        return DivergenceTrainer(model, args=args, processing_class=lm["tokenizer"], **options)

    prompts = {"harmful_prompts": ["what is bad"] * 4, "benign_prompts": ["what is good"] * 4}
    args = DivergenceConfig("out", max_steps=1, report_to=[])
    names = run_block("docs/training.md", "SafetyMonitor(", SFTTrainer=trainer, args=args, rows=ROWS, **prompts, **lm)
    assert names["monitor"].alarm is None


@pytest.mark.parametrize(
    ("page", "blocks"),
    [
        ("README.md", 1),
        ("docs/safety.md", 1),
        ("docs/separation.md", 2),
        ("docs/training.md", 1),
        ("docs/extending.md", 5),
    ],
)
def test_no_page_has_another_block(page: str, blocks: int) -> None:
    """The second of separation.md is run in test_guides.py, those of extending.md in core/test_extending.py."""
    assert (ROOT / page).read_text().count("```python\n") == blocks


def test_the_other_pages_have_none() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md") if "```python" in path.read_text()}
    assert pages == {"safety.md", "separation.md", "training.md", "extending.md"}
