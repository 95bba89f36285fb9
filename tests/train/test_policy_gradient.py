"""Updates on sampled responses: the gradient against a plain computation, resumption, counts, and what is refused."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.core.advantages import leave_one_out
from divalign.lm.generate import Sample
from divalign.lm.load import LM
from divalign.train.policy_gradient import Completion, Reward, Rollouts, SampledBatch
from divalign.train.run import Watch, train_and_save
from divalign.train.speed import TIMES, Speed
from tests.tiny import tiny_model

PAIRS = [{"prompt": f"Say {i}: ", "chosen": f"yes {i}", "rejected": f"no {i}", "want": i % 2} for i in range(8)]
KL = 0.3


def parity(completions: Sequence[Completion]) -> list[float]:
    return [sum(each.sample.tokens.response_ids) % 5 / 5 for each in completions]


def rollouts(**options: Any) -> Rollouts:
    settings: dict[str, Any] = {"reward": Reward("parity", "parity", parity), "responses": 4, "max_new_tokens": 5}
    return Rollouts(**{**settings, **options})


def trainer(folder: Path, *, sampled: Rollouts | None = None, **options: Any) -> DivergenceTrainer:
    model, tokenizer = tiny_model("Llama")
    peft_config, rows = options.pop("peft_config", None), options.pop("rows", PAIRS)
    settings: dict[str, Any] = {
        "method": "rlhf", "beta": KL, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0, "max_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no",
        "gradient_checkpointing": False, "disable_tqdm": True, "logging_steps": 1.0, "per_device_train_batch_size": 4,
    }  # fmt: skip
    return DivergenceTrainer(
        model.double(),
        args=DivergenceConfig(str(folder), **{**settings, **options}),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
        rollouts=sampled,
    )


def moved(run: DivergenceTrainer) -> Tensor:
    """Return what training does to the weights: of one plain descent at rate 1, minus the gradient."""
    before = torch.cat([p.detach().flatten().clone() for p in run.model.parameters()])
    run.train()
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]) - before


def draws(run: DivergenceTrainer) -> list[SampledBatch]:
    """Keep what the trainer draws from now on."""
    assert run._sampled is not None
    kept, take = [], run._sampled.take

    def keeping(*args: Any, **options: Any) -> SampledBatch:
        kept.append(take(*args, **options))
        return kept[-1]

    run._sampled.take = keeping  # type: ignore[method-assign]
    return kept


def log_prob(model: Any, sample: Sample) -> Tensor:
    """The log-probability of a response by the model's own forward, one at a time."""
    prompt, response = sample.tokens
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum()


def test_an_update_descends_the_mean_of_advantage_times_log_probability(tmp_path: Path) -> None:
    run = trainer(tmp_path, sampled=rollouts())
    kept, model = draws(run), tiny_model("Llama")[0].double()
    step = moved(run)
    (batch,) = kept
    assert batch.rewards.std() > 0.1
    log_probs = torch.stack([log_prob(model, sample) for sample in batch.samples])
    assert [sample.log_prob for sample in batch.samples] == pytest.approx(log_probs.tolist(), abs=1e-5)
    advantages = leave_one_out(batch.rewards).flatten()  # at the first update the policy is the reference
    gradient = torch.autograd.grad(-(advantages * log_probs).mean(), list(model.parameters()))
    whole = torch.cat([part.flatten() for part in gradient])
    assert whole.norm() > 1e-3
    assert (step + whole).norm() < 1e-5 * whole.norm()


def test_an_update_is_the_same_however_it_is_split_and_shared(tmp_path: Path) -> None:
    """The second update, at which the policy has left the reference."""
    options: dict[str, Any] = {"method": "on_policy:js", "max_steps": 2, "learning_rate": 0.05}
    whole = moved(trainer(tmp_path, sampled=rollouts(), **options))
    for size, share in ((1, True), (2, False)):
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "share_prompts": share}
        other = moved(trainer(tmp_path, sampled=rollouts(), **options, **split))
        assert (other - whole).norm() < 1e-4 * whole.norm()


REPEATED = [{**PAIRS[0], "chosen": f"yes {i}"} for i in range(2)] + PAIRS[1:3]  # a prompt of two pairs
UNEQUAL = [
    {"prompt": f"Say {prompt}: ", "completion": f"so {n}", "label": label}
    for label, prompts in ((True, (0, 0, 1, 2)), (False, (0, 3, 4, 1)))
    for n, prompt in enumerate(prompts)
]


@pytest.mark.parametrize("rows", [REPEATED, UNEQUAL], ids=["pairs", "unpaired"])
def test_micro_batches_of_unequal_prompts_make_the_update_of_one_batch(tmp_path: Path, rows: list) -> None:
    """The second update; of four micro-batches of pairs one has no prompt of its own."""
    unit, steps, logs = 1 if rows is REPEATED else 2, [], []
    for size in (4, 2, 1):
        split = {"per_device_train_batch_size": size * unit, "gradient_accumulation_steps": 4 // size}
        run = trainer(tmp_path, sampled=rollouts(), rows=rows, method="on_policy:js", max_steps=2,
                      learning_rate=0.05, **split)  # fmt: skip
        steps.append(moved(run))
        logs.append({name: run.state.log_history[1][name] for name in ("loss", "reward", "kl", "entropy")})
    for step, log in zip(steps[1:], logs[1:], strict=True):
        assert (step - steps[0]).norm() < 1e-4 * steps[0].norm()
        assert log == pytest.approx(logs[0], rel=1e-4, abs=1e-5)


def test_the_penalty_is_beta_unless_it_is_set(tmp_path: Path) -> None:
    """Where all rewards are equal the penalty alone moves the policy, and only once it has left the reference."""
    flat = Reward("flat", "flat", lambda completions: [1.0] * len(completions))
    assert not moved(trainer(tmp_path, sampled=rollouts(reward=flat))).any()
    found = {
        kl: moved(trainer(tmp_path, sampled=rollouts(kl=kl), max_steps=2, learning_rate=0.1)) for kl in (None, KL, 0.0)
    }
    assert torch.equal(found[None], found[KL])
    assert not torch.equal(found[None], found[0.0])


def test_the_log_has_trls_names_and_counts_groups_that_teach_nothing(tmp_path: Path) -> None:
    def by_prompt(completions: Sequence[Completion]) -> list[float | None]:
        return [None if each.row["want"] else len(each.prompt) for each in completions]

    run = trainer(tmp_path, sampled=rollouts(reward=Reward("by prompt", "k", by_prompt)), per_device_train_batch_size=8)
    assert not moved(run).any()
    log = run.state.log_history[0]
    assert (log["reward"], log["reward_std"], log["frac_reward_zero_std"], log["reward_undecided"]) == (7, 0, 1, 0.5)
    assert log["kl"] == pytest.approx(0, abs=1e-6)
    assert log["entropy"] > 1
    assert log["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)
    trl = pytest.importorskip("trl", reason="TRL is not installed: its names cannot be looked up")
    source = inspect.getsource(trl.RLOOTrainer)
    ours = ("reward_undecided", "sampling/importance_sampling_ratio/min")
    names = [name for name in log if name.startswith(("reward", "frac", "kl", "entropy", "completions"))]
    assert len(names) >= 10
    assert [name for name in names if f'"{name}"' not in source and name not in ours] == []


def test_the_speed_counts_sampled_responses_and_their_prompts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[int, int]] = []
    measure = Speed.metrics

    def counting(speed: Speed) -> dict[str, float]:
        counted.append((speed.tokens, speed.scored))
        return measure(speed)

    monkeypatch.setattr(Speed, "metrics", counting)
    for method in ("rlhf", "on_policy:js"):
        run = trainer(tmp_path, sampled=rollouts(), method=method)
        kept = draws(run)
        run.train()
        samples = [sample.tokens for batch in kept for sample in batch.samples]
        prompts, scored = {tuple(each.prompt_ids) for each in samples}, sum(len(each.response_ids) for each in samples)
        assert (len(prompts), len(samples)) == (4, 16)
        assert counted == [(sum(map(len, prompts)) + scored, scored)]
        log = run.state.log_history[0]
        assert log["tokens_per_second"] > 0
        assert 0 < log["mfu"] < 1
        counted.clear()


def test_cut_responses_are_counted_and_kept_or_dropped_as_asked(tmp_path: Path) -> None:
    steps = {}
    for truncated in ("keep", "drop"):
        run = trainer(tmp_path, sampled=rollouts(truncated=truncated, max_new_tokens=1))
        kept = draws(run)
        steps[truncated] = moved(run)
        log, (batch,) = run.state.log_history[0], kept
        cut = [not sample.ended for sample in batch.samples]
        assert log["completions/clipped_ratio"] == pytest.approx(sum(cut) / len(cut))
        assert sum(cut) > 8
        assert batch.rewards.isnan().flatten().tolist() == (cut if truncated == "drop" else [False] * len(cut))
    assert not torch.equal(steps["keep"], steps["drop"])


def test_a_reward_reads_the_row_the_prompt_and_the_text(tmp_path: Path) -> None:
    seen: list[Completion] = []

    def keeping(completions: Sequence[Completion]) -> list[float]:
        seen.extend(completions)
        return [0.0] * len(completions)

    run = trainer(tmp_path, sampled=rollouts(reward=Reward("keeping", "k", keeping), responses=2))
    run.train()
    assert len(seen) == 8
    for each in seen:
        row = next(row for row in PAIRS if row["prompt"] == each.prompt)
        assert each.row["want"] == row["want"]
        ids = each.sample.tokens.response_ids
        assert each.response == run.processing_class.decode(ids, skip_special_tokens=True)  # type: ignore[union-attr]


def test_offline_rows_take_their_share_of_the_loss(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "on_policy:js", "max_steps": 1}
    sampled = moved(trainer(tmp_path, sampled=rollouts(), **options))
    offline = moved(trainer(tmp_path, method="fdo:js")) / KL  # sampled losses are divided by beta
    run = trainer(tmp_path, sampled=rollouts(offline_weight=0.25), **options)
    mixed = moved(run)
    assert (mixed - (0.75 * sampled + 0.25 * offline)).norm() < 1e-5 * mixed.norm()
    assert {"reward", "rewards/chosen", "divergence/ess"} <= set(run.state.log_history[0])


def test_an_adapter_is_trained_against_the_base_beneath_it(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    run = trainer(tmp_path, sampled=rollouts(), peft_config=config, max_steps=3, learning_rate=0.1)
    kept = draws(run)
    run.train()
    base = tiny_model("Llama")[0].double()
    expected = [log_prob(base, sample).item() for sample in kept[-1].samples]
    assert kept[-1].reference.tolist() == pytest.approx(expected, abs=1e-4)
    assert abs(run.state.log_history[2]["kl"]) > 1e-7


def test_a_stopped_training_draws_and_learns_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def train(name: str, stop: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        model, tokenizer = tiny_model("Llama")
        done: list[int] = []

        def advance(updates: int) -> None:
            done.append(updates)
            if sum(done) == stop:
                raise Stop

        options: dict[str, Any] = {"work": tmp_path / f"{name}-work", "watch": Watch(advance=advance), "max_steps": 4}
        trained = train_and_save(
            LM(model, tokenizer, "tiny", "tiny"), PAIRS, tmp_path / name, method="on_policy:js", rollouts=rollouts(),
            learning_rate=1e-2, per_device_train_batch_size=4, use_cpu=True, logging_steps=4.0, **options,
        )  # fmt: skip
        (row,) = (row for row in trained.log if row["step"] == 4)
        return load_file(tmp_path / name / "model.safetensors"), row

    whole, log = train("whole")
    with pytest.raises(Stop):
        train("stopped", stop=3)
    resumed, resumed_log = train("stopped")
    assert all(resumed[name].equal(value) for name, value in whole.items())
    told = set(log) - {*TIMES, "train_runtime", "grad_norm"}
    assert {"reward", "kl", "completions/mean_length", "sampling/importance_sampling_ratio/max"} <= told
    assert {name: resumed_log[name] for name in told} == pytest.approx({name: log[name] for name in told})


def test_what_has_no_effect_or_no_meaning_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"method": "rlhf"}, "trains on responses that the policy samples"),
        ({"method": "kldo", "sampled": rollouts()}, "rollouts have no effect on kldo"),
        ({"sampled": rollouts(offline_weight=0.5)}, "has no lower bound; leave lambda at 0"),
        ({"sampled": rollouts(), "sft_weight": 0.1}, "no effect without lambda"),
    ]
    for options, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            trainer(tmp_path, **options)
    for options, sentence in (
        ({"responses": 1}, "needs 2 at least"),
        ({"kl": -0.1}, "expected at least 0"),
        ({"offline_weight": 1.0}, "to below 1"),
        ({"truncated": "mask"}, "expected one of keep, drop"),
    ):
        with pytest.raises(ValueError, match=sentence):
            rollouts(**options)
    wrong = Reward("short", "short", lambda completions: [1.0])
    with pytest.raises(ValueError, match="gave 1 numbers for 16 responses"):
        trainer(tmp_path, sampled=rollouts(reward=wrong)).train()
