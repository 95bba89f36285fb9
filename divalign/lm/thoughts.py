"""Special tokens that mark a reasoning model's thoughts: without them thoughts would be read as the answer.

Magistral writes [THINK] and [/THINK], Gemma 4 <|channel>thought and <channel|>, Command A <|START_THINKING|> and
<|END_THINKING|>: all but the word "thought" are special tokens. `safety.thinking` tells thoughts from answers by them.
Those of gpt-oss are left out, since its chat template refuses them in a conversation that goes on; what is left without
them, "analysis" and "assistantfinal", tells its thoughts too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

WORDS = ("think", "thought", "reasoning", "reflection", "analysis", "scratchpad", "monologue")
_MARK = re.compile(rf"[<\[◁][^\s<>\[\]]*(?:{'|'.join(WORDS)})[^\s<>\[\]]*[>\]▷]|<\|channel>|<channel\|>", re.IGNORECASE)


def thought_marks(tokenizer: Any, tokens: Sequence[int]) -> dict[int, str]:
    """Return those of `tokens` that mark thoughts and would vanish with the special tokens, with their texts."""
    if not _MARK.search(tokenizer.decode(list(tokens))):
        return {}
    texts = {token: tokenizer.decode([token]).strip() for token in set(tokens)}
    return {
        token: text
        for token, text in texts.items()
        if _MARK.fullmatch(text) and not tokenizer.decode([token], skip_special_tokens=True).strip()
    }
