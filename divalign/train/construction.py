"""Construction of DivergenceTrainer: check arguments, load the model and tokenizer, disable dropout."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer

from divalign.core.losses import Method, find_method
from divalign.data.examples import Row
from divalign.data.method_rows import refuse_unsafe_chosen, rows_for
from divalign.lm.adapter_folder import SETTINGS, adapter_settings
from divalign.lm.load import load_lm
from divalign.train.arguments import DivergenceConfig
from divalign.train.couples import ORIGIN, EncodedRows, TooLongError, encode_rows
from divalign.train.precision import SAFE_RATE, half_weights
from divalign.train.rows import PAIRED, as_rows, checked_rows
from divalign.train.unsupported import TRAINER_ARGUMENTS, refuse_arguments

logger = logging.getLogger(__name__)


def check_arguments(
    args: Any, model: Any, ref_model: Any, compute_metrics: Any, quantization_config: Any, unsupported: dict[str, Any]
) -> None:
    """Raise ValueError for an argument of the trainer that would be ignored, TypeError for one that nobody knows."""
    refuse_arguments(unsupported, TRAINER_ARGUMENTS, "DivergenceTrainer")
    if unsupported:
        raise TypeError(f"DivergenceTrainer takes no argument {next(iter(unsupported))!r}")
    if not isinstance(args, DivergenceConfig):
        raise ValueError(
            f"args is a {type(args).__name__}, expected a DivergenceConfig, which takes the same names and method"
        )
    if ref_model is not None and ref_model is model and not isinstance(model, str):
        raise ValueError("ref_model is the model itself; leave it out: the reference is the model as handed in")
    if compute_metrics is not None:
        raise ValueError("compute_metrics would never be called; use held_out_ratios, or what evaluate() returns")
    if quantization_config is not None and not isinstance(model, str):
        raise ValueError(
            "quantization_config has no effect on a model that is loaded already; give the folder or hub id as model"
        )


def load_tokenizer(model: Any) -> Any:
    """Return the tokenizer of a model or of a folder; an adapter's folder may leave it to the base's."""
    source = model if isinstance(model, str) else model.config._name_or_path
    base = _base_of_adapter(source)
    place = base if base and not any(Path(source).glob("tokenizer*")) else source
    return AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def load_policy(source: str, quantization_config: Any) -> Any:
    """Return the model of a folder, of an adapter's too, or of a hub id.

    Whether its tokenizer has a chat template matters to the rows alone, so none is asked for.
    """
    base = _base_of_adapter(source)
    adapter = Path(source) if base else None
    options: dict[str, Any] = {"quantization_config": quantization_config, "chat_template": "plain"}
    return load_lm(base or source, adapter=adapter, **options).model


def _base_of_adapter(source: str) -> str | None:
    folder = Path(source)
    return adapter_settings(folder)["base_model_name_or_path"] if (folder / SETTINGS).is_file() else None


def encode_data(rows: Any, name: str, tokenizer: Any, args: DivergenceConfig) -> EncodedRows:
    """Tokenise a data set for the method of `args`; the log says how many rows are skipped or cut.

    Raises ValueError where a paired method meets unpaired rows, where unpaired training rows meet an odd batch, and for
    what `as_rows` and `encode_rows` refuse.
    """
    method, listed = find_method(args.method), as_rows(rows, name)
    if method.safety_offset is None:
        refuse_unsafe_chosen(listed, method.name)
    if method.safety_offset is not None or method.controls:
        listed = rows_for(method, [{**row, ORIGIN: number} for number, row in enumerate(checked_rows(listed))])
    try:
        encoded = encode_rows(listed, tokenizer, max_length=args.max_length, too_long=args.too_long)
    except TooLongError as error:
        raise ValueError(f"{error}; too_long='skip' leaves out and counts all such rows") from error
    if method.paired and not encoded.paired:
        raise ValueError(f"{args.method} compares the two responses of a pair; expected prompt, chosen, rejected")
    if name == "train_dataset" and not encoded.paired:
        _refuse_odd_batch(args.per_device_train_batch_size)
    counts = encoded.counts
    if counts.skipped:
        logger.warning("%s: %d of %d rows skipped: prompts fill max_length", name, counts.skipped, counts.rows)
    _check_references(encoded)
    if counts.cut:
        logger.warning("%s: %d of %d rows have responses cut at max_length", name, counts.cut, counts.rows)
    hint = balanced_weights_hint(args, len(encoded.aligned), len(encoded.unaligned))
    if hint:
        logger.warning("%s: %s", name, hint)
    return encoded


def _check_references(encoded: EncodedRows) -> None:
    """Raise ValueError, with the row, for a log-probability of the data that is NaN."""
    for column, numbers in zip(encoded.references or (), encoded.numbers, strict=False):
        bad = [number for number, value in zip(numbers, column, strict=True) if math.isnan(value)]
        if bad:
            raise ValueError(
                f"row {bad[0]} brings a log-probability of the reference that is NaN ({len(bad)} rows do); mend it, or "
                "leave the column out of all rows, and the reference scores them"
            )


def trains_on_pairs(method: Method, rows: Sequence[Row]) -> bool:
    """Tell whether a data set, by its first row, gives this method pairs, and not couples of unpaired rows."""
    return not method.controls and set(checked_rows(rows[:1])[0]) >= PAIRED


def _refuse_odd_batch(rows: int) -> None:
    """Raise ValueError where a micro-batch of unpaired rows is no whole number of couples.

    An update of 10 rows would be 5 couples in one micro-batch and 4 in two.
    """
    if rows % 2:
        raise ValueError(
            f"per_device_train_batch_size (train.pairs_per_batch) is {rows}, and unpaired rows are taken two at a "
            "time, an aligned and an unaligned one; give an even number, and leave the update's rows as they are with "
            "gradient_accumulation_steps"
        )


def disable_dropout(model: nn.Module) -> None:
    """Zero the dropout modules, adapters' too, and the rates that attention keeps as plain numbers."""
    for module in model.modules():
        for name, value in vars(module).items():
            rate = "dropout" in name or (name == "p" and "Dropout" in type(module).__name__)
            if rate and isinstance(value, float):
                setattr(module, name, 0.0)


def warn_of_rounding(model: nn.Module, learning_rate: float) -> None:
    """Log a warning where weights learn in half precision at a rate whose updates it rounds away; see `precision`."""
    dtypes = set(half_weights(model).values())
    if dtypes and learning_rate < SAFE_RATE:
        logger.warning(
            "weights learn in %s, which rounds most updates away at learning rate %g; load the model in float32 and "
            "set bf16=True, or train an adapter",
            " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
            learning_rate,
        )


def balanced_weights_hint(args: DivergenceConfig, aligned: int, unaligned: int) -> str | None:
    """Return a warning where class weights meet classes of unequal size, as TRL's users set them to even these out."""
    weights = args.desirable_weight, args.undesirable_weight
    if weights == (1, 1) or aligned == unaligned:
        return None
    here = [weight * size / (aligned + unaligned) for weight, size in zip(weights, (aligned, unaligned), strict=True)]
    return (
        f"desirable_weight {weights[0]:g} and undesirable_weight {weights[1]:g} on {aligned} aligned and {unaligned} "
        "unaligned rows: classes count alike whatever their size, so weights of 1 need no correction; TRL's weights of "
        f"these values are {here[0]:.3g} and {here[1]:.3g} here"
    )
