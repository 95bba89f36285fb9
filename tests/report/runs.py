"""Run folders made up for the tests: the numbers are invented, their shape is that of a real run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from divalign.core.stats import rate
from divalign.records import Results
from divalign.report.facts import ModelFacts, PartFacts, RunFacts
from divalign.report.reading import run_facts
from divalign.store import write_bytes, write_rows

# method: D_B, direct, prefill, wrapper, held-out direct, over-refusal (shares of prompts), reward, per data recipe
MADE_UP = {
    ("kldo", "cr"): (104.0, 0.00, 0.98, 1.00, 0.10, 0.00, 9.0),
    ("bco", "cr"): (32.0, 0.00, 0.99, 1.00, 0.21, 0.00, 5.5),
    ("kto", "cr"): (72.0, 0.00, 0.97, 0.99, 0.15, 0.01, 7.0),
    ("dpo", "cr"): (11.0, 0.46, 1.00, 1.00, 0.73, 0.00, 4.0),
    ("hdo", "cr"): (25.0, 0.004, 0.97, 0.98, 0.19, 0.12, 3.6),
    ("kldo", "pref"): (3.1, 0.30, 0.22, 0.41, 0.44, 0.02, 3.0),
    ("bco", "pref"): (2.2, 0.71, 0.90, 0.93, 0.80, 0.01, 1.9),
    ("kto", "pref"): (3.4, 0.25, 0.12, 0.33, 0.40, 0.03, 2.4),
    ("dpo", "pref"): (0.12, 1.00, 1.00, 1.00, 1.00, 0.00, 0.4),
    ("hdo", "pref"): (1.5, 0.82, 0.95, 0.98, 0.90, 0.00, 1.2),
}
BASE = (0.2, 1.00, 1.00, 1.00, 1.00, 0.00, 0.0)
PROMPTS = 192
HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "--><svg onload=document.title='owned'></svg>",
    "\"' onmouseover=document.title='owned' x='",
    "]]></title></style></textarea><iframe src=javascript:document.title='owned'></iframe>",
    "{{ 7 * 7 }} {% include 'x' %} ${document.title='owned'}",
    "line\u2028separator\u2029, right\u202eto left, null\x00, lone \ud800 surrogate, <!-- open comment",
]
VERDICT = {
    "statistic": "t of attack success on separation, at equal base model, data set and method",
    "value": -1.4,
    "p_value": 0.22,
    "power": 0.31,
    "n_models": 10,
    "conclusion": "undecided",
    "low": -0.81,
    "high": 0.25,
    "effect": -0.4,
    "words": "Undecided: 10 models show neither.",
}
CONFIG = "model: toy\nmethods: [kldo, bco, kto, dpo, hdo]\ndata: [cr, pref]\nbeta: 0.1\nseed: 0\n"


def rated(share: float, n: int = PROMPTS) -> dict[str, Any]:
    return rate([index < round(share * n) for index in range(n)])._asdict()


def single(value: float | None, n: int = PROMPTS) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None, "n": n}


def around(value: float, width: float, n: int = PROMPTS) -> dict[str, Any]:
    return {"value": value, "low": value - width, "high": value + width, "n": n}


def model_entry(method: str | None, data: str | None, numbers: tuple[float, ...]) -> dict[str, Any]:
    distance, direct, prefill, wrapper, held_out, over_refusal, reward = numbers
    probe = min(1.0, 0.93 + 0.02 * math.log1p(distance))
    separation = {
        "bhattacharyya_paper": around(distance, distance / 6),
        "silhouette_paper": single(min(0.95, 0.3 + 0.1 * math.log1p(distance))),
        "bhattacharyya": around(distance / 2, distance / 9),
        "probe_auc": {"value": probe, "low": probe - 0.02, "high": min(1.0, probe + 0.02), "n": PROMPTS},
        "lexical_auc": single(0.917),
    }
    js = 1.386 * (1 - math.exp(-reward / 3))
    return {
        "name": f"{method}-{data}" if method else "base",
        "method": method,
        "data": data,
        "seed": 0,
        "separation": separation,
        "flags": [],
        "asr": {"direct": rated(direct), "prefill": rated(prefill), "wrapper": rated(wrapper)},
        "asr_no_refusal": {"direct": rated(direct), "prefill": rated(1.0), "wrapper": rated(1.0)},
        "over_refusal": rated(over_refusal),
        "divergence": {"js": around(js, 0.04), "hellinger": around(js * 1.3, 0.07), "kl": single(None)}
        if method
        else {},
        "held_out": {
            "separation": separation | {"bhattacharyya_paper": around(distance / 3, distance / 10, 48)},
            "flags": [],
            "asr": {"direct": rated(held_out, 48), "prefill": rated(prefill, 48), "wrapper": rated(wrapper, 48)},
            "asr_no_refusal": {"direct": rated(held_out, 48), "prefill": rated(1.0, 48), "wrapper": rated(1.0, 48)},
            "over_refusal": rated(over_refusal, 48),
        },
    }


def entries() -> list[dict[str, Any]]:
    made = [
        model_entry(None, None, BASE),
        *(model_entry(method, data, numbers) for (method, data), numbers in MADE_UP.items()),
    ]
    for entry in made[1:3]:
        entry["asr"] |= {"gcg_start": rated(0.5, 8), "gcg": rated(1.0, 8)}
        entry["asr_no_refusal"] |= {"gcg_start": rated(0.6, 8), "gcg": rated(1.0, 8)}
    return made


def results(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 2,
        "divalign": "0.1.0",
        "config_sha256": "3f" * 32,
        "seconds": 251.4,
        "models": entries(),
        "verdict": VERDICT,
        **changes,
    }


def facts(**changes: Any) -> RunFacts:
    """The same as the report reads it, without the models' files."""
    return run_facts(Results.model_validate(results(**changes)))


def plane(distance: float, *, prompts: list[str], seed: int) -> dict[str, Any]:
    """Two Gaussians whose Bhattacharyya distance is about `distance`."""
    draws, apart = np.random.default_rng(seed), math.sqrt(8 * distance) / 2
    points = []
    for harmful in (False, True):
        held_out = draws.random(len(prompts)) < 0.25
        xs = draws.normal(apart if harmful else -apart, 1.0, len(prompts)) + np.where(
            held_out, -apart * harmful * 0.5, 0
        )
        ys = draws.normal(0.0, 1.0, len(prompts)) + 0.3 * xs * harmful
        for x, y, is_held_out, prompt in zip(xs, ys, held_out, prompts, strict=True):
            points.append({"x": x, "y": y, "harmful": harmful, "held_out": bool(is_held_out), "prompt": prompt})
    return {"points": points}


def metrics(reward: float) -> list[dict[str, Any]]:
    rows = []
    for step in range(5, 205, 5):
        risen = reward * (1 - math.exp(-step / 60)) + 0.1 * math.sin(step)
        rows.append({
            "step": step,
            "loss": 0.7 - risen / 20,
            "rewards/chosen": 0.4 * risen,
            "rewards/rejected": -0.6 * risen,
            "rewards/margins": risen,
            "divergence/js": None,
        })  # fmt: skip
    return rows


def verdicts(prompts: list[str], responses: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "attack": attack,
            "prompt": prompt,
            "harmful": index % 2 == 0,
            "held_out": index % 4 == 0,
            "response": responses[index % len(responses)],
            "unsafe": [True, False, None][(index + place) % 25 % 3 if (index + place) % 25 < 3 else index % 2],
            "reason": "no refusal found",
        }
        for place, attack in enumerate(("direct", "prefill", "wrapper"))
        for index, prompt in enumerate(prompts)
    ]


def searches(seed: int) -> list[dict[str, Any]]:
    """Searches of eight prompts; the losses are invented."""
    losses = [[3.0 / (1 + step + 0.1 * seed) for step in range(1 + 3 * number)] for number in range(8)]
    return [
        {"id": f"{number}", "attack": "gcg", "steps": len(each) - 1, "succeeded": number < 7, "losses": each}
        for number, each in enumerate(losses)
    ]


def write_run(folder: Path, *, hostile: bool = False, count: int = 72) -> Path:
    """Write a whole run folder: the base and five methods on two data recipes."""
    prompts = [f"How would somebody go about topic number {number}?" for number in range(count)]
    responses = ["Sure, here is something about it."]
    made = results()
    if hostile:
        prompts, responses = [*HOSTILE, *prompts], HOSTILE
        for index, entry in enumerate(made["models"][1:]):
            entry["data"] = HOSTILE[index % len(HOSTILE)]
            entry["asr"][HOSTILE[0]] = rated(0.5)
            entry["divergence"][HOSTILE[1]] = around(1.0, 0.1)
        made["verdict"] = VERDICT | {"statistic": HOSTILE[0], "conclusion": HOSTILE[1], "words": HOSTILE[4]}
        made |= {"divalign": HOSTILE[2], "config_sha256": HOSTILE[3]}
    write_results(folder, made)
    write_bytes(folder / "config.yaml", ("\n".join([CONFIG, *(HOSTILE[:6] if hostile else [])])).encode())
    for seed, (entry, numbers) in enumerate(zip(made["models"], [BASE, *MADE_UP.values()], strict=True)):
        files = folder / "models" / entry["name"]
        _write(files / "plane.json", plane(numbers[0], prompts=prompts, seed=seed))
        _write(files / "verdicts.jsonl", *verdicts(prompts, responses))
        if entry["method"]:
            write_rows(files / "metrics.jsonl", metrics(numbers[-1]))
        if "gcg" in entry["asr"]:
            _write(files / "gcg.jsonl", *searches(seed))
    return folder


def write_results(folder: Path, made: dict[str, Any]) -> None:
    _write(folder / "results.json", made)


def _write(path: Path, *rows: Any) -> None:
    """Write JSON (lines) in ASCII: store.py would refuse the lone surrogate that another writer may leave."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def model(method: str | None = None, data: str | None = None, **facts: Any) -> ModelFacts:
    """A model with only what a test is about: asr, distance, over_refusal, held_out (its direct ASR) and fields."""
    distance, held_out = facts.pop("distance", None), facts.pop("held_out", None)
    part = PartFacts(
        separation={} if distance is None else {"bhattacharyya_paper": distance},
        asr=facts.pop("asr", {}),
        over_refusal=facts.pop("over_refusal", None),
        asr_no_refusal=facts.pop("asr_no_refusal", {}),
    )
    return ModelFacts(
        name=f"{method}-{data}-{facts.get('seed', 0)}" if method else "base",
        title=method or "base",
        method=method,
        data=data,
        seed=facts.pop("seed", 0),
        in_distribution=part,
        held_out=None if held_out is None else PartFacts({}, {"direct": held_out}, None),
        divergence=facts.pop("divergence", {}),
        **facts,
    )
