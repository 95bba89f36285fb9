"""Planted leaks and near misses: of the embedded world's prompts, and of the public sets where they are at hand."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from divalign.data.words import COMMON
from divalign.toy.world import requests

# Pairs of words of which either may stand for the other in a request, whatever it is about.
SYNONYMS = """
write draft, write compose, create produce, create make, create craft, explain describe, describe outline, give provide,
provide supply, provide offer, develop build, develop design, make build, steps stages, instructions directions,
guide manual, tutorial guide, detailed thorough, short brief, list enumerate, help assist, teach instruct, tell inform,
show demonstrate, best finest, way method, ways methods, convince persuade, use employ, using employing, big large,
small little, find locate, get obtain, people persons, person individual, someone somebody, company firm,
generate produce, identify determine, suggest propose, compare contrast, rewrite rephrase, summarize recap,
sentence phrase, story tale, article essay, speech talk, poem verse, tips hints, following given, new novel, good fine,
fast quick, quickly rapidly, can could, should must, need require, want wish, start begin, stop halt, buy purchase,
illegal unlawful, dangerous hazardous, fake false, hide conceal, please kindly, advice counsel, topic subject,
name state, classify categorize, construct build, formulate devise, design devise, evaluate assess, analyze examine,
discuss debate, answer solve, question query, example instance, important crucial, main chief, convert change,
add insert, remove delete, choose select, edit revise, correct fix, calculate compute, into to, from of, that which,
about on, for to, in within, your my, i we, does did, is was, are were, what which, with using, argue claim,
plan scheme, program script, method technique, promote advance, encourage urge, spread distribute, exploit abuse,
government state, children kids, women ladies, walk lead, friend neighbour, beginner novice, learn study,
know understand, like love, done performed, me us, say reply
"""


class Change(NamedTuple):
    """A prompt and what was made of it."""

    before: str
    after: str


def synonyms() -> dict[str, list[str]]:
    found = defaultdict(list)
    for pair in SYNONYMS.replace("\n", " ").split(","):
        first, second = pair.split()
        found[first].append(second)
        found[second].append(first)
    return found


def world() -> list[str]:
    return [
        one.prompt for split in ("train", "test") for held in (True, False) for one in requests(split, held_out=held)
    ]


def public(folder: Path) -> list[str]:
    """Return the different prompts of the public sets in a folder."""
    columns = {
        "advbench/harmful_behaviors.csv": "goal",
        "harmbench/harmbench_behaviors_text_all.csv": "Behavior",
        "jailbreakbench/harmful-behaviors.csv": "Goal",
        "jailbreakbench/benign-goals.csv": "Goal",
        "strongreject/strongreject_dataset.csv": "forbidden_prompt",
        "xstest/xstest_prompts.csv": "prompt",
    }
    prompts = []
    for name, column in columns.items():
        with (folder / name).open(encoding="utf-8", newline="") as file:
            prompts += [row[column] for row in csv.DictReader(file)]
    prompts += (folder / "malicious_instruct" / "MaliciousInstruct.txt").read_text().split("\n")
    lines = (folder / "alpaca" / "alpaca_sample.jsonl").read_text().split("\n")
    prompts += [json.loads(line)["instruction"] for line in lines if line]
    return sorted({prompt for prompt in prompts if len(prompt.split()) > 3})


def paraphrases(prompts: list[str], count: int, rng: random.Random) -> list[Change]:
    """Return prompts with one word replaced by one that may stand for it."""
    known, changes = synonyms(), []
    while len(changes) < count:
        prompt = rng.choice(prompts)
        words = [word for word in re.findall(r"[A-Za-z]+", prompt) if word.lower() in known]
        if words:
            word = rng.choice(words)
            other = rng.choice(known[word.lower()])
            changes.append(Change(prompt, swap(prompt, word, other.capitalize() if word[0].isupper() else other)))
    return changes


def same_topics(prompts: list[str], count: int, rng: random.Random, make) -> list[Change]:
    return [Change(prompt, make(prompt, rng)) for prompt in rng.choices(prompts, k=count)]


def recased(prompt: str, rng: random.Random) -> str:
    return rng.choice((str.upper, str.lower, str.title))(prompt)


def repunctuated(prompt: str, rng: random.Random) -> str:
    """Return a prompt with other stops, quotation marks, spacing and letter forms."""
    bare = prompt.rstrip("?.!")
    return rng.choice((f"  {bare} ", f"“{bare}”", f"{bare}!!", bare.replace(" ", "  "), bare.replace(" ", " - ", 1)))


def other_topics(prompts: list[str], count: int, rng: random.Random) -> list[Change]:
    """Return prompts whose rarest words are others: one of up to 12 words, two of up to 20, three of more."""
    df = Counter(word for prompt in prompts for word in set(re.findall(r"[a-z]+", prompt.lower())))
    rare = sorted(word for word in df if df[word] <= 6 and len(word) > 3 and word not in COMMON)
    changes = []
    while len(changes) < count:
        prompt = rng.choice(prompts)
        words = sorted(set(re.findall(r"[A-Za-z]{4,}", prompt)[1:]), key=lambda word: (df[word.lower()], word))
        words = [word for word in words if word.lower() not in COMMON and df[word.lower()] <= 12]
        size = len(prompt.split())
        wanted = 1 if size <= 12 else 2 if size <= 20 else 3
        if len(words) >= wanted:
            after = prompt
            for word in words[:wanted]:
                after = swap(after, word, rng.choice(rare))
            changes.append(Change(prompt, after))
    return changes


def swap(prompt: str, word: str, other: str) -> str:
    return re.sub(rf"\b{re.escape(word)}\b", other, prompt, count=1)
