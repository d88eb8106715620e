"""The wheel lives beside other software: packages, and folders, that are called ``models`` or ``store`` as well."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.closes import message
from tests.faults.stack_process import StackProcess

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# Top-level packages of an engine, in its wheel and in the folder in which it is worked on.
THEIRS = ("models", "store", "cli", "workers", "services", "learning")


class Environment(NamedTuple):
    """A fresh environment in which both wheels are installed, and closeloop's wheel."""

    folder: Path
    wheel: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def closeloop(self) -> Path:
        return self.folder / "bin" / "closeloop"

    def pip(self, *arguments: object) -> None:
        run(sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", *arguments)


def run(*command: object, folder: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel, from a copy of the checkout: nothing of this environment or of a build before gets into it."""
    ignored = shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=ignored)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "checkout")
    [wheel] = folder.glob("closeloop-*.whl")
    return wheel


def their_wheel(folder: Path) -> Path:
    """A wheel of packages with general names."""
    info = "engine-1.0.dist-info"
    files = {f"{package}/__init__.py": "WHOSE = 'theirs'\n" for package in THEIRS}
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: engine\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / "engine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("wheel")
    environment = Environment(folder / "environment", build(folder))
    venv.create(environment.folder, with_pip=False, symlinks=True)
    environment.pip("install", "--quiet", "--no-deps", "--no-index", environment.wheel, their_wheel(folder))
    # The locked dependencies are those of this environment. A .pth file in it (its editable closeloop) is not read.
    [packages] = (environment.folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """The folder of an engine that has such packages of its own, in which closeloop is started."""
    for package in THEIRS:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('this is the engine's own package')\n")
    return tmp_path


def test_one_package_and_what_it_needs(installed: Environment) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"closeloop", f"closeloop-{VERSION}.dist-info"}
    assert "closeloop/py.typed" in names
    assert any(name.startswith(f"closeloop-{VERSION}.dist-info/") and name.endswith("LICENSE") for name in names)
    for folder in ("deploy/migrations/versions", "presets", "cli", "gateways/trade_tables/ready", "workers/stack"):
        there = {path.name for path in (ROOT / folder).iterdir() if path.suffix in (".py", ".yaml")}
        assert {f"closeloop/{folder}/{name}" for name in there} <= set(names)


def test_every_package_is_listed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    links = [path for path in (ROOT / "src" / "closeloop").iterdir() if path.is_symlink()]
    there = {
        ".".join(("closeloop", link.name, *path.parent.relative_to(link.resolve()).parts))
        for link in links
        for path in link.resolve().rglob("__init__.py")
    }
    assert there <= set(setuptools["packages"])


async def test_a_stack_is_started_in_the_folder_of_an_engine(
    installed: Environment, engine: Path, new_stack: Callable[..., StackProcess]
) -> None:
    path = f"{installed.folder / 'bin'}:{sysconfig.get_path('scripts')}:/usr/bin:/bin"
    stack = new_stack(program=(str(installed.closeloop),), folder=engine, PATH=path)
    await stack.start()
    found = run(
        installed.python, "-c", "import closeloop.cli.main; print(closeloop.cli.main.__file__)", folder=installed.folder
    )
    assert found.startswith(str(installed.folder)), "the test tries another closeloop than the wheel's"

    closing = await stack.begin("positions", "close", "-", "--json", stdin=json.dumps(message("b", "p-1")))
    answer = (await closing.result()).json()
    assert (len(answer["closed"]), answer["rejected"]) == (1, [])
    outcomes = (await (await stack.begin("outcomes", "--json")).result()).json()
    assert [outcome["position_id"] for outcome in outcomes] == ["p-1"]


def test_neither_takes_anything_of_the_other(installed: Environment) -> None:
    whose = f"import {', '.join(THEIRS)}; print({{p.WHOSE for p in ({', '.join(THEIRS)})}})"
    assert run(installed.python, "-c", whose, folder=installed.folder) == "{'theirs'}\n"
    installed.pip("uninstall", "--quiet", "--yes", "engine")
    assert run(installed.closeloop, "--version") == f"closeloop {VERSION}\n"
    run(installed.closeloop, "status", "--help")
