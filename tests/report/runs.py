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


def verdicts(prompts: list[str], responses: list[str], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts with about the model's own rates; a few are undecided."""

    def is_among(index: int, estimate: dict[str, Any]) -> bool:
        return index * 7919 % len(prompts) < (estimate["value"] or 0.0) * len(prompts)

    return [
        {
            "attack": attack,
            "id": str(index),
            "prompt": prompt,
            "harmful": index % 2 == 0,
            "held_out": index % 4 == 0,
            "response": responses[index % len(responses)],
            "unsafe": None if (index + place) % 25 == 2 else index % 2 == 0 and is_among(index, entry["asr"][attack]),
            "refused": is_among(index, entry["over_refusal"]) if index % 2 else False,
            "reason": "no refusal found",
            "judge": "refusal_combined",
            "judge_sha256": "0a" * 32,
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


def layers_part(distance: float, layers: int = 5) -> dict[str, Any]:
    """A part of separation.json: a map over all layers at two positions, and nothing of the last layer."""
    unknown = single(None, 0)
    cells = [
        {
            "position": position,
            "layer": layer,
            "bhattacharyya": around(distance * layer / layers, distance / 9) if layer else unknown,
            "probe_auc": around(0.6 + 0.07 * layer, 0.02) if layer else unknown,
            "flags": [],
            "why": "" if layer else "states are equal",
        }
        for position in ("instruction", "generation")
        for layer in range(layers)
    ]
    counts = {"safe": 96, "harmful": 96, "clusters": 48}
    empty: dict[str, Any] = {"last_layer": {}, "best_layer": {}, "under_attack": None}
    return {"prompts": counts, "lexical_auc": single(0.917), "length_auc": single(0.6), "map": cells, **empty}


def rates_record(entry: dict[str, Any], judges: tuple[str, ...] = ("refusal_combined", "refusal_strings")) -> Any:
    """rates.json of a model: two judges, of which the first has known errors, and how far they agree."""
    attacks = {
        name: {"asr": rate, "asr_no_refusal": rate, "kinds": {}, "undecided": 3, "corrected": None}
        for name, rate in entry["asr"].items()
    }
    part = {"attacks": attacks, "over_refusal": entry["over_refusal"], "selectivity": None}
    errors = {"sensitivity": rated(0.84, 100), "specificity": rated(0.93, 100), "warning": None}
    rows = [
        {
            "judge": name,
            "judge_sha256": f"{place}a" * 32,
            "parts": {"test": part},
            "addressed": 1,
            "responses": 576,
            "errors": errors if place == 0 else None,
            "protocol": None,
        }
        for place, name in enumerate(judges)
    ]
    pair = {"judges": list(judges), "observed": rated(0.9), "kappa": around(0.8, 0.05), "confusion": {}}
    return {
        "schema": 3,
        "divalign": "0.1.0",
        "target": entry["name"],
        "responses_sha256": "5e" * 32,
        "judges": rows,
        "agreement": [pair | {"disagreements": [["direct", "7"]]}] if len(judges) > 1 else [],
    }


def bounds_record(entry: dict[str, Any]) -> dict[str, Any]:
    """divergence.json of a model."""
    blank = {"lower": 0.1, "effective_sample_size": 31.0, "flags": ["saturated"]}
    return {
        "schema": 2,
        "divergences": {
            name: {"estimate": estimate, "bound": 0.2, "ceiling": None if name == "kl" else 2.0, **blank}
            for name, estimate in entry["divergence"].items()
        },
    }


def crowd(count: int = 60) -> list[dict[str, Any]]:
    """The base and `count` models: five methods on three data recipes with several seeds."""
    draws = np.random.default_rng(0)
    made = [model_entry(None, None, BASE)]
    for number in range(count):
        method, data = ("kldo", "bco", "kto", "dpo", "hdo")[number % 5], ("cr", "pref", "cr_plus")[number // 5 % 3]
        seed = number // 15
        low = np.clip(draws.beta(0.6, 1.5, 4), 0, 1)
        numbers = (float(draws.lognormal(2, 1.5)), *map(float, low), float(draws.beta(0.5, 4)), 3.0)
        made.append(model_entry(method, data, numbers) | {"name": f"{data}-{method}-{seed}", "seed": seed})
    return made


def write_run(
    folder: Path, *, hostile: bool = False, count: int = 72, models: list[dict[str, Any]] | None = None
) -> Path:
    """Write a whole run folder: the base and five methods on two data recipes, or other `models`."""
    prompts = [f"How would somebody go about topic number {number}?" for number in range(count)]
    responses = ["Sure, here is something about it."]
    made = results(models=models or entries(), overlap={"exact": 0, "paraphrased": 2, "n": 192})
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
    _write_origin(folder, made["models"], HOSTILE[0] if hostile else "look")
    for seed, entry in enumerate(made["models"]):
        _write_model(folder / "models" / entry["name"], entry, prompts, responses, seed)
    return folder


def _write_model(files: Path, entry: dict[str, Any], prompts: list[str], responses: list[str], seed: int) -> None:
    distance = entry["separation"]["bhattacharyya_paper"]["value"]
    _write(files / "plane.json", plane(distance, prompts=prompts, seed=seed))
    _write(files / "verdicts.jsonl", *verdicts(prompts, responses, entry))
    _write(files / "rates.json", rates_record(entry))
    record = {"schema": 2, "divalign": "0.1.0", "model": entry["name"], "key": "k", "layers": 5}
    _write(files / "separation.json", {**record, "parts": {"test": layers_part(distance)}})
    if entry["method"]:
        write_rows(files / "metrics.jsonl", metrics(math.log1p(distance)))
        _write(files / "training.json", {"updates": 200, "tokens_per_second": 4153.6, "mfu": 0.28})
        _write(files / "divergence.json", bounds_record(entry))
    if "gcg" in entry["asr"]:
        _write(files / "gcg.jsonl", *searches(seed))


def _write_origin(folder: Path, models: list[dict[str, Any]], words: str) -> None:
    """Write what a run says of itself: seconds by stage, cost, versions, a training set and its audit."""
    names = [entry["name"] for entry in models]
    stages = {f"{stage} {name}": 7.5 for name in names for stage in ("train", "attacks")}
    _write(folder / "clock.json", {"seconds": 251.4, "stages": stages})
    sizes = {"rows": 9, "tokens": 1e5, "operations": 3e12}
    costs = [{"model": name, "stage": "train", **sizes} for name in names]
    _write(folder / "cost.json", {"schema": 1, "parameters": 10**6, "stages": costs})
    _write(folder / "environment.json", {"schema": 1, "versions": {"torch": "2.13.0", "machine": "Linux"}})
    _write(folder / "data" / "cr-seed0.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"})
    finding = {"check": "openings", "verdict": "look", "value": 0.3, "words": f"30 % of them open alike: {words}"}
    fine = {"check": "leaks", "verdict": "fine", "value": None, "words": "0 prompts are trained on"}
    audit = {"schema": 1, "verdict": "look", "rows": 1, "findings": [fine, finding]}
    _write(folder / "data" / "cr-seed0.jsonl.audit.json", audit)


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
