"""Utility of a model: built-in numbers for the embedded world, and lm-eval's tasks for any model.

A model that refuses everything is safe and useless; these numbers stand beside attack success and over-refusal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from statistics import NormalDist
from typing import Any

from divalign.core.stats import Estimate, clustered_mean, clustered_rate
from divalign.data.batching import encode_row
from divalign.data.examples import Message, user_says
from divalign.lm.generate import generate
from divalign.lm.load import LM
from divalign.lm.score import sequence_log_probs
from divalign.toy.grammar import QUESTIONS, topics
from divalign.toy.world import ASSETS, requests

LONGEST = 24  # tokens of an answer about a topic
NUMBERS = {
    "facts_benign": "share of questions about benign topics answered with the world's own words",
    "facts_harmful": "the same about harmful topics, where the true answer is no compliance: that it is a crime",
    "answers": "log-probability of compliances with benign test requests, nats per token, larger is better",
}


def world_utility(lm: LM, *, batch_size: int = 128) -> dict[str, Estimate]:
    """Return the numbers of `NUMBERS` for a model of the embedded world; a pair of topics is a cluster.

    What a topic is was learned in pretraining and is never trained on again, so a fall says what alignment cost. The
    answers are of the kind that alignment on compliance-refusal data rewards, so "answers" may rise.
    """
    return {**_facts(lm, batch_size), "answers": _answers(lm, batch_size)}


def lm_eval_utility(
    lm: LM, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 16, task_manager: Any = None
) -> dict[str, Estimate]:
    """Return lm-eval's numbers for a model that is already in memory, named "task/metric".

    The interval is the normal one from lm-eval's own standard error; None where it gives none. `limit` cuts each task
    to its first documents. Raises ValueError where lm-eval is not installed or knows no such task.
    Source: EleutherAI lm-evaluation-harness 0.4, `simple_evaluate` with an `HFLM` (extra `[utility]`).
    """
    try:
        evaluator = import_module("lm_eval.evaluator")
        wrapper = import_module("lm_eval.models.huggingface").HFLM
        manager = task_manager or import_module("lm_eval.tasks").TaskManager()
    except ImportError as error:
        raise ValueError(
            f"these tasks need lm-eval, which is not installed ({error}): pip install 'divalign[utility]'"
        ) from error
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown or not tasks:
        raise ValueError(f"lm-eval knows no task {unknown[0]!r}" if unknown else "name at least one lm-eval task")
    model = wrapper(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch_size)
    results = evaluator.simple_evaluate(
        model=model, tasks=list(tasks), limit=limit, task_manager=manager, bootstrap_iters=1000, log_samples=False
    )
    counts = {name: number["effective"] for name, number in results["n-samples"].items()}
    return {
        f"{task}/{name.partition(',')[0]}": _number(metrics, name, counts[task])
        for task, metrics in results["results"].items()
        for name, value in metrics.items()
        if task in counts and "," in name and "_stderr," not in name and isinstance(value, float | int)
    }


def check_embedded(lm: LM) -> None:
    """Raise ValueError for a model of another world, which the questions of this one would tell nothing about."""
    words = set(json.loads((ASSETS / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    if not words <= lm.tokenizer.get_vocab().keys():
        raise ValueError(
            f"{lm.name} does not come from the embedded model, whose world the built-in questions are about; name "
            "lm-eval's tasks with --tasks, such as arc_easy,hellaswag"
        )


def _facts(lm: LM, batch_size: int) -> dict[str, Estimate]:
    """Ask what each topic is, and count the answers that begin with the world's own."""
    questions = [
        (topic, question.format(topic=topic.name), answer)
        for topic in topics()
        for question, answer in QUESTIONS[topic.harmful]
    ]
    conversations = [user_says(question) for _, question, _ in questions]
    answers = generate(lm.model, lm.tokenizer, conversations, max_new_tokens=LONGEST, batch_size=batch_size)
    right = [text.strip().startswith(answer) for text, (_, _, answer) in zip(answers, questions, strict=True)]
    rates = {}
    for name, harmful in (("facts_benign", False), ("facts_harmful", True)):
        places = [place for place, (topic, _, _) in enumerate(questions) if topic.harmful is harmful]
        rates[name] = clustered_rate([right[p] for p in places], [questions[p][0].pair for p in places])
    return rates


def _answers(lm: LM, batch_size: int) -> Estimate:
    """Score one compliance with each benign test request, on topics that alignment saw."""
    benign = [request for request in requests("test", held_out=False) if not request.harmful]
    encoded = [
        encode_row(
            lm.tokenizer,
            [Message(role="user", content=request.prompt)],
            [Message(role="assistant", content=request.compliance)],
            max_length=256,
        )
        for request in benign
    ]
    scores = sequence_log_probs(lm.model, encoded, lm.tokenizer.pad_token_id, batch_size=batch_size)
    per_token = [float(score) / len(row.response_ids) for score, row in zip(scores, encoded, strict=True)]
    return clustered_mean(per_token, [request.cluster for request in benign])


def _number(metrics: Mapping[str, Any], name: str, n: int) -> Estimate:
    """Return lm-eval's number with a 95 % interval; it writes "N/A" where it has no standard error."""
    value, error = float(metrics[name]), metrics.get(name.replace(",", "_stderr,", 1))
    if not isinstance(error, float | int):
        return Estimate(value, None, None, n)
    half = NormalDist().inv_cdf(0.975) * error
    return Estimate(value, value - half, value + half, n)
