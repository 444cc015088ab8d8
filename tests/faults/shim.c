/* What a disk can do to a process: the n-th call that writes under a folder fails, or is the last that it makes.
 *
 * Loaded before the C library (LD_PRELOAD), so that it stands between the system and all who write: Python, and the
 * libraries in C++ and Rust that write tables and weights. It does nothing until `fault_arm` is called.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FAILS = 0, FAILS_FROM_THEN_ON = 1, KILLS = 2, KILLS_HALFWAY = 3 };

static char folder[4096];
static int mode, number;
static long target, calls;
static int armed;

/* Call `fault_arm(folder, n, mode, errno)`: count calls from 1; n = 0 only counts. */
void fault_arm(const char *where, long n, int what, int error) {
    strncpy(folder, where, sizeof folder - 1);
    target = n;
    mode = what;
    number = error;
    calls = 0;
    armed = 1;
}

long fault_calls(void) {
    armed = 0;
    return calls;
}

static int under(const char *path) {
    char absolute[8192];
    if (path == NULL) return 0;
    if (path[0] != '/') {
        if (getcwd(absolute, 4096) == NULL) return 0;
        strcat(absolute, "/");
        strncat(absolute, path, 4000);
        path = absolute;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fd_under(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return under(path);
}

static int at_under(int directory, const char *path) {
    return path != NULL && (path[0] == '/' || directory == AT_FDCWD) ? under(path) : fd_under(directory);
}

/* Whether this call is to fail; does not come back where it is to kill. */
static int strikes(void) {
    calls++;
    if (target == 0 || calls < target || (calls > target && mode != FAILS_FROM_THEN_ON)) return 0;
    if (mode == KILLS) kill(getpid(), SIGKILL);
    errno = number;
    return 1;
}

#define NEXT(type, name, ...) \
    static type (*next)(__VA_ARGS__); \
    if (next == NULL) next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define WATCHED(where) (armed && (where) && strikes())

static int opens_to_strike(int directory, const char *path, int flags) {
    int writes = (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0;
    if (!armed || (flags & O_DIRECTORY) || !writes) return 0;
    return at_under(directory, path) && strikes();
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        NEXT(int, name, const char *, int, ...); \
        return opens_to_strike(AT_FDCWD, path, flags) ? -1 : next(path, flags, bits); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        NEXT(int, name, int, const char *, int, ...); \
        return opens_to_strike(directory, path, flags) ? -1 : next(directory, path, flags, bits); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *how) { \
        NEXT(FILE *, name, const char *, const char *); \
        return WATCHED(how[0] != 'r' && under(path)) ? NULL : next(path, how); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *bytes, size_t size) {
    NEXT(ssize_t, write, int, const void *, size_t);
    if (WATCHED(fd_under(fd))) {
        if (mode == KILLS_HALFWAY) {
            next(fd, bytes, size / 2);
            kill(getpid(), SIGKILL);
        }
        return -1;
    }
    return next(fd, bytes, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(ssize_t, writev, int, const struct iovec *, int);
    return WATCHED(fd_under(fd)) ? -1 : next(fd, parts, count);
}

#define PWRITE(name, offset_t) \
    ssize_t name(int fd, const void *bytes, size_t size, offset_t at) { \
        NEXT(ssize_t, name, int, const void *, size_t, offset_t); \
        return WATCHED(fd_under(fd)) ? -1 : next(fd, bytes, size, at); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define OF_FD(name) \
    int name(int fd) { \
        NEXT(int, name, int); \
        return WATCHED(fd_under(fd)) ? -1 : next(fd); \
    }
OF_FD(fsync)
OF_FD(fdatasync)

#define TRUNCATE(name, offset_t) \
    int name(int fd, offset_t size) { \
        NEXT(int, name, int, offset_t); \
        return WATCHED(fd_under(fd)) ? -1 : next(fd, size); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define OF_PATH(name) \
    int name(const char *path) { \
        NEXT(int, name, const char *); \
        return WATCHED(under(path)) ? -1 : next(path); \
    }
OF_PATH(unlink)
OF_PATH(rmdir)

int unlinkat(int directory, const char *path, int flags) {
    NEXT(int, unlinkat, int, const char *, int);
    return WATCHED(at_under(directory, path)) ? -1 : next(directory, path, flags);
}

#define WITH_BITS(name) \
    int name(const char *path, mode_t bits) { \
        NEXT(int, name, const char *, mode_t); \
        return WATCHED(under(path)) ? -1 : next(path, bits); \
    }
WITH_BITS(mkdir)
WITH_BITS(chmod)

int fchmodat(int directory, const char *path, mode_t bits, int flags) {
    NEXT(int, fchmodat, int, const char *, mode_t, int);
    return WATCHED(at_under(directory, path)) ? -1 : next(directory, path, bits, flags);
}

int mkdirat(int directory, const char *path, mode_t bits) {
    NEXT(int, mkdirat, int, const char *, mode_t);
    return WATCHED(at_under(directory, path)) ? -1 : next(directory, path, bits);
}

int rename(const char *from, const char *to) {
    NEXT(int, rename, const char *, const char *);
    return WATCHED(under(to)) ? -1 : next(from, to);
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    NEXT(int, renameat, int, const char *, int, const char *);
    return WATCHED(at_under(to_directory, to)) ? -1 : next(from_directory, from, to_directory, to);
}
