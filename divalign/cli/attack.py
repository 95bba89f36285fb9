"""`divalign attack`: responses under attack, into a folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from divalign.cli.app import Quiet, Running, Serving, app, print_line, progress_of, to_folder, with_options


@dataclass(frozen=True)
class Attacks:
    """Which attacks, and how they are run."""

    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Names of ATTACKS with commas between, best_of_n(25), pair, crescendo, gcg, pkg.module:thing, or one "
            "template:TEXT OR FILE; may be repeated. Default: direct."
        ),
    ] = None
    max_new_tokens: Annotated[
        int, typer.Option(help="Where responses are cut; a protocol has its own length.", min=1)
    ] = 64
    protocol: Annotated[str | None, typer.Option(help="kldo, harmbench, jbb, strongreject or xstest.")] = None
    attacker: Annotated[
        str | None,
        typer.Option(help="Who writes for pair and crescendo: a model as above, or http://host:8000/v1#NAME."),
    ] = None
    ends: Annotated[str, typer.Option(help="Judge that ends gcg, pair and crescendo early; it does not count.")] = (
        "refusal_strings"
    )
    rounds: Annotated[int, typer.Option(help="Most rounds of pair and crescendo.", min=1)] = 5
    gcg_steps: Annotated[int, typer.Option(help="Most steps of gcg, per prompt.")] = 250
    gcg_width: Annotated[int, typer.Option(help="Candidates that gcg scores per step.")] = 256
    gcg_check_every: Annotated[int, typer.Option(help="Steps of gcg between two looks at the answer.")] = 10
    gcg_prompts: Annotated[
        int | None, typer.Option(help="Harmful prompts that gcg searches, the first ones.", min=1)
    ] = None

    def plan(self, running: Running, server: Any) -> Any:
        """Return the plan of the attack stage; `server` are the options of served models."""
        from divalign.safety.adaptive import AttackOptions
        from divalign.safety.gcg import GcgOptions
        from divalign.safety.judges import find_judge
        from divalign.stages.attack import AttackPlan, parse_attacks
        from divalign.stages.models import LoadOptions, find_model
        from divalign.stages.serving import for_helpers

        options = for_helpers(LoadOptions(running.dtype, running.device, server=server))
        attacker = find_model(self.attacker, options) if self.attacker else None
        search = GcgOptions(
            steps=self.gcg_steps,
            width=self.gcg_width,
            batch_size=min(self.gcg_width, 256),
            check_every=self.gcg_check_every,
        )
        return AttackPlan(
            names=parse_attacks(self.attacks or ["direct"]),
            options=AttackOptions(self.max_new_tokens, self.rounds, gcg=search, gcg_prompts=self.gcg_prompts),
            protocol=self.protocol,
            attacker=attacker,
            stop_judge=find_judge(self.ends),
            batch_size=running.batch_size,
        )


@dataclass(frozen=True)
class Target:
    """The model that is attacked: a local one, or one on a server."""

    model: Annotated[
        str | None,
        typer.Argument(
            help="toy, a folder, RUN/models/NAME, ORG/NAME or ORG/NAME@REVISION of the hub, URL#NAME, URL,URL#NAME; "
            "leave out with --server."
        ),
    ] = None
    server: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible server, as http://host:8000/v1; several with commas between."),
    ] = None
    served_model: Annotated[str | None, typer.Option(help="The name of the model, or of a LoRA adapter, on it.")] = None
    adapter: Annotated[Path | None, typer.Option(help="A LoRA folder to put on the model.")] = None

    def open(self, running: Running, server: Any) -> Any:
        """Return the model; `server` are the options of a served one.

        Raises ValueError where none is named, or both a local and a served one are, and for an adapter or a chat
        template of a served one, which its server has.
        """
        from divalign.stages.models import find_model

        if (self.model is None) == (self.server is None) or (self.server is None) != (self.served_model is None):
            raise ValueError("name what is attacked: a MODEL, or --server URL with --served-model NAME")
        options = replace(running.options(self.adapter), server=server)
        model = find_model(self.model or f"{self.server}#{self.served_model}", options)
        if model.load is None and (self.adapter or running.chat_template):
            raise ValueError(
                f"{model.name} is on a server, which puts on adapters and chat templates itself; leave --adapter and "
                "--chat-template out, and name the adapter as the server calls it"
            )
        return model


@app.command(epilog="Example: divalign attack toy --attacks direct,prefill --out runs/attack")
@with_options
def attack(
    out: Annotated[
        Path,
        typer.Option(help="Folder for the responses; an attack that was stopped there goes on.", callback=to_folder),
    ],
    target: Target,
    attacks: Attacks,
    running: Running,
    serving: Serving,
    prompts: Annotated[
        str,
        typer.Option(
            help="A file of rows (.jsonl, .json, .csv, .parquet, .txt) with prompt or goal and, if you like, id, "
            "harmful (true if left out), target for gcg; or 'toy'."
        ),
    ] = "toy",
    quiet: Quiet = False,
) -> None:
    """Attack a model and keep its responses; `divalign judge` says which are unsafe.

    Every attack is run on the harmful prompts; benign ones are sent directly. The key of a server that wants one is
    read from the environment variable DIVALIGN_API_KEY.
    """
    from divalign.stages.attack import attack as run_stage
    from divalign.stages.serving import check_served, check_target

    server = serving.server()
    model, plan = target.open(running, server), attacks.plan(running, server)
    check_served(server, [each.load is None for each in (model, plan.attacker) if each])
    check_target(server, model)
    questions = _prompts(prompts)
    if not quiet:
        print_line(_classes(questions))
    rows = run_stage(model, questions, plan, out, progress=progress_of(quiet=quiet))
    if not quiet:
        command = shlex.join(["divalign", "judge", str(out)])
        print_line(f"{len(rows)} responses in {out / 'responses.jsonl'}; next: {command}")


def _classes(prompts: Sequence[Mapping[str, Any]]) -> str:
    """Return how many prompts say that they are harmful, that they are benign, and nothing, which counts as harmful."""
    stated = [row.get("harmful") for row in prompts]
    unstated = stated.count(None)
    rest = f", {unstated} without a class, counted as harmful (say it in a column harmful)" if unstated else ""
    return f"{len(prompts)} prompts: {stated.count(True)} harmful, {stated.count(False)} benign{rest}"


def _prompts(name: str) -> list[dict[str, Any]]:
    from divalign.data.prompts import load_prompts
    from divalign.stages.corpus import CorpusSpec, prompt_rows, read_corpus

    return prompt_rows(read_corpus(CorpusSpec(), seed=0)) if name == "toy" else load_prompts(Path(name))
