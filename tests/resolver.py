"""A system whose names are as a test says: what libcurl asks is answered by a library of ours.

`here.…` is this machine, `none.…` is unknown, `hang.…` is never answered. By `LD_PRELOAD`, for
libcurl asks the C library itself.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  look_up *next = (look_up *)dlsym(RTLD_NEXT, "getaddrinfo");
  if (name && !strncmp(name, "none.", 5)) return EAI_NONAME;
  if (name && !strncmp(name, "hang.", 5)) { sleep(60); return EAI_AGAIN; }
  return next(name && !strncmp(name, "here.", 5) ? "127.0.0.1" : name, service, hints, found);
}
"""


def built(folder: Path) -> Path:
    """The library; skips the test where there is no compiler, or a system without LD_PRELOAD."""
    compiler = shutil.which("cc")
    if not compiler or not Path("/proc/self/maps").exists():
        pytest.skip("needs a C compiler and LD_PRELOAD")
    (folder / "names.c").write_text(SOURCE)
    library = folder / "names.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(folder / "names.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library
