"""Nothing is made float64 on a device that has none. No Apple GPU is here: the rule is tested, not the hardware."""

import ast
from pathlib import Path

import pytest
import torch

from divalign.core.precision import in_widest, widest_dtype

PACKAGE = Path(__file__).parent.parent.parent / "divalign"
ON_THE_CPU = {"doctor.py"}  # whose trainings ask for the CPU
FILES = [
    path
    for room in ("core", "lm", "train", "safety", "stages", "toy")
    for path in sorted((PACKAGE / room).rglob("*.py"))
    if path.name not in ON_THE_CPU
]


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float64),
        ("cuda:1", torch.float64),
        ("xpu", torch.float64),
        ("meta", torch.float64),
        ("mps", torch.float32),
        ("mps:0", torch.float32),
    ],
)
def test_an_apple_gpu_gets_float32_and_any_other_device_float64(device: str, dtype: torch.dtype) -> None:
    assert widest_dtype(device) == widest_dtype(torch.device(device)) == dtype


def test_values_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values, on_meta = torch.tensor([0.1, 2.0]), torch.ones(3, device="meta", dtype=torch.bfloat16)
    assert torch.equal(in_widest(values), values.double())
    monkeypatch.setattr("divalign.core.precision.WITHOUT_FLOAT64", ("mps", "meta"))
    assert (in_widest(on_meta).device.type, in_widest(on_meta).dtype) == ("meta", torch.float32)
    assert in_widest(values).dtype == torch.float64


def doubled_where_they_lie(tree: ast.AST) -> list[int]:
    """Lines that make a tensor float64 on a device of any kind: `x.double()` but for `x.cpu().double()`, and so on."""
    lines = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        names = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if isinstance(call.func, ast.Attribute) and call.func.attr == "double":
            owner = call.func.value
            if not (isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute) and owner.func.attr == "cpu"):
                lines.append(call.lineno)
        elif names.get("dtype") == "torch.float64" and "device" in names:
            lines.append(call.lineno)
        elif isinstance(call.func, ast.Attribute) and call.func.attr == "to":
            lines += [call.lineno] if "torch.float64" in map(ast.unparse, call.args) else []
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_tensor_is_made_float64_where_it_lies(path: Path) -> None:
    assert not doubled_where_they_lie(ast.parse(path.read_text())), "use core.precision, or .cpu() first"


def test_the_rule_finds_what_it_forbids() -> None:
    source = "x.double()\nx.cpu().double()\ntorch.ones(2, dtype=torch.float64, device=d)\nx.to(torch.float64)\nx.to(y)"
    assert doubled_where_they_lie(ast.parse(source)) == [1, 3, 4]
