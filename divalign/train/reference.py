"""The reference model: another model, the model under our adapter, or the model itself until training moves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.numpy import load_file

from divalign.data.batching import Encoded
from divalign.lm.decoding import evaluating
from divalign.lm.load import load_lm
from divalign.lm.score import sequence_log_probs
from divalign.store import Arrays, cached_arrays, digest, intact
from divalign.train.adapters import FRESH_STARTS, add_second, as_peft_model, make_trainable, only_active
from divalign.train.ranks import Ranks
from divalign.train.sharding import is_sharded

NO_CONTENT = ("_name_or_path", "use_cache")  # of a configuration: where it came from and what Trainer sets


class Reference(NamedTuple):
    """The model that scores the reference, and how. `digest` is of its weights, "" where nothing is cached.

    `under_adapter` says that the policy is an adapter on it; `own` names the adapters that are part of it.
    """

    model: Any
    digest: str
    another: bool
    under_adapter: bool
    own: tuple[str, ...] = ()

    @property
    def lasts(self) -> bool:
        """Whether it is still there once training has begun."""
        return self.another or self.under_adapter

    @contextmanager
    def ready(self, device: Any) -> Iterator[Any]:
        """Give the model in evaluation mode and without our adapter, another model on `device`; put all of it back."""
        home = self.model.device
        moved = self.another and home != device and getattr(self.model, "hf_device_map", None) is None
        if moved:
            self.model.to(device)
        try:
            with evaluating(self.model), self._without_policy():
                yield self.model
        finally:
            if moved:
                self.model.to(home)

    def _without_policy(self) -> Any:
        if not self.under_adapter:
            return nullcontext()
        return only_active(self.model, list(self.own)) if self.own else self.model.disable_adapter()


def adapt(model: Any, ref_model: Any, peft_config: Any, *, cached: bool) -> tuple[Any, Reference]:
    """Put the adapter on the model, if there is one; return the model and its reference, with a digest if `cached`.

    A model that has an adapter keeps it, in the reference too: a new one is a second one, and without a new one its own
    is trained. A `ref_model` may be a folder or a hub id.
    """
    model = as_peft_model(model)
    if isinstance(ref_model, str):
        ref_model = load_lm(ref_model, chat_template="plain").model  # of which only the weights are used
    own = tuple(model.active_adapters) if isinstance(model, PeftModel) and peft_config is not None else ()
    under = ref_model is None and peft_config is not None and (bool(own) or _keeps_base(peft_config))
    key = weights_digest(model) if cached and under else ""  # before the adapter, whose weights are drawn at random
    if own:
        add_second(model, peft_config)
    elif peft_config is not None:
        model = get_peft_model(model, peft_config)
    make_trainable(model)
    scorer = model if ref_model is None else ref_model
    if cached and not under:
        key = weights_digest(scorer)
    return model, Reference(scorer, key, ref_model is not None, under, own)


def reference_scores(
    reference: Reference,
    model: Any,
    rows: list[Encoded],
    ranks: Ranks,
    *,
    cache: Path | None,
    report: Callable[[int, int], None] | None,
    pad_id: int,
    batch_size: int,
) -> list[float]:
    """Return the log-probability of each row in nats under a reference that is `ready`, as `model`.

    Each process scores its share. The `cache` is of all rows together, the same for any number of processes, and the
    first process says for all of them whether it holds them: those of a sharded model must do equally many forwards.
    """
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "on_progress": ranks.counter(report, len(rows)),
        "in_step": is_sharded(model),
    }

    def make() -> Arrays:
        scores = ranks.score(rows, lambda share: sequence_log_probs(model, share, pad_id, **options))
        return {"log_probs": scores.numpy()}

    if cache is None:
        return make()["log_probs"].tolist()
    # The key holds neither method, beta nor seed, so all runs over the same rows share one pass.
    key = digest("log_probs", digest(reference.digest, ranks.accelerator.mixed_precision), rows)
    path = cache / f"{key}.safetensors"
    if not ranks.leaders(intact(path, key)):
        scores = make()
        if not ranks.rank:
            cached_arrays(path, key, lambda: scores)
    return ranks.leaders(None if ranks.rank else load_file(path)["log_probs"].tolist())


def weights_digest(model: Any) -> str:
    """Return the content hash of what a model's scores depend on: configuration, adapters and every tensor.

    Read from the model as it stands, not from where it was loaded: it may have been trained since.
    """
    config = json.loads(model.config.to_json_string(use_diff=False))
    settings = {name: value for name, value in config.items() if name not in NO_CONTENT}
    adapters = {name: adapter.to_dict() for name, adapter in getattr(model, "peft_config", {}).items()}
    content = hashlib.sha256(repr(_active(model)).encode() if adapters else b"")
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            content.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest("weights", settings, json.dumps(adapters, sort_keys=True, default=_text), content.hexdigest())


def _active(model: Any) -> list[Any]:
    """Return which of a model's adapters take part in its scores, in order, and how strongly."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    states = [(layer.active_adapters, layer.disable_adapters, getattr(layer, "scaling", None)) for layer in layers]
    return [[*names, off, sorted(scaling.items()) if scaling else None] for names, off, scaling in states]


def _keeps_base(peft_config: Any) -> bool:
    """Tell whether the model with this adapter off is the model before it was put on, during training too."""
    start = getattr(peft_config, "init_lora_weights", True)
    return getattr(peft_config, "bias", "none") == "none" and start in FRESH_STARTS


def _text(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)
