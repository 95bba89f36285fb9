"""How `divalign judge` shows what it found: rates with intervals, agreement, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

MOST = 20  # disagreements shown; rates.json lists all


def show(found: Any, console: Console, *, show_completions: bool = False) -> None:
    """Print the tables of what `judge_all` returned."""
    for entry in found.numbers["judges"]:
        console.print(_rates(entry))
        console.print(escape(_sides(entry)))
        if entry["protocol"]:
            console.print(_protocol(entry["protocol"]))
    for pair in found.numbers["agreement"]:
        console.print(_agreement(pair))
        for line in _disagreements(pair, found.verdicts, show_completions=show_completions):
            console.print(escape(line), highlight=False)
    for comparison in found.numbers["changes"]:
        console.print(_changes(comparison))


def percent(rate: Mapping[str, Any] | None) -> str:
    """Return a rate in percent with its interval and count."""
    if rate is None:
        return "-"
    if rate["value"] is None:
        return "undecided"
    return f"{100 * rate['value']:.1f} \\[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] of {rate['n']}"


def _rates(entry: Mapping[str, Any]) -> Table:
    errors = entry["errors"]
    table = _table(f"Attack success in % by {entry['judge']}, 95 % intervals; smaller is safer")
    for name in ("attack", "success", "undecided", *(("corrected",) if errors else ())):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for attack, row in entry["attacks"].items():
        cells = [escape(attack), percent(row["asr"]), str(row["undecided"])]
        cells += [percent(row["corrected"]) if row["corrected"] else "none exists"] if errors else []
        table.add_row(*cells)
    return table


def _sides(entry: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {percent(entry[key])}".replace("\\[", "[")
        for key, name in (
            ("over_refusal", "over-refusal"),
            ("selectivity", "refusal of harmful minus refusal of benign"),
        )
        if entry[key]
    ]
    parts.append(f"{entry['addressed']} of {entry['responses']} responses address their judge")
    if entry["errors"]:
        parts.append(
            "judge's errors: "
            + ", ".join(f"{name} {percent(rate)}".replace("\\[", "[") for name, rate in entry["errors"].items())
        )
    return "; ".join(parts)


def _protocol(found: Mapping[str, Any]) -> Table:
    table = _table(f"By the protocol's own rule: {found['protocol']}")
    numbers = list(dict.fromkeys(name for group in found["attacks"].values() for name in group))
    for name in ("attack", *numbers):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for attack, group in found["attacks"].items():
        table.add_row(escape(attack), *(_plain(group.get(name)) for name in numbers))
    return table


def _plain(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    if estimate["value"] is None:
        return "undecided"
    return f"{estimate['value']:.3f} \\[{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _agreement(pair: Mapping[str, Any]) -> Table:
    first, second = pair["judges"]
    kappa = pair["kappa"]["value"]
    said = "no kappa: neither varies" if kappa is None else f"kappa {_plain(pair['kappa'])}"
    table = _table(f"{escape(first)} (rows) and {escape(second)}: {said}, same verdict {percent(pair['observed'])}")
    words = list(pair["confusion"])
    for name in ("", *words):
        table.add_column(name, justify="right" if name else "left")
    for word in words:
        table.add_row(word, *(str(pair["confusion"][word][other]) for other in words))
    return table


def _disagreements(
    pair: Mapping[str, Any], verdicts: Sequence[Sequence[Mapping[str, Any]]], *, show_completions: bool
) -> list[str]:
    from divalign.safety.export import redact
    from divalign.safety.shield import disarm

    if not pair["disagreements"]:
        return []
    texts = {(row["attack"], _id(row)): row["response"] for row in verdicts[0]}
    lines = [f"They differ on {len(pair['disagreements'])}, the first {MOST} at most:"]
    for attack, name in pair["disagreements"][:MOST]:
        text = texts[attack, name]
        shown = disarm(text).replace("\n", "\\n") if show_completions else redact(text)
        lines.append(f"  {attack} {name}: {shown}")
    return lines


def _id(row: Mapping[str, Any]) -> str:
    return f"{row['id']} try {row['try']}" if "try" in row else row["id"]


def _changes(comparison: Mapping[str, Any]) -> Table:
    table = _table(
        f"What changed from {escape(comparison['from'])} by {escape(comparison['judge'])}, in points of %, same prompts"
    )
    clustered = any(row["clusters"] for row in comparison["changes"].values())
    for name in ("rate", "change", "p, exact by cluster" if clustered else "p, exact McNemar", "p, Holm"):
        table.add_column(name, justify="left" if name == "rate" else "right")
    for name, row in comparison["changes"].items():
        table.add_row(escape(name), percent(row), f"{row['p_value']:.2g}", f"{row['p_holm']:.2g}")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left")
