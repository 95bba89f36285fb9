"""The learned baseline of the prompt, b(x): a linear head on the policy's state at the prompt's last token.

    b(x) = mean_i w_i z_i(x) + c      z: the last layer's state at the last token of the prompt, mean 0 and variance 1

The critic is T = r + b(x): losses read it where the method's own baseline would stand (core.method). The state is
detached, so the policy moves through r alone. The head starts at 0, computes in float32 and learns at a rate of its
own: with the mean over z in place of the sum one step of AdamW moves b by about that many nats at most twice, however
wide the model is. It is a part of training and of read-outs, never of the policy: its file lies beside the weights, and
whoever loads the model does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from transformers import TrainerCallback

from divalign.core.baselines import RowBaselines
from divalign.core.method import Method
from divalign.data.batching import Encoded
from divalign.lm.backbone import refuse_prefix
from divalign.lm.hidden import response_states
from divalign.lm.layout import Layout, prompt_ends

FILE = "prompt_baseline.safetensors"  # in a checkpoint's folder


class PromptBaseline(nn.Module):
    """b(x) in nats of r, from states of the prompts' last tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.constant = nn.Parameter(torch.zeros(()))

    def forward(self, states: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        exact = states.detach().to(torch.promote_types(states.dtype, torch.float32))
        normal = layer_norm(exact, exact.shape[-1:])
        return (normal * self.weight).mean(-1) + self.constant

    def save(self, folder: Path) -> None:
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read the head that `save` left. Raises ValueError where there is none."""
        path = folder / FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no {FILE}: it was trained without a prompt baseline; start in a new folder"
            )
        self.load_state_dict(load_file(path))

    def join(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        """Let the optimizer train the head at its own rate, without weight decay; once is enough."""
        if not any(self.constant is parameter for group in optimizer.param_groups for parameter in group["params"]):
            optimizer.add_param_group(
                {"params": list(self.parameters()), "lr": learning_rate, "weight_decay": 0.0}  # the schedule is shared
            )


class HeadGradients(TrainerCallback):
    """Average, clip and clear the gradients of a head that is no part of the model, which Trainer does for the rest."""

    def __init__(self, head: PromptBaseline) -> None:
        self.head = head
        self.accelerator: Any = None

    def place(self, device: Any, accelerator: Any) -> None:
        """Move the head to where the model trains; `accelerator` knows the other processes."""
        self.head.to(device)
        self.accelerator = accelerator

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for parameter in self.head.parameters() if args.world_size > 1 else ():
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad  # of a process without rows
            parameter.grad = self.accelerator.reduce(own, reduction="mean")
        if args.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.head.parameters(), args.max_grad_norm)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.head.zero_grad()


def make_head(method: Method, model: Any, optimizers: tuple[Any, Any]) -> PromptBaseline | None:
    """Return the head of a method that has one. Raises ValueError where the user's optimizer would not train it."""
    if not method.prompt_baseline:
        return None
    refuse_prefix(model)
    if optimizers[0] is not None:
        raise ValueError("a prompt baseline learns in the trainer's own optimizer; leave optimizers out")
    return PromptBaseline(model.config.get_text_config().hidden_size)


def row_baselines(values: Tensor | None, offsets: Tensor | None) -> RowBaselines | None:
    """Return what losses take off r: minus b(x) of each row, aligned ones first, and the offsets of aligned rows.

    `offsets` are of pairs that differ in safety, which a method without b reads. None for neither.
    """
    if values is not None:
        return RowBaselines(*(-values).chunk(2))
    return None if offsets is None else RowBaselines(offsets, torch.zeros_like(offsets))


def ends_of(inputs: dict[str, Any]) -> Int[Tensor, " b"]:
    """Return where the prompt of each response of a micro-batch ends, in the flattened batch."""
    fields: dict[str, Any] = {name: inputs.get(name) for name in Layout._fields}
    return prompt_ends(Layout(**fields))


def load_head(folder: Path) -> PromptBaseline | None:
    """Return the head that lies beside a checkpoint's weights, None where it was trained without one."""
    if not (folder / FILE).is_file():
        return None
    head = PromptBaseline(len(load_file(folder / FILE)["weight"]))
    head.load(folder)
    return head


@torch.no_grad()
def baselines_of(
    head: PromptBaseline, model: Any, rows: Sequence[Encoded], pad_id: int, *, batch_size: int = 64
) -> Float[Tensor, " n"]:
    """Return b of each row's prompt, in nats; each prompt runs once."""
    prompts = {tuple(row.prompt_ids): Encoded(row.prompt_ids, row.response_ids[:1]) for row in rows}
    states = response_states(model, list(prompts.values()), pad_id, batch_size=batch_size)["prompt"]
    values = head(torch.from_numpy(states).to(head.weight.device)).cpu().double()
    places = {ids: place for place, ids in enumerate(prompts)}
    return values[[places[tuple(row.prompt_ids)] for row in rows]]
