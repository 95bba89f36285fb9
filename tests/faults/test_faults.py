"""Every fault of docs/reliability.md, for real, in a child process; what is left then equals an undisturbed run's.

The short ones run with the suite, all of them with `make faults`.
"""

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from divalign.store import read_rows, write_rows
from tests.faults.commands import UPDATES, World, attacked, make_world, trained
from tests.faults.setups import TRAINER
from tests.lm.fake_server import Fake, fake
from tests.zygote import Zygote, divalign_job

__all__ = ["fake"]
long = pytest.mark.long
SAVING = "divalign.train.run:seal_checkpoint"
PUBLISHING = "divalign.stages.train:publish_folder"
ANSWERING = "divalign.safety.journal:Journal.add"


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def expected(zygote: Zygote, world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Return what undisturbed runs leave."""
    out = tmp_path_factory.mktemp("undisturbed")
    run(zygote, world.train(out / "train"))
    run(zygote, world.attack(out / "attack"))
    return {"train": trained(out / "train"), "attack": attacked(out / "attack")}


def run(zygote: Zygote, arguments: list[str], *setup: list[Any], code: int = 0, log: Path | None = None) -> str:
    """Run `divalign`, check its exit code, and return what it printed."""
    path = log or Path(arguments[arguments.index("--out") + 1]).parent / "log"
    path.unlink(missing_ok=True)
    ended = zygote.run(arguments, *setup, log=str(path))
    text = " ".join(path.read_text().split())
    assert ended.code == code, text[-3000:]
    assert "Traceback" not in text, text[-3000:]
    return text


def job(zygote: Zygote, name: str, *arguments: object) -> None:
    call = {
        "call": f"tests.faults.setups:{name}",
        "arguments": [arg if isinstance(arg, int) else str(arg) for arg in arguments],
    }
    assert [ended.code for ended in zygote.together([call])] == [0]


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "work").glob("checkpoint-*"))


KILLS = [(TRAINER, 1), (TRAINER, 4), ("torch:save", 3), (SAVING, 1), (SAVING, 3), (PUBLISHING, 1)]


@pytest.mark.parametrize(
    ("target", "call"), [KILLS[1], *(pytest.param(*kill, marks=long) for kill in KILLS if kill != KILLS[1])]
)
def test_a_training_that_is_killed_resumes_to_the_same_bytes(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path, target: str, call: int
) -> None:
    """In an update, while a checkpoint is written, before and after its checksums, and while the result is moved."""
    out = tmp_path / "out"
    run(zygote, world.train(out), ["signal_at", target, call, signal.SIGKILL], code=-signal.SIGKILL)
    run(zygote, world.train(out))
    assert trained(out) == expected["train"]


@long
@pytest.mark.parametrize("call", [1, 3, 6])
def test_an_attack_that_is_killed_resumes_to_the_same_bytes(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path, call: int
) -> None:
    out = tmp_path / "out"
    run(zygote, world.attack(out), ["signal_at", ANSWERING, call, signal.SIGKILL], code=-signal.SIGKILL)
    run(zygote, world.attack(out))
    assert attacked(out) == expected["attack"]


@pytest.mark.parametrize("update", [pytest.param(1, marks=long), 3, pytest.param(UPDATES, marks=long)])
def test_sigterm_lets_training_save_and_exit_with_a_code_and_a_sentence(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path, update: int
) -> None:
    out = tmp_path / "out"
    # A checkpoint is due at every update here; one every sixth leaves nothing but what SIGTERM saves.
    rare = ["only_at_the_end"]
    last = update == UPDATES
    told = run(zygote, world.train(out), rare, ["signal_at", TRAINER, update, signal.SIGTERM], code=143)
    if not last:
        assert (
            f"stopped by SIGTERM after update {update} of {UPDATES}, which is saved; the same command resumes" in told
        )
        assert checkpoints(out) == [f"checkpoint-{update}"]
    else:
        assert "stopped by SIGTERM; the same command resumes" in told  # nothing is left to do
    run(zygote, world.train(out))
    assert trained(out) == expected["train"]


def test_sigterm_ends_an_attack_at_once_with_a_code_and_a_sentence(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = run(zygote, world.attack(out), ["signal_at", ANSWERING, 4, signal.SIGTERM], code=143)
    assert "stopped by SIGTERM; the same command resumes" in told
    assert len((out / "responses.journal").read_text().splitlines()) in (3, 4)
    run(zygote, world.attack(out))
    assert attacked(out) == expected["attack"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Zygote, Path]]:
    """Give a zygote that sees a disk of 8 MB at a folder, in a name space of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=8m tmpfs {disk} && exec "$@"'
    prefix = ("unshare", "-rm", "sh", "-c", mount, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no one mount a disk; the limit on a file's size is tested all the same")
    process = Zygote(*prefix)
    yield process, disk
    process.close()


@long
@pytest.mark.parametrize("leave", [30_000, 300_000, 700_000])
def test_a_full_disk_stops_training_in_a_sentence_and_room_lets_it_go_on(
    small_disk: tuple[Zygote, Path], world: World, expected: dict, tmp_path: Path, leave: int
) -> None:
    """A tmpfs of 8 MB: full at the first file, in the first checkpoint, in the second one."""
    zygote, disk = small_disk
    job(zygote, "fill_disk", disk, leave)
    told = run(zygote, world.train(disk / "out"), code=1, log=tmp_path / "log")
    assert "the disk is full" in told
    assert "the same command resumes" in told
    job(zygote, "shell", f"rm {disk}/filler")
    run(zygote, world.train(disk / "out"), log=tmp_path / "log")
    job(zygote, "copy", disk / "out", tmp_path / "copied")
    assert trained(tmp_path / "copied") == expected["train"]


@long
def test_a_full_disk_stops_an_attack_in_a_sentence_and_room_lets_it_go_on(
    small_disk: tuple[Zygote, Path], world: World, expected: dict, tmp_path: Path
) -> None:
    zygote, disk = small_disk
    for leave in (0, 4096):
        job(zygote, "fill_disk", disk, leave)
        assert "the disk is full" in run(zygote, world.attack(disk / "out"), code=1, log=tmp_path / "log")
        job(zygote, "shell", f"rm {disk}/filler")
    run(zygote, world.attack(disk / "out"), log=tmp_path / "log")
    job(zygote, "copy", disk / "out", tmp_path / "copied")
    assert attacked(tmp_path / "copied") == expected["attack"]


@pytest.mark.parametrize("size", [pytest.param(2_000, marks=long), 150_000])
def test_a_limit_on_a_files_size_stops_training_in_a_sentence(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path, size: int
) -> None:
    out = tmp_path / "out"
    assert "the disk is full" in run(zygote, world.train(out), ["largest_file", size], code=1)
    run(zygote, world.train(out))
    assert trained(out) == expected["train"]


@long
def test_a_read_only_folder_is_refused_before_any_work(
    small_disk: tuple[Zygote, Path], world: World, tmp_path: Path
) -> None:
    zygote, disk = small_disk
    job(zygote, "shell", f"mkdir {disk}/out && mount -o remount,ro {disk}")
    for command in (world.train(disk / "out"), world.attack(disk / "out")):
        told = run(zygote, command, code=2, log=tmp_path / "log")
        assert "nothing can be written into" in told
    job(zygote, "shell", f'test -z "$(ls -A {disk}/out)"')


@pytest.mark.parametrize("seconds", [86_400, pytest.param(-86_400, marks=long)])
def test_a_clock_that_jumps_by_a_day_changes_nothing(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path, seconds: int
) -> None:
    """The clock of the day, as Python reads it, jumps at its third reading; durations are of the monotonic clock."""
    run(zygote, world.train(tmp_path / "train"), ["jump_clock", seconds, 2])
    run(zygote, world.attack(tmp_path / "attack"), ["jump_clock", seconds, 2])
    assert trained(tmp_path / "train") == expected["train"]
    assert attacked(tmp_path / "attack") == expected["attack"]


CHANGES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("torn", lambda old: old[: len(old) // 2]),
    ("edited", lambda old: old[:-20] + b"x" * 19 + old[-1:]),
    ("empty", lambda old: b""),
]


@long
def test_torn_and_edited_results_are_made_again(zygote: Zygote, world: World, expected: dict, tmp_path: Path) -> None:
    train, attack = tmp_path / "train", tmp_path / "attack"
    run(zygote, world.train(train))
    run(zygote, world.attack(attack))
    for path in [train / "checkpoint" / "model.safetensors", train / "metrics.jsonl", train / ".checkpoint.stamp",
                 train / "model.json", train / "training.json"]:  # fmt: skip
        for _, change in CHANGES[:2]:
            path.write_bytes(change(path.read_bytes()))
            run(zygote, world.train(train))
            assert trained(train) == expected["train"], path
    for path in [
        attack / name for name in ("responses.jsonl", "responses.journal", "attack.json", ".responses.jsonl.stamp")
    ]:
        for _, change in CHANGES:
            path.write_bytes(change(path.read_bytes()))
            run(zygote, world.attack(attack))
            assert attacked(attack) == expected["attack"], path


def test_a_torn_checkpoint_is_passed_over_for_the_start(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(zygote, world.train(out), ["signal_at", TRAINER, 4, signal.SIGKILL], code=-signal.SIGKILL)
    (state,) = (out / "work").glob("checkpoint-*/optimizer.pt")
    state.write_bytes(state.read_bytes()[:-100])
    run(zygote, world.train(out))
    assert trained(out) == expected["train"]


@pytest.mark.parametrize("verb", ["attack", pytest.param("train", marks=long)])
def test_of_two_processes_in_one_folder_the_second_is_refused(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path, verb: str
) -> None:
    out, begun = tmp_path / "out", tmp_path / "begun"
    logs = [tmp_path / "first", tmp_path / "second"]
    command = getattr(world, verb)(out)
    held = {"attack": "divalign.stages.attack:_responses", "train": "divalign.stages.train:_train"}[verb]
    first = divalign_job(command, ["wait_until", held, str(logs[1]), "at work", str(begun)], log=str(logs[0]))
    second = divalign_job(command, ["wait_for", str(begun)], log=str(logs[1]))
    assert [ended.code for ended in zygote.together([first, second])] == [0, 2], [log.read_text() for log in logs]
    assert "another process is at work in" in " ".join(logs[1].read_text().split())
    assert {"attack": attacked, "train": trained}[verb](out) == expected[verb]


def test_a_training_without_memory_goes_on_with_half_the_pairs(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path
) -> None:
    """Four pairs are eight rows in a forward. The log equals that of whole updates up to sums in another order."""
    out = tmp_path / "out"
    told = run(zygote, world.train(out), ["memory_for", 4])
    assert "out of memory with 4 pairs in a forward; going on with 2" in told
    whole = [json.loads(line) for line in expected["train"]["metrics.jsonl"].splitlines()]
    for row, other in zip(read_rows(out / "metrics.jsonl"), whole, strict=True):
        for name in ("epoch", "rewards/accuracies"):  # counts forwards; counts as won whatever is above 0
            del row[name], other[name]
        assert row == pytest.approx(other, rel=1e-2, abs=1e-2)


@long
def test_memory_that_suffices_for_no_pair_is_said_in_a_sentence(zygote: Zygote, world: World, tmp_path: Path) -> None:
    told = run(zygote, world.train(tmp_path / "out"), ["memory_for", 0], code=1)
    assert "out of memory" in told


def test_an_attack_without_memory_goes_on_in_smaller_batches(
    zygote: Zygote, world: World, expected: dict, tmp_path: Path
) -> None:
    run(zygote, world.attack(tmp_path / "out"), ["memory_for", 2])
    assert attacked(tmp_path / "out") == expected["attack"]


def test_weights_that_diverge_stop_training_at_the_last_good_checkpoint(
    zygote: Zygote, world: World, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = run(zygote, world.train(out, "train.learning_rate=1e18"), code=1)
    assert "the loss is nan" in told
    assert "the weights have diverged" in told
    (kept,) = (out / "work").glob("checkpoint-*")
    assert all(value.isfinite().all() for value in load_file(kept / "model.safetensors").values())
    assert f"update {int(kept.name[11:]) + 1}:" in told


def test_a_row_whose_loss_is_not_finite_is_named(zygote: Zygote, world: World, tmp_path: Path) -> None:
    rows = [{**row, "ref_chosen_logps": -9.0, "ref_rejected_logps": -9.0} for row in read_rows(world.rows)]
    rows[7]["ref_rejected_logps"] = -1e300
    write_rows(tmp_path / "rows.jsonl", rows)
    told = run(zygote, world.train(tmp_path / "out", rows=tmp_path / "rows.jsonl"), code=1)
    assert "not finite for the rows unaligned 7 (numbered from 0)" in told


def hang(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
    threading.Event().wait(5)


def drip(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
    """Send a byte ten times a second, so that no timeout between two bytes is reached."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        threading.Event().wait(0.1)


@pytest.mark.parametrize("trouble", [hang, pytest.param(drip, marks=long)])
def test_a_server_that_hangs_ends_in_a_sentence_and_its_answers_are_kept(
    zygote: Zygote, world: World, tmp_path: Path, fake: Fake, trouble: Callable
) -> None:
    out, asked = tmp_path / "out", read_rows(world.prompts)
    command = [*world.attack(out, "--server", fake.url, "--served-model", "tiny")]
    fake.script[asked[3]["prompt"]] = [trouble] * 2
    told = run(zygote, command, ["impatient", 0.5, 2], code=1)
    assert "failed 2 times, last with" in told
    kept = len((out / "responses.journal").read_text().splitlines())
    before = len(fake.asked)
    run(zygote, command, ["impatient", 30, 2])
    assert len(fake.asked) - before == len(asked) - kept
    assert [row["response"] for row in read_rows(out / "responses.jsonl")].count("") == 0


def test_the_table_of_docs_names_a_test_of_this_file_in_every_row() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`test_" in line]
    assert len(rows) >= 10
    for row in rows:
        for name in row.split("`")[1::2]:
            assert not name.startswith("test_") or name in globals(), name
