"""`divalign data build`: a training set from public sources, one's own files, or the embedded world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from divalign.cli.app import print_line, to_file, with_options
from divalign.cli.data import data

Sources = Annotated[
    str, typer.Argument(help="Names of SOURCES, file:PATH or pkg.module:thing, joined by '+'; toy: the embedded world.")
]


@dataclass(frozen=True)
class SourceFiles:
    """Where the sources' files are."""

    folder: Annotated[Path | None, typer.Option(help="Folder that holds the sources' files.")] = None
    download: Annotated[bool, typer.Option(help="Fetch files that the folder lacks.")] = False


@dataclass(frozen=True)
class Writing:
    """The models that write answers and rank responses."""

    writer: Annotated[str | None, typer.Option(help="Model that answers what has no answer: MODEL or URL#NAME.")] = None
    rater: Annotated[
        str | None, typer.Option(help="Ranks responses: judge (asks the writer, both ways) or reward:MODEL.")
    ] = None
    max_new_tokens: Annotated[int, typer.Option(help="Where the writer's answers are cut.")] = 256

    def arguments(self) -> dict[str, Any]:
        """Return these as arguments of `stages.build_set.build_set`."""
        from divalign.stages.models import find_model

        return {
            "writer": find_model(self.writer) if self.writer else None,
            "max_new_tokens": self.max_new_tokens,
            "rater": _rater(self.rater, self.writer) if self.rater else None,
        }


@data.command("build", epilog="Example: divalign data build toy --recipe cr --n 64 --out rows.jsonl")
@with_options
def build(
    sources: Sources,
    out: Annotated[
        Path,
        typer.Option(
            help="Where the rows go; its ending says the kind of file. The card goes beside it.", callback=to_file
        ),
    ],
    files: SourceFiles,
    writing: Writing,
    recipe: Annotated[str, typer.Option(help="A name of RECIPES, cr_plus(SHARE), or pkg.module:thing.")] = "cr",
    n: Annotated[int | None, typer.Option(help="Rows, half of each class; all if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.", min=0)] = 0,
) -> None:
    """Build a training set, and the card that says what it was made from. A stopped build goes on."""
    from divalign.stages.build_set import SetPlan, build_set

    plan = SetPlan(sources, recipe, n, seed)
    card = build_set(plan, out, folder=files.folder, download=files.download, **writing.arguments())
    print_line(f"{out}: {card['rows']} rows")
    for reason, count in [*card["left_out_of_sources"].items(), *card["left_out"].items()]:
        print_line(f"left out: {count} with {reason}")


def _rater(spec: str, writer: str | None) -> Callable[[Any], Any]:
    from divalign.data.rating import by_judge, by_reward
    from divalign.lm.reward import RewardModel

    kind, _, source = spec.partition(":")
    if kind == "reward" and source:
        return lambda write: by_reward(RewardModel(source))
    if spec != "judge":
        raise ValueError(f"--rater is {spec!r}, expected judge or reward:MODEL")
    if writer is None:
        raise ValueError("--rater judge needs --writer MODEL or URL#NAME, the model that judges")
    return by_judge
