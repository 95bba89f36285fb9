"""A chat template is a program of a stranger's: it is rendered in jinja2's sandbox, wherever it comes from."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2
import pytest

from divalign.data.batching import render
from divalign.data.examples import user_says
from divalign.data.rendering import template_options
from divalign.lm.load import load_lm
from tests.lm.gguf_files import write_gguf
from tests.tiny import save_tiny, tiny_tokenizer

# Each runs a shell command in jinja2's plain environment, by another way to Python's own objects.
ESCAPES = {
    "a global": "{{ cycler.__init__.__globals__.os.popen(COMMAND).read() }}",
    "a function": "{{ lipsum.__globals__['os'].popen(COMMAND).read() }}",
    "a filter": "{{ (cycler|attr('__init__')|attr('__globals__'))['os'].popen(COMMAND).read() }}",
    "the template": "{{ self.__init__.__globals__.__builtins__.__import__('os').popen(COMMAND).read() }}",
    "a class": "{% for c in ''.__class__.__mro__[1].__subclasses__() if c.__name__ == 'catch_warnings' %}"
    "{{ c()._module.__builtins__['__import__']('os').popen(COMMAND).read() }}{% endfor %}",
}
OF_FORMATS = {
    "a format": "{{ '{0.__init__.__globals__}'.format(cycler) }}",
    "a format by a filter": "{{ ('{0.__init__.__globals__}'|attr('format'))(cycler) }}",
    "a format in a macro": "{% set f = '{0.__init__.__globals__}'.format %}{{ f(cycler) }}",
}
CHANGES = {
    "the messages": "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "a message": "{{ messages[0].update({'content': 'x'}) }}",
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "the template ran a command"


def with_command(escape: str, canary: Path) -> str:
    return escape.replace("COMMAND", repr(f"touch '{canary}'"))


def rendered(template: str) -> str:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return render(tokenizer, user_says("a question"))


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_a_command_that_the_plain_environment_runs_is_not_run(escape: str, canary: Path) -> None:
    template = with_command(escape, canary)
    if "catch_warnings" not in template:
        jinja2.Environment().from_string(template).render(messages=[])
        assert canary.exists(), "the escape must work outside of the sandbox, or nothing is shown"
        canary.unlink()
    with pytest.raises(ValueError, match="the chat template refuses the turns"):
        rendered(template)
    assert not canary.exists()


@pytest.mark.parametrize("escape", OF_FORMATS.values(), ids=OF_FORMATS)
def test_a_format_string_reaches_no_globals(escape: str) -> None:
    assert "<module" in jinja2.Environment().from_string(escape).render(), "outside of the sandbox it does"
    with suppress(ValueError):
        assert "<module" not in rendered(escape)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_template_cannot_change_what_it_is_given(change: str) -> None:
    with pytest.raises(ValueError, match="the chat template refuses the turns"):
        rendered(change)


@pytest.mark.parametrize("error", ["{{ range(10**7)|list }}", "{{ 1 // 0 }}", "{{ {}['a'].b }}", "{{ messages[9].a }}"])
def test_any_error_of_a_template_is_a_sentence(error: str) -> None:
    with pytest.raises(ValueError, match="the chat template refuses the turns"):
        rendered(error)


def in_a_folder(template: str, folder: Path) -> Any:
    place = save_tiny("Llama", folder / "model")
    (place / "chat_template.jinja").write_text(template)
    return load_lm(str(place))


def in_a_file(template: str, folder: Path) -> Any:
    (folder / "mine.jinja").write_text(template)
    return load_lm(str(save_tiny("Llama", folder / "model")), chat_template=str(folder / "mine.jinja"))


def in_a_gguf_file(template: str, folder: Path) -> Any:
    return load_lm(str(write_gguf(folder / "model.gguf", template=template)))


@pytest.mark.parametrize("load", [in_a_folder, in_a_file, in_a_gguf_file], ids=lambda load: load.__name__)
def test_a_model_brings_its_template_into_the_sandbox(
    load: Any, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIVALIGN_CACHE", str(tmp_path / "cache"))
    lm = load(with_command(ESCAPES["a global"], canary), tmp_path)
    with pytest.raises(ValueError, match=r"access to attribute .* is unsafe"):
        render(lm.tokenizer, user_says("a question"))
    assert not canary.exists()


@pytest.mark.parametrize("argument", ["chat_template", "tokenizer_kwargs", "tokenize", "max_length"])
def test_a_row_sets_no_argument_of_the_rendering_itself(argument: str) -> None:
    with pytest.raises(ValueError, match="not a row's to decide"):
        template_options({"chat_template_kwargs": {argument: "{{ 1 }}"}})
