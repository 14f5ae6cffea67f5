"""What the project promises about its own source: layers, names, help, documents. Each test counts what it saw."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from ranker import types
from ranker.cli import reference
from ranker.db.migrate import head_revision
from ranker.doctor import Verdict

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "ranker").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Rooms from the ground up. Each may use those of the lines above its own, and nothing else of ranker.
LAYERS = """
    baseline deadline digest durable errors home journal privacy quiet types
    config credentials pace
    manifest settings
    data db hidden metrics
    events
    rules
    queue reweighing sandbox scoring
    job uncertainty
    endings executors inspection lalm logbook lineup scoretable seeds watch
    board conditions estimate intake openmetrics provision weights
    calibration doctor exports imports likeness shared_features
    evaluation mend site
    comparison overview perform
    audit coordinator orders outbox planning publishing results schedule worker
    replies
    service
    cli
"""
FAIL_BY_RAISING = {"test_nothing_to_do_starts_nothing"}
STATUS_ENUMS = (types.Status, types.Fault, types.JobKind, types.SubmissionState, types.Stage, Verdict)
DOCKERS_OWN = ("docker.py", "running")  # the engine's word for a container's state
STATUS_NAMES = {"status", "fault", "kind", "state", "stage", "verdict"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, at its top or inside a function."""
    found: list[str] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found += (f"{module}.{alias.name}" for alias in node.names) if module == "ranker" else [module]
    return tuple(found)


def test_imports_run_downward_only() -> None:
    """A room that reaches upward, or sideways, ties the knots that no one gets undone later."""
    lines = [line.split() for line in LAYERS.strip().splitlines()]
    layer = {room: height for height, rooms in enumerate(lines) for room in rooms}
    wrong, seen = [], 0
    for path in SOURCES:
        own = path.relative_to(ROOT / "ranker").with_suffix("").parts[0]
        if own in {"__init__", "__main__"}:
            continue
        for module in imported(path):
            package, _, rest = module.partition(".")
            room = rest.partition(".")[0]
            if package != "ranker" or room in {own, "__version__", ""}:
                continue
            seen += 1
            if layer[room] >= layer[own]:
                wrong.append(f"{path.name} (room {own}) imports {module}")
    assert wrong == []
    assert seen > 150
    rooms = {path.relative_to(ROOT / "ranker").with_suffix("").parts[0] for path in SOURCES}
    assert rooms - {"__init__", "__main__"} == set(layer), "a room without a layer, or a layer without its room"


def test_the_server_in_the_sandbox_knows_nothing_of_ranker() -> None:
    """encoder_server.py runs beside hostile code, in an image that has Python and torch: it may need nothing else."""
    modules = {module.partition(".")[0] for module in imported(ROOT / "ranker/sandbox/encoder_server.py")}
    assert len(modules) > 10
    assert modules <= {"torch", "numpy"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("library", "room"),
    [("typer", "cli"), ("rich", "cli"), ("click", None), ("docker", "sandbox"), ("alembic", "db"),
     ("jinja2", ("replies", "site")), ("matplotlib", "site"), ("peft", "lalm"),
     ("accelerate", "lalm"), ("jiwer", "metrics"),
     ("sklearn", "metrics"), ("pypdf", "intake"),
     ("huggingface_hub", "data"), ("httpx2", "data"), ("ray", "executors")],
)  # fmt: skip
def test_a_library_has_one_room(library: str, room: str | tuple[str, ...] | None) -> None:
    """What the command line, the engine or the model is made with must not leak into rooms that could do without."""
    found = {
        path.relative_to(ROOT / "ranker").parts[0]
        for path in SOURCES
        if library in {module.partition(".")[0] for module in imported(path)}
    }
    assert found == ({room} if isinstance(room, str) else set(room or ()))


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """`ranker status` must not load torch: `import ranker.cli` brings in nothing of what takes seconds."""
    heavy = [
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "pandas",
        "sklearn",
        "scipy",
        "jiwer",
        "soundfile",
        "docker",
        "matplotlib",
        "huggingface_hub",
        "ray",
    ]
    code = f"import ranker.cli, sys; print(len(sys.modules), *(name for name in {heavy} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, *found = answer.stdout.split()
    assert int(loaded) > 100
    assert found == []


def raw_statuses(module: ast.Module, values: set[str]) -> Iterator[tuple[int, str]]:
    """Strings that stand where a status belongs: compared or matched with, assigned or passed to something so called.

    A constant is compared only where the other side is called status, fault, kind, state, stage or verdict, and is no
    key of a JSON object: `row["status"]` is, `job.status` is not.
    """

    def called(node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id in STATUS_NAMES) or (
            isinstance(node, ast.Attribute) and node.attr in STATUS_NAMES
        )

    def strings(node: ast.expr | ast.pattern) -> Iterator[tuple[int, str]]:
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and each.value in values:
                yield each.lineno, str(each.value)

    for node in ast.walk(module):
        if isinstance(node, ast.Compare) and any(map(called, [node.left, *node.comparators])):
            for side in (node.left, *node.comparators):
                yield from strings(side)
        elif isinstance(node, ast.Match) and called(node.subject):
            for case in node.cases:
                yield from strings(case.pattern)
        else:
            assigned = isinstance(node, ast.Assign) and any(map(called, node.targets))
            passed = isinstance(node, ast.keyword) and node.arg in STATUS_NAMES and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.Assign | ast.keyword) and (assigned or passed):
                yield from strings(node.value)


def test_no_raw_status_strings() -> None:
    """A status is written by its name: a misspelt string is found by nobody, a misspelt name by everybody."""
    values = {str(member) for each in STATUS_ENUMS for member in each}
    assert len(values) > 15
    found = [
        (path.name, *hit) for path in SOURCES if path.name != "types.py" for hit in raw_statuses(tree(path), values)
    ]
    assert [(file, word) for file, _, word in found if (file, word) != DOCKERS_OWN] == []
    probe = 'job.status = "queued"\nif job.fault != "infra": f(kind="check")\nmatch stage:\n    case "train": pass\n'
    assert sorted(word for _, word in raw_statuses(ast.parse(probe), values)) == ["check", "infra", "queued", "train"]


def test_tests_use_real_parts_and_never_sleep() -> None:
    """A mock agrees with whatever the code does, and a sleep is too short on some machine."""
    assert len(TESTS) > 30
    for path in TESTS:
        assert not [name for name in imported(path) if name.startswith(("unittest.mock", "mock", "pytest_mock"))], path
        calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        names = [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls]
        # A submission may sleep, and some never end; those two look after processes whose ends nobody tells them.
        may = path.parent.name == "attacks" or path.name in {"chaos.py", "nursery.py"}
        assert may or "sleep" not in names, path


def test_every_test_can_fail_and_says_what_it_attacks() -> None:
    """A test without a docstring is not understood when it fails; one without an assertion never does."""
    seen = 0
    for path in TESTS:
        helpers = {node.name for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef) and asserts(node)}
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                seen += 1
                assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"
                called = {call.func.id for call in calls(node) if isinstance(call.func, ast.Name)}
                judged = asserts(node) or called & helpers or node.name in FAIL_BY_RAISING
                assert judged, f"{path.name}: {node.name} asserts nothing"
    assert seen > 300


def calls(node: ast.AST) -> list[ast.Call]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Call)]


def asserts(node: ast.AST) -> bool:
    """Whether it has an `assert`, expects an exception, or calls something named assert."""
    named = [call.func.attr for call in calls(node) if isinstance(call.func, ast.Attribute)]
    judging = [name for name in named if name in {"raises", "fail", "warns"} or name.startswith("assert_")]
    return bool(judging) or any(isinstance(each, ast.Assert) for each in ast.walk(node))


def test_modules_stay_small() -> None:
    """A module that nobody reads to its end holds more than one thing."""
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert len(lengths) > 60
    assert {name: length for name, length in lengths.items() if length > 500} == {}
    named = {path.stem for path in SOURCES} & {"utils", "util", "common", "helpers", "misc"}
    assert named == set()


def test_every_migration_is_reached() -> None:
    """A second head, or a file that no revision leads to, would leave some databases behind."""
    scripts = ScriptDirectory(str(ROOT / "alembic"))
    files = {path.name for path in (ROOT / "alembic/versions").glob("*.py")}
    assert scripts.get_heads() == [head_revision()], "what is read from the files' text is another"
    assert {Path(revision.path).name for revision in scripts.walk_revisions()} == files
    assert files


def test_every_command_and_option_has_help() -> None:
    """An option without a word of help is known to its author alone."""
    parameters = 0
    found = list(reference.commands())
    for name, command, _ in found:
        assert command.help, name
        for parameter in command.params:
            parameters += 1
            assert getattr(parameter, "help", None), f"{name}: {parameter.name}"
    assert (len(found), parameters) >= (12, 30)


def test_the_command_reference_is_what_the_program_says() -> None:
    """docs/cli.md is made from the program; make it again with `python -m ranker.cli.reference > docs/cli.md`."""
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == reference.markdown()


def test_every_command_is_explained_to_operators() -> None:
    """A command that the guide and the README pass over is found by nobody."""
    guide = (ROOT / "docs/operator.md").read_text(encoding="utf-8") + (ROOT / "README.md").read_text(encoding="utf-8")
    names = [name for name, command, _ in reference.commands() if not hasattr(command, "commands")]
    assert len(names) >= 10
    assert [name for name in names if name not in guide] == []


def test_commands_that_texts_name_exist() -> None:
    """Advice that names a command or an option which is not there makes a bad moment worse."""
    known = {
        name: {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        for name, command, _ in reference.commands()
    }
    root = known["ranker"]
    seen = 0
    for path in [*SOURCES, *DOCUMENTS, *(ROOT / "configs").glob("*.yaml")]:
        for line in re.findall(r"`ranker ([a-z-][^`\n]*)`", path.read_text(encoding="utf-8")):
            words = [word for word in re.split(r"[\s=]+", line) if re.match(r"(--)?[a-z]", word)]
            words = words[2:] if words[0] == "--home" else words
            name = (
                f"ranker {words[0]}"
                if f"ranker {words[0]} {' '.join(words[1:2])}" not in known
                else f"ranker {words[0]} {words[1]}"
            )
            seen += 1
            assert name in known, f"{path.name}: `ranker {line}`"
            for option in (word for word in words if word.startswith("--")):
                assert option in known[name] | root | {"--help"}, f"{path.name}: `ranker {line}`"
    assert seen > 40


def test_links_between_documents_lead_somewhere() -> None:
    """A link to a file that was renamed sends the reader away."""
    seen = 0
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8")):
            seen += 1
            assert (path.parent / target).exists(), f"{path.name}: {target}"
    assert seen > 0
