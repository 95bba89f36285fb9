"""`divalign attack` and `divalign judge` killed by SIGKILL at any moment: the resumed verdicts are the same bytes."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from divalign.data.examples import Row
from divalign.store import read_rows, write_rows
from tests.tiny import save_tiny
from tests.zygote import Zygote

KILLS = 10


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


def prompts() -> list[Row]:
    return [
        {"prompt": f"Tell me about bridge {number}", "harmful": number % 3 > 0, "cluster": f"{number // 2}"}
        for number in range(6)
    ]


def commands(out: Path, model: Path, asked: Path) -> list[list[str]]:
    attacks = ["--attacks", "direct,prefill,best_of_n(3),gcg", "--gcg-steps", "2", "--gcg-width", "4"]
    sizes = ["--max-new-tokens", "8", "--batch-size", "4", "--quiet"]
    judges = ["--judge", "refusal_strings", "--judge", "refusal_strings_paper", "--quiet"]
    return [
        ["attack", str(model), "--prompts", str(asked), "--out", str(out), *attacks, *sizes],
        ["judge", str(out), *judges],
    ]


def kept(out: Path) -> dict[str, bytes]:
    return {
        name: (out / name).read_bytes() for name in ("responses.jsonl", "verdicts.jsonl", "rates.json", "gcg.jsonl")
    }


def test_killed_at_ten_random_moments_the_verdicts_are_the_same_bytes(tmp_path: Path, zygote: Zygote) -> None:
    model, asked = save_tiny("Llama", tmp_path / "model"), tmp_path / "prompts.jsonl"
    write_rows(asked, prompts())
    for name in ("warm", "whole"):
        ended = [zygote.run(command) for command in commands(tmp_path / name, model, asked)]
        assert [code for code, _ in ended] == [0, 0]
    seconds = [took for _, took in ended]
    expected = kept(tmp_path / "whole")
    chance, killed, torn = random.Random(7), 0, 0
    for number in range(KILLS):
        out = tmp_path / str(number)
        both = commands(out, model, asked)
        # Two kills in ten fall into the judging, which is short; the others anywhere in the attack.
        which = 1 if number % 5 == 4 else 0
        if which:
            assert zygote.run(both[0])[0] == 0
        code, _ = zygote.run(both[which], kill_after=chance.uniform(0.02, 0.95) * seconds[which])
        killed += code == -signal.SIGKILL
        torn += (out / "responses.journal").is_file() and not (out / "responses.jsonl").is_file()
        for command in both:
            assert zygote.run(command)[0] == 0
        assert kept(out) == expected
    assert killed >= KILLS - 2  # a machine that is faster now than at first may end before its kill
    assert torn >= 2  # and some met an attack that had begun and had not ended


def test_a_judge_refuses_responses_that_are_unfinished(tmp_path: Path, zygote: Zygote) -> None:
    model, asked = save_tiny("Llama", tmp_path / "model"), tmp_path / "prompts.jsonl"
    write_rows(asked, prompts()[:3])
    attack, judge = commands(tmp_path / "out", model, asked)
    assert zygote.run(attack)[0] == 0
    (tmp_path / "out" / "responses.jsonl").unlink()
    assert zygote.run(judge)[0] == 2
    assert zygote.run(attack)[0] == 0
    assert zygote.run(judge)[0] == 0
    assert {row["attack"] for row in read_rows(tmp_path / "out" / "verdicts.jsonl")} >= {"direct", "gcg"}
