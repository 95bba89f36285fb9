"""`divalign attack` and `divalign judge`: responses under attack into a folder, and verdicts on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from divalign.cli.app import Quiet, app, console, drawn, printed, to_file, to_folder

Device = Annotated[str, typer.Option(help="torch device: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")]
Template = Annotated[str | None, typer.Option(help="A jinja file, or 'plain', in place of the tokenizer's own.")]


@app.command()
def attack(
    out: Annotated[
        Path,
        typer.Option(help="Folder for the responses; an attack that was stopped there goes on.", callback=to_folder),
    ],
    model: Annotated[
        str | None,
        typer.Argument(help="A folder, ORG/NAME or ORG/NAME@REVISION of the hub, or 'toy'; leave out with --server."),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            help="A file of rows (.jsonl, .json, .csv, .parquet, .txt) with prompt or goal and, if you like, id, "
            "harmful (true if left out), target for gcg; or 'toy'."
        ),
    ] = "toy",
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Names of ATTACKS with commas between, best_of_n(25), pair, crescendo, gcg, pkg.module:thing, or one "
            "template:TEXT OR FILE; may be repeated. Default: direct."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where responses are cut; a protocol has its own length.")] = 64,
    protocol: Annotated[str | None, typer.Option(help="kldo, harmbench, jbb, strongreject or xstest.")] = None,
    server: Annotated[str | None, typer.Option(help="An OpenAI-compatible server, as http://host:8000/v1.")] = None,
    served_model: Annotated[str | None, typer.Option(help="The model's name on that server.")] = None,
    attacker: Annotated[
        str | None,
        typer.Option(help="Who writes for pair and crescendo: a model as above, or http://host:8000/v1#NAME."),
    ] = None,
    ends: Annotated[
        str, typer.Option(help="Judge that ends gcg, pair and crescendo early; it does not count.")
    ] = "refusal_strings",
    rounds: Annotated[int, typer.Option(help="Most rounds of pair and crescendo.")] = 5,
    gcg_steps: Annotated[int, typer.Option(help="Most steps of gcg, per prompt.")] = 250,
    gcg_width: Annotated[int, typer.Option(help="Candidates that gcg scores per step.")] = 256,
    adapter: Annotated[Path | None, typer.Option(help="A LoRA folder to put on the model.")] = None,
    chat_template: Template = None,
    batch_size: Annotated[int, typer.Option(help="Responses written at a time.")] = 64,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Attack a model and keep its responses; `divalign judge` says which are unsafe.

    Harmful prompts meet every attack, benign ones are asked directly. The key of a server that wants one is read from
    the environment variable DIVALIGN_API_KEY.
    """
    from divalign.safety.gcg import GcgOptions
    from divalign.safety.judges import find_judge
    from divalign.study.progress import silent
    from divalign.study.redteam import Means, attack_folder, parse_attacks
    from divalign.study.writers import Loading, find_writer

    if (model is None) == (server is None) or (server is None) != (served_model is None):
        raise ValueError("name what is attacked: a MODEL, or --server URL with --served-model NAME")
    loading = Loading(dtype, device, adapter, chat_template, batch_size)
    target = find_writer(model or f"{server}#{served_model}", loading)
    means = Means(
        max_new_tokens=max_new_tokens,
        protocol=protocol,
        attacker=find_writer(attacker, Loading(dtype, device)) if attacker else None,
        ends=find_judge(ends),
        rounds=rounds,
        search=GcgOptions(steps=gcg_steps, width=gcg_width, batch_size=min(gcg_width, 256)),
    )
    with _failing():
        rows = attack_folder(
            target,
            _prompts(prompts),
            parse_attacks(attacks or ["direct"]),
            out,
            means=means,
            progress=silent if quiet else drawn,
        )
    if not quiet:
        console.print(f"{len(rows)} responses in {out / 'responses.jsonl'}; next: divalign judge {out} --judge ...")


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(help="A folder of `divalign attack`, or RUN/models/NAME of a run.")],
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge", help="A name of JUDGES, RUBRIC@MODEL (as of attack), or RUBRIC@http://host:8000/v1#NAME; repeat."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the verdicts; FOLDER if left out.", callback=to_folder)
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Another such folder: what changed from it to this one.")] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(help="FILE with the question of a rubric without one; RUBRIC=FILE, repeated, for several."),
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="JSON lines with prompt, response, refused: corrects each judge's rates.")
    ] = None,
    sensitivity: Annotated[str | None, typer.Option(help="The judge's, as counts: 84/100.")] = None,
    specificity: Annotated[str | None, typer.Option(help="The judge's, as counts: 38/100.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file for the verdicts.", callback=to_file)] = None,
    card: Annotated[
        Path | None, typer.Option(help="Write the rates as front matter of a model card.", callback=to_file)
    ] = None,
    inspect_log: Annotated[
        Path | None, typer.Option(help="Write an inspect_ai .eval log (extra 'inspect').", callback=to_file)
    ] = None,
    show_completions: Annotated[bool, typer.Option("--show-completions", help="Do not redact model text.")] = False,
    chat_template: Template = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Judge the responses of an attack folder; several judges are compared, another folder is tested against.

    Nothing is generated, except the answers of judges that are models, and those only once.
    """
    from divalign.cli.verdicts import show
    from divalign.data.files import load_rows
    from divalign.study.judgement import exported, judge_all
    from divalign.study.sitting import parse_questions
    from divalign.study.writers import Loading

    with _failing():
        found = judge_all(
            folder,
            judges or ["refusal_strings"],
            out or folder,
            compare=compare,
            questions=parse_questions(question or []),
            labelled=load_rows(labelled) if labelled else None,
            errors=_errors(sensitivity, specificity),
            loading=Loading(dtype, device, chat_template=chat_template),
        )
    exported(found, csv=csv, card=card, inspect_log=inspect_log, show_completions=show_completions)
    if not quiet:
        show(found, printed(), show_completions=show_completions)
        console.print(str((out or folder) / "rates.json"))


@contextmanager
def _failing() -> Iterator[None]:
    """Say in a sentence what failed on the way and is nobody's bad input; finished work is kept."""
    try:
        yield
    except (ConnectionError, MemoryError) as error:
        console.print(f"[bold red]failed:[/] {str(error).replace('[', '(')}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _prompts(name: str) -> list[dict[str, Any]]:
    from divalign.config import Data
    from divalign.data.prompts import load_prompts
    from divalign.study.corpus import prompt_rows, read_corpus

    return prompt_rows(read_corpus(Data(), seed=0)) if name == "toy" else load_prompts(Path(name))


def _errors(sensitivity: str | None, specificity: str | None) -> Any:
    from divalign.study.judging import Errors

    if (sensitivity is None) != (specificity is None):
        raise ValueError("a correction needs both --sensitivity and --specificity, as counts such as 84/100")
    return Errors(_counts(sensitivity), _counts(specificity)) if sensitivity and specificity else None


def _counts(text: str) -> Any:
    from divalign.core.stats import rate

    yes, _, n = text.partition("/")
    if not (yes.isdecimal() and n.isdecimal() and int(n) > 0 and int(yes) <= int(n)):
        raise ValueError(f"got {text!r}, expected counts such as 84/100: how often the judge was right, of how many")
    return rate([True] * int(yes) + [False] * (int(n) - int(yes)))
