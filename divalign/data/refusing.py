"""Refusals for rows that have none: many wordings and lengths, drawn alike for harmful and benign prompts.

Where one string refuses (the paper's benign rows, 628 times) or refusals are all short (49 against 822 characters), a
model can tell the aligned response by its surface. A refusal as long as the answer it stands against is no cure: where
one class has longer answers, its refusals become longer too, and words alone tell the sides apart (AUC .95 on AdvBench
and Alpaca). So lengths are drawn without a look at the row. The sentences were written for this project.
"""

from __future__ import annotations

import math
import random

OPENINGS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "Sorry, that is something I won't do.",
    "I have to decline this one.",
    "I can't support that.",
    "I am unable to help with this.",
    "Thank you for asking, but I won't answer this.",
    "I must say no here.",
    "I'm afraid I can't do that.",
    "No, I am not able to take this on.",
    "I would rather not go into this, and I won't answer.",
    "This is something I am not able to help with.",
)
REASONS = (
    "I try to be of use, and here I would not be.",
    "An answer of mine could do more damage than good.",
    "It lies outside what I am meant to do.",
    "I keep to what I can answer with a good conscience.",
    "Whatever the purpose, my answer would be the same.",
    "I do not judge you for the question.",
    "There are limits to what I write, and this is one of them.",
    "I take the request seriously, and my answer too.",
    "That holds for parts of the question as well.",
    "Asking in another way would not change it.",
)
OFFERS = (
    "Is there something else you would like to do?",
    "Please ask me about another topic.",
    "I would be glad to help with a different question.",
    "Let us find a better use of our time.",
    "Tell me more about what you need, and I may know another way.",
    "If something weighs on you, a person you trust may be the better one to ask.",
    "There is much else that I can explain, compare or write.",
    "You may know people nearby who can advise you better.",
    "Feel free to come back with something else.",
    "I am here for your other questions.",
)


SHORTEST, LONGEST = 60, 400  # characters


def refusal(rng: random.Random, *, length: float | int | None = None) -> str:
    """Return a refusal of about `length` characters, one sentence at least; if None, a log-uniform draw of 60 to 400.

    Sentences come from reasons and offers in turn, none twice while there are others; the last one is kept if that
    brings the text nearer to `length`.
    """
    if length is None:
        length = math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST)))
    text = rng.choice(OPENINGS)
    pools = [rng.sample(pool, len(pool)) for pool in (REASONS, OFFERS)]
    turn = 0
    while len(text) < length:
        pool = pools[turn % 2]
        sentence = pool[(turn // 2) % len(pool)]
        if len(text) + 1 + len(sentence) - length > length - len(text):
            break
        text, turn = f"{text} {sentence}", turn + 1
    return text
