"""The colours of the style sheet, held to WCAG 2.1 contrast and to what colour-blind readers can tell apart."""

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest

CSS = (files("divalign.report") / "page.css").read_text(encoding="utf-8")
THEMES = dict(zip(("light", "dark", "print"), re.findall(r":root \{(.*?)\}", CSS, re.DOTALL), strict=True))
# Viénot, Brettel, Mollon 1999, the dichromat's view as a matrix on linear RGB.
BLIND = {
    "protan": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deutan": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}


def colours(theme: str) -> dict[str, np.ndarray]:
    """The theme's colours in linear RGB; a theme names only what differs from the light one."""
    palette: dict[str, np.ndarray] = {}
    for block in dict.fromkeys(("light", theme)):
        for name, code in re.findall(r"--([\w-]+): #([0-9a-f]{3}|[0-9a-f]{6});", THEMES[block]):
            full = code if len(code) == 6 else "".join(2 * digit for digit in code)
            srgb = np.array([int(full[at : at + 2], 16) for at in (0, 2, 4)]) / 255
            palette[name] = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return palette


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    low, high = sorted(float(colour @ [0.2126, 0.7152, 0.0722]) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("paper", ["paper", "sheet", "warning"])
def test_text_stands_out_from_its_paper(theme: str, paper: str) -> None:
    palette = colours(theme)
    assert all(contrast(palette[ink], palette[paper]) >= 4.5 for ink in ("ink", "quiet", "link"))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("paper", ["paper", "sheet"])
def test_marks_stand_out_from_their_paper(theme: str, paper: str) -> None:
    palette = colours(theme)
    marks = [name for name in palette if name.startswith("tone") or name in ("benign", "harmful", "base")]
    assert len(marks) == 7
    assert all(contrast(palette[mark], palette[paper]) >= 3 for mark in marks)


@pytest.mark.parametrize("theme", THEMES)
def test_numbers_are_readable_on_every_shade_of_the_heat_table(theme: str) -> None:
    palette = colours(theme)
    assert all(contrast(palette[f"h{step}"], palette[f"i{step}"]) >= 4.5 for step in range(11))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("blindness", ["none", *BLIND])
def test_shades_run_one_way_in_lightness_for_every_reader(theme: str, blindness: str) -> None:
    view = BLIND.get(blindness, np.eye(3))
    palette = {name: np.clip(view @ rgb, 0, 1) for name, rgb in colours(theme).items()}
    lightness = np.diff([lab(palette[f"h{step}"])[0] for step in range(11)])
    assert (np.abs(lightness) > 2).all()
    assert len(set(np.sign(lightness))) == 1


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("blindness", BLIND)
def test_the_pairs_that_carry_meaning_differ_for_colour_blind_readers(theme: str, blindness: str) -> None:
    palette = {name: np.clip(BLIND[blindness] @ rgb, 0, 1) for name, rgb in colours(theme).items()}
    pairs = [("benign", "harmful"), *combinations([f"tone-{shape}" for shape in range(4)], 2)]
    apart = {pair: np.linalg.norm(lab(palette[pair[0]]) - lab(palette[pair[1]])) for pair in pairs}
    assert min(apart.values()) > 25, apart


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab of linear sRGB, white D65: distances of about 2 are just visible."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ rgb / to_xyz.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
