"""`divalign data`: look at a training set before training on it, convert it, split it, and find leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table

from divalign.cli.app import app, console, printed, progress_bar

data = typer.Typer(
    no_args_is_help=True, help="Audit, convert and split training sets; find evaluation prompts in them."
)
app.add_typer(data, name="data")

File = Annotated[Path, typer.Argument(help="Rows: .jsonl, .json, .csv, .tsv or .parquet, of any known format.")]
From = Annotated[str | None, typer.Option("--from", help="The rows' format; found by their columns if left out.")]
Against = Annotated[list[Path] | None, typer.Option("--against", help="A file of evaluation prompts; may be repeated.")]
COLOURS = {"fine": "green", "look": "yellow", "do not train": "bold red", "not measured": "dim"}


@data.command("audit")
def audit_file(
    file: File,
    against: Against = None,
    source: From = None,
    html: Annotated[Path | None, typer.Option(help="Write the data card to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the findings to this file.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json or its folder: count tokens.")] = None,
    features: Annotated[
        str | None, typer.Option(help="Frozen model for the divergence; toy: the embedded one.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and response that training will read.")] = 1024,
    limit: Annotated[int, typer.Option(help="Look at no more than this many rows, progress_bar at random.")] = 500_000,
) -> None:
    """Say what is wrong with a training set. Exit 1 where the verdict is: do not train."""
    from divalign.data.audit.checks import audit
    from divalign.data.audit.facts import gather
    from divalign.data.convert import Conversion, read_rows
    from divalign.data.files import stream_file
    from divalign.data.notes import Notes
    from divalign.report.data_card import write_data_card
    from divalign.store import file_digest, write_json

    done, lines = Conversion(notes=(notes := Notes())), []
    asked = {str(path): _asked(path) for path in against or []}
    facts = gather(
        _with_lines(_of_text(read_rows(stream_file(file, notes), source, done), done), notes, lines),
        limit=limit,
        card=_card_of(file),
        evaluations={name: one.prompts for name, one in asked.items()},
        count_tokens=None if tokenizer is None else _counter(tokenizer),
        max_length=max_length,
        divergence=None if features is None else _divergence(features, max_length),
    )
    if not len(facts):
        raise ValueError(f"{file} holds no row that can be read: " + " ".join(_refused(done)))
    facts.numbers = [lines[number - 1] for number in facts.numbers]
    facts.unreadable = len(notes.rejected) + len({one.line for one in done.refused})
    with _watched() as progress:
        found = audit(facts, progress=progress)
    said = [*notes.sentences(file), *_refused(done), *(sentence for one in asked.values() for sentence in one.said)]
    plain = {**found.as_plain(), "file": file.name, "sha256": file_digest(file), "notes": said}
    printed().print(_findings(plain))
    for sentence in said:
        console.print(sentence, highlight=False, markup=False)
    for path, write in ((json, write_json), (html, lambda to, it: write_data_card(it, to, name=file.name))):
        if path is not None:
            write(path, plain)
            console.print(str(path))
    printed().print(f"{file.name}: [{COLOURS[found.verdict]}]{found.verdict}[/]", highlight=False)
    if found.verdict == "do not train":
        raise typer.Exit(1)


@data.command("convert")
def convert_file(
    file: File,
    to: Annotated[str, typer.Option(help="A name of FORMATS; an unknown one lists them.")],
    out: Annotated[Path, typer.Option(help="Where the rows go; its ending says the kind of file.")],
    source: From = None,
) -> None:
    """Write rows in another trainer's format and say what it cannot hold."""
    from divalign.data.convert import Conversion, convert, find_format
    from divalign.data.files import stream_file
    from divalign.data.notes import Notes, set_aside
    from divalign.data.writing import write_file

    _keep(file, out)
    done, note = Conversion(notes=(notes := Notes())), find_format(to).note
    written = write_file(out, convert(stream_file(file, notes), to, source=source, done=done))
    aside = out.with_name(f"{out.name}.left_out.jsonl")  # .rejected.jsonl is what cannot be read, here or later
    set_aside(aside, done.refused)
    for sentence in [*notes.sentences(file), *_refused(done, aside), *([note] if note else [])]:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for column, count in done.lost.most_common():
        console.print(f"{to} does not hold the column {column!r}: lost in {count} rows", highlight=False, markup=False)
    printed().print(f"{written} rows, {done.source} to {to}: {out}", highlight=False, markup=False)
    if not written:
        raise typer.Exit(1)


@data.command("overlap")
def overlap_files(
    train: File,
    evaluation: Annotated[list[Path], typer.Argument(help="Files of evaluation prompts.")],
    source: From = None,
    json: Annotated[Path | None, typer.Option(help="Write the leaks, by line number, to this file.")] = None,
) -> None:
    """Find evaluation prompts that are trained on. Exit 1 where there are any."""
    from divalign.data.overlap import KINDS, find_overlap
    from divalign.store import write_json

    trained, asked = _asked(train, source), {str(path): _asked(path) for path in evaluation}
    found = {name: find_overlap(trained.prompts, one.prompts) for name, one in asked.items()}
    table = Table(title=f"Evaluation prompts among the {len(trained.prompts)} of {train.name}", title_justify="left")
    for name in ("evaluation", "prompts", *KINDS, "share of prompts, %"):
        table.add_column(name, justify="left" if name == "evaluation" else "right")
    for name, one in found.items():
        share = one.share
        bounds = f"{100 * (share.value or 0):.1f} \\[{100 * (share.low or 0):.1f}, {100 * (share.high or 0):.1f}]"
        table.add_row(name, str(one.n), *(str(count) for count in one.counts.values()), bounds)
    printed().print(table)
    for sentence in (sentence for one in (trained, *asked.values()) for sentence in one.said):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    if json is not None:
        leaks = {
            name: [
                {
                    "kind": leak.kind,
                    "evaluation": asked[name].lines[leak.evaluation],
                    "train": trained.lines[leak.train],
                }
                for leak in one.leaks
            ]
            for name, one in found.items()
        }
        sides = {name: {**asked[name].counts, "leaks": leaks[name]} for name in found}
        write_json(json, {"train": {"file": str(train), **trained.counts}, "evaluations": sides})
    if any(one.leaks for one in found.values()):
        raise typer.Exit(1)


@data.command("split")
def split_file(
    file: File,
    out: Annotated[Path, typer.Option(help="Folder: one file a side, and split.json.")],
    shares: Annotated[list[str] | None, typer.Option("--share", metavar="SIDE=SHARE", help="May be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another split.")] = 0,
) -> None:
    """Split rows by prompt cluster; rows that are added later move none of the others."""
    from divalign.data.files import stream_file
    from divalign.data.notes import Notes
    from divalign.data.overlap import find_overlap
    from divalign.data.prompts import prompt_of
    from divalign.data.split import SHARES, check_shares, side_of
    from divalign.data.writing import write_file
    from divalign.store import file_digest, write_json

    sizes = _shares(shares) if shares else dict(SHARES)
    check_shares(sizes)
    _keep(file, *(out / f"{name}.jsonl" for name in sizes))
    notes, prompts = Notes(), {name: [] for name in sizes}

    def rows_of(name: str) -> Iterator[Any]:
        """Read the file once a side, so that no side need fit in memory; its prompts must."""
        for row in stream_file(file, notes):
            try:
                if (side := side_of(row, sizes, seed=seed)) == name:
                    prompts[name].append(prompt_of(row))
            except ValueError as error:
                raise ValueError(f"{file}, line {notes.line}: {error}") from error
            if side == name:
                yield row

    for name in sizes:
        notes = Notes()
        write_file(out / f"{name}.jsonl", rows_of(name))
    first, *others = sizes
    close = {name: find_overlap(prompts[first], prompts[name]).counts for name in others}
    counts = {name: len(prompts[name]) for name in sizes}
    about = {"file": file.name, "sha256": file_digest(file), "seed": seed, "shares": sizes, "rows": counts}
    write_json(out / "split.json", {**about, f"in {first} too": close})
    for sentence in notes.sentences(file):
        console.print(sentence, highlight=False, markup=False)
    for name, count in counts.items():
        leaked = f", {sum(close[name].values())} of them also in {first}" if name in close else ""
        printed().print(f"{name}: {count} rows{leaked}", highlight=False)


def _keep(file: Path, *outs: Path) -> None:
    """Refuse to write over the file that is read: lines of it that are no rows would be gone."""
    for out in outs:
        if out.exists() and out.samefile(file):
            raise ValueError(f"{out} is the file that is read; name another one for what is written")


def _refused(done: Any, aside: Path | None = None) -> list[str]:
    if not done.refused:
        return []
    first, where = done.refused[0], f", they stand in {aside.name}" if aside else ""
    return [f"rows left out: {len(done.refused)}{where}; the first is line {first.line}: {first.reason}"]


class Asked(NamedTuple):
    """The prompts of a file and where they stand in it, how many rows have none that can be read, and what to tell."""

    prompts: list[str]
    lines: list[int]
    unreadable: int
    said: list[str]

    @property
    def counts(self) -> dict[str, int]:
        return {"prompts": len(self.prompts), "unreadable": self.unreadable}


def _asked(path: Path, source: str | None = None) -> Asked:
    """Return the prompts of a file, whichever side of a comparison it is on."""
    from divalign.data.convert import Conversion
    from divalign.data.files import stream_file
    from divalign.data.notes import Notes
    from divalign.data.prompts import read_prompts

    done, lines = Conversion(notes=(notes := Notes())), []
    prompts = list(_with_lines(read_prompts(stream_file(path, notes), source, done), notes, lines))
    refused = [f"{path}: {sentence}" for sentence in _refused(done)]
    if not prompts:
        raise ValueError(" ".join(refused))
    return Asked(prompts, lines, len(notes.rejected) + len(done.refused), [*notes.sentences(path), *refused])


def _with_lines(rows: Iterable[Any], notes: Any, lines: list[int]) -> Iterator[Any]:
    """Note where each row stands in its file, as it goes by."""
    for row in rows:
        lines.append(notes.line)
        yield row


def _of_text(rows: Iterable[Any], done: Any) -> Iterator[Any]:
    """Refuse rows that hold pictures or the like: an audit reads text, and must not take them for empty."""
    from divalign.data.words import text_of

    for row in rows:
        try:
            for column in ("prompt", "chosen", "rejected", "completion"):
                text_of(row.get(column), "user" if column == "prompt" else "assistant")
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
    return lambda texts: [len(one.ids) for one in inner.encode_batch(texts, add_special_tokens=False)]


def _divergence(source: str, max_length: int) -> Callable[[Sequence[Any]], Mapping[str, Any]]:
    from divalign.stages.estimate import EstimatePlan, from_features
    from divalign.stages.models import find_model

    model, plan = find_model(source), EstimatePlan(["js"], max_length=max_length)

    def measure(rows: Sequence[Any]) -> Mapping[str, Any]:
        record = from_features(rows, model, plan).divergences["js"]
        return {**record.plain(), **record.estimate._asdict()}

    return measure


def _shares(given: Sequence[str]) -> dict[str, float]:
    shares = {}
    for text in given:
        name, _, value = text.partition("=")
        if name in shares:
            raise ValueError(f"--share {text!r}: the side {name!r} is there twice; give each side once")
        try:
            shares[name] = float(value)
        except ValueError:
            raise ValueError(f"--share {text!r}: expected SIDE=SHARE, such as train=0.9") from None
        if not name.isidentifier():
            raise ValueError(f"--share {text!r}: {name!r} is no name for a file; use letters, digits and _")
    return shares


@contextmanager
def _watched() -> Iterator[Callable[[str], Any]]:
    """Draw the checks as they go by."""
    from divalign.data.audit.checks import CHECKS

    with progress_bar("audit", len(CHECKS), "checks") as advance:

        @contextmanager
        def step(name: str) -> Iterator[None]:
            yield
            advance(1)

        yield step


def _findings(plain: Mapping[str, Any]) -> Table:
    table = Table(title=f"{plain['file']}: {plain['rows']} rows", title_justify="left")
    for name in ("check", "verdict", "what was found"):
        table.add_column(name, no_wrap=name != "what was found")
    for one in plain["findings"]:
        verdict = one["verdict"]
        table.add_row(one["check"], f"[{COLOURS[verdict]}]{verdict}[/]", one["words"].replace("[", r"\["))
    return table
