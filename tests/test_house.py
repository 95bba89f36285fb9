"""Rules on size and names, read off the source of every module, and on the words of the documentation."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "divalign"

# Rooms and documents that do not follow the rules yet. Entries leave these sets and never come back.
PENDING: set[str] = set()
PENDING_DOCUMENTS: set[str] = set()

MOST_LINES = 50  # of a function's body
MOST_MODULE_LINES = 375
MOST_PARAMETERS = 8
# The signature is TRL's, so that TRL's trainers can be replaced by this one without a change.
SIGNATURES_OF_OTHERS = {"train/trainer.py:__init__"}
# The source of this module is part of its judge's sha256, which a new name would change.
HASHED_NAMES = {"safety/combined.py:wanted"}

# Words that do not say what a value is. A name is a noun of the field, or a verb for a function.
EMPTY_WORDS = {
    *("found", "asked", "told", "said", "met", "held", "kept", "drawn", "started", "led_on"),
    *("others", "one", "more", "given", "wanted", "known", "seen"),
    *("talk", "talks", "twin", "twins", "law", "whys"),
}  # fmt: skip
# Phrases of prose for which the field has a term.
PHRASES = {
    r"\blaws? of\b|\b(?:equal|two) laws\b": "distribution",
    r"\btalks?\b": "conversation",
    r"\btwins?\b": "near-duplicate",
    r"\bheld[- ]in\b": "in-distribution",
    r"\bunseen topics?\b": "held-out topics",
    r"\bwho sees whom\b": "attention mask",
    r"\bsitting judges?\b|\bjudges? (?:that|who) sits?\b": "judge",
    r"\bled on\b": "continued",
    r"\bin other clothes\b": "paraphrased",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        return str(self.path.relative_to(PACKAGE))

    @property
    def room(self) -> str:
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = [Module(path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
each_module = pytest.mark.parametrize(
    "module", [module for module in MODULES if module.room not in PENDING], ids=lambda module: module.name
)


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: Function) -> int:
    """Lines of a function's body, its docstring not counted."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(function: Function) -> list[str]:
    """Names of a function's parameters, self and cls not counted."""
    arguments = function.args
    everything = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument.arg for argument in everything if argument is not None and argument.arg not in ("self", "cls")]


def long_functions(tree: ast.AST) -> list[str]:
    return [f"{function.lineno} {function.name}" for function in functions(tree) if body_lines(function) > MOST_LINES]


def wide_functions(tree: ast.AST) -> list[str]:
    return [function.name for function in functions(tree) if len(parameters(function)) > MOST_PARAMETERS]


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a module defines: variables, attributes, parameters, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def empty_names(tree: ast.AST) -> list[str]:
    return [name for _, name in defined_names(tree) if name.lstrip("_").lower() in EMPTY_WORDS]


def swallowed_exceptions(tree: ast.AST) -> list[int]:
    """Lines of handlers that catch every exception and do nothing."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and all(isinstance(line, ast.Pass) for line in node.body)
    ]


def repeated_classes(modules: list[Module]) -> dict[str, list[str]]:
    """Names of top-level classes that several modules define, leading underscores ignored."""
    places = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(module.name)
    return {name: where for name, where in places.items() if len(where) > 1}


def prose(module: Module) -> str:
    """A module's docstrings and comments."""
    nodes = [module.tree, *functions(module.tree)]
    nodes += [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    docstrings = [ast.get_docstring(node) or "" for node in nodes]
    return "\n".join([*docstrings, *re.findall(r"(?m)(?:^|\s)# .*$", module.path.read_text())])


def phrases(text: str) -> dict[str, str]:
    """Phrases of the text for which the field has a term, each with the term."""
    matches = ((match, term) for pattern, term in PHRASES.items() for match in re.findall(f"(?i){pattern}", text))
    return dict(matches)


@each_module
def test_a_module_fits_in_the_head(module: Module) -> None:
    assert len(module.path.read_text().splitlines()) <= MOST_MODULE_LINES, "split it by idea"


@each_module
def test_a_function_body_has_at_most_fifty_lines(module: Module) -> None:
    assert not long_functions(module.tree)


@each_module
def test_a_function_has_at_most_eight_parameters(module: Module) -> None:
    wide = [name for name in wide_functions(module.tree) if f"{module.name}:{name}" not in SIGNATURES_OF_OTHERS]
    assert not wide, "group options in a dataclass"


@each_module
def test_a_name_says_what_its_value_is(module: Module) -> None:
    assert not [name for name in empty_names(module.tree) if f"{module.name}:{name}" not in HASHED_NAMES]


@each_module
def test_no_handler_swallows_every_exception(module: Module) -> None:
    assert not swallowed_exceptions(module.tree)


@each_module
def test_docstrings_and_comments_use_the_terms_of_the_field(module: Module) -> None:
    assert not phrases(prose(module))


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name not in PENDING_DOCUMENTS], ids=lambda p: p.name
)
def test_documents_use_the_terms_of_the_field(path: Path) -> None:
    assert not phrases(path.read_text(encoding="utf-8"))


def test_no_two_classes_have_one_name() -> None:
    assert not repeated_classes([module for module in MODULES if module.room not in PENDING])


def test_pending_rooms_and_documents_exist() -> None:
    assert {module.room for module in MODULES} >= PENDING
    assert {path.name for path in DOCUMENTS} >= PENDING_DOCUMENTS


def test_the_rules_find_what_they_forbid() -> None:
    body = "\n".join(f"    x{n} = {n}" for n in range(MOST_LINES + 1))
    names = ", ".join("abcdefghi")
    source = f'def long(self, {names}):\n    """Say."""\n{body}\n    for one in ():\n        self._held = one\n'
    source += "try:\n    pass\nexcept Exception:\n    pass\n"
    tree = ast.parse(source)
    assert long_functions(tree) == ["1 long"]
    assert wide_functions(tree) == ["long"]
    assert sorted(empty_names(tree)) == ["_held", "one"]
    assert len(swallowed_exceptions(tree)) == 1
    module = Module(PACKAGE / "a.py", ast.parse("class Part: ..."))
    assert repeated_classes([module, Module(PACKAGE / "b.py", ast.parse("class _Part: ..."))]) == {
        "Part": ["a.py", "b.py"]
    }
    assert phrases("Twins of the held-in prompts") == {"Twins": "near-duplicate", "held-in": "in-distribution"}
