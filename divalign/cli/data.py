"""`divalign data`: convert and split training sets, and find evaluation prompts in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from divalign.cli.app import app, print_line, print_table, printed, to_file, to_folder

data = typer.Typer(
    no_args_is_help=True, help="Audit, convert and split training sets; find evaluation prompts in them."
)
app.add_typer(data, name="data")

File = Annotated[Path, typer.Argument(help="Rows: .jsonl, .json, .csv, .tsv or .parquet, of any known format.")]
From = Annotated[str | None, typer.Option("--from", help="The rows' format; found by their columns if left out.")]
Against = Annotated[list[Path] | None, typer.Option("--against", help="A file of evaluation prompts; may be repeated.")]


@data.command("convert", epilog="Example: divalign data convert ROWS.jsonl --to trl_plain --out trl.jsonl")
def convert_file(
    file: File,
    to: Annotated[str, typer.Option(help="A name of FORMATS; an unknown one lists them.")],
    out: Annotated[Path, typer.Option(help="Where the rows go; its ending says the kind of file.", callback=to_file)],
    source: From = None,
) -> None:
    """Write rows in another trainer's format and say what it cannot hold."""
    from divalign.data.convert import Conversion, convert, find_format
    from divalign.data.files import stream_file
    from divalign.data.notes import Notes, set_aside
    from divalign.data.writing import write_file

    _refuse_overwrite(file, out)
    done, note = Conversion(notes=(notes := Notes())), find_format(to).note
    written = write_file(out, convert(stream_file(file, notes), to, source=source, done=done))
    aside = out.with_name(f"{out.name}.left_out.jsonl")  # .rejected.jsonl is what cannot be read, here or later
    set_aside(aside, done.refused)
    for sentence in [*notes.sentences(file), *refused_rows(done, aside), *([note] if note else [])]:
        print_line(sentence)
    for column, count in done.lost.most_common():
        print_line(f"{to} does not hold the column {column!r}: lost in {count} rows")
    printed().print(f"{written} rows, {done.source} to {to}: {out}", highlight=False, markup=False)
    if not written:
        raise typer.Exit(1)


@data.command("overlap", epilog="Example: divalign data overlap ROWS.jsonl PROMPTS.csv")
def overlap_files(
    train: File,
    evaluation: Annotated[list[Path], typer.Argument(help="Files of evaluation prompts.")],
    source: From = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the leaks, by line number, to this file.", callback=to_file)
    ] = None,
) -> None:
    """Find evaluation prompts that are trained on. Exit 1 where there are any."""
    from divalign.data.overlap import KINDS, find_overlap
    from divalign.store import write_json

    trained, evaluations = read_prompt_file(train, source), {str(path): read_prompt_file(path) for path in evaluation}
    overlaps = {name: find_overlap(trained.prompts, prompts.prompts) for name, prompts in evaluations.items()}
    title = f"Evaluation prompts among the {len(trained.prompts)} of {escape(train.name)}"
    table = Table(title=title, title_justify="left")
    for name in ("evaluation", "prompts", *KINDS, "share of prompts, %"):
        table.add_column(name, justify="left" if name == "evaluation" else "right")
    for name, overlap in overlaps.items():
        share = overlap.share
        bounds = f"{100 * (share.value or 0):.1f} \\[{100 * (share.low or 0):.1f}, {100 * (share.high or 0):.1f}]"
        table.add_row(escape(name), str(overlap.n), *(str(count) for count in overlap.counts.values()), bounds)
    print_table(table)
    for sentence in (sentence for prompts in (trained, *evaluations.values()) for sentence in prompts.messages):
        print_line(sentence)
    if json is not None:
        leaks = {
            name: [
                {
                    "kind": leak.kind,
                    "evaluation": evaluations[name].lines[leak.evaluation],
                    "train": trained.lines[leak.train],
                }
                for leak in overlap.leaks
            ]
            for name, overlap in overlaps.items()
        }
        sides = {name: {**evaluations[name].counts, "leaks": leaks[name]} for name in overlaps}
        write_json(json, {"train": {"file": str(train), **trained.counts}, "evaluations": sides})
    if any(overlap.leaks for overlap in overlaps.values()):
        raise typer.Exit(1)


@data.command("split", epilog="Example: divalign data split ROWS.jsonl --out split --share train=0.8 --share test=0.2")
def split_file(
    file: File,
    out: Annotated[Path, typer.Option(help="Folder: one file a side, and split.json.", callback=to_folder)],
    shares: Annotated[list[str] | None, typer.Option("--share", metavar="SIDE=SHARE", help="May be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another split.", min=0)] = 0,
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
    _refuse_overwrite(file, *(out / f"{name}.jsonl" for name in sizes))
    _refuse_earlier_sides(out, sizes)
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
    first, *later = sizes
    close = {name: find_overlap(prompts[first], prompts[name]).counts for name in later}
    counts = {name: len(prompts[name]) for name in sizes}
    about = {"file": file.name, "sha256": file_digest(file), "seed": seed, "shares": sizes, "rows": counts}
    write_json(out / "split.json", {**about, f"in {first} too": close})
    for sentence in notes.sentences(file):
        print_line(sentence)
    for name, count in counts.items():
        leaked = f", {sum(close[name].values())} of them also in {first}" if name in close else ""
        printed().print(f"{name}: {count} rows{leaked}", highlight=False)


def _refuse_overwrite(file: Path, *outs: Path) -> None:
    """Refuse to write over the file that is read: lines of it that are no rows would be gone."""
    for out in outs:
        if out.exists() and out.samefile(file):
            raise ValueError(f"{out} is the file that is read; name another one for what is written")


def _refuse_earlier_sides(out: Path, sizes: Iterable[str]) -> None:
    """Refuse a folder with sides of an earlier split that this one lacks: their rows would stand on its sides too."""
    from divalign.store import read_json

    record = out / "split.json"
    try:
        earlier = list(read_json(record)["shares"].keys()) if record.is_file() else []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{record} is no record of a split; move it away, or name another --out") from error
    left = [f"{name}.jsonl" for name in earlier if name not in sizes and (out / f"{name}.jsonl").is_file()]
    if left:
        raise ValueError(
            f"{out} holds {', '.join(left)} of an earlier split with other sides, whose rows would stand on the new "
            f"sides too; delete {'it' if len(left) == 1 else 'them'}, or name another --out"
        )


def refused_rows(done: Any, aside: Path | None = None) -> list[str]:
    if not done.refused:
        return []
    first, where = done.refused[0], f", they stand in {aside.name}" if aside else ""
    return [f"rows left out: {len(done.refused)}{where}; the first is line {first.line}: {first.reason}"]


class PromptFile(NamedTuple):
    """The prompts of a file and where they stand in it, how many rows have none that can be read, and what to tell."""

    prompts: list[str]
    lines: list[int]
    unreadable: int
    messages: list[str]

    @property
    def counts(self) -> dict[str, int]:
        return {"prompts": len(self.prompts), "unreadable": self.unreadable}


def read_prompt_file(path: Path, source: str | None = None) -> PromptFile:
    """Return the prompts of a file, whichever side of a comparison it is on."""
    from divalign.data.convert import Conversion
    from divalign.data.files import stream_file
    from divalign.data.notes import Notes
    from divalign.data.prompts import read_prompts

    done, lines = Conversion(notes=(notes := Notes())), []
    prompts = list(with_lines(read_prompts(stream_file(path, notes), source, done), notes, lines))
    refused = [f"{path}: {sentence}" for sentence in refused_rows(done)]
    if not prompts:
        raise ValueError(" ".join(refused))
    return PromptFile(prompts, lines, len(notes.rejected) + len(done.refused), [*notes.sentences(path), *refused])


def with_lines(rows: Iterable[Any], notes: Any, lines: list[int]) -> Iterator[Any]:
    """Note where each row stands in its file, as it goes by."""
    for row in rows:
        lines.append(notes.line)
        yield row


def _shares(texts: Sequence[str]) -> dict[str, float]:
    shares = {}
    for text in texts:
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
