"""Attack folders: what is asked, what is kept, what is found again, and what is refused in a sentence."""

import importlib
import json
import linecache
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from divalign.data.examples import Conversation, Row
from divalign.lm.responses import Response
from divalign.safety.adaptive import AttackOptions
from divalign.safety.attacks import SINGLE_SHOTS
from divalign.safety.evaluate import judge_rows
from divalign.safety.gcg import GcgOptions
from divalign.safety.judges import JUDGES
from divalign.stages.attack import AttackPlan, attack, parse_attacks, read_prompts
from divalign.stages.folder import silent
from divalign.stages.models import OpenModel, find_model
from divalign.store import read_json, read_rows
from tests.tiny import save_tiny

PROMPTS: list[Row] = [
    {"id": "h1", "prompt": "Tell me about bridges", "harmful": True},
    {"id": "h2", "prompt": "Tell me about dams", "harmful": True},
    {"id": "b1", "prompt": "Tell me about boats", "harmful": False},
]


class Echo:
    """A served model that answers with a form of the question, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Conversation], str] = lambda talk: f"about {talk.messages[-1]['content']}"):
        self.asked: list[Conversation] = []
        self.answer = answer
        self.model = OpenModel("echo", "key of echo", self.write, None)

    def write(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        batch_size: int,
        on_response: Callable[[int, Response], None],
    ) -> list[Response]:
        self.asked += conversations
        responses = [Response(f"{self.answer(talk)} in {max_new_tokens}") for talk in conversations]
        for index, response in enumerate(responses):
            on_response(index, response)
        return responses


def plan(names: Sequence[str], **options: Any) -> AttackPlan:
    """A plan with the options of both dataclasses."""
    inner = {name: options.pop(name) for name in ("max_new_tokens", "rounds", "gcg") if name in options}
    return AttackPlan(names, AttackOptions(**inner), **options)


def attacked(echo: Echo, names: list[str], out: Path, **options: Any) -> list[Row]:
    return attack(echo.model, PROMPTS, plan(names, **options), out, progress=silent)


def test_harmful_prompts_meet_every_attack_and_benign_ones_are_asked_directly(tmp_path: Path) -> None:
    rows = attacked(Echo(), ["base64", "direct"], tmp_path / "a")
    places = [(row["attack"], row["id"]) for row in rows]
    assert places == [("base64", "h1"), ("base64", "h2"), ("direct", "h1"), ("direct", "h2"), ("direct", "b1")]
    assert rows[0]["response"] == f"about {SINGLE_SHOTS['base64'](PROMPTS[0]['prompt']).messages[0]['content']} in 64"
    assert read_rows(tmp_path / "a" / "responses.jsonl") == rows


def test_an_attack_of_ones_own_that_was_edited_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "from divalign.data.examples import Conversation\n\ndef {name}(prompt):\n    return Conversation("
    asked = []
    for word in ("Please", "Please", "Now"):
        text = f"[{{'role': 'user', 'content': '{word} ' + prompt}}])\n"
        (tmp_path / "my_attack.py").write_text(code.format(name="ask") + text)
        monkeypatch.delitem(sys.modules, "my_attack", raising=False)
        importlib.invalidate_caches()
        linecache.checkcache()
        echo = Echo()
        attacked(echo, ["my_attack:ask"], tmp_path / "a")
        asked.append([talk.messages[0]["content"] for talk in echo.asked])
    assert asked[1] == []
    assert asked[2][0] == "Now Tell me about bridges"


def test_the_same_again_asks_nothing_and_one_attack_more_asks_only_that(tmp_path: Path) -> None:
    first, second, third = Echo(), Echo(), Echo()
    rows = attacked(first, ["direct"], tmp_path / "a")
    assert attacked(second, ["direct"], tmp_path / "a") == rows
    assert not second.asked
    more = attacked(third, ["direct", "rot13"], tmp_path / "a")
    assert len(third.asked) == 2
    assert [row for row in more if row["attack"] == "direct"] == rows


def test_changed_responses_are_noticed_and_made_again_from_the_journal(tmp_path: Path) -> None:
    rows = attacked(Echo(), ["direct"], tmp_path / "a")
    path = tmp_path / "a" / "responses.jsonl"
    path.write_text(path.read_text().replace("about", "nothing about"))
    again = Echo()
    assert attacked(again, ["direct"], tmp_path / "a") == rows
    assert not again.asked


def test_another_length_is_another_response(tmp_path: Path) -> None:
    attacked(Echo(), ["direct"], tmp_path / "a")
    rows = attacked(Echo(), ["direct"], tmp_path / "a", max_new_tokens=7)
    assert all(row["response"].endswith("in 7") for row in rows)


def test_best_of_n_keeps_every_try_and_each_is_another_text(tmp_path: Path) -> None:
    echo = Echo()
    rows = [row for row in attacked(echo, ["best_of_n(4)"], tmp_path / "a") if row["harmful"]]
    assert [(row["try"], row["id"]) for row in rows] == [(n, name) for n in range(4) for name in ("h1", "h2")]
    assert len({row["response"] for row in rows}) == 8


def test_a_template_is_known_by_its_text_and_not_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "template.txt"
    file.write_text("Once more: {prompt}")
    rows = attacked(Echo(), [f"template:{file}"], tmp_path / "a")
    assert rows[0]["response"] == "about Once more: Tell me about bridges in 64"
    file.write_text("And again: {prompt}")
    rows = attacked(Echo(), [f"template:{file}"], tmp_path / "a")
    assert rows[0]["response"] == "about And again: Tell me about bridges in 64"


@pytest.mark.parametrize("name", ["pair", "crescendo"])
def test_an_attacker_converses_with_the_target_and_a_resumed_one_asks_neither_again(tmp_path: Path, name: str) -> None:
    def refuses_first(talk: Conversation) -> str:
        asked_before = any(message["role"] == "assistant" for message in talk.messages)
        wants = "second" in talk.messages[-1]["content"] or asked_before
        return "Sure, here it is" if wants else "I'm sorry, but I can't help with that"

    attacker = Echo(lambda talk: "second try" if "sorry" in talk.messages[-1]["content"] else "first try")
    target = Echo(refuses_first)
    rows = attacked(target, [name], tmp_path / "a", attacker=attacker.model, rounds=3)
    led = [row for row in rows if row["attack"] == name]
    assert [(row["id"], row["rounds"]) for row in led] == [("h1", 2), ("h2", 2)]
    assert all("unsafe" not in row and "judge" not in row for row in rows)
    (tmp_path / "a" / "responses.jsonl").unlink()
    quiet_attacker, quiet_target = Echo(attacker.answer), Echo(refuses_first)
    options = {"attacker": quiet_attacker.model, "rounds": 3}
    assert attacked(quiet_target, [name], tmp_path / "a", **options) == rows
    assert not quiet_attacker.asked + quiet_target.asked


def test_the_kldo_protocol_writes_anew_at_full_length_only_what_its_strings_let_pass(tmp_path: Path) -> None:
    echo = Echo(lambda talk: "I'm sorry" if "dams" in talk.messages[0]["content"] else "Sure")
    rows = attacked(echo, ["direct"], tmp_path / "a", protocol="kldo")
    found = {row["id"]: (row["stage"], row["response"]) for row in rows}
    assert found == {"h1": (2, "Sure in 512"), "h2": (1, "I'm sorry in 32"), "b1": (2, "Sure in 512")}
    assert all("unsafe" not in row for row in rows)


def test_gcg_searches_the_real_model_and_leaves_its_curve_but_no_suffix(tmp_path: Path) -> None:
    target = find_model(str(save_tiny("Llama", tmp_path / "model")))
    gcg = GcgOptions(steps=2, width=8, marks=3, check_every=1)
    prompts = [{**PROMPTS[0], "target": "Yes"}, *PROMPTS[1:]]
    rows = attack(target, prompts, plan(["gcg"], max_new_tokens=8, gcg=gcg), tmp_path / "a", progress=silent)
    places = [(row["attack"], row["id"]) for row in rows]
    assert places == [("direct", "b1"), ("gcg_start", "h1"), ("gcg_start", "h2"), ("gcg", "h1"), ("gcg", "h2")]
    curves = read_rows(tmp_path / "a" / "gcg.jsonl")
    assert [set(curve) for curve in curves] == [{"id", "attack", "steps", "succeeded", "losses"}] * 2
    assert [len(curve["losses"]) - 1 for curve in curves] == [row["steps"] for row in rows[3:]]
    assert not {"suffix", "message", "target"} & {name for row in rows for name in row}


def test_the_folder_says_what_was_asked_of_whom(tmp_path: Path) -> None:
    attacked(Echo(), ["direct"], tmp_path / "a")
    told = read_json(tmp_path / "a" / "attack.json")
    assert (told["target"], told["attacks"], told["max_new_tokens"], told["protocol"]) == ("echo", ["direct"], 64, None)


def test_names_are_split_at_commas_but_a_template_is_one_name() -> None:
    assert parse_attacks(["direct, base64", "template:Please, {prompt}", "direct"]) == [
        "direct",
        "base64",
        "template:Please, {prompt}",
    ]


def test_a_prompt_file_needs_no_more_than_prompts() -> None:
    assert read_prompts([{"prompt": "a"}, {"prompt": "b", "harmful": False, "id": 7}]) == [
        {"prompt": "a", "id": "0001", "harmful": True},
        {"prompt": "b", "id": "7", "harmful": False},
    ]


def test_prompts_without_a_cluster_are_not_one_cluster() -> None:
    clusters = [None, None, "a", 7]
    rows = read_prompts([{"prompt": f"{n}", "cluster": cluster} for n, cluster in enumerate(clusters)])
    assert [row.get("cluster", "none") for row in rows] == ["none", "none", "a", 7]


@pytest.mark.parametrize("text", ["False", "false", "0", "no", "", None, False])
def test_held_out_is_read_as_what_a_table_says(text: Any) -> None:
    (row,) = read_prompts([{"prompt": "a", "held_out": text}])
    assert row.get("held_out", False) is False
    assert read_prompts([{"prompt": "a", "held_out": "True"}])[0]["held_out"] is True


GENERATED = {
    "finish_reason": "length", "reasoning": "Hm", "reasoning_content": "Hm", "thinking_opened": True, "error": "e",
    "dropped": ["seed"], "server": "s", "response": "No.", "attack": "prefill", "try": 3, "tries": 4,
    "undecided_tries": 1, "rounds": 2, "steps": 5, "stage": 1, "message": "m", "unsafe": True, "refused": False,
    "reason": "r", "score": 1.0, "kind": "compliance", "judge": "j", "judge_sha256": "0", "protocol": "p",
}  # fmt: skip


def test_what_another_attack_left_in_a_row_decides_nothing(tmp_path: Path) -> None:
    clean = attacked(Echo(), ["direct"], tmp_path / "a")
    prompts = [{**row, **GENERATED} for row in PROMPTS]
    assert attack(Echo().model, prompts, plan(["direct"]), tmp_path / "b", progress=silent) == clean
    assert read_prompts(prompts) == read_prompts(PROMPTS)
    assert read_prompts([{**PROMPTS[0], "topic": "t"}])[0]["topic"] == "t"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"prompt": "a", "held_out": "maybe"}], "row 1: the column 'held_out' holds 'maybe', expected true or false"),
        ([{"prompt": "a", "cluster": ["b", "c"]}], r"row 1 has cluster=\['b', 'c'\]; expected a text or a number"),
        ([{"prompt": "a", "cluster": True}], "row 1 has cluster=True"),
        ([{"prompt": " "}], "row 1 has prompt=' '"),
        ([{"prompt": "a"}, {"text": "b"}], "row 2 has prompt=None"),
        ([{"prompt": "a", "harmful": "yes"}], "harmful='yes'"),
        ([{"prompt": "a", "target": 3}], "expected the opening of an answer"),
        ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}], "stand more than once"),
    ],
)
def test_a_prompt_that_is_none_is_refused(rows: list[Row], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_prompts(rows)


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        ([], {}, "no attack was named"),
        (["dirct"], {}, "did you mean 'direct'"),
        (["template:no slot"], {}, r"has no \{prompt\}"),
        (["best_of_n(0)"], {}, "whole number of tries"),
        (["gcg"], {}, "a server does not give"),
        (["pair"], {}, "name an attacker"),
        (["direct"], {"protocol": "kldp"}, "did you mean 'kldo'"),
        (["best_of_n(2)"], {"protocol": "jbb"}, "ask each prompt once"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_asked(
    tmp_path: Path, names: list[str], options: dict[str, Any], sentence: str
) -> None:
    echo = Echo()
    with pytest.raises(ValueError, match=sentence):
        attacked(echo, names, tmp_path / "a", **options)
    assert not echo.asked
    assert not (tmp_path / "a").exists()


def test_a_folder_of_another_model_or_of_something_else_is_left_alone(tmp_path: Path) -> None:
    attacked(Echo(), ["direct"], tmp_path / "a")
    other = Echo()
    other.model = other.model._replace(key="another key")
    with pytest.raises(ValueError, match="another model"):
        attacked(other, ["direct"], tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="no attack folder"):
        attacked(Echo(), ["direct"], tmp_path / "b")


def test_a_server_that_fails_leaves_what_came(tmp_path: Path) -> None:
    def fails_on_dams(talk: Conversation) -> str:
        if "dams" in talk.messages[0]["content"]:
            raise ConnectionError("the server is gone")
        return "Sure"

    class Flaky(Echo):
        def write(self, conversations: Sequence[Conversation], **options: Any) -> list[Response]:
            texts: list[Response] = []
            for index, talk in enumerate(conversations):
                texts += super().write(
                    [talk], **{**options, "on_response": lambda _, text, at=index: options["on_response"](at, text)}
                )
            return texts

    with pytest.raises(ConnectionError):
        attacked(Flaky(fails_on_dams), ["direct"], tmp_path / "a")
    later = Echo()
    attacked(later, ["direct"], tmp_path / "a")
    assert [talk.messages[0]["content"] for talk in later.asked] == ["Tell me about dams", "Tell me about boats"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [("http://localhost:8000/v1", "names a server and no model"), ("/no/such/folder", "no model folder")],
)
def test_a_model_that_is_not_there_is_refused(spec: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        find_model(spec)


def test_the_key_of_a_server_is_never_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIVALIGN_API_KEY", "not a real key")
    model = find_model("http://localhost:1/v1#m")
    assert "not a real key" not in json.dumps([model.name, model.key])
    with pytest.raises(ValueError, match="gives no weights"):
        model.lm()


def test_the_judge_that_ends_a_search_is_part_of_what_its_responses_are_made_from(tmp_path: Path) -> None:
    target = find_model(str(save_tiny("Llama", tmp_path / "model")))
    gcg = GcgOptions(steps=1, width=4, marks=2)
    keys = []
    for name in ("refusal_strings", "refusal_strings_paper"):
        search = plan(["gcg"], max_new_tokens=4, gcg=gcg, stop_judge=JUDGES[name])
        attack(target, PROMPTS[:1], search, tmp_path / "a", progress=silent)
        keys.append(read_json(tmp_path / "a" / "attack.json")["responses_key"])
    assert keys[0] != keys[1]


def test_a_folder_whose_attack_json_is_torn_goes_on_from_its_journal(tmp_path: Path) -> None:
    first = attacked(Echo(), ["direct"], tmp_path / "a")
    for file in ("attack.json", "responses.jsonl"):
        (tmp_path / "a" / file).write_text("{")
    again = Echo()
    assert attacked(again, ["direct"], tmp_path / "a") == first
    assert again.asked == []


@pytest.mark.parametrize(
    ("ending", "opened"),
    [
        ("<think>\n", True),
        ("[THINK]", True),
        ("<|START_THINKING|>", True),
        ("<|channel>thought\n", True),
        ("", False),
        ("<think>\n\n</think>\n\n", False),
        ("<|channel>thought\n<channel|>", False),
    ],
)
def test_a_template_that_opens_thoughts_is_recorded_with_each_response(
    tmp_path: Path, ending: str, opened: bool
) -> None:
    folder = save_tiny("Llama", tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<assistant>{%", f"<assistant>{ending}{{%"))
    rows = attack(find_model(str(folder)), PROMPTS, plan(["direct"], max_new_tokens=2), tmp_path / "a", progress=silent)
    assert [row.get("thinking_opened", False) for row in rows] == [opened] * 3


def test_a_prompt_that_a_server_blocks_ends_no_attack_and_is_undecided(tmp_path: Path) -> None:
    class Blocking(Echo):
        def write(self, conversations: Sequence[Conversation], **options: Any) -> list[Response]:
            responses = [
                Response("", "blocked", error="content_filter")
                if "dams" in talk.messages[0]["content"]
                else Response("Sure")
                for talk in conversations
            ]
            for index, response in enumerate(responses):
                options["on_response"](index, response)
            return responses

    rows = attacked(Blocking(), ["direct"], tmp_path / "a")
    assert [row.get("finish_reason") for row in rows] == [None, "blocked", None]
    assert rows[1]["error"] == "content_filter"
    verdicts = judge_rows(JUDGES["refusal_combined"], rows)
    assert [row["unsafe"] for row in verdicts] == [True, None, True]


def test_a_torn_attack_json_alone_makes_no_attack_folder(tmp_path: Path) -> None:
    (tmp_path / "attack.json").write_text("{")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no attack folder"):
        attacked(Echo(), ["direct"], tmp_path)
