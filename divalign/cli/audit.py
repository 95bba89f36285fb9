"""`divalign data audit`: what is wrong with a training set, before anyone trains on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from divalign.cli.app import print_line, printed, progress_of, to_file, with_options
from divalign.cli.data import File, From, data, read_prompt_file, refused_rows, with_lines

Against = Annotated[list[Path] | None, typer.Option("--against", help="A file of evaluation prompts; may be repeated.")]
COLOURS = {"fine": "green", "look": "yellow", "do not train": "bold red", "not measured": "dim"}


@dataclass(frozen=True)
class AuditFiles:
    """Files that an audit writes."""

    html: Annotated[Path | None, typer.Option(help="Write the data card to this file.", callback=to_file)] = None
    json: Annotated[Path | None, typer.Option(help="Write the findings to this file.", callback=to_file)] = None

    def write(self, content: dict[str, Any], name: str) -> None:
        """Write the audit of the data set `name`, and print the paths."""
        from divalign.report.data_card import write_data_card
        from divalign.store import write_json

        if self.json is not None:
            write_json(self.json, content)
            print_line(str(self.json))
        if self.html is not None:
            write_data_card(content, self.html, name=name)
            print_line(str(self.html))


@dataclass(frozen=True)
class AuditOptions:
    """What an audit measures beside the text of the rows, and how many rows it reads."""

    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json or its folder: count tokens, render pairs.")
    ] = None
    chat_template: Annotated[
        str | None, typer.Option(help="A jinja file, or plain for the built-in one: count pairs that render alike.")
    ] = None
    features: Annotated[str | None, typer.Option(help="Frozen model for the divergence; toy: the embedded one.")] = None
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and response that training will read.")] = 1024
    limit: Annotated[int, typer.Option(help="Read at most this many rows, drawn at random.")] = 500_000

    def facts(self) -> dict[str, Any]:
        """Return these as arguments of `data.audit.facts.gather`."""
        return {
            "limit": self.limit,
            "count_tokens": None if self.tokenizer is None else _counter(self.tokenizer),
            "max_length": self.max_length,
            "renders_alike": _renderer(self.tokenizer, self.chat_template, self.max_length),
            "divergence": None if self.features is None else _divergence(self.features, self.max_length),
        }


@data.command("audit", epilog="Example: divalign data audit ROWS.jsonl --against PROMPTS.csv --html card.html")
@with_options
def audit_file(
    file: File,
    outputs: AuditFiles,
    options: AuditOptions,
    against: Against = None,
    source: From = None,
) -> None:
    """Say what is wrong with a training set. Exit 1 where the verdict is: do not train."""
    from divalign.data.audit.checks import audit
    from divalign.data.audit.facts import gather
    from divalign.data.convert import Conversion, read_rows
    from divalign.data.files import stream_file
    from divalign.data.notes import Notes
    from divalign.store import file_digest

    done, lines = Conversion(notes=(notes := Notes())), []
    evaluations = {str(path): read_prompt_file(path) for path in against or []}
    facts = gather(
        with_lines(_of_text(read_rows(stream_file(file, notes), source, done), done), notes, lines),
        card=_card_of(file),
        evaluations={name: prompts.prompts for name, prompts in evaluations.items()},
        **options.facts(),
    )
    if not len(facts):
        raise ValueError(f"{file} holds no row that can be read: " + " ".join(refused_rows(done)))
    facts.numbers = [lines[number - 1] for number in facts.numbers]
    facts.unreadable = len(notes.rejected) + len({rejected.line for rejected in done.refused})
    with _watched() as progress:
        result = audit(facts, progress=progress)
    messages = [*notes.sentences(file), *refused_rows(done)]
    messages += [sentence for prompts in evaluations.values() for sentence in prompts.messages]
    content = {**result.as_plain(), "file": file.name, "sha256": file_digest(file), "notes": messages}
    printed().print(_findings(content))
    for sentence in messages:
        print_line(sentence)
    outputs.write(content, file.name)
    printed().print(f"{escape(file.name)}: [{COLOURS[result.verdict]}]{result.verdict}[/]", highlight=False)
    if result.verdict == "do not train":
        raise typer.Exit(1)


def _of_text(rows: Iterable[Any], done: Any) -> Iterator[Any]:
    """Refuse rows that hold pictures or the like: an audit reads text, and must not take them for empty."""
    from divalign.data.words import turn_texts

    for row in rows:
        try:
            for column in ("prompt", "chosen", "rejected", "completion"):
                turn_texts(row.get(column), "user" if column == "prompt" else "assistant")
        except ValueError as error:
            done.refuse(done.number, error, row)
            continue
        yield row


def _card_of(file: Path) -> Mapping[str, Any]:
    """Return what FILE.card.json says of source and licence, where there is such a file."""
    from divalign.store import read_json

    path = file.with_name(f"{file.name}.card.json")
    try:
        card = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); mend it, or move it away") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} holds a {type(card).__name__}, expected an object with source and licence")
    return card


def _counter(path: Path) -> Callable[[list[str]], list[int]]:
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"no file {file}; expected a tokenizer.json, as tokenizers are saved beside their models")
    inner = Tokenizer.from_file(str(file))
    inner.no_truncation()
    inner.no_padding()  # a tokenizer saved with padding would count the longest text for all
    if getattr(inner.model, "dropout", None):
        inner.model.dropout = None  # or the counts would be a draw
    return lambda texts: [len(encoding.ids) for encoding in inner.encode_batch(texts, add_special_tokens=False)]


def _renderer(path: Path | None, chat_template: str | None, max_length: int) -> Callable[[Any], bool] | None:
    """Return what tells whether a pair's sides render alike; None where there is no chat template."""
    if path is None:
        if chat_template is not None:
            raise ValueError("--chat-template renders pairs for a tokenizer; name it with --tokenizer FOLDER")
        return None
    folder = path if path.is_dir() else path.parent
    if chat_template is None and not (folder / "tokenizer_config.json").is_file():
        return None  # a bare tokenizer.json counts tokens and has no template
    from divalign.data.rendering import renders_alike
    from divalign.lm.shape import read_tokenizer

    tokenizer = read_tokenizer(str(folder), chat_template=chat_template)
    return (lambda row: renders_alike(tokenizer, row, max_length=max_length)) if tokenizer.chat_template else None


def _divergence(source: str, max_length: int) -> Callable[[Sequence[Any]], Mapping[str, Any]]:
    from divalign.stages.estimate import EstimatePlan, from_features
    from divalign.stages.models import find_model

    model, plan = find_model(source), EstimatePlan(["js"], max_length=max_length)

    def measure(rows: Sequence[Any]) -> Mapping[str, Any]:
        record = from_features(rows, model, plan).divergences["js"]
        return {**record.plain(), **record.estimate._asdict()}

    return measure


@contextmanager
def _watched() -> Iterator[Callable[[str], Any]]:
    """Draw the checks as they go by."""
    from divalign.data.audit.checks import CHECKS

    with progress_of(quiet=False)("audit", len(CHECKS), "checks") as advance:

        @contextmanager
        def step(name: str) -> Iterator[None]:
            yield
            advance(1)

        yield step


def _findings(plain: Mapping[str, Any]) -> Table:
    table = Table(title=f"{escape(plain['file'])}: {plain['rows']} rows", title_justify="left")
    for name in ("check", "verdict", "what was found"):
        table.add_column(name, no_wrap=name != "what was found")
    for finding in plain["findings"]:
        verdict = finding["verdict"]
        table.add_row(finding["check"], f"[{COLOURS[verdict]}]{verdict}[/]", escape(finding["words"]))
    return table
