"""Which features an attempt may take over: of the very same encoder and circumstances, of jobs that it may tell of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluation import Place, make_place
from test_witness import Scripted

from ranker.config import TrackPart
from ranker.evaluation import encoder_spec
from ranker.home import Home
from ranker.job import JobContext
from ranker.lalm.shelf import Shelf
from ranker.sandbox import docker as sandbox_docker
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.none import NoSandbox
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.witness import Witness
from ranker.shared_features import features_identity, shelf_of
from ranker.types import EncoderSource, Group, Part, SandboxName

Asked = tuple[JobContext, ServedSandbox, EncoderSpec]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("shared"), threads=1)


@pytest.fixture
def asked(place: Place) -> Asked:
    context = place.context(1)
    spec = encoder_spec(place.home, context.submission, place.benchmark().recipe, 1)
    return context, NoSandbox(), spec


def with_check(asked: Asked, **changes: Any) -> Asked:
    context, sandbox, spec = asked
    check = {**(context.submission.check or {}), **changes}
    return replace(context, submission=replace(context.submission, check=check)), sandbox, spec


def with_spec(asked: Asked, **changes: Any) -> Asked:
    return asked[0], asked[1], replace(asked[2], **changes)


def on_another_device(asked: Asked) -> Asked:
    context, sandbox, spec = asked
    condition = replace(context.claim.condition, device="A100")  # type: ignore[type-var]
    return replace(context, claim=replace(context.claim, condition=condition)), sandbox, spec


class OtherSoftware(NoSandbox):
    """A machine on which one package is another."""

    def software(self) -> str:
        """See `ServedSandbox.software`."""
        return "0" * 64


class OtherSandbox(NoSandbox):
    """Another confinement."""

    name = SandboxName.BUBBLEWRAP


@pytest.mark.parametrize(
    "change",
    [
        lambda asked: with_check(asked, tree={"digest": "1" * 64}),
        lambda asked: with_check(asked, environment={"installed": [], "tree": {"digest": "1" * 64}}),
        lambda asked: with_check(asked, weights={"tree": {"digest": "1" * 64}}),
        lambda asked: with_spec(asked, source=EncoderSource(root=".", module="encoder.py", attribute="OtherEncoder")),
        lambda asked: with_spec(asked, seed=43),
        lambda asked: with_spec(asked, threads=2),
        lambda asked: with_spec(asked, max_frames=7),
        lambda asked: with_spec(asked, output_dim=17),
        lambda asked: (asked[0], OtherSoftware(), asked[2]),
        lambda asked: (asked[0], OtherSandbox(), asked[2]),
        on_another_device,
    ],
)
def test_whatever_can_change_the_bits_is_another_identity(asked: Asked, change: Callable[[Asked], Asked]) -> None:
    """One thing after the other: features that were made with it are never met by an attempt without it."""
    changed = change(asked)
    assert features_identity(*asked) == features_identity(*asked)
    assert features_identity(*changed) != features_identity(*asked)


def test_another_seed_attempt_and_home_are_the_same_encoder(asked: Asked) -> None:
    """The control: what no bit of the features hangs on does not keep jobs from sharing."""
    context, sandbox, spec = asked
    claim = replace(context.claim, seed=43, attempt=7, track="B", job_id=9, key="k" * 64)
    moved = replace(context, claim=claim, home=Home(root=Path("/elsewhere")))
    elsewhere = replace(spec, tree=Path("/elsewhere/tree"))
    assert features_identity(moved, sandbox, elsewhere) == features_identity(*asked)


def opened(asked: Asked, part: TrackPart, name: Part) -> Shelf:
    context, sandbox, spec = asked
    condition = replace(context.claim.condition, part=name)  # type: ignore[type-var]
    claim = replace(context.claim, condition=condition)
    return shelf_of(replace(context, claim=claim), part, sandbox=sandbox, spec=spec, encoder=Witness(Scripted()))


def test_nothing_public_tells_of_hidden_clips(place: Place, asked: Asked) -> None:
    """Jobs that ask public tasks, both, or hidden ones: each finds its own and what may be told there, and no more."""
    part = place.benchmark().part("A", Part.PUBLIC)
    hidden = tuple(task.model_copy(update={"group": Group.HIDDEN}) for task in part.tasks)
    jobs = [
        ("public", opened(asked, part, Part.PUBLIC)),
        ("joined", opened(asked, replace(part, tasks=(*part.tasks, *hidden)), Part.PUBLIC)),
        ("hidden", opened(asked, replace(part, tasks=hidden), Part.HIDDEN)),
        ("prompted", opened(asked, replace(part, tasks=hidden), Part.PROMPTED)),
    ]
    seen = {}
    for at, (_, job) in enumerate(jobs):
        with job:
            assert job.put(bytes([at] * 32), [np.ones((2, 2), np.float32)])
    for name, job in jobs:
        with job:
            seen[name] = [jobs[at][0] for at in range(4) if job.take(bytes([at] * 32), 2) is not None]
    assert seen == {
        "public": ["public"],
        "joined": ["public", "joined"],
        "hidden": ["public", "joined", "hidden", "prompted"],
        "prompted": ["public", "joined", "hidden", "prompted"],
    }


@pytest.mark.dear(day=1)
def test_in_an_image_the_image_is_the_software(docker_engine: str) -> None:
    """Where the engine has no image, an encoder finds this machine's packages; else the image, known by its digest."""
    assert docker_engine
    with sandbox_docker._engine() as client:
        sandbox_docker._import_skeleton(client)
    here = NoSandbox().software()
    assert sandbox_docker.DockerSandbox(image="ranker-none:latest").software() == here
    assert sandbox_docker.DockerSandbox(image=sandbox_docker.SKELETON).software().startswith("sha256:")
