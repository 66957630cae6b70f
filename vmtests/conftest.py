"""Fixtures: the installed package, the images it builds, and labs that boot them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from xdist.workermanage import WorkerController

from appliance.image import keys as image_keys
from appliance.image.peers import peers_image
from appliance.lab import load, ssh
from appliance.lab.artefacts import collect
from appliance.lab.pair import Lab
from appliance.site import load as read_site
from vmtests import evidence, sidebyside
from vmtests import figures as figure
from vmtests import matrix as table
from vmtests.evidence import ARTEFACTS
from vmtests.figures import Figures
from vmtests.installed import Installed, install
from vmtests.matrix import Matrix
from vmtests.observe import SELDOM, settle
from vmtests.operator import Operator, operating
from vmtests.updates import Payloads
from vmtests.wanted import Wanted
from vmtests.ways import USUAL_PAIR

Begun = AbstractContextManager[Lab]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the long form: all rounds, whole soaks")
    parser.addoption(
        "--write-figures", type=Path, metavar="FILE", help="write the figures to this page"
    )
    parser.addoption(
        "--update-figures", type=Path, metavar="FILE", help="the same, and keep its other rows"
    )
    parser.addoption(
        "--write-matrix", type=Path, metavar="FILE", help="write the fault matrix to this page"
    )
    parser.addoption("--seed", type=int, default=random.randrange(10**6), help="the soak's faults")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[figure.KEY] = Figures()
    config.stash[table.KEY] = Matrix()
    sidebyside.follow(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput[sidebyside.SEED] = node.config.getoption("--seed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    sidebyside.hand_in(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    sidebyside.take_in(node.config, node.workeroutput)


def pytest_itemcollected(item: pytest.Item) -> None:
    """The tests of a pair, or else of a file, are one worker's."""
    item.add_marker(pytest.mark.xdist_group(site(item) or item.path.stem))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `long` belongs to --full alone; the tests of a pair follow one another. What
    is measured comes first, the start of the pair too; `last` are those that leave a node without
    power, which would have to boot for the next one.
    """
    long = [] if config.getoption("--full") else [i for i in items if i.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    pairs = list(dict.fromkeys(("", *map(site, items))))
    items[:] = sorted(
        (i for i in items if i not in long),
        key=lambda i: (pairs.index(site(i)), not measures(i), bool(i.get_closest_marker("last"))),
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with sidebyside.turn(alone=measures(item)):
        return (yield)


def measures(item: pytest.Item) -> bool:
    """Whether a test is about a figure, and is to be alone for it.

    `figures(beside=True)`: in the short form it may have others beside it, as it judges no more
    there than they leave it.
    """
    marker = item.get_closest_marker("figures")
    beside = marker and marker.kwargs.get("beside") and not item.config.getoption("--full")
    return bool(marker and not beside)


def site(item: pytest.Item) -> str:
    """The site of a test's pair, if it has one."""
    if "lab" not in getattr(item, "fixturenames", ()):
        return ""
    chosen = item.callspec.params if hasattr(item, "callspec") else {}
    wanted: Wanted = chosen.get("lab", USUAL_PAIR)
    return wanted.name


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('--seed')}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for page in (config.stash[figure.KEY], config.stash[table.KEY]):
        for line in page.lines():
            terminalreporter.write_line(line)
    if {"failed", "error"} & terminalreporter.stats.keys():
        return
    measured = config.stash[figure.KEY]
    if page := config.getoption("--write-figures"):
        page.write_text(measured.markdown("make figures"))
    if page := config.getoption("--update-figures"):
        page.write_text(measured.markdown("make figures", page.read_text()))
    if (matrix_to := config.getoption("--write-matrix")) and config.stash[table.KEY].whole:
        matrix_to.write_text(config.stash[table.KEY].markdown("make matrix"))


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash[figure.KEY]


@pytest.fixture(scope="session")
def matrix(pytestconfig: pytest.Config) -> Matrix:
    return pytestconfig.stash[table.KEY]


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """What the soak's faults follow from; printed when the run begins."""
    chosen: int = pytestconfig.getoption("--seed")
    return chosen


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether this is the long form."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture(scope="session")
def probe(full: bool) -> float:
    """Seconds between the packets of each probe."""
    return load.PROBE if full else SELDOM


@pytest.fixture(scope="session")
def rounds(full: bool) -> Callable[[int, int], range]:
    """How often to repeat: `rounds(short, full)`."""
    return lambda short, long: range(long if full else short)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """What is tested is what a user installs."""
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="session")
def keys(installed: Installed) -> Path:
    """The operator's keys, with which every image is signed."""
    installed.run("keygen", "-o", folder := installed.home / "keys")
    return folder


@pytest.fixture(scope="session")
def build(installed: Installed, keys: Path) -> Callable[..., Path]:
    """Build the image of what is wanted by the installed command; its folder."""

    def build(wanted: Wanted, version: str = "1") -> Path:
        site, name = installed.home / f"{wanted.name}.yaml", wanted.name
        out = installed.home / (name if version == "1" else f"{name}-{version}")
        site.write_text(wanted.text)
        installed.run("build", site, "-o", out, "--version", version, "--keys", keys)
        return out

    return build


@pytest.fixture(scope="session")
def lab_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that may log in to the nodes of every lab: its private half."""
    return ssh.make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="session")
def begin(build: Callable[..., Path], figures: Figures, lab_key: Path) -> Callable[..., Begun]:
    """Have a pair begin: a context that gives it when it is ready."""
    key = lab_key.with_suffix(".pub").read_text().strip()

    @contextmanager
    def begin(wanted: Wanted, elsewhere: Collection[str] = ()) -> Iterator[Lab]:
        built = build(wanted)
        (raw,) = built.glob("*.raw")
        plan, where = read_site(built.with_suffix(".yaml")), ARTEFACTS / wanted.name
        way = {"clients": wanted.clients, "elsewhere": elsewhere, "key": key}
        with Lab(plan, image=raw, peers=peers_image(), workdir=where, **way) as lab:
            try:
                lab.wait_ready(timeout=600)
            except BaseException:
                collect(lab, ARTEFACTS / f"start-of-{plan.site}", "make test")
                raise
            figures.started[plan.site] = time.monotonic() - lab.started
            yield lab

    return begin


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, begin: Callable[..., Begun]) -> Iterator[Lab]:
    """A pair, ready, for all tests of a site: the usual one, or what is wanted."""
    wanted = getattr(request, "param", USUAL_PAIR)
    with begin(wanted) as lab:
        yield lab


@pytest.fixture
def pair(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab, with every node up and every cable whole; evidence is kept when the test fails."""
    settle(lab)
    with evidence.of(request, lab):
        yield lab


@pytest.fixture
def operator(
    pair: Lab, installed: Installed, lab_key: Path, keys: Path, tmp_path: Path
) -> Iterator[Operator]:
    """Who asks a healthy pair over SSH, with the installed command."""
    with operating(pair, installed, lab_key, keys, tmp_path) as operator:
        yield operator


@pytest.fixture
def payloads(
    pair: Lab, installed: Installed, build: Callable[..., Path], keys: Path, tmp_path: Path
) -> Payloads:
    """Updates of the pair; each good version is built once."""
    site = installed.home / f"{pair.plan.site}.yaml"

    def built(version: str) -> Path:
        there = installed.home / f"{site.stem}-{version}"
        return there if there.is_dir() else build(Wanted(site.read_text()), version=version)

    return Payloads(pair.plan, image_keys.load(keys), tmp_path, built)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[evidence.FAILED] = report.longreprtext
    return report
