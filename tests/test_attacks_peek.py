"""The submissions of tests/attacks that look for something outside: on each backend they get nothing, and the next one
runs; without the defence that is named for them, the same attempts succeed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attack_table import PEEKING, Attack, Layer
from attack_world import LIMITS, NO_IMAGE, World, assert_next_one_runs, findings, spec
from effort import todays
from lifting import lifted, show_library

from ranker.sandbox.backends import backend
from ranker.sandbox.client import EncoderClient
from ranker.types import SandboxName

Layers = tuple[Layer, ...]
CONTROLS = sorted({attack.layers for attack in PEEKING})
# All layers of an attack but one.
ALONE = sorted({tuple(x for x in a.layers if x is not one) for a in PEEKING if len(a.layers) > 1 for one in a.layers})


# What can be lifted from a container whose engine has a network and processes of its own.
IN_CONTAINERS = [
    *((Layer.VIEW,), (Layer.READ_ONLY,), (Layer.USER,), (Layer.ENVIRONMENT,), (Layer.SCRATCH,), (Layer.RLIMITS,)),
    *((Layer.SECCOMP,), (Layer.NO_NEW_PRIVILEGES,), (Layer.NOT_DUMPABLE,), (Layer.SECCOMP, Layer.NOT_DUMPABLE)),
    *((Layer.SECCOMP, Layer.RIGHTS), (Layer.SECCOMP, Layer.IPC)),
]
LIFTED = [(SandboxName.BUBBLEWRAP, layers) for layers in CONTROLS if layers != (Layer.NO_NEW_PRIVILEGES,)]
LIFTED += [(SandboxName.DOCKER, layers) for layers in IN_CONTAINERS]


def named(value: object) -> str:
    return "+".join(layer.name.lower() for layer in value) if isinstance(value, tuple) else str(value)


@pytest.fixture(scope="module", params=[SandboxName.BUBBLEWRAP, SandboxName.DOCKER])
def client(request: pytest.FixtureRequest, world: World) -> Iterator[EncoderClient]:
    """One server for all of them on each backend that confines."""
    request.getfixturevalue("docker_engine" if request.param is SandboxName.DOCKER else "bubblewrap")
    with pytest.MonkeyPatch.context() as patch:
        show_library(patch, world)
        with backend(request.param, image=NO_IMAGE).connect(spec(world, "honest"), LIMITS) as connected:
            yield connected


@pytest.mark.parametrize("attack", PEEKING, ids=[attack.file for attack in PEEKING])
def test_an_attack_gets_nothing_and_the_next_submission_runs(client: EncoderClient, attack: Attack) -> None:
    """Each attempt tells in the features what it got: nothing. The server then serves an honest encoder."""
    found = findings(client, attack.file)
    assert found == [0.0] * len(found)
    assert_next_one_runs(client)


@pytest.mark.parametrize(
    ("name", "layers"), todays("attacks without their defence: sets of layers lifted", LIFTED), ids=named
)
def test_without_the_defence_every_attempt_succeeds(
    request: pytest.FixtureRequest, world: World, name: SandboxName, layers: Layers
) -> None:
    """The control: what is said to stop an attack is what stops it, and the attack is one."""
    request.getfixturevalue("docker_engine" if name is SandboxName.DOCKER else "bubblewrap")
    runs = 2 if layers in {(Layer.SCRATCH,), (Layer.SECCOMP, Layer.IPC)} else 1  # those need somebody before them
    found: dict[str, list[float]] = {}
    with lifted(layers, world, name) as sandbox:
        for _ in range(runs):
            with sandbox.connect(spec(world, "honest"), LIMITS) as connected:
                for attack in PEEKING:
                    if attack.layers == layers:
                        found[attack.file] = findings(connected, attack.file)
    assert found
    assert {name: [bool(got) for got in each] for name, each in found.items()} == {
        name: [True] * len(each) for name, each in found.items()
    }


@pytest.mark.parametrize("without", todays("attacks with one layer only: sets of layers lifted", ALONE), ids=named)
def test_each_layer_alone_is_enough(request: pytest.FixtureRequest, world: World, without: Layers) -> None:
    """Where two layers stand before an attack, either one stops it without the other."""
    request.getfixturevalue("bubblewrap")
    found: dict[str, list[float]] = {}
    with lifted(without, world) as sandbox, sandbox.connect(spec(world, "honest"), LIMITS) as connected:
        for attack in PEEKING:
            if set(without) < set(attack.layers) and len(attack.layers) == len(without) + 1:
                found[attack.file] = findings(connected, attack.file)
    assert found
    assert found == {name: [0.0] * len(each) for name, each in found.items()}
