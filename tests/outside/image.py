"""The container image, really built, and each role of docker-compose.yml started in it.

    .venv/bin/python -m tests.outside.image

Neither a registry nor a daemon is needed: `mmdebstrap` makes a base of Debian with its own Python,
`buildah` runs every step of the Dockerfile on it. Then the roles run as the compose file has it: as
the image's user, with a root that nobody can write to, without capabilities.
"""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.outside import environments, servers, service
from tests.outside.environments import run
from tests.processes import ROOT, Process, be_usual, free_port

ROLES = {"worker": 2, "beat": 1, "web": 1}
WEB_PORT = "8600"
BASE_PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
# How this machine reaches its package registry is a matter of the base image.
REGISTRY_ACCESS = ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")

# In a mount namespace of its own; $1 is the image's root, $2 the name of the host.
ENTER = """
set -e
root=$1 name=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
echo "$name" >/proc/sys/kernel/hostname
exec chroot "$root" /usr/bin/env -i "$@"
"""
NAMESPACES = ("unshare", "--mount", "--uts")
NO_RIGHTS = (
    "setpriv", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs",
)  # fmt: skip


def obstacle() -> str:
    """Why no image can be built here; empty if one can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "that needs Linux and root"
    missing = [each for each in ("buildah", "mmdebstrap", "unshare") if not shutil.which(each)]
    return f"there is no {' and no '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Image:
    """A built image whose content is mounted at `root`."""

    root: Path
    config: Mapping[str, Any]

    def start(self, command: Sequence[str], settings: Mapping[str, str]) -> Process:
        """Start `on HOST COMMAND…` as that container would, or a command on a host of its own."""
        host, command = (command[1], command[2:]) if command[0] == "on" else ("other", command)
        uid, gid = self.config["User"].split(":")
        user = (*NO_RIGHTS, f"--reuid={uid}", f"--regid={gid}", "--")
        variables = [f"{name}={value}" for name, value in settings.items()]
        variables += [*self.config["Env"], f"HOSTNAME={host}", "HOME=/home/reelwatch"]
        inside = ["--chdir", self.config["WorkingDir"], *variables, *user, *command]
        enter: list[str | Path] = [*NAMESPACES, "sh", "-c", ENTER, "enter", self.root, host]
        return Process([*enter, *inside], dict(os.environ), ROOT)


class Builder:
    """buildah, with images in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._options: list[str | Path] = ["--root", folder / "images", "--runroot", folder / "run"]

    def __call__(self, command: str, *arguments: str | Path) -> str:
        return run(["buildah", *self._options, command, *arguments])

    def build(self, name: str, context: Path, file: Path, *options: str) -> None:
        """Run every step of a Dockerfile."""
        self("build", "--isolation", "chroot", "-t", name, "-f", file, *options, context)

    def mounted(self, name: str) -> Image:
        """A container of an image, as it is before anything has run in it."""
        container = self("from", "--pull-never", name).split()[-1]
        inspected = json.loads(self("inspect", "--type", "image", name))
        root = Path(self("mount", container).split()[-1])
        return Image(root, inspected["OCIv1"]["config"])

    def close(self) -> None:
        """Remove all containers and images."""
        self("rm", "--all")
        self("rmi", "--all", "--force")


def make_base(builder: Builder, folder: Path) -> None:
    """`localhost/base`: Debian with its own Python, and this machine's way to the registry."""
    folder.mkdir()
    run(["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", codename(),
         folder / "base.tar"])  # fmt: skip
    steps = ["FROM scratch", "ADD base.tar /"]
    for name in REGISTRY_ACCESS:
        if Path("/", name).exists():
            shutil.copyfile(Path("/", name), folder / Path(name).name)
            steps.append(f"COPY {Path(name).name} /{name}")
    (folder / "Dockerfile").write_text("\n".join(steps) + "\n")
    builder.build("localhost/base", folder, folder / "Dockerfile")


def codename() -> str:
    """The name of this machine's release of Debian."""
    lines = Path("/etc/os-release").read_text().splitlines()
    known = dict(line.split("=", 1) for line in lines if "=" in line)
    return known["VERSION_CODENAME"].strip('"')


def try_roles(image: Image) -> None:
    """Everything that `docker compose up` starts: its commands, replicas and health checks."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    port = str(free_port())  # of the web, beside whatever has its own on this machine
    processes, checks = [], []
    for role, replicas in ROLES.items():
        kind, *check = services[role]["healthcheck"]["test"]
        assert (kind, services[role].get("read_only")) == ("CMD", True)
        for number in range(replicas):
            on = ("on", f"{role}-{number + 1}")
            command = services[role]["command"].replace(WEB_PORT, port)
            processes.append((*on, *shlex.split(command)))
            checks.append((*on, *(word.replace(WEB_PORT, port) for word in check)))
    assert services["migrate"]["command"] == "reelwatch migrate"  # as the trial begins
    redis_options = shlex.split(services["redis"]["command"])[1:]
    with servers.redis(*redis_options) as redis, servers.postgres(["reelwatch"]) as postgres:
        settings = {"DATABASE_URL": f"{postgres}/reelwatch", "BROKER_URL": f"{redis}/0"}
        assert services["worker"]["environment"].keys() == settings.keys()
        settings["REELWATCH_API_TOKENS"] = "trial:read:0123456789abcdef"
        service.try_service(image, settings, processes, checks)


def main() -> int:
    """Build and try; the exit code is 1 where CI could do it and can't."""
    be_usual()
    if reason := obstacle():
        required = os.environ.get("CI") == "true" and os.geteuid() == 0
        print(f"The image was {'NOT ' if required else 'not '}built: {reason}.")
        return 1 if required else 0
    folder = environments.open_folder("image")
    builder = Builder(folder.path)
    began = time.monotonic()

    def done(what: str) -> None:
        print(f"✓ {what} ({time.monotonic() - began:.0f} s)", flush=True)

    try:
        make_base(builder, folder.path / "base")
        done("a base of Debian with its Python")
        builder.build("localhost/reelwatch", ROOT, ROOT / "Dockerfile",
                      "--build-arg=BASE=localhost/base")  # fmt: skip
        done("every step of the Dockerfile")
        image = builder.mounted("localhost/reelwatch")
        try_roles(image)
        done("migrate, workers, beat and their health checks")
    finally:
        builder.close()
        folder.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
