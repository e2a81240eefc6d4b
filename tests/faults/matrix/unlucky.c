/* Preloaded into a server, makes its clock wrong and its disk fail, as a control block in a shared file says:
 *
 *   offset_ns    added to what CLOCK_REALTIME says
 *   writes       so many writes to the journal fail with EIO from now on
 *   syncs        so many fsyncs of the journal fail with EIO from now on
 *   failed_writes, failed_syncs    how many have
 *
 * The monotonic clocks and every other file are left alone. UNLUCKY_FILE names the control file, UNLUCKY_PATH is what the path of
 * a file that fails contains.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    _Atomic int64_t offset_ns;
    _Atomic int64_t writes, syncs;
    _Atomic int64_t failed_writes, failed_syncs;
};

static struct control *control;
static const char *path_part;

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void begin(void)
{
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_pwrite64 = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    const char *file = getenv("UNLUCKY_FILE");
    path_part = getenv("UNLUCKY_PATH");
    int fd = file == NULL ? -1 : open(file, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *block = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (block != MAP_FAILED)
        control = block;
}

/* Takes one from *left, unless it is at 0. */
static int take(_Atomic int64_t *left)
{
    int64_t seen = atomic_load(left);
    while (seen > 0)
        if (atomic_compare_exchange_weak(left, &seen, seen - 1))
            return 1;
    return 0;
}

static int unlucky(int fd, _Atomic int64_t *left, _Atomic int64_t *failed)
{
    char link[64], path[PATH_MAX];
    if (path_part == NULL || atomic_load(left) <= 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    if (strstr(path, path_part) == NULL || !take(left))
        return 0;
    atomic_fetch_add(failed, 1);
    errno = EIO;
    return 1;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    if (control != NULL && unlucky(fd, &control->writes, &control->failed_writes))
        return -1;
    return real_pwrite64(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return pwrite64(fd, data, size, at);
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (control != NULL && unlucky(fd, &control->writes, &control->failed_writes))
        return -1;
    return real_write(fd, data, size);
}

int fsync(int fd)
{
    if (control != NULL && unlucky(fd, &control->syncs, &control->failed_syncs))
        return -1;
    return real_fsync(fd);
}

int fdatasync(int fd)
{
    if (control != NULL && unlucky(fd, &control->syncs, &control->failed_syncs))
        return -1;
    return real_fdatasync(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = real_clock_gettime(clock, now);
    if (result == 0 && control != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + atomic_load(&control->offset_ns);
        now->tv_sec = ns / INT64_C(1000000000);
        now->tv_nsec = ns % INT64_C(1000000000);
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *stored)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return (time_t)-1;
    if (stored != NULL)
        *stored = now.tv_sec;
    return now.tv_sec;
}
