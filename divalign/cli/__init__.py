"""The command line: one file a verb, named as the verb; importing it registers the verb."""

from __future__ import annotations

import os
import shlex
import sys
import warnings

import typer
from rich.text import Text

from divalign import __version__
from divalign.cli import (
    attack,
    audit,
    build,
    card,
    check,
    data,
    doctor,
    estimate,
    init,
    judge,
    lab,
    report,
    run,
    separate,
    sweep,
    train,
    utility,
)
from divalign.cli.app import DEBUG, START, app, print_line
from divalign.cli.errors import BAD_INPUT, ending
from divalign.cli.visible import protect_terminal, visible, write_traceback
from divalign.stages.termination import EXIT_CODE, Terminated, handle_sigterm

VERBS = (
    run,
    init,
    data,
    audit,
    build,
    train,
    estimate,
    separate,
    attack,
    judge,
    utility,
    report,
    check,
    card,
    lab,
    sweep,
    doctor,
)


INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Run the command line. An error ends in one sentence and its exit code; with --debug, in its traceback.

    Exit 0 done, 1 failed on the way, 2 bad input, 130 Ctrl-C, 143 SIGTERM; after 1, 130 and 143 the same command
    resumes.
    """
    handle_sigterm()
    protect_terminal()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # for its callers, not for users
    arguments = [word for word in sys.argv[1:] if word != DEBUG]  # before the verb or behind it
    if not arguments:
        typer.echo(START.format(version=__version__), nl=False)
        return
    try:
        _check_launch(arguments)
        # A verb's typer.Exit comes back as its code, not as an exception.
        code = app(arguments, prog_name="divalign", standalone_mode=False)
    except Terminated as stop:
        print_line(str(stop))
        sys.exit(EXIT_CODE)
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            sys.excepthook = write_traceback  # not before, as typer sets its own
            raise
        code, sentence = ending(error)
        if sentence:  # without a verb the help has said it
            _print("error" if code == BAD_INPUT else "failed", sentence)
    if code == INTERRUPTED:
        command = shlex.join(["divalign", *sys.argv[1:]])
        _print("stopped", f"what is finished is kept, and the same command goes on from here: {command}")
    if code:
        sys.exit(code)


def _check_launch(arguments: list[str]) -> None:
    """Raise ValueError where a launcher (torchrun, accelerate) started several processes of a verb that takes one."""
    verb, processes = arguments[0], os.environ.get("WORLD_SIZE", "")
    of_one = verb != "train" and not verb.startswith("-") and "--help" not in arguments
    if not of_one or not processes.isdecimal() or int(processes) < 2:
        return
    ray = f"; `divalign run --on ray --workers {processes}` trains on several" if verb == "run" else ""
    raise ValueError(
        f"launched as {processes} processes, and `divalign {verb}` works in one: only `divalign train` takes several. "
        f"Call it without the launcher (WORLD_SIZE unset){ray}"
    )


def _print(word: str, sentence: str) -> None:
    print_line(Text.assemble((f"{word}:", "bold red"), f" {visible(sentence)}"))
