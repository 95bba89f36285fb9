"""Which model: the one answer for targets, attackers, judges, references and bases, for every verb and for a run.

A model is spelled as
    toy                         the embedded model
    FOLDER                      a model saved with save_pretrained, or a LoRA adapter on its base
    FILE.gguf                   a GGUF file, converted once into a folder of the cache
    RUN/models/NAME             a model of a run, or any folder that `divalign train` wrote
    ORG/NAME, ORG/NAME@REVISION a model of the hub
    http://host:8000/v1#NAME    the model, or LoRA adapter, NAME of an OpenAI-compatible server
    http://a:8000/v1,http://b:8000/v1#NAME    the same on several servers
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from divalign.data.examples import Conversation
from divalign.limits import further_templates, inside, read_text
from divalign.lm.adapter_folder import SETTINGS, adapter_settings
from divalign.lm.endpoint import SCHEMES, refuse_server
from divalign.lm.generate import generate_responses
from divalign.lm.gguf import is_gguf
from divalign.lm.load import LM, PLAIN_TEMPLATE, Auto, Dtype, load_lm, resolve, tokenizer_place
from divalign.lm.responses import Response
from divalign.lm.server import Server, ServerOptions, generate_responses_on_server, served_model
from divalign.lm.shape import read_tokenizer
from divalign.store import digest, file_digest, folder_digest, read_json, write_bytes, write_json
from divalign.toy.world import ASSETS

KEY_VARIABLE = "DIVALIGN_API_KEY"
MODEL_FILE = "model.json"  # beside a model of a run: its spec
TEMPLATE_FILE = "chat_template.jinja"  # beside it: the template that its user gave
EMBEDDED = "toy"
Files = tuple[tuple[str, int, int], ...]  # of a folder: names, sizes, times


@dataclass(frozen=True)
class ModelSpec:
    """A model's place and how it is loaded: weights, an adapter on them or None, and load options.

    `name` is what reports call it. A `source` that begins with http:// or https:// is served, and called as `server`
    says. "auto" stands for what `lm.load.resolve` finds on this machine, and is resolved when the model is opened.
    """

    source: str
    name: str
    adapter: str | None = None
    revision: str | None = None
    chat_template: str | None = None
    dtype: Dtype | Auto = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    server: ServerOptions | None = None

    def resolved(self) -> ModelSpec:
        """Return the spec with device and dtype as they are on this machine. Raises ValueError for a missing device."""
        device, dtype = resolve(self.device, self.dtype)
        return replace(self, device=device, dtype=dtype)

    @property
    def served(self) -> bool:
        return self.source.startswith(SCHEMES)


@dataclass(frozen=True)
class LoadOptions:
    """What a user says of loading; None and "auto" leave what the model's own folder says, else `lm.load.resolve`.

    `server` is how a served model is called; a local one takes no notice of it.
    """

    dtype: Dtype | Auto | None = None
    device: str | None = None
    adapter: Path | None = None
    chat_template: str | None = None
    trust_remote_code: bool = False
    server: ServerOptions | None = None


class OpenModel(NamedTuple):
    """A model that can be used. `key` names all that its output depends on, and is known without loading it.

    `generate` takes conversations and `max_new_tokens`, `batch_size`, `on_response`, decodes greedily, and returns
    responses. `load` gives weights and tokenizer, once; it is None for a served model. `folder` holds the checkpoint,
    the adapter's where there is one; None for a model of the hub or of a server.
    """

    name: str
    key: str
    generate: Callable[..., list[Response]]
    load: Callable[[], LM] | None
    folder: Path | None = None

    def lm(self) -> LM:
        """Return weights and tokenizer. Raises ValueError for a served model."""
        if self.load is None:
            raise ValueError(f"{self.name} is served and gives no weights; name a local model")
        return self.load()


def model_spec(spelling: str, options: LoadOptions | None = None) -> ModelSpec:
    """Return what a spelling stands for, with `options` laid over what the model's own folder says.

    Raises ValueError for an adapter that does not say what it was made for, a server without the name of its model, a
    model of a run that is not trained yet, a folder that names a server, and a model that needs remote code where
    `options` do not allow it: a folder comes from anyone, and its word is nobody's consent.
    """
    options = options or LoadOptions()
    spec = _spec(spelling, options.chat_template)
    if spec.trust_remote_code and not options.trust_remote_code:
        raise ValueError(
            f"{spelling} needs code from the repository {spec.source}, which loading it would run; read that code, "
            "then allow it with --trust-remote-code"
        )
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    changes = {name: value for name, value in values.items() if value not in (None, "auto")}
    if options.adapter is not None:
        if not options.adapter.is_dir():
            raise ValueError(f"no adapter folder at {options.adapter}; give the folder that save_pretrained wrote")
        if spec.adapter is not None:
            raise ValueError(f"{spelling} has the adapter {spec.adapter} already; merge it before adding another")
        changes["adapter"] = str(options.adapter)
    return replace(spec, **changes)


def open_model(spec: ModelSpec) -> OpenModel:
    """Return a model without loading it. Raises ValueError for a missing folder and a device that torch lacks."""
    return _open_served(spec) if spec.served else _open_local(spec.resolved())


def find_model(spelling: str, options: LoadOptions | None = None) -> OpenModel:
    """Return the model that a spelling stands for. Raises what `model_spec` and `open_model` raise."""
    return open_model(model_spec(spelling, options))


def write_model_spec(folder: Path, spec: ModelSpec) -> None:
    """Leave model.json in a model's folder, so that the folder can be named as a model; untouched if it says the same.

    Paths inside the folder are written relative to it, and a chat template that is a file is copied into it: a run
    folder can be moved.
    """
    content = {name: value for name, value in asdict(spec.resolved()).items() if name not in ("name", "server")}
    for field in ("source", "adapter"):
        path = content[field]
        if path is not None and Path(path).exists():
            place, home = Path(path).resolve(), folder.resolve()
            content[field] = f"./{place.relative_to(home)}" if place.is_relative_to(home) else str(place)
    if content["source"] == str(ASSETS.resolve()):
        content["source"] = EMBEDDED
    content["chat_template"] = _copied_template(folder, spec.chat_template)
    path = folder / MODEL_FILE
    try:
        stored = read_json(path)
    except (OSError, ValueError):  # missing, or torn
        stored = None
    if stored != content:
        write_json(path, content)


def _copied_template(folder: Path, template: str | None) -> str | None:
    """Return how model.json names the template: as it is, or a copy of its file in the folder."""
    if template is None or template == "plain" or not Path(template).is_file():
        return template
    copy, text = folder / TEMPLATE_FILE, read_text(Path(template))
    if not copy.is_file() or read_text(copy) != text:
        write_bytes(copy, text.encode())
    return f"./{TEMPLATE_FILE}"


def base_spec(spelling: str, **options: Any) -> ModelSpec:
    """Return the spec of a base model with a configuration's load options; None and "auto" leave the folder's own."""
    changes = {name: value for name, value in options.items() if value not in (None, "auto")}
    return replace(_spec(spelling, options.get("chat_template")), **changes).resolved()


def _spec(spelling: str, chat_template: str | None = None) -> ModelSpec:
    """Return what a spelling stands for; `chat_template` is the user's, before which a folder's counts for nothing."""
    folder = Path(spelling)
    if spelling == EMBEDDED:
        return ModelSpec(str(ASSETS), EMBEDDED, dtype="float32", device="cpu")  # the same numbers on any machine
    if (served := served_model(spelling)) is not None:
        return ModelSpec(spelling, f"{served.url.split(',')[0]}#{served.model}")  # replicas change no response
    if is_gguf(spelling):
        return ModelSpec(spelling, folder.stem)
    if (folder / MODEL_FILE).is_file():
        return _saved_spec(folder, chat_template)
    if (folder / "checkpoint" / "config.json").is_file() or folder.parent.name == "models":
        _refuse_unfinished(folder)
    if (folder / SETTINGS).is_file():
        return _adapter_spec(folder)
    if spelling.startswith((".", "/", "~")) or folder.exists():
        return ModelSpec(spelling, folder.name or spelling)
    source, _, revision = spelling.partition("@")
    return ModelSpec(source, spelling, revision=revision or None)


def _saved_spec(folder: Path, chat_template: str | None) -> ModelSpec:
    path = folder / MODEL_FILE
    content = read_json(path)
    if not _is_spec(content):
        raise ValueError(f"{path} does not say how to load a model; train it again")
    refuse_server(content["source"], path)
    for field in ("source", "adapter"):
        if isinstance(content.get(field), str) and content[field].startswith("./"):
            content[field] = str(inside(folder, content[field]))
    if content["source"] == EMBEDDED:
        content["source"] = str(ASSETS)
    content["chat_template"] = chat_template or _template_inside(folder, content.get("chat_template"))
    return ModelSpec(**content, name=folder.name)


def _template_inside(folder: Path, name: str | None) -> str | None:
    """Return the template of a model.json with its path. Raises ValueError for a file that is not in the folder."""
    if name is None or name == "plain":
        return name
    try:
        path = inside(folder, name)
    except ValueError:
        path = None
    if path is None or not path.is_file():
        raise ValueError(
            f"{folder / MODEL_FILE} names the chat template {name[:200]!r}, which is no file of the folder; its text "
            "would stand in every prompt: if it is yours, give it with --chat-template (in a configuration "
            "model.chat_template), or run the command that wrote the folder again, which copies it there"
        )
    return str(path)


def _is_spec(content: Any) -> bool:
    """Tell whether a file's content has a source, and beside it nothing but a spec's fields, of their types."""
    names = {field.name for field in fields(ModelSpec)} - {"name", "server"}
    if not (isinstance(content, dict) and {"source"} <= set(content) <= names and isinstance(content["source"], str)):
        return False
    texts = {name: value for name, value in content.items() if name != "trust_remote_code"}
    return isinstance(content.get("trust_remote_code", False), bool) and all(
        value is None or isinstance(value, str) for value in texts.values()
    )


def _refuse_unfinished(folder: Path) -> None:
    if folder.is_dir() and not (folder / "config.json").is_file() and not (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} holds no finished model; run the command that trains it to the end")


def _adapter_spec(folder: Path) -> ModelSpec:
    settings = adapter_settings(folder)
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder} is an adapter that names no base model; merge it, and give the merged model")
    return ModelSpec(base, folder.name, adapter=str(folder), revision=settings.get("revision"))


def _open_local(spec: ModelSpec) -> OpenModel:
    if is_gguf(spec.source) and not Path(spec.source).is_file():
        raise ValueError(f"no file {spec.source}; give the path of a GGUF file")
    if spec.source.startswith((".", "/", "~")) and not (Path(spec.source).is_dir() or is_gguf(spec.source)):
        raise ValueError(
            f"no model folder at {spec.source!r}; give a folder with config.json and *.safetensors, or a hub id"
        )

    @cache
    def load() -> LM:
        adapter = Path(spec.adapter) if spec.adapter else None
        options = {"chat_template": spec.chat_template, "trust_remote_code": spec.trust_remote_code}
        lm = load_lm(
            spec.source, adapter=adapter, dtype=spec.dtype, device=spec.device, revision=spec.revision, **options
        )
        return lm._replace(name=spec.name)

    folder = Path(spec.adapter or spec.source)
    return OpenModel(spec.name, _key(spec), generated_by(load), load, folder if folder.is_dir() else None)


def generated_by(load: Callable[[], LM]) -> Callable[..., list[Response]]:
    """Return the `generate` of a local model that `load` loads when it is first needed."""

    def write(conversations: Sequence[Conversation], **options: Any) -> list[Response]:
        return generate_responses(load().model, load().tokenizer, conversations, **options)

    return write


def _key(spec: ModelSpec) -> str:
    """Return what all output depends on: a folder's content; a hub id is taken at its word, so pin a revision."""
    source = Path(spec.source)
    if is_gguf(source):
        weights: Any = _file_key(source, source.stat().st_mtime_ns)
    else:
        weights = folder_key(source) if source.is_dir() else [spec.source, spec.revision]
    adapter = spec.adapter and folder_key(Path(spec.adapter))
    return digest("model", weights, adapter, spec.dtype, _template_of(spec))


def _template_of(spec: ModelSpec) -> str | None:
    """Return what a key says of the chat template: its text, or "plain" where nothing stands before the built-in one.

    Whether BOS does, a folder's tokenizer tells; of a hub id or a GGUF file it is not known before it is loaded.
    """
    template = spec.chat_template
    if template != "plain":
        return read_text(Path(template)) if template and Path(template).is_file() else template
    place = tokenizer_place(spec.source, Path(spec.adapter) if spec.adapter else None)
    if not Path(place).is_dir():
        return "plain, behind BOS where the tokenizer adds one"
    text = _plain_template_of(Path(place), _files(Path(place)), spec.trust_remote_code and place == spec.source)
    return template if text == PLAIN_TEMPLATE else text


@cache
def _plain_template_of(folder: Path, _files: Files, trust_remote_code: bool) -> str:
    return read_tokenizer(str(folder), chat_template="plain", trust_remote_code=trust_remote_code).chat_template


def folder_key(folder: Path) -> str:
    """Return a model folder's content hash, computed once as long as its files' sizes and times stay the same."""
    return _folder_key(folder, _files(folder))


def _files(folder: Path) -> Files:
    paths = (*sorted(folder.iterdir()), *further_templates(folder))
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


@cache
def _folder_key(folder: Path, _files: Files) -> str:
    return folder_digest(folder)


@cache
def _file_key(path: Path, _changed: int) -> str:
    return file_digest(path)


def _open_served(spec: ModelSpec) -> OpenModel:
    """Return a served model; its key is its first address, its name and the options that change responses.

    An API key is read from the environment variable DIVALIGN_API_KEY and kept nowhere.
    """
    urls, _, model = spec.source.partition("#")
    first, *replicas = urls.split(",")
    options = asdict(spec.server or ServerOptions())
    server = Server(first, model, os.environ.get(KEY_VARIABLE), tuple(replicas), **options)
    return OpenModel(spec.name, digest("served", server.identity), served_by(server), None)


def served_by(server: Server) -> Callable[..., list[Response]]:
    """Return the `generate` of a served model; a server makes batches of its own."""

    def write(conversations: Sequence[Conversation], *, batch_size: int, **options: Any) -> list[Response]:
        return generate_responses_on_server(server, conversations, **options)

    return write
