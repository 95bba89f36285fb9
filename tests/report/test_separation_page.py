"""The page of `divalign separate`: every number of the records on it, and nothing that they do not hold."""

from pathlib import Path
from typing import Any

import pytest

from divalign.records import SeparationChanges, SeparationRecord
from divalign.report import write_separation
from divalign.store import write_json
from tests.draw.test_pictures import elements, words
from tests.report.runs import around, single

UNKNOWN = single(None, 0)


def layer(position: str, number: int, distance: float | None, why: str = "") -> dict[str, Any]:
    estimate = UNKNOWN if distance is None else around(distance, 0.1)
    auc = UNKNOWN if distance is None else around(0.9, 0.05)
    return {"position": position, "layer": number, "bhattacharyya": estimate, "probe_auc": auc, "flags": [], "why": why}


def part(distance: float) -> dict[str, Any]:
    full = {name: around(0.5, 0.1) for name in ("silhouette", "tpr_at_1_fpr", "energy", "silhouette_paper")}
    full |= {"bhattacharyya": around(distance, 0.2), "probe_auc": around(0.91, 0.02)}
    full |= {"bhattacharyya_paper": around(12.5, 1.0), "energy_p_value": 0.01, "null": None, "dimensions": [2]}
    full |= {"margins": {"safe": [0.1], "harmful": [0.2]}, "flags": ["few prompts"], "flags_paper": []}
    return {
        "prompts": {"safe": 40, "harmful": 44, "clusters": 21},
        "lexical_auc": around(0.81, 0.05),
        "length_auc": around(0.61, 0.05),
        "map": [layer("generation", 0, None, "states are equal"), layer("generation", 1, distance)],
        "last_layer": {"generation": full, "instruction": {"why": "too few prompts to split"}},
        "best_layer": {"generation": None},
        "under_attack": {
            name: {"by_attack": {"role_play": around(0.4, 0.1)}, "worst": around(0.3, 0.1), "mean": around(0.4, 0.1)}
            for name in ("bhattacharyya", "probe_auc")
        },
    }


def write_folder(folder: Path, *, names: tuple[str, ...] = ("base", "aligned")) -> Path:
    for number, name in enumerate(names):
        content = {"schema": 2, "divalign": "0", "model": name, "key": "k", "layers": 2}
        record = SeparationRecord.model_validate({**content, "parts": {"test": part(1.0 + number)}})
        write_json(folder / name / "separation.json", record.plain())
    change = {"before": "base", "after": "aligned", "position": "generation", "bhattacharyya": around(1.0, 0.3)}
    changes = {"schema": 1, "divalign": "0", "models": list(names), "changes": [{**change, "cosine": 0.25}]}
    write_json(folder / "changes.json", SeparationChanges.model_validate(changes).plain())
    return folder


def test_the_numbers_of_every_record_are_on_the_page(tmp_path: Path) -> None:
    text = write_separation(write_folder(tmp_path)).read_text()
    assert "40 benign and 44 harmful prompts in 21 clusters." in text
    for number in ("12.5", "0.910", "0.810", "0.610", "0.25", "role play", "aligned − base, start of answer"):
        assert number in text
    assert "base, start of answer: few prompts." in text
    assert "base, end of instruction: too few prompts to split." in text
    assert "too few prompts</td>" in text  # no best layer could be chosen


def test_a_layer_without_a_number_is_framed_and_says_why(tmp_path: Path) -> None:
    text = write_separation(write_folder(tmp_path)).read_text()
    picture = text[text.index("<svg") : text.index("</svg>") + len("</svg>")]
    assert len(elements(picture, "rect", "frame")) == len(elements(picture, "rect", "heat")) == 2
    assert "layer 0: states are equal" in [title.text for title in elements(picture, "title")]
    assert {"answer", "distance", "AUC", "1", "0.900"} <= set(words(picture))


def test_a_missing_torn_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no changes\.json"):
        write_separation(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "base" / "separation.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match=r"base/separation\.json has schema 1, this version reads 2"):
        write_separation(tmp_path)
    write_json(tmp_path / "changes.json", {"schema": 1, "divalign": "0", "models": ["../base"], "changes": []})
    with pytest.raises(ValueError, match="expected the plain name of a folder"):
        write_separation(tmp_path)
