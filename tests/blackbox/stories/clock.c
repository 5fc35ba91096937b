/* Moves the clock of a process that it is loaded into (LD_PRELOAD) by CLOCK_AHEAD_SECS seconds, and slows it from then
   on, so that times of the minute are the same however long a test takes: a second lasts a minute. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NANOS 1000000000LL
#define SLOWNESS 60

static long long started;
static long long ahead;

static long long nanos(const struct timespec *time) { return time->tv_sec * NANOS + time->tv_nsec; }

__attribute__((constructor)) static void start(void) {
    struct timespec now;
    const char *text = getenv("CLOCK_AHEAD_SECS");
    ahead = (text ? atoll(text) : 0) * NANOS;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    started = nanos(&now);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) {
        long long shown = started + ahead + (nanos(now) - started) / SLOWNESS;
        now->tv_sec = shown / NANOS;
        now->tv_nsec = shown % NANOS;
    }
    return failed;
}
