"""The check at intake: which file is the encoder, and that every broken promise is found in one go."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from ranker.errors import ParticipantError
from ranker.sandbox import probes, seccomp
from ranker.sandbox.backends import backend
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.check import CheckResult, check_encoder, choose, find_encoder, root_folder
from ranker.sandbox.contract import CallReport, FileReport, Raised, ValueReport, frames_allowed
from ranker.sandbox.environment import covered, python_folders
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits
from ranker.types import EncoderSource, SandboxName

LIMITS = Limits(load_timeout_s=60, call_timeout_s=60)
START = """
import random, time, torch
class {name}(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.output_dim = 4
        self.calls = 0
    def forward(self, audio, mask=None):
        self.calls += 1
        x = audio.unfold(1, 400, 160)[:, :, :4]
        noise = torch.rand(x.shape) + random.random()
"""
GOOD = START + "        return x + noise, None if mask is None else mask[:, ::160][:, : x.shape[1]]\n"


@pytest.fixture
def sandbox() -> ServedSandbox:
    return backend(SandboxName.NONE, image="")


def tree_of(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def checked(sandbox: ServedSandbox, tree: Path) -> CheckResult:
    source = EncoderSource(root=".", module="encoder.py")
    return check_encoder(sandbox, EncoderSpec(tree=tree, source=source), LIMITS)


# -- which file


def report(name: str, *candidates: str, error: bool = False) -> FileReport:
    raised = Raised(type="ImportError", message="no such module", frames=[]) if error else None
    return FileReport(name=name, candidates=dict.fromkeys(candidates, ""), error=raised)


@pytest.mark.parametrize(
    ("reports", "chosen"),
    [
        ([report("a.py"), report("model.py", "MyEncoder")], "model.py"),
        ([report("model.py", "MyEncoder"), report("my_encoder.py", "MyEncoder")], "my_encoder.py"),
        ([report("model.py", "AEncoder", "BEncoder"), report("wrap.py", "MyEncoder")], "wrap.py"),
        ([report("train.py", error=True), report("encoder.py", "Encoder")], "encoder.py"),
    ],
)
def test_the_rule_picks_the_file(reports: list[FileReport], chosen: str) -> None:
    """The file with a single such attribute; of several, the one called ...encoder.py; broken ones do not count."""
    assert choose(reports).name == chosen


@pytest.mark.parametrize(
    ("reports", "listed"),
    [
        (
            [report("a.py"), report("b.py", error=True)],
            ["a.py: no such attribute", "b.py: cannot be imported, ImportError"],
        ),
        ([report("a.py", "AEncoder"), report("b.py", "BEncoder")], ["a.py: AEncoder", "b.py: BEncoder"]),
        ([report("encoder.py", "AEncoder", "BEncoder")], ["encoder.py: AEncoder, BEncoder"]),
        ([report("a_encoder.py", "AEncoder"), report("b_encoder.py", "BEncoder")], ["a_encoder.py", "b_encoder.py"]),
    ],
)
def test_doubt_is_refused_with_all_candidates(reports: list[FileReport], listed: list[str]) -> None:
    """None, or several that the rule cannot tell apart: the sentence lists every file and names --encoder."""
    with pytest.raises(ParticipantError) as caught:
        choose(reports)
    (reason,) = caught.value.reasons
    assert all(words in reason for words in [*listed, "--encoder"])


def test_files_are_imported_one_by_one_and_may_do_their_worst(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """Files that exit, raise, patch torch or print rubbish neither end the search nor reach the next file.

    The folder is the single top folder, beside what macOS adds; the encoder's class is imported from a sibling.
    """
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "__MACOSX").mkdir()
    tree_of(
        top,
        aa_patches="import torch\ndel torch.nn.Module\n",
        bb_exits="import os; os._exit(0)",
        cc_leaves="raise SystemExit(0)",
        dd_raises="1/0",
        layers=GOOD.format(name="Layers"),
        my_encoder="from layers import Layers as ToyEncoder",
    )
    assert find_encoder(sandbox, tmp_path, LIMITS) == EncoderSource(
        root="top", module="my_encoder.py", attribute="ToyEncoder"
    )


def test_a_file_that_never_ends_its_import_is_given_its_share(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """Its share of the load timeout passes, the reason says so, and the other file has been read all the same."""
    tree_of(tmp_path, a="while True: pass", b="x = 1")
    with pytest.raises(ParticipantError, match=r"a\.py: cannot be imported.*did not finish.*b\.py: no such attribute"):
        find_encoder(sandbox, tmp_path, Limits(load_timeout_s=2, call_timeout_s=60))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("encoder.txt", "must be FILE.py"),
        ("missing.py", "no such file"),
        ("../encoder.py", "no such file"),
        ("/encoder.py", "no such file"),
        ("encoder.py:not a name", "must be FILE.py"),
    ],
)
def test_an_override_stays_inside_the_submission(
    sandbox: ServedSandbox, tmp_path: Path, override: str, words: str
) -> None:
    """A path that leads out, or nowhere, is refused before anything is started."""
    tree = tmp_path / "tree"
    tree.mkdir()
    tree_of(tmp_path, encoder="")
    tree_of(tree, encoder="")
    with pytest.raises(ParticipantError, match=words):
        find_encoder(sandbox, tree, LIMITS, override)


def test_an_override_with_a_class_is_taken_at_its_word(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """Nothing needs to be imported to know which class was meant, even if its name does not end in Encoder."""
    (tmp_path / "src").mkdir()
    tree_of(tmp_path / "src", net="")
    tree_of(tmp_path, setup="")
    source = find_encoder(sandbox, tmp_path, LIMITS, "src/net.py:Net")
    assert source == EncoderSource(root=".", module="src/net.py", attribute="Net")


def test_the_root_folder_is_the_top_or_its_only_folder(tmp_path: Path) -> None:
    """Python files on top decide; hidden folders and those of macOS do not count."""
    for name in ("repo", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
    assert root_folder(tmp_path) == "repo"
    (tmp_path / "second").mkdir()
    assert root_folder(tmp_path) == "."
    (tmp_path / "second").rmdir()
    tree_of(tmp_path, a="")
    assert root_folder(tmp_path) == "."


# -- the contract


def test_a_good_encoder_is_measured(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """It draws random numbers in forward: seeding by the clip makes them the same in every process and order.

    They are drawn for a whole batch at once, so a clip's features differ in a batch: it is found not to be invariant.
    """
    result = checked(sandbox, tree_of(tmp_path, encoder=GOOD.format(name="ToyEncoder")))
    assert (result.attribute, result.output_dim, result.frames_per_s) == ("ToyEncoder", 4, 99.8)
    assert result.bit_identical
    assert not result.batch_invariant
    assert not result.padding_invariant
    assert result.shortest_clip_s == 0.1
    assert CheckResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.source == EncoderSource(root=".", module="encoder.py", attribute="ToyEncoder")


def test_padding_that_leaks_is_found(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """Normalising by the whole padded row's mean keeps equal lengths right and unlike ones wrong."""
    leaky = (
        START
        + """
        loudness = audio.abs().mean(1)[:, None, None]
        plain = audio.unfold(1, 400, 160)[:, :, :4]
        return plain / (1 + loudness), None if mask is None else mask[:, ::160][:, : plain.shape[1]]
"""
    )
    result = checked(sandbox, tree_of(tmp_path, encoder=leaky.format(name="ToyEncoder")))
    assert result.batch_invariant
    assert not result.padding_invariant


def test_an_imported_class_is_listed_with_its_origin() -> None:
    """A class taken from a library counts as one, as the rule says; the sentence tells which it is."""
    found = FileReport(name="encoder.py", candidates={"MyEncoder": "", "WhisperEncoder": "transformers"}, error=None)
    with pytest.raises(ParticipantError, match=r"MyEncoder, WhisperEncoder \(imported from transformers\)"):
        choose([found])


def test_all_violations_are_found_in_one_go(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """Four mistakes, four sentences, each once although several probes met it; the older checker's habits are named."""
    broken = """
import torch
class OldEncoder(torch.nn.Module):
    sampling_rate = 16000
    hop_size_in_ms = 10
    def forward(self, audio):
        return audio[:, :160]
"""
    with pytest.raises(ParticipantError) as caught:
        checked(sandbox, tree_of(tmp_path, encoder=broken))
    reasons = caught.value.reasons
    assert len(reasons) == 4, reasons
    for words in (
        "output_dim, the size of one feature frame, but has none (it has sampling_rate and hop_size_in_ms",
        "takes 1 positional argument (one was enough for an older checker)",
        "returned a Tensor (a bare tensor was enough for an older checker)",
        "features must have the shape [1, frames, output_dim], but have [1, 160]; keep the batch and the frames",
    ):
        assert sum(words in reason for reason in reasons) == 1, words


CRASHING = """
import os, torch
class MyEncoder(torch.nn.Module):
    output_dim = 2
    sampling_rate = 32000
    def forward(self, audio, mask=None):
        if audio.shape[1] < 3000:
            os._exit(4)
        if audio.shape[1] > 500_000:
            raise ValueError("too long")
        x = audio.unfold(1, 400, 320)[:, :, :2] + (0.5 if mask is None else 0.0)
        return x, None
"""


def test_clips_that_the_contract_leaves_open_are_findings(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """An encoder that dies of a short clip and refuses a long one passes, and the record says so: a fresh process goes
    on after the death. So with another result for None, which the evaluation never gives.
    """
    result = checked(sandbox, tree_of(tmp_path, encoder=CRASHING))
    assert list(result.refused_clips) == ["0.1 s", "60 s"]
    assert "exit code 4 while it encoded a clip of 0.10 s" in result.refused_clips["0.1 s"]
    assert "ValueError: too long" in result.refused_clips["60 s"]
    assert (result.shortest_clip_s, result.long_clip_frames, result.long_clip_peak_memory_mb) == (0.25, None, None)
    assert (result.none_mask_equal, result.batch_invariant, result.old_habits) == (False, True, ["sampling_rate"])
    told = {row.name: f"{row.found} -> {row.follows}" for row in probes.rows(result.to_json())}
    for name, words in {
        "short clips": "0.25 s accepted; 0.1 s: the encoder ended its own process",
        "a clip of 60 s": "not accepted: the encoder raised an exception on a clip of 60.00 s: ValueError: too long",
        "None for a mask of ones": "other features",
        "attributes of an older checker": "sampling_rate -> they are not read",
        "frame rate": "49.9 per second -> 30 s are 1,497 frames",
    }.items():
        assert words in told[name]
    assert len(told) == 11


def test_rows_tell_what_follows_either_way(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """What was found and what it means, for a good encoder; each key of the record is told, or identifies it."""
    good = (
        START
        + "        x = audio.unfold(1, 160, 160)[:, :, :4]\n"
        + "        return x, None if mask is None else mask[:, ::160]\n"
    )
    values = checked(sandbox, tree_of(tmp_path, encoder=good.format(name="ToyEncoder"))).to_json()
    told = {row.name: f"{row.found} -> {row.follows}" for row in probes.rows(values)}
    assert told["in a batch of clips of one length"] == "same features -> clips of one length share a call"
    assert told["padded, beside a longer clip"] == "same features -> nothing: the evaluation never pads"
    assert told["in a second fresh process"].startswith("same bits ->")
    assert told["a clip of 60 s"] == "6000 frames -> nothing"
    assert re.fullmatch(
        r"\d+ MB for clips up to 10 s, \d+ MB for 60 s \(resident .*\) -> \d+% of the 12 GB .*", told["peak memory"]
    )
    assert set(probes.identity(values)) == {
        "root", "module", "attribute", "output_dim", "load_s", "sandbox", "python", "torch",
    }  # fmt: skip
    cut = {**values, "long_clip_frames": 3000, "batch_invariant": False}
    changed = {row.name: f"{row.found} -> {row.follows}" for row in probes.rows(cut)}
    assert changed["a clip of 60 s"].startswith(
        "3000 frames, 50 per second against 100 for 10 s -> test clips are never"
    )
    assert "one by one" in changed["in a batch of clips of one length"]


def test_records_of_earlier_versions_are_told_as_far_as_they_go() -> None:
    """What was not recorded has no row, and nothing fails: a database outlives a version."""
    old = {"attribute": "ToneEncoder", "output_dim": 24, "frames_per_s": 12.5, "batch_invariant": True}
    assert [row.name for row in probes.rows(old)] == ["frame rate", "in a batch of clips of one length"]
    assert probes.identity(old) == {"attribute": "ToneEncoder", "output_dim": 24}
    assert probes.rows({}) == ()


@pytest.mark.parametrize(("seconds", "allowed"), [([0.1], 4000), ([30.0, 1.0], 4000), ([60.0], 8000), ([45.0], 6000)])
def test_frames_are_bounded_by_the_longest_clip(seconds: list[float], allowed: int) -> None:
    """Up to 30 s, which some encoders pad to, the bound stands; beyond, it grows with the clip."""
    assert frames_allowed(4000, [round(16_000 * each) for each in seconds]) == allowed


def test_time_and_memory_of_calls_are_refused(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """Randomness from the clock differs between processes, a counter between calls: both sentences in one refusal."""
    fickle = START + "        return x + self.calls + time.time_ns() % 1000, None\n"
    with pytest.raises(ParticipantError) as caught:
        checked(sandbox, tree_of(tmp_path, encoder=fickle.format(name="ToyEncoder")))
    assert [reason.split(",")[0] for reason in caught.value.reasons] == [
        "a clip's features must depend on the clip alone",
        "a clip's features must be the same in every run",
    ]


UNLOADABLE = {
    "missing": (
        "import nothing_of_that_name",
        r"cannot be imported: ModuleNotFoundError: .*\(missing\.py:1 in <module>\)",
    ),
    "argument": ("class AEncoder:\n    def __init__(self, path): pass", "but its constructor requires path"),
    "raising": ("class AEncoder:\n    def __init__(self): self.x = 1 / 0", "cannot be constructed: ZeroDivisionError"),
    "several": (
        "class AEncoder: pass\nclass BEncoder: pass",
        "exactly one attribute whose name ends in Encoder, .* but has 2: AEncoder, BEncoder",
    ),
}


def test_what_cannot_be_loaded_is_told_in_one_sentence(sandbox: ServedSandbox, tmp_path: Path) -> None:
    """Nothing can be called, so nothing more can be said; `start` refuses it with the same sentence."""
    tree = tree_of(tmp_path, **{name: code for name, (code, _) in UNLOADABLE.items()})
    sources = {name: EncoderSource(root=".", module=f"{name}.py") for name in UNLOADABLE}
    with sandbox.connect(EncoderSpec(tree=tree, source=sources["missing"]), LIMITS) as client:
        found = {name: client.load(source).violations() for name, source in sources.items()}
    for name, (_, words) in UNLOADABLE.items():
        assert len(found[name]) == 1
        assert re.search(words, found[name][0])
    spec = EncoderSpec(tree=tree, source=sources["argument"])
    with pytest.raises(ParticipantError) as caught, sandbox.start(spec, LIMITS):
        pass
    assert list(caught.value.reasons) == found["argument"]


def tensor(shape: list[int], number: str) -> ValueReport:
    return ValueReport(
        type="Tensor", tensor=True, dtype=f"torch.{number}32", number=number, layout="strided", device="cpu",
        shape=shape, bad=None, emptied=None,
    )  # fmt: skip


def call_report(shape: list[int], number: str = "float", mask: list[int] | None = None) -> CallReport:
    features = tensor(shape, number)
    masked = None if mask is None else tensor(mask, "integer")
    return CallReport(error=None, kind="tuple", length=2, features=features, mask=masked, sent=True, seconds=0.0)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (call_report([2, 10, 4]), []),
        (call_report([2, 100, 4_000]), ["output_dim = 4"]),
        (call_report([2, 10, 4], mask=[2, 10]), []),
        (call_report([2, 10, 4], "integer"), ["float type"]),
        (call_report([2, 40]), ["shape [2, frames, 4]"]),
        (call_report([1, 10, 4]), ["one row for each clip, here 2"]),
        (call_report([2, 500, 500]), ["output_dim = 4", "at most 100"]),
        (call_report([2, 0, 4]), ["at least one frame"]),
        (
            call_report([3, 101, 5], mask=[1, 1]),
            ["one row", "output_dim = 4", "at most 100", "mask must have the shape"],
        ),
    ],
)
def test_shapes_are_judged_without_the_numbers(found: CallReport, words: list[str]) -> None:
    """Each wrong thing is one sentence; several at once are all told."""
    violations = found.violations(batch=2, output_dim=4, max_frames=100, max_bytes=2_000_000)
    assert len(violations) == len(words)
    assert all(word in violation for word, violation in zip(words, violations, strict=True))


# -- what is shown inside


def test_a_home_inside_a_shown_folder_is_covered(tmp_path: Path) -> None:
    """/usr is shown; an organizer's home below it must not be, and one elsewhere needs no cover."""
    home = Path("/usr/local/challenge")
    assert covered(python_folders(), home) == [home]
    assert covered(python_folders(), tmp_path) == []
    assert covered(python_folders(), None) == []


def test_the_seccomp_profile_is_what_its_script_writes() -> None:
    """The JSON is generated: an edit by hand, or a script that was not run, would leave reasons and rules apart."""
    script = seccomp.profile_path().with_name("make_seccomp.py")
    spec = importlib.util.spec_from_file_location("make_seccomp", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert json.loads(seccomp.profile_path().read_text()) == module.profile()


def test_the_profile_names_no_call_that_leads_out() -> None:
    """Calls that have opened sandboxes before are not on the list, under any action that allows them."""
    profile = json.loads(seccomp.profile_path().read_text())
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    for name in (
        *("ptrace", "process_vm_readv", "process_vm_writev", "bpf", "mount", "umount2", "unshare", "setns", "keyctl"),
        *(
            "io_uring_setup",
            "userfaultfd",
            "perf_event_open",
            "kexec_load",
            "open_by_handle_at",
            "socketcall",
            "clone3",
        ),
    ):
        assert name not in allowed
    assert len(allowed) > 150


@pytest.mark.engine
def test_the_profile_compiles(bubblewrap: ServedSandbox) -> None:
    """A filter comes out: a whole number of 8-byte instructions, at least one for each call."""
    file = seccomp.compiled_filter()
    size = os.fstat(file).st_size
    os.close(file)
    assert size % 8 == 0
    assert size > 8 * 150
