"""The fault matrix: each fault under all kinds of traffic, and the controls that keep it honest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from appliance.lab import faults, load
from appliance.lab.drill import Outcome, Watch, drill, wait_carries
from appliance.lab.faults import READY_WITHIN, Fault, Scene, catalogue
from appliance.lab.load import Cell, Kind
from appliance.lab.pair import Lab
from vmtests.controls import (
    lax_rules,
    power_loss_alone,
    switched_off,
    without_conntrackd,
)
from vmtests.expected import (
    ALONE_BEFORE,
    ALONE_MEANWHILE,
    BOTH_AFTER,
    BOTH_BEFORE,
    LAX,
    NEITHER,
    NO_CONNTRACKD,
    NOT_ANNOUNCED,
    NOT_HANDED_OVER,
    UNTOLD,
    wrong,
)
from vmtests.matrix import Matrix
from vmtests.wanted import on
from vmtests.ways import FEW, PLAN, SITE, WAYS

FAULTS = catalogue(PLAN)
SHORT = (
    "power loss",
    "frozen for 10 s",
    "split",
)
CELLS = load.cells(WAYS)
ALONE = 180.0  # seconds without a standby

pytestmark = on(SITE)

Judge = Callable[[Outcome], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every fault with --full; else those that say most."""
    if "fault" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        chosen = [fault for fault in FAULTS if full or fault.name in SHORT]
        metafunc.parametrize("fault", chosen, ids=[fault.name for fault in chosen])


@pytest.fixture
def flows(full: bool) -> tuple[Cell, ...]:
    """All cells with --full; else some of each kind."""
    return CELLS if full else FEW


@pytest.fixture
def judge(matrix: Matrix) -> Judge:
    """Enter an outcome into the matrix, and see that nothing else is lost than was expected."""

    def judge(outcome: Outcome) -> None:
        matrix.rows.append(outcome)
        assert not wrong(outcome.fault, outcome.reports)

    return judge


def test_fault(
    pair: Lab, fault: Fault, flows: tuple[Cell, ...], probe: float, judge: Judge
) -> None:
    judge(drill(pair, fault, flows, interval=probe))


@pytest.mark.long
def test_one_node_alone(pair: Lab, flows: tuple[Cell, ...], judge: Judge) -> None:
    """The standby is off for long; what is opened meanwhile must outlive its carrier."""
    watch, scene = Watch.begin(pair), Scene.now(pair)
    with load.start(pair, flows) as before:
        scene.standby.kill()
        with load.start(pair, flows) as meanwhile:
            faults.wait(ALONE)
            faults.restore(scene)
            pair.wait_ready(READY_WITHIN)
            scene.active.kill()
            wait_carries(meanwhile)
            judge(watch.outcome(ALONE_MEANWHILE, meanwhile.stop()))
        # From here on, so that no takeover counts twice.
        judge(Watch.begin(pair).outcome(ALONE_BEFORE, before.stop()))


@pytest.mark.long
def test_both_nodes_without_power(pair: Lab, flows: tuple[Cell, ...], judge: Judge) -> None:
    """No case of survival: the pair comes back to one active node, and carries what is new."""
    watch = Watch.begin(pair)
    with load.start(pair, flows) as before:
        for node in pair.nodes.values():
            node.kill()
        for node in pair.nodes.values():
            node.start()
        pair.wait_ready(READY_WITHIN)
        wait_carries(before)
        judge(watch.outcome(BOTH_BEFORE, before.stop()))
    watch = Watch.begin(pair)
    with load.start(pair, flows) as after:
        after.moves()
        judge(watch.outcome(BOTH_AFTER, after.stop()))


@pytest.mark.long
def test_opened_while_sync_is_lost(pair: Lab, flows: tuple[Cell, ...], judge: Judge) -> None:
    watch, scene = Watch.begin(pair), Scene.now(pair)
    faults.lose_sync(scene)
    with load.start(pair, flows) as untold:
        faults.power_loss(scene)
        wait_carries(untold)
        judge(watch.outcome(UNTOLD, untold.stop()))


CONTROLS = {
    NO_CONNTRACKD: (without_conntrackd,),
    NOT_ANNOUNCED: (lambda pair: switched_off(pair, "announce"),),
    NOT_HANDED_OVER: (lambda pair: switched_off(pair, "hand_over"),),
    NEITHER: (lambda pair: switched_off(pair, "announce", "hand_over"),),
    LAX: (without_conntrackd, lax_rules),
}


@pytest.mark.last
@pytest.mark.parametrize(
    "missing",
    [m if m == NO_CONNTRACKD else pytest.param(m, marks=pytest.mark.long) for m in CONTROLS],
)
def test_control(pair: Lab, missing: str, matrix: Matrix) -> None:
    """What survives above, survives because of this: without it the same is lost."""
    few = load.cells(WAYS, (Kind.SSH,)) if missing == LAX else FEW
    with ExitStack() as given_back:
        for take_away in CONTROLS[missing]:
            given_back.enter_context(take_away(pair))
        outcome = power_loss_alone(pair, missing, few)
    matrix.controls.append(outcome)
    assert not wrong(missing, outcome.reports)
