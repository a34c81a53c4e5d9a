"""F09: accept fails with EMFILE, ENFILE, ENOMEM, ECONNABORTED, EPROTO: it backs off, never spins and never ends."""

import resource
import shutil
import subprocess
import time

from bed import check, eventually, within

SECONDS = 30
SHORT = True

CONFIG = "routes: [{prefix: /, respond: {body: here}}]\n"
# Fails every call as long as the file named by FAULT holds an error number.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int fault(void) {
    char text[16] = "";
    int fd = open(getenv("FAULT"), O_RDONLY);
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atoi(text);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    static int (*real)(int, struct sockaddr *, socklen_t *, int);
    if (!real) real = dlsym(RTLD_NEXT, "accept4");
    int number = fault();
    if (number) { errno = number; return -1; }
    return real(fd, address, length, flags);
}
"""
ERRORS = {"ECONNABORTED": 103, "EMFILE": 24, "ENFILE": 23, "ENOMEM": 12, "EPROTO": 71}


def run(bed):
    told = [short_of_descriptors(bed)]
    if shutil.which("cc"):
        told.append(injected(bed))
    else:
        told.append("no C compiler: errors were not injected")
    return "; ".join(told)


def short_of_descriptors(bed):
    """The ring's accept really fails: the limit is lowered under the running gateway."""
    gateway = bed.gateway(CONFIG)
    held = bed.clients(20, gateway.address, b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTT")
    soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (gateway.fds(), hard))
    waiting = bed.clients(50, gateway.address)
    share = gateway.cpu_share(2)
    within(share, 0.05, f"{share:.1%} of a core is used while accept fails")
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (soft, hard))
    answer = gateway.get("/", 5)
    check(answer.status == 200, f"not served when descriptors are there again: {answer}")
    failed = gateway.metric("ringway_worker_refused_total", cause="descriptors")
    check(failed > 0, "accept did not fail")
    held.close()
    waiting.close()
    return f"{failed:.0f} accepts failed in 2 s at {share:.1%} CPU"


def injected(bed):
    """Any error, by a library in front of the C library; the epoll driver calls that."""
    source, library, fault = (bed.folder / name for name in ("shim.c", "shim.so", "fault"))
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    gateway = bed.gateway(CONFIG, driver="epoll", env={"LD_PRELOAD": str(library), "FAULT": str(fault)})
    worst = 0
    for name, number in ERRORS.items():
        fault.write_text(str(number))
        clients = bed.clients(10, gateway.address)
        share = gateway.cpu_share(1)
        worst = max(worst, share)
        within(share, 0.05, f"{name}: {share:.1%} of a core is used while accept fails")
        fault.write_text("0")
        eventually(f"served after {name}", lambda: gateway.get("/", 2).status == 200, 5)
        clients.close()
    return f"{len(ERRORS)} errors injected, at most {worst:.1%} CPU"
