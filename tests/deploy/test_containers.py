"""The container files, checked without an engine: they are valid, and they name what exists."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from closeloop.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "temporal-dev.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
OPERATORS = {"&&", "||", ";", "|"}


class Instruction(NamedTuple):
    """A line of the Dockerfile: its keyword and what follows."""

    keyword: str
    value: str


def instructions() -> list[Instruction]:
    """The Dockerfile without comments, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]


def last_stage() -> list[Instruction]:
    """What becomes the image."""
    found = instructions()
    begins = max(i for i, instruction in enumerate(found) if instruction.keyword == "FROM")
    return found[begins:]


def last(keyword: str) -> str:
    """The instruction that holds at run time."""
    return [i.value for i in last_stage() if i.keyword == keyword][-1]


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE_FILE.read_text())


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def words(command: str | list[str] | None) -> list[str]:
    """A command of a Compose file as its words."""
    return shlex.split(command) if isinstance(command, str) else list(command or [])


def commands_of(argv: list[str]) -> Iterator[list[str]]:
    """The commands that an argument vector runs: itself, or those of the script that it gives to a shell."""
    if argv[:2] not in (["sh", "-c"], ["/bin/sh", "-c"]):
        yield argv
        return
    command: list[str] = []
    for word in [*shlex.shlex(argv[2], posix=True, punctuation_chars=True), ";"]:
        if word in OPERATORS:
            if command:
                yield command
            command = []
        else:
            command.append(word)


def closeloop_commands() -> dict[str, list[str]]:
    """Every ``closeloop`` command of the container files, without its first word."""
    entrypoint = json.loads(last("ENTRYPOINT"))
    health_check = json.loads(last("HEALTHCHECK").split("CMD", 1)[1])
    argvs = [health_check, entrypoint + json.loads(last("CMD"))]
    for service in OURS.values():
        argvs.append(words(service.get("entrypoint", entrypoint)) + words(service.get("command")))
        test = words(service.get("healthcheck", {}).get("test"))
        if test:
            argvs.append(["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:])
    found = [command for argv in argvs for command in commands_of(argv)]
    # and what the comments tell a person to type
    found += [line.split() for line in re.findall(r"exec worker (closeloop(?: [a-z-]+)+)", COMPOSE_FILE.read_text())]
    assert {command[0] for command in found} == {"closeloop"}
    return {" ".join(command): command[1:] for command in found}


def tool(name: str) -> str:
    """A linter of requirements-dev.lock."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None and sys.platform != "linux":
        pytest.skip(f"{name} is installed on Linux only")
    assert found, f"{name} is not installed: make lint"
    return found


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"


def test_the_compose_file_fits_the_specification() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE))


def test_the_dockerfile_lints() -> None:
    run(tool("hadolint"), str(DOCKERFILE))


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        host = port.get("host_ip") if isinstance(port, dict) else port.split(":")[0]
        assert host == "127.0.0.1"
    assert SERVICES[name].get("network_mode") != "host"


def test_the_stack_has_its_parts() -> None:
    published = {str(port).rsplit(":", 1)[1] for service in SERVICES.values() for port in service.get("ports", [])}
    assert published == {"5432", "7233", "8233"}
    assert {"postgres", "temporal", "worker"} <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_can_come(name: str) -> None:
    """A health that is waited for is checked; what runs once is waited for, as ``up --wait`` demands."""
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        checked = "test" in SERVICES[other].get("healthcheck", {})
        assert checked == (wanted["condition"] == "service_healthy")
    if "restart" not in SERVICES[name]:
        waiting = [s.get("depends_on", {}).get(name, {}).get("condition") for s in SERVICES.values()]
        assert "service_completed_successfully" in waiting


def test_data_survives_in_named_volumes() -> None:
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]  # where images of 18 and newer keep it
    (volume,) = SERVICES["temporal"]["volumes"]
    folder = volume.removeprefix("temporal:")
    assert any(word.startswith(f"--db-filename={folder}/") for word in SERVICES["temporal"]["command"])
    assert set(compose()["volumes"]) == {"postgres", "temporal"}


def test_images_are_pinned_by_tag() -> None:
    stages = {i.value.split(" AS ")[1] for i in instructions() if i.keyword == "FROM" and " AS " in i.value}
    images = {i.value.split()[0] for i in instructions() if i.keyword == "FROM"} - stages
    images |= {service["image"] for service in SERVICES.values()}
    for image in images:
        assert re.fullmatch(r"[a-z/]+:[\w.-]+", image), image
        assert not image.endswith(":latest")


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_built_from_the_dockerfile(name: str) -> None:
    build = OURS[name]["build"]
    assert (COMPOSE_FILE.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE


@pytest.mark.parametrize("command", closeloop_commands())
def test_every_command_exists(command: str) -> None:
    result = CliRunner().invoke(app, [*closeloop_commands()[command], "--help"])
    assert result.exit_code == 0, result.output


def test_the_image_does_not_run_as_root() -> None:
    uid = last("USER").split(":")[0]
    assert uid.isdecimal(), "Kubernetes checks runAsNonRoot by number"
    assert int(uid) > 0
    assert any(i.keyword == "RUN" and f"--uid {uid} " in i.value for i in last_stage())
    assert "user" not in {key for service in OURS.values() for key in service}


def test_the_image_holds_no_secret() -> None:
    names = [i.value for i in instructions() if i.keyword in ("ENV", "ARG")]
    assert not re.search(r"PASSWORD|SECRET|TOKEN|API_KEY|DATABASE_URL", " ".join(names), re.IGNORECASE)


def copied() -> list[str]:
    """Paths of the build context that the Dockerfile copies."""
    copies = [i.value.split() for i in instructions() if i.keyword in ("COPY", "ADD")]
    return [source.rstrip("/") for words in copies if not words[0].startswith("--from") for source in words[:-1]]


def test_what_is_copied_exists_and_is_sent() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not ignored & {path, *map(str, Path(path).parents)}, path


def test_what_the_wheel_needs_is_copied() -> None:
    """The image is built from what is copied: a folder that is missing there is missing in the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = set(project["tool"]["setuptools"]["package-dir"].values()) - {"deploy", "src/closeloop"}
    needed |= {"src", "deploy/__init__.py", "deploy/migrations"}
    needed |= {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert needed | {"requirements.lock"} == set(copied())
