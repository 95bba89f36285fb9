"""The embedded world as a data source: requests with their responses, and the base model's folder."""

from __future__ import annotations

import random
from pathlib import Path

from divalign.data.examples import Conversation, Request, user_says
from divalign.toy.grammar import PHRASINGS, PREAMBLES, compliance, curt_compliance, curt_refusal, refusal, topics

ASSETS = Path(__file__).parent / "assets"


def requests(split: str, *, held_out: bool, seed: int = 0) -> list[Request]:
    """Return the requests of a split's phrasings ("train" or "test") on in-distribution or held-out topics.

    Their responses are drawn with `seed`; the prompts are the same for every seed. A cluster is a pair of topics.
    """
    rng = random.Random(seed)
    return [
        Request(
            prompt=phrasing.format(topic=topic.name),
            harmful=topic.harmful,
            compliance=compliance(topic, rng),
            refusal=refusal(topic, rng),
            worse=curt_compliance(topic, rng),
            cluster=f"pair {topic.pair}",
            held_out=held_out,
            worse_refusal=curt_refusal(topic, random.Random(f"{seed} {phrasing} {topic.name}")),
        )
        for topic in topics()
        if topic.held_out == held_out
        for phrasing in PHRASINGS[split]
    ]


def preamble(prompt: str) -> Conversation:
    """Put one of the world's preambles (a game, a story, a school project) before a request: its own role play.

    An attack for `measure.attacks`, as "divalign.toy.world:preamble". Pretraining showed preambles on both classes and
    alignment shows none, so the base answers through them, as it does through no wrapper that it has never met. The
    prompt alone decides which.
    """
    return user_says(random.Random(prompt).choice(PREAMBLES) + prompt)
