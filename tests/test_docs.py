"""The documentation is true: its commands parse, its files, modules and links exist, and README stays short."""

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import typer
from pydantic import BaseModel

from divalign import config
from divalign.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in (*PAGES, *CONFIGS)}
MARKDOWN = [name for name in TEXTS if name.endswith(".md")]
ROOMS = sorted(path.name for path in (ROOT / "divalign").iterdir() if (path / "__init__.py").is_file())
FOLDERS = ("divalign", "tests", "configs", "bench", "docs", *ROOMS)
BASES = (ROOT, ROOT / "divalign", ROOT / "docs")
FILES = (".html", ".json", ".jsonl")  # report.html is a file of a run
WORDS = 900  # README's limit


class Mention(NamedTuple):
    """A command, path or name in a text, and the text's file."""

    page: str
    text: str

    def name(self) -> str:
        return f"{self.page}: {self.text}"


def without_blocks(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def shell_lines(text: str) -> Iterator[str]:
    """Yield the lines of fenced and indented blocks and of a YAML file's comments, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)
    outside = without_blocks(text)
    lines = "\n".join([*blocks, *re.findall(r"^(?: {4}|#\s+).*", outside, flags=re.M)])
    for line in re.sub(r"\\\n\s*(?:#\s*)?", " ", lines).splitlines():
        yield line.strip().lstrip("# ")


def commands(text: str) -> Iterator[str]:
    """Yield every divalign command of a text, in blocks and between backticks."""
    inline = [" ".join(one.split()) for one in re.findall(r"`(divalign [^`]+)`", without_blocks(text))]
    for line in [*shell_lines(text), *inline]:
        launched = re.sub(r"^(accelerate launch|python) (.*?)-m divalign ", "divalign ", line)
        if re.match(r"divalign [a-z]+", launched):
            yield re.split(r"\s{2,}#|\s+#\s|\s+\((?:and|or) ", launched)[0]


def arguments(command: str) -> list[str]:
    """Return a command's words without the marks of optional parts, of what is left out, and the file it prints to."""
    words = [word for word in shlex.split(command.partition(" > ")[0])[1:] if word != "..."]
    return [
        word.strip("[]") if word.startswith("[") or (word.endswith("]") and "[" not in word) else word for word in words
    ]


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the verb that a command names, and its arguments. `divalign data` alone is not a verb but a group."""
    verb: Any = typer.main.get_command(app)
    while hasattr(verb, "commands") and words:
        verb, words = verb.commands.get(words[0]), words[1:]
    assert verb is not None, "no such verb"
    return verb, words


def is_whole(text: str) -> bool:
    """Tell whether a text is a command to type, with all that its verb requires, and not its name or a part of it."""
    verb, words = verb_of(arguments(text))
    required = [one for one in verb.params if one.required and one.param_type_name == "option"]
    return "..." not in text and bool(words) and all(set(one.opts) & set(words) for one in required)


def key_exists(key: str) -> bool:
    """Tell whether a dotted key is one of a run's configuration."""
    kind: Any = config.Config
    for part in key.split("."):
        models = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not models:
            return "dict" in str(kind)
        if part not in models[0].model_fields:
            return False
        kind = models[0].model_fields[part].annotation
    return True


COMMANDS = [Mention(page, one) for page, text in TEXTS.items() for one in dict.fromkeys(commands(text))]
NAMED = re.compile(r"(?<![\w./])(?:" + "|".join(FOLDERS) + r")/[\w./-]*\w/?")
DOTTED = re.compile(r"(?<![\w./])(?:divalign|bench|" + "|".join(ROOMS) + r")(?:\.[A-Za-z_]\w*)+")


def test_the_pages_hold_commands_to_test() -> None:
    assert len(COMMANDS) > 40
    assert {mention.page for mention in COMMANDS} >= {"README.md", "docs/safety.md", "configs/study.yaml"}


@pytest.mark.parametrize("mention", COMMANDS, ids=Mention.name)
def test_a_command_names_a_verb_its_options_and_keys_of_the_configuration(mention: Mention) -> None:
    verb, words = verb_of(arguments(mention.text))
    known = {name for option in verb.params for name in (*option.opts, *option.secondary_opts)}
    used = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [name for name in used if name not in {*known, "--help"}] == []
    keys = [word.partition("=")[0] for flag, word in pairwise(words) if flag == "--set"]
    if verb.name == "sweep":  # whose runs' configuration stands under `run`
        keys = [key.removeprefix("run.") for key in keys]
    assert [key for key in keys if not key_exists(key)] == []


@pytest.mark.parametrize("mention", [one for one in COMMANDS if is_whole(one.text)], ids=Mention.name)
def test_a_whole_command_parses(mention: Mention) -> None:
    verb, words = verb_of(arguments(mention.text))
    with verb.make_context("divalign", [{"N": "1"}.get(word, word) for word in words]):
        pass
    assert [word for word in words if word.startswith("configs/") and not (ROOT / word).is_file()] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_configuration_loads(path: Path) -> None:
    content = config.read_yaml(path)
    assert config.as_config(content.get("run", content), str(path))


@pytest.mark.parametrize("page", TEXTS)
def test_a_file_that_is_named_exists(page: str) -> None:
    named = {one.rstrip(".") for one in NAMED.findall(TEXTS[page])}
    missing = [one for one in sorted(named) if not any((base / one).exists() for base in BASES)]
    assert [one for one in missing if Path(one).suffix or one.endswith("/")] == []


@pytest.mark.parametrize("page", TEXTS)
def test_a_dotted_name_is_a_module_an_attribute_or_a_key(page: str) -> None:
    assert [name for name in sorted(set(DOTTED.findall(without_blocks(TEXTS[page])))) if not resolves(name)] == []


@pytest.mark.parametrize("page", MARKDOWN)
def test_what_python_examples_import_exists(page: str) -> None:
    for module, names in re.findall(r"^ *from (divalign[\w.]*) import (\([^)]*\)|.+)$", TEXTS[page], flags=re.M):
        assert [name for name in re.findall(r"\w+", names) if not resolves(f"{module}.{name}")] == []


def test_python_examples_are_python() -> None:
    blocks = [
        (page, block)
        for page in MARKDOWN
        for block in re.findall(r"^```python\n(.*?)^```", TEXTS[page], flags=re.M | re.S)
    ]
    assert {"README.md", "docs/training.md"} <= {page for page, _ in blocks}
    for page, block in blocks:
        compile(block, page, "exec")  # raises SyntaxError with the page's name


@pytest.mark.parametrize("page", MARKDOWN)
def test_a_link_inside_the_documentation_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name) if name else ROOT / page
        assert path.is_file(), f"{target} names no file"
        assert not anchor or anchor in anchors(path.read_text()), f"{target} names no heading"


@pytest.mark.parametrize("page", TEXTS)
def test_a_target_of_make_exists(page: str) -> None:
    targets = set(re.findall(r"^([\w/%.-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:^|`)make (\w+)", TEXTS[page], flags=re.M)) <= targets


def test_readme_says_what_the_folder_of_a_training_holds() -> None:
    stage = ast.get_docstring(ast.parse((ROOT / "divalign/stages/train.py").read_text())) or ""
    files = [name for name in re.findall(r"^([\w./]+)  ", stage, flags=re.M) if name != "work/"]
    assert len(files) == 4
    assert [name for name in files if f"`{name}`" not in TEXTS["README.md"]] == []


def test_readme_stays_short() -> None:
    assert len(TEXTS["README.md"].split()) <= WORDS


@pytest.mark.parametrize(
    "command",
    ["divalign train --epoch 3 --out x", "divalign attack toy --sever URL", "divalign run --set train.beta_=1"],
)
def test_a_misspelt_option_or_key_is_noticed(command: str) -> None:
    with pytest.raises(AssertionError):
        test_a_command_names_a_verb_its_options_and_keys_of_the_configuration(Mention("", command))


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolves(name: str) -> bool:
    """Tell whether a dotted name is a file, a key of the configuration, or leads from a module, `divalign.` left out.

    Modules are read and not run: importing torch and transformers takes longer than all tests here.
    """
    if (
        name.endswith(FILES)
        or key_exists(name)
        or any((base / name.replace(".", "/", name.count(".") - 1)).is_file() for base in BASES)
    ):
        return True
    parts = (name if name.partition(".")[0] in ("divalign", "bench") else f"divalign.{name}").split(".")
    for size in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:size])
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if source.is_file():
            return size == len(parts) or parts[size] in names_in(source)
    return False


def names_in(source: Path) -> set[str]:
    """Return the names that a module defines or imports."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names
