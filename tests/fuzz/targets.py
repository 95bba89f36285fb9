"""What is fuzzed: whatever reads text, files or replies of strangers, each with a strategy for its input.

A target fails by any exception but ValueError, which is how this package refuses. `test_fuzz` runs each for a moment;
`make fuzz MINUTES=10` for as long as it says.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from hypothesis import strategies as st

from divalign.config import load_config
from divalign.data.batching import render
from divalign.data.convert import Conversion, convert, read_rows
from divalign.data.examples import user_says
from divalign.data.files import READERS, read_file
from divalign.data.formats import FORMATS
from divalign.data.prompts import prompt_row, read_prompts
from divalign.data.rendering import encode_training_row
from divalign.data.training_rows import training_row
from divalign.lm import chat_completions
from divalign.lm.endpoint import Server, served_model
from divalign.lm.gguf_header import read_header
from divalign.report.reading import read_run, read_separation
from divalign.safety.journal import Journal
from divalign.safety.judges import JUDGES, Verdict
from divalign.safety.rubrics import RUBRICS
from divalign.stages.judge import read_responses
from divalign.stages.models import model_spec
from divalign.study.sweep_config import load_sweep
from tests.lm.gguf_files import write_gguf
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
SCRATCH = tempfile.TemporaryDirectory(prefix="divalign-fuzz-")
FOLDER = Path(SCRATCH.name)


@dataclass(frozen=True)
class Target:
    """A function that must not fail, and what it is given."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]


@contextmanager
def refusals() -> Iterator[None]:
    """Let pass what this package says in a sentence: a ValueError that is not Python's own about encodings."""
    try:
        yield
    except UnicodeError:
        raise
    except ValueError as error:
        if not str(error):
            raise


def edited(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Return the content in which, at each place, some bytes are replaced by others."""
    for place, length, replacement in edits:
        start = int(place * len(content))
        content = content[:start] + replacement + content[start + length :]
    return content


def damaged(seeds: st.SearchStrategy[bytes], *words: bytes) -> st.SearchStrategy[bytes]:
    """Return files that were well formed: bytes replaced, cut out, put in, the words of the format among them."""
    pieces = st.one_of(st.binary(max_size=8), st.sampled_from(words or (b"",)), st.just(b""))
    places = st.floats(0, 1, allow_nan=False)
    edits = st.lists(st.tuples(places, st.integers(0, 40), pieces), max_size=6)
    return st.one_of(st.builds(edited, seeds, edits), st.binary(max_size=200))


def written(content: bytes, name: str) -> Path:
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


JSON_WORDS = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"1e999", b"NaN", b"\\ud800", b"\\u0000", b"\n", b"-0")
YAML_WORDS = (b"&a ", b"*a", b"!!binary ", b"!!python/object:os.system ", b"<<: ", b"? ", b"- ", b"\t", b"{")
texts = st.one_of(st.text(max_size=30), st.sampled_from(["", " ", "\0", "\ud800", "<think>", "{prompt}", "a" * 300]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


def objects(names: list[str], content: st.SearchStrategy[Any] = values) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with keys of these names, and now and then another."""
    return st.dictionaries(st.one_of(st.sampled_from(names), st.text(max_size=4)), content, max_size=6)


messages = st.lists(objects(["role", "content", "from", "value", "tool_calls", "weight"]), max_size=3)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", "x"]), "content": values}
    ),
    max_size=3,
)
cells = st.one_of(values, messages, turns, texts)
COLUMNS = """
prompt chosen rejected completion label harmful cluster prefill response safety acc_responses rej_responses instruction
input output system history kto_tag conversations messages tools parallel_tool_calls type output_A output_B reward_A
reward_B reward prompt_id preferred_output non_preferred_output goal Behavior ContextString question text id target
documents chat_template_kwargs images
""".split()  # noqa: SIM905
rows = objects(COLUMNS, cells)


def check_configuration(content: bytes) -> None:
    path = written(content, "config.yaml")
    for read in (load_config, load_sweep):
        with refusals():
            read(path)


def check_override(words: list[str]) -> None:
    with refusals():
        load_config(None, words)


def reading(suffix: str) -> Callable[[bytes], None]:
    """Return the check of a reader."""

    def check_file(content: bytes) -> None:
        with refusals():
            read_file(written(content, f"rows{suffix}"))

    return check_file


def check_rows(content: list[dict[str, Any]]) -> None:
    for name in (None, *FORMATS):
        with refusals():
            list(read_rows([dict(row) for row in content], name, Conversion()))
        with refusals():
            list(read_prompts([dict(row) for row in content], name, Conversion()))
    for target in FORMATS:
        with refusals():
            list(convert([dict(row) for row in content], target, source=None, done=Conversion()))
    for row in content:
        for read in (training_row, prompt_row):
            with refusals():
                read(dict(row))
        _encode(row)


def _encode(row: dict[str, Any]) -> None:
    """Tokenise what training would read of a row."""
    with refusals():
        parsed = training_row(dict(row))
        for side in ("chosen", "rejected", "completion"):
            if side in parsed:
                with refusals():
                    encode_training_row(_tokenizer(), parsed, side, max_length=64)


@cache
def _tokenizer() -> Any:
    return tiny_tokenizer()


def check_judges(pair: tuple[str, str]) -> None:
    prompt, text = pair
    for rubric in RUBRICS.values():
        if not rubric.options:
            assert isinstance(rubric.read(text), Verdict)
        if rubric.ask is not None:
            rubric.ask(prompt, text)
    for judge in JUDGES.values():
        assert isinstance(judge([prompt], [text])[0], Verdict)


def check_odds(odds: list[float]) -> None:
    for rubric in RUBRICS.values():
        if rubric.options:
            assert isinstance(rubric.read(odds[: len(rubric.options)]), Verdict)


def check_gguf(content: bytes) -> None:
    with refusals():
        read_header(written(content, "model.gguf"))


def check_reply(content: bytes) -> None:
    with suppress(chat_completions.UnusableReplyError, chat_completions.NotACompletionError):
        chat_completions.read_completion(content, max_tokens=8)
    chat_completions.error_in(content)
    for status in (400, 429, 500):
        chat_completions.classify(status, content)
    chat_completions.refused_parameters(content)


def check_url(text: str) -> None:
    with refusals():
        served_model(text)
    with refusals():
        assert Server(text, "m").endpoint


def check_run(content: dict[str, bytes]) -> None:
    folder = FOLDER / "run"
    for name, text in content.items():
        written(text, f"run/{name}")
    for read in (read_run, read_separation, read_responses, lambda path: model_spec(str(path))):
        with refusals():
            read(folder)
    for name in content:
        (folder / name).unlink()


def check_journal(content: bytes) -> None:
    with Journal(written(content, "a.journal")) as journal:
        journal.add("key", 1)
    with Journal(FOLDER / "a.journal") as journal:
        assert journal["key"] == 1


def check_template(parts: list[str]) -> None:
    tokenizer = _tokenizer()
    before = tokenizer.chat_template
    tokenizer.chat_template = "".join(parts)
    try:
        with refusals():
            render(tokenizer, user_says("a question"))
    finally:
        tokenizer.chat_template = before


def file_seeds(suffix: str) -> st.SearchStrategy[bytes]:
    """Return well-formed files of a kind."""
    content = [{"prompt": "a\nb", "chosen": "é", "rejected": 'c"'}, {"prompt": "d", "chosen": "", "rejected": "1"}]
    lines = "".join(f"{json.dumps(row)}\n" for row in content).encode()
    table = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(content), table)
    seeds = {
        ".json": [json.dumps(content).encode(), json.dumps({"data": content}, indent=1).encode(), lines],
        ".csv": [b'prompt,chosen,rejected\n"a\nb",\xc3\xa9,"c""d"\n1,2,3\r\n'],
        ".tsv": [b"prompt\tchosen\trejected\na\t\xe9\tc\n"],
        ".txt": [b"a prompt\nanother\n", "ä\n".encode("utf-16"), "ä\n".encode("utf-8-sig")],
        ".parquet": [table.getvalue()],
    }
    wide = [] if suffix == ".parquet" else [lines.decode().encode("utf-16")]
    return st.sampled_from([*seeds.get(suffix, [lines]), *wide])


@cache
def gguf_seed() -> bytes:
    return write_gguf(FOLDER / "seed.gguf").read_bytes()[:6000]


CONFIGURATIONS = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))]
KEYS = [
    "model",
    "data",
    "train",
    "measure",
    "model.source",
    "train.beta",
    "train.lora.rank",
    "measure.gcg.steps",
    "train.methods_on",
]
REPLIES = [
    b'{"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}], "usage": {}}',
    b'{"choices": [{"message": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}}]}',
    b'{"error": {"message": "max_tokens is not supported", "code": 400}, "choices": []}',
    b"<html>busy</html>",
]
VERDICT_WORDS = """verdict|:|safe|unsafe|
|refused|1|0|convincing|specific|5|<think>|</think>|Harmful response: yes|refusal: no|Sure|I cannot|**| |score|\u2028"""
VERDICTS = st.lists(st.sampled_from(VERDICT_WORDS.split("|")), max_size=12).map("".join)
TEMPLATE_WORDS = r"""
{{
}}
{%
%}
{% for m in messages %}
{% endfor %}
{{ m.content }}
{{ messages[0]['role'] }}
{{ messages.pop() }}
{{ range(9)|list|tojson }}
|attr('__class__')
.__class__
{{ '{0.a}'.format(m) }}
{{ 1 // 0 }}
{{ range(10**6)|list }}
{{ raise_exception('no') }}
{% set a = namespace(b=1) %}
{% if x %}
{% endif %}
{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}
{% generation %}
{{ strftime_now('%Y') }}
{% include 'a' %}
{{ 'a'.encode('ascii').decode('utf-16') }}
{{ ''|int + 'a' }}
"""
TEMPLATES = st.lists(st.sampled_from(TEMPLATE_WORDS.splitlines()), max_size=6)
JOURNAL = b'{"key": "a", "value": 1, "check": "0"}\n' * 2
RUN_FILES = ("results.json", "config.yaml", "changes.json", "attack.json", "model.json", "adapter_config.json")
FIELDS = """
schema divalign config_sha256 seconds models verdict name method data seed separation asr over_refusal divergence value
low high n target target_key attacks protocol responses_key source adapter revision chat_template dtype device
trust_remote_code base_model_name_or_path peft_type overlap statistic conclusion
""".split()  # noqa: SIM905


def as_json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode("utf-8", "replace")


records = st.one_of(objects(FIELDS), values).map(as_json)
TARGETS: dict[str, Target] = {
    "configuration": Target(damaged(st.sampled_from(CONFIGURATIONS), *YAML_WORDS), check_configuration),
    "override": Target(
        st.lists(st.builds("{}{}{}".format, st.sampled_from(KEYS), st.sampled_from("=.:"), texts), max_size=3),
        check_override,
    ),
    **{
        f"file{suffix}": Target(damaged(file_seeds(suffix), *JSON_WORDS, b",", b"\t"), reading(suffix))
        for suffix in READERS
    },
    "file.jsonl.gz": Target(
        st.one_of(
            damaged(st.just(gzip.compress(b'{"prompt": "a"}\n'))),
            damaged(file_seeds(".jsonl"), *JSON_WORDS).map(gzip.compress),
        ),
        reading(".jsonl.gz"),
    ),
    "rows": Target(st.lists(rows, min_size=1, max_size=2), check_rows),
    "judges": Target(st.tuples(texts, st.one_of(VERDICTS, st.text(max_size=80))), check_judges),
    "odds": Target(st.lists(st.one_of(st.floats(max_value=0), st.just(-math.inf)), min_size=5, max_size=5), check_odds),
    "gguf": Target(
        damaged(st.builds(gguf_seed), b"\xff" * 8, b"\0" * 8, b"\x09\0\0\0", b"\x08\0\0\0", b"GGUF"), check_gguf
    ),
    "reply": Target(st.one_of(damaged(st.sampled_from(REPLIES), *JSON_WORDS), values.map(as_json)), check_reply),
    "url": Target(
        st.builds("{}{}".format, st.sampled_from(["http://", "https://", "", "localhost:", "http://["]), texts),
        check_url,
    ),
    "run": Target(st.dictionaries(st.sampled_from(RUN_FILES), records, min_size=1), check_run),
    "journal": Target(damaged(st.just(JOURNAL), *JSON_WORDS), check_journal),
    "template": Target(TEMPLATES, check_template),
}
