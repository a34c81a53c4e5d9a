/* Stands between a program and io_uring, so that tests see what becomes of its faults (F20). Loaded with LD_PRELOAD;
 * it takes over libc's syscall(), through which the io-uring crate speaks to the kernel.
 *
 *   RING_ENTRIES=8        every larger ring gets so many entries, and twice as many completions
 *   RING_SETUP_ERRNO=1    no ring can be made (1 is EPERM, 38 ENOSYS, 12 ENOMEM)
 *   RING_MISSING_OP=13    the kernel says that it lacks this operation (13 is IORING_OP_ACCEPT)
 *   RING_ENTER_FAIL=7     every 7th io_uring_enter fails, with EAGAIN and EBUSY in turn
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long setting(const char *name)
{
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static long fail(int code)
{
    errno = code;
    return -1;
}

static long real(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result < 0 && result > -4096 ? fail((int)-result) : result;
}

static long setup(long entries, struct io_uring_params *params)
{
    long code = setting("RING_SETUP_ERRNO"), most = setting("RING_ENTRIES");
    if (code)
        return fail((int)code);
    if (most && entries > most) {
        entries = most;
        params->flags &= ~(unsigned)IORING_SETUP_CQSIZE;
    }
    return real(SYS_io_uring_setup, entries, (long)params, 0, 0, 0, 0);
}

static long registered(long result, struct io_uring_probe *probe)
{
    long missing = setting("RING_MISSING_OP");
    if (missing && result >= 0 && missing < probe->ops_len)
        probe->ops[missing].flags = 0;
    return result;
}

long syscall(long number, ...)
{
    static unsigned long entered;
    long a, b, c, d, e, f, every;
    va_list rest;
    va_start(rest, number);
    a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_io_uring_setup)
        return setup(a, (struct io_uring_params *)b);
    if (number == SYS_io_uring_register && b == IORING_REGISTER_PROBE)
        return registered(real(number, a, b, c, d, e, f), (struct io_uring_probe *)c);
    if (number == SYS_io_uring_enter && (every = setting("RING_ENTER_FAIL"))) {
        unsigned long turn = __atomic_add_fetch(&entered, 1, __ATOMIC_RELAXED);
        if (turn % (unsigned long)every == 0)
            return fail(turn / (unsigned long)every % 2 ? EAGAIN : EBUSY);
    }
    return real(number, a, b, c, d, e, f);
}
