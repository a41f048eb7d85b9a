"""The pytest plugin, by real runs of pytest in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcwrap import Host
from lxcwrap.testruns import PREFIX
from tests.polling import eventually

pytest_plugins = ["pytester"]

CONFTEST = """
    from pathlib import Path
    from lxcwrap import Mount, fixtures, ready

    front = fixtures.network()
    data = fixtures.volume(size="16MiB")
    recipe = fixtures.image("./app")
    db = fixtures.container(
        "busybox",
        sh="echo begun; echo 1 > /state; echo ready; exec sleep infinity",
        ready=ready.log("ready"),
        network=fixtures.use("front"),
        mounts=lambda data: [Mount.volume(data, "/data")],
    )
    app = fixtures.container(
        fixtures.use("recipe"),
        env={"DB": lambda db: db.ip},
        network=[fixtures.use("front")],
        ready=fixtures.use(lambda db: ready.command(["ping", "-c", "1", db.ip])),
        scope="function",
    )
    fresh_db = fixtures.fresh("db")
"""
SHARED = """
    from lxcwrap import fixtures
    ours = fixtures.container("busybox", shared=True)
    mine = fixtures.container("busybox")
    fresh_ours = fixtures.fresh("ours")
"""
OPTIONS = ("-p", "no:cacheprovider", "-p", "lxcwrap.pytest_plugin")
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def parent(roots: Path, fresh_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the runs are; none is left behind. The machine's own store is `fresh_root`."""
    monkeypatch.setenv("LXCWRAP_ROOT", str(fresh_root))
    path = Path(tempfile.mkdtemp(prefix="runs-", dir=roots))
    path.chmod(0o711)
    monkeypatch.setenv("LXCWRAP_TEST_DIR", str(path))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    yield path
    left = [each.name for each in path.iterdir()]
    subprocess.run([sys.executable, "-c", SWEEP], check=True)
    path.rmdir()
    assert not left


SWEEP = """
from lxcwrap import testruns
for run in testruns.parents()[0].iterdir():
    testruns.sweep([testruns._read(run).get("kept_for", "")])
"""


@pytest.fixture
def run(parent: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest, with no other plugins: some take longer to load than what is tested here."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess("-W", "error", *OPTIONS, *arguments)

    return run


def test_fixtures_of_all_kinds(run: Run, pytester: pytest.Pytester) -> None:
    """Values may be those of other fixtures; a container is known by its fixture's name in its networks."""
    pytester.makeconftest(CONFTEST)
    (pytester.path / "app").mkdir()
    (pytester.path / "app/Dockerfile").write_text('FROM busybox\nCMD ["sleep", "1000"]\nENV FROM=recipe\n')
    pytester.makepyfile(
        """
        from lxcwrap import Container, Volume

        def test_values(app, db, data):
            assert app.exec(sh="echo $FROM $DB").stdout.split() == ["recipe", db.ip]
            assert app.exec(sh="ping -c 1 db", check=False).exit_code == 0
            assert isinstance(data, Volume) and db.path("/data").is_dir()

        def test_a_factory(lxc_container, lxc_host):
            one, other = lxc_container(), lxc_container("busybox", sh="sleep 100", env={"A": "1"})
            assert other.exec(sh="echo $A").stdout == "1\\n"
            assert {one, other} <= set(lxc_host.containers)

        def test_they_are_gone(lxc_host, db):
            assert list(lxc_host.containers) == [db]
        """
    )
    run().assert_outcomes(passed=3)


def test_fresh_ones_are_as_the_first_was_when_it_was_ready(run: Run, pytester: pytest.Pytester) -> None:
    """Whatever tests do to the first or to one another's."""
    pytester.makeconftest(CONFTEST.replace('recipe = fixtures.image("./app")', ""))
    pytester.makepyfile(
        """
        import pytest

        def test_the_first_is_changed(db):
            db.exec(sh="echo 2 > /state; echo > /data/file")

        @pytest.mark.parametrize("number", range(2))
        def test_fresh(fresh_db, db, number):
            assert fresh_db != db
            assert fresh_db.path("/state").read_text() == "1\\n"
            assert not list(fresh_db.path("/data").iterdir())
            fresh_db.path("/state").write_text("3")
        """
    )
    run().assert_outcomes(passed=3)


def test_reports_of_failures_have_the_logs(run: Run, pytester: pytest.Pytester) -> None:
    """Those of its fixtures, also of one that did not become ready, and of what it launched itself."""
    pytester.makeconftest(
        """
        from lxcwrap import fixtures, ready
        db = fixtures.container("busybox", sh="echo from-db; exec sleep 100", ready=ready.log("from-db"))
        never = fixtures.container("busybox", sh="echo from-never; exit 3", ready=ready.tcp(80))
        gone = fixtures.container("busybox", ready=lambda made: made.remove(force=True) or {}["told"])
        """
    )
    pytester.makepyfile(
        """
        from lxcwrap import ready

        def test_call(db, lxc_container, lxc_host):
            shout = "printf '\\\\033[2J'; echo from-factory; exec sleep 100"
            lxc_container(sh=shout, ready=ready.log("from-factory"))
            lxc_host.containers.launch("busybox", ["echo", "from-own"], name="own").wait()
            assert False

        def test_set_up(never): pass

        def test_good(db): pass

        def test_gone(gone): pass
        """
    )
    result = run()
    result.assert_outcomes(failed=1, errors=2, passed=1)
    assert "\x1b[2J" not in str(result.stdout)
    result.stdout.fnmatch_lines(["ERROR *test_gone - KeyError: 'told'"])
    for line in ("*Log of container db*", "from-db", "from-factory", "*Log of container own*", "from-own"):
        result.stdout.fnmatch_lines([line])
    result.stdout.fnmatch_lines(["*Log of container never*", "from-never"])


def test_what_is_kept_is_there_until_the_next_run(run: Run, pytester: pytest.Pytester, parent: Path) -> None:
    """--lxc-keep leaves what failed tests had, and those for all; the next run of the project removes it."""
    pytester.makeconftest('from lxcwrap import fixtures\ndb = fixtures.container("busybox")')
    pytester.makepyfile(
        """
        def test_good(lxc_container):
            lxc_container(name="good")

        def test_bad(lxc_container, db):
            lxc_container(name="bad")
            assert False
        """
    )
    result = run("--lxc-keep")
    (directory,) = parent.iterdir()
    with Host(directory / "root") as host:
        assert host.containers["bad"].exec(["true"]).exit_code == 0
        assert {container.name.rpartition("-")[0] for container in host.containers} == {"", "db"}
    result.stdout.fnmatch_lines([f"*--root {directory}/root exec*"])
    run("-k", "good")
    assert not list(parent.iterdir())


def test_what_is_used_again_is_the_same_as_long_as_the_same_is_asked_for(
    run: Run, pytester: pytest.Pytester, parent: Path
) -> None:
    """--lxc-reuse finds the container of the last run, also if it was stopped; not one that is to be another;
    --lxc-clean removes all."""
    conftest = """
        from lxcwrap import fixtures
        front = fixtures.network()
        db = fixtures.container("busybox", env={"A": "1"}, network=fixtures.use("front"))
        fresh_db = fixtures.fresh("db")
    """
    pytester.makeconftest(conftest)
    pytester.makepyfile(
        """
        from pathlib import Path

        def test_it(db, lxc_container, fresh_db, lxc_host):
            lxc_container()
            with Path("ids").open("a") as file:
                print(db.id, file=file)
            db.path("/changed").touch()
            assert not fresh_db.path("/changed").exists()
            assert len(lxc_host.containers) == 3
            db.stop(timeout_s=0)
        """
    )
    for _ in range(2):
        run("--lxc-reuse").assert_outcomes(passed=1)
    pytester.makeconftest(conftest.replace('"A": "1"', '"A": "2"'))
    run("--lxc-reuse").assert_outcomes(passed=1)
    first, second, third = (pytester.path / "ids").read_text().split()
    assert first == second != third
    run("--lxc-clean", "--collect-only")
    assert not list(parent.iterdir())


def test_fresh_ones_are_of_no_other_container(run: Run, pytester: pytest.Pytester, parent: Path) -> None:
    """With --lxc-reuse: not of one that tests have changed before any were wanted, nor of a removed one."""
    conftest = """
        from lxcwrap import fixtures, ready
        db = fixtures.container("busybox", sh="echo 1 > /v; echo up; exec sleep 1000", ready=ready.log("up"))
    """
    fresh = conftest + '    fresh_db = fixtures.fresh("db")\n'
    pytester.makeconftest(conftest)
    path = pytester.makepyfile("def test_it(db): db.path('/v').write_text('dirty')")
    run("--lxc-reuse").assert_outcomes(passed=1)
    for number in "12":
        pytester.makeconftest(fresh.replace("echo 1", f"echo {number}"))
        check = f"fresh_db.path('/v').read_text() == '{number}\\n'"
        path.write_text(f"def test_it(db, fresh_db):\n  assert {check}\n  db.remove(force=True)")
        run("--lxc-reuse").assert_outcomes(passed=1)
    run("--lxc-clean", "--collect-only")


def test_a_root_directory_that_is_given_stays(run: Run, pytester: pytest.Pytester, fresh_host: Host) -> None:
    """--lxc-root: its images stay, what the run has made goes, what was there before stays."""
    pytester.makeconftest("from lxcwrap import fixtures\ndb = fixtures.container('busybox', shared=True)")
    pytester.makepyfile("def test_it(db): pass")
    mine = fresh_host.containers.create("busybox", ["true"])
    run(f"--lxc-root={fresh_host.root}").assert_outcomes(passed=1)
    assert list(fresh_host.containers) == [mine]
    mine.remove()


def test_images_are_those_of_the_machine_s_own_store(
    run: Run, pytester: pytest.Pytester, fresh_host: Host
) -> None:
    """What is there need not be pulled; the run has a copy of its own, and leaves the store as it was."""
    fresh_host.images.resolve("busybox").tag("mine:1")
    pytester.makeconftest("from lxcwrap import fixtures\ndb = fixtures.container('mine:1', ['sleep', '100'])")
    pytester.makepyfile(
        f"""
        def test_it(db, lxc_host):
            assert lxc_host.root != "{fresh_host.root}"
            assert "mine:1" in db.image.tags
        """
    )
    run().assert_outcomes(passed=1)
    assert list(fresh_host.containers) == []


def test_workers_share_what_is_shared(run: Run, pytester: pytest.Pytester) -> None:
    """Under xdist one container for all, if that was said, as a fresh one of it; else one for each worker."""
    pytester.makeconftest(SHARED)
    pytester.makepyfile(
        """
        import os, time
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_it(number, ours, mine, fresh_ours):
            worker = os.environ["PYTEST_XDIST_WORKER"]
            assert not fresh_ours.path("/seen").exists()
            with open(f"ids-{worker}", "a") as file:
                print(ours.id, mine.id, file=file)
            ours.path("/seen").touch()
            deadline = time.monotonic() + 30  # until both workers are at it
            while len([name for name in os.listdir() if name.startswith("ids-")]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        """
    )
    run("-p", "xdist", "-n", "2").assert_outcomes(passed=8)
    lines = [set(path.read_text().splitlines()) for path in pytester.path.glob("ids-*")]
    assert [len(each) for each in lines] == [1, 1]
    (ours, mine), (theirs, other) = (each.pop().split() for each in lines)
    assert ours == theirs and mine != other


def test_after_kill_9_the_next_run_clears_up(run: Run, pytester: pytest.Pytester, parent: Path) -> None:
    """What a killed run has left goes at the start of the next; one that lives is left alone."""
    pytester.makeconftest(
        """
        from lxcwrap import fixtures
        net = fixtures.network()
        db = fixtures.container("busybox", network=fixtures.use("net"))
        """
    )
    path = pytester.makepyfile(
        test_long="""
        import os, time
        def test_it(db, lxc_container):
            lxc_container()
            open(f"running-{os.environ['NAME']}", "w").close()
            while not os.path.exists("end"):
                time.sleep(0.01)
        """,
    )
    argv = [sys.executable, "-m", "pytest", "-q", *OPTIONS, str(path)]
    started = []
    for name in ("doomed", "living"):
        environ = {**os.environ, "NAME": name}
        started.append(subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, cwd=pytester.path))
        eventually((pytester.path / f"running-{name}").exists, within_s=60)
        found = {each.name for each in parent.glob(f"{PREFIX}*")}
        if name == "doomed":
            (doomed,) = found
    doomed_process, living = started
    os.kill(doomed_process.pid, signal.SIGKILL)
    doomed_process.communicate()
    (pytester.path / "test_short.py").write_text("def test_it(lxc_container): lxc_container()")
    run("test_short.py").assert_outcomes(passed=1)
    assert {each.name for each in parent.iterdir()} == found - {doomed}
    (pytester.path / "end").touch()
    living.communicate(timeout=60)
    assert living.returncode == 0


@pytest.mark.parametrize("in_ci", [False, True])
def test_without_root_tests_are_skipped_and_fail_in_ci(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, in_ci: bool
) -> None:
    """What is missing is no failure on a laptop, and is one where CI is set."""
    pytester.makeconftest("import os\nos.geteuid = lambda: 1000")
    pytester.makepyfile("def test_it(lxc_container): pass")
    if in_ci:
        monkeypatch.setenv("CI", "1")
    run().assert_outcomes(**({"errors": 1} if in_ci else {"skipped": 1}))


def test_unused_it_loads_nothing(run: Run, pytester: pytest.Pytester) -> None:
    """No test asking for a container, nothing of the package but the plugin is imported."""
    pytester.makepyfile(
        """
        import sys
        def test_it():
            loaded = {name for name in sys.modules if name.partition(".")[0] == "lxcwrap"}
            assert loaded == {"lxcwrap", "lxcwrap.pytest_plugin"}
        """
    )
    run().assert_outcomes(passed=1)


def test_unittest_has_a_host_that_leaves_nothing(run: Run, pytester: pytest.Pytester, parent: Path) -> None:
    """`temporary_host` in a TestCase, run by unittest itself; and fixtures in one that pytest runs."""
    pytester.makeconftest(SHARED)
    pytester.makepyfile(
        test_case="""
        import unittest
        import lxcwrap
        from lxcwrap.testing import temporary_host

        class TestOwn(unittest.TestCase):
            def setUp(self):
                host = self.enterContext(temporary_host())
                self.db = self.enterContext(host.containers.launch("busybox", ["sleep", "100"]))

            def test_it(self):
                self.assertEqual(self.db.exec(["echo", "hi"]).stdout, "hi\\n")
                self.assertEqual(lxcwrap.run("busybox", ["echo", "hi"]).stdout, "hi\\n")
        """,
        test_fixture="""
        import unittest
        import pytest

        class TestFixture(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _db(self, mine):
                self.db = mine

            def test_it(self):
                self.assertTrue(self.db.state.is_alive)
        """,
    )
    subprocess.run([sys.executable, "-W", "error", "-m", "unittest", "-q", "test_case"], check=True)
    assert not list(parent.iterdir())
    run().assert_outcomes(passed=2)
