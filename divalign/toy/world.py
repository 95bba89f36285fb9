"""The embedded world as a data source: requests with their responses, and the base model's folder."""

from __future__ import annotations

import random
from pathlib import Path

from divalign.data.examples import Request
from divalign.toy.grammar import PHRASINGS, compliance, curt_compliance, curt_refusal, refusal, topics

ASSETS = Path(__file__).parent / "assets"


def requests(split: str, *, held_out: bool, seed: int = 0) -> list[Request]:
    """Return the requests of a split's phrasings ("train" or "test") on the topics held in, or on those held out.

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
