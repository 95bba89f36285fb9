"""`divalign init` prints a configuration that says what each key means and runs as it is."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from divalign.cli import main
from divalign.config import Config, load_config

REAL = Path(__file__).parents[2] / "configs" / "real.yaml"


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *options: str) -> str:
    monkeypatch.setattr("sys.argv", ["divalign", "init", *options])
    main()
    return capsys.readouterr().out


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> list[str]:
    return [printed(monkeypatch, capsys), printed(monkeypatch, capsys, "--model", "./some/model: odd #name")]


def test_what_init_prints_loads_as_what_was_meant(texts: list[str], tmp_path: Path) -> None:
    tour, real = (tmp_path / name for name in ("tour.yaml", "real.yaml"))
    tour.write_text(texts[0])
    real.write_text(texts[1])
    assert load_config(tour) == load_config(None)
    assert load_config(real) == load_config(REAL, ["model.source='./some/model: odd #name'"])


def keys(section: Any, prefix: str = "") -> list[str]:
    found = []
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), prefix + (field.alias or name)
        found += [key, *(keys(value, f"{key}.") if isinstance(value, BaseModel) else [])]
    return found


def test_every_key_stands_there_with_a_comment_before_it(texts: list[str], tmp_path: Path) -> None:
    for text in texts:
        (tmp_path / "c.yaml").write_text(text)
        lines, path, seen = text.splitlines(), [], []
        for before, line in zip(["", *lines], lines, strict=False):
            key = re.match(r"( *)([a-z_]+):", line)
            if key:
                path[len(key[1]) // 2 :] = [key[2]]
                seen.append(".".join(path))
                assert before.strip().startswith("#"), f"{line!r} has no comment"
        assert seen == keys(load_config(tmp_path / "c.yaml"))


def test_every_key_of_a_configuration_has_a_description() -> None:
    def bare(section: type[BaseModel]) -> list[str]:
        nested = [kind for field in section.model_fields.values() for kind in sections(field.annotation)]
        own = [
            name for name, field in section.model_fields.items()
            if not field.description and not sections(field.annotation)
        ]  # fmt: skip
        return own + [name for kind in nested for name in bare(kind)]

    def sections(kind: Any) -> list[type[BaseModel]]:
        parts = (kind, *getattr(kind, "__args__", ()))
        return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]

    assert bare(Config) == []
