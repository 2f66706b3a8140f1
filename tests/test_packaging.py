"""What is written in several places about running Reelwatch agrees: Make, Procfile, containers."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.servers import ROOT

OURS = ("migrate", "worker", "beat", "web")
PINNED = re.compile(r"\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?")


def read(path: str) -> str:
    return (ROOT / path).read_text()


def procfile() -> dict[str, str]:
    """Without `exec`: by it a process gets the signals that are sent to its shell."""
    line = re.compile(r"^([A-Za-z0-9_-]+):\s*(?:exec )?(.+)$", re.MULTILINE)
    return dict(line.findall(read("Procfile")))


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(read("docker-compose.yml"))
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def dockerfile(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)", read("Dockerfile"), re.MULTILINE)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*##", read("Makefile"), re.MULTILINE))


def constraints() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in read("constraints.txt").splitlines())
    pins = [Requirement(line) for line in lines if line]
    return {canonicalize_name(pin.name): pin for pin in pins}


def dependencies() -> Iterator[Requirement]:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        if requirement.name != project["name"]:  # the extra `dev` includes `test`
            yield requirement


class TestCommands:
    @pytest.mark.parametrize(
        ("process", "service"), [("release", "migrate"), ("worker", "worker"), ("beat", "beat")]
    )
    def test_procfile_and_compose_run_the_same(self, process: str, service: str) -> None:
        command = procfile()[process].partition(" && ")[0]
        assert services()[service]["command"] == command

    def test_the_image_runs_a_worker_by_itself(self) -> None:
        default: list[str] = yaml.safe_load(dockerfile("CMD")[-1])
        assert " ".join(default) == procfile()["worker"]

    def test_the_first_two_commands_of_the_readme_exist(self) -> None:
        shown = re.findall(r"^(?:\$ )?make ([a-z]+)", read("README.md"), re.MULTILINE)
        first_two = list(dict.fromkeys(shown))[:2]
        assert first_two == ["demo", "test"]
        assert set(first_two) <= make_targets()

    @pytest.mark.skipif(not shutil.which("make"), reason="no make")
    def test_make_alone_lists_every_target(self) -> None:
        listed = subprocess.run(
            ["make", "-C", ROOT], capture_output=True, text=True, check=True
        ).stdout
        assert set(re.findall(r"^  make ([a-z]+)", listed, re.MULTILINE)) == make_targets()

    def test_the_rules_that_coverage_is_complete_for_exist(self) -> None:
        [rules] = re.findall(r"^RULES = (.*)", read("Makefile"), re.MULTILINE)
        assert [rule for rule in rules.split(",") if not list(ROOT.glob(rule))] == []

    @pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
    @pytest.mark.parametrize("name", ["run", "stages.sh"])
    def test_ci_scripts_are_valid_programs(self, name: str) -> None:
        subprocess.run(["bash", "-n", ROOT / ".ci" / name], check=True)
        assert (ROOT / ".ci/run").stat().st_mode & 0o111


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
class TestLeftovers:
    """`make` and a `.venv` that it did not make just now."""

    @pytest.fixture
    def leftover(self, tmp_path: Path) -> Path:
        """A usable environment that has, as far as make can see, all that `make demo` needs."""
        folder = tmp_path / "checkout"
        folder.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy2(ROOT / name, folder / name)
        made = folder / ".venv"
        (made / "bin").mkdir(parents=True)
        (made / "bin" / "activate").write_text(f"VIRTUAL_ENV={made}\n")
        (made / "bin" / "python").symlink_to(sys.executable)
        (made / "demo.stamp").touch()
        return made

    def rebuilt(self, leftover: Path) -> bool:
        """Whether `make demo` would make the environment anew."""
        done = subprocess.run(
            ["make", "--dry-run", "-C", leftover.parent, "demo"],
            capture_output=True,
            text=True,
            check=True,
        )
        return "-m venv --clear" in done.stdout

    def test_one_that_is_usable_is_used(self, leftover: Path) -> None:
        assert not self.rebuilt(leftover)

    @pytest.mark.parametrize("python", ["#!/bin/sh\nexit 1\n", ""])
    def test_one_of_an_older_python_is_made_anew(self, leftover: Path, python: str) -> None:
        program = leftover / "bin" / "python"
        program.unlink()
        program.write_text(python)
        program.chmod(0o755 if python else 0o644)
        assert self.rebuilt(leftover)

    def test_one_whose_python_is_gone_is_made_anew(self, leftover: Path) -> None:
        program = leftover / "bin" / "python"
        program.unlink()
        program.symlink_to("/nonexistent/python3.10")
        assert self.rebuilt(leftover)

    def test_one_in_a_folder_that_was_moved_is_made_anew(self, leftover: Path) -> None:
        """Its scripts, and where it finds the package, name the old place."""
        moved = leftover.parent.rename(leftover.parent.with_name("moved"))
        assert self.rebuilt(moved / ".venv")


class TestConstraints:
    def test_pin_every_dependency_to_a_version_it_allows(self) -> None:
        pins = constraints()
        for dependency in dependencies():
            [pin] = pins[canonicalize_name(dependency.name)].specifier
            assert dependency.specifier.contains(pin.version), dependency

    def test_are_exact(self) -> None:
        for pin in constraints().values():
            assert [specifier.operator for specifier in pin.specifier] == ["=="], pin


class TestContainers:
    def test_the_base_image_is_pinned_and_may_be_another(self) -> None:
        [base] = dockerfile("ARG")
        assert PINNED.fullmatch(base.removeprefix("BASE=").partition(":")[2])
        assert {line.split()[0] for line in dockerfile("FROM")} == {"${BASE}"}

    def test_service_images_are_pinned(self) -> None:
        for name, service in services().items():
            assert PINNED.fullmatch(service["image"].partition(":")[2]), name

    def test_the_image_has_the_version_of_the_package(self) -> None:
        version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
        assert {services()[name]["image"] for name in OURS} == {f"reelwatch:{version}"}

    def test_nothing_of_ours_runs_as_root(self) -> None:
        uid = int(dockerfile("USER")[-1].partition(":")[0])
        assert uid > 0
        assert all("user" not in services()[name] for name in OURS)

    @pytest.mark.parametrize("name", OURS)
    def test_ours_can_write_nowhere_and_gain_no_rights(self, name: str) -> None:
        service = services()[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]

    @pytest.mark.parametrize("name", ["worker", "beat", "web"])
    def test_ours_have_time_to_stop(self, name: str) -> None:
        assert services()[name]["stop_signal"] == "SIGTERM"
        assert services()[name]["stop_grace_period"] == "45s"

    def test_all_that_stay_have_health_checks_and_come_back(self) -> None:
        for name in services().keys() - {"migrate"}:
            assert "healthcheck" in services()[name], name
            assert services()[name]["restart"] == "unless-stopped", name

    def test_they_wait_for_services_that_can_meet_the_condition(self) -> None:
        for service in services().values():
            for other, wait in service.get("depends_on", {}).items():
                healthy = wait["condition"] == "service_healthy"
                assert healthy == ("healthcheck" in services()[other]), other

    def test_redis_keeps_what_it_was_given(self) -> None:
        command = services()["redis"]["command"]
        assert "--maxmemory-policy noeviction" in command
        assert "--appendonly yes" in command

    def test_no_server_is_reachable_from_outside(self) -> None:
        """The page and the API, with tokens, are reached by this machine."""
        ports = {name: each["ports"] for name, each in services().items() if "ports" in each}
        assert ports == {"web": ["127.0.0.1:8600:8600"]}
        assert "REELWATCH_API_TOKENS" in services()["web"]["environment"]

    def test_volumes_are_declared(self) -> None:
        used = {
            volume.partition(":")[0]
            for service in services().values()
            for volume in service.get("volumes", [])
        }
        assert used == set(compose()["volumes"])

    def test_the_example_environment_has_what_compose_asks_for(self) -> None:
        asked = set(re.findall(r"\$\{(\w+)", read("docker-compose.yml")))
        example = dict(re.findall(r"^(\w+)=(.*)", read(".env.example"), re.MULTILINE))
        assert asked <= example.keys()
        assert set(example.values()) == {""}  # no secret, not even a made-up one

    def test_the_image_gets_every_file_that_it_copies(self) -> None:
        copied = {
            status
            for line in dockerfile("COPY")
            if not line.startswith("--from")
            for status in line.split()[:-1]
        }
        allowed = set(re.findall(r"^!(.*)", read(".dockerignore"), re.MULTILINE))
        assert copied == allowed
        assert all(Path(ROOT / name).exists() for name in copied)
