/* The system calls the core makes, and its only atomics.
 *
 * Every function returns the count or -errno, so that errno never has to survive Python code. */
#ifndef ANYIO_URING_KERNEL_H
#define ANYIO_URING_KERNEL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "abi.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

/* These numbers are the same on every architecture but alpha (and 32-bit kernels share them). */
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_enter 426
#define SYS_io_uring_register 427
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
/* What headers older than the kernel lack. */
#ifndef FICLONE
#define FICLONE _IOW(0x94, 9, int)
#endif
#ifndef O_TMPFILE
#define O_TMPFILE (020000000 | O_DIRECTORY)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif

static inline long au_result(long result) { return result < 0 ? -(long)errno : result; }

static inline long au_setup(uint32_t entries, struct au_params *params)
{
    return au_result(syscall(SYS_io_uring_setup, entries, params));
}

static inline long au_enter(int fd, uint32_t to_submit, uint32_t min_complete, uint32_t flags,
                            void *arg, size_t size)
{
    return au_result(syscall(SYS_io_uring_enter, fd, to_submit, min_complete, flags, arg, size));
}

static inline long au_register(int fd, uint32_t opcode, void *arg, uint32_t count)
{
    return au_result(syscall(SYS_io_uring_register, fd, opcode, arg, count));
}

static inline long au_open(const char *path, int flags)
{
    return au_result(open(path, flags));
}

static inline long au_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    return au_result(openat(dirfd, path, flags, mode));
}

static inline long au_openat2(int dirfd, const char *path, struct au_open_how *how)
{
    return au_result(syscall(SYS_openat2, dirfd, path, how, sizeof(*how)));
}

static inline long au_getdents(int fd, void *entries, size_t size)
{
    return au_result(syscall(SYS_getdents64, fd, entries, size));
}

/* Of an entry that does not say itself; one that cannot be asked is none. */
static inline int au_is_directory(int dirfd, const char *name, int follow)
{
    struct stat found;
    int result;
    do
        result = fstatat(dirfd, name, &found, follow ? 0 : AT_SYMLINK_NOFOLLOW);
    while (result < 0 && errno == EINTR);
    return result == 0 && S_ISDIR(found.st_mode);
}

static inline long au_statx_call(int dirfd, const char *path, int flags, uint32_t mask,
                                 struct au_statx *out)
{
#ifdef SYS_statx
    return au_result(syscall(SYS_statx, dirfd, path, flags, mask, out));
#else
    return -ENOSYS;
#endif
}

/* preadv2(2) with one buffer; offset -1 reads at the file's own position. */
static inline long au_preadv2(int fd, void *buffer, size_t size, int64_t offset, int flags)
{
    struct iovec vector = {buffer, size};
    return au_result(preadv2(fd, &vector, 1, offset, flags));
}

static inline long au_pread(int fd, void *buffer, size_t size, int64_t offset)
{
    return au_result(offset == -1 ? read(fd, buffer, size) : pread(fd, buffer, size, offset));
}

static inline long au_lseek(int fd, int64_t offset, int whence)
{
    return au_result(lseek(fd, offset, whence));
}

static inline long au_pwrite(int fd, const void *data, size_t size, int64_t offset)
{
    return au_result(pwrite(fd, data, size, offset));
}

/* Have one file share the blocks of another: FICLONE, ioctl_ficlonerange(2), since 4.5. */
static inline long au_clone(int to, int from) { return au_result(ioctl(to, FICLONE, from)); }

static inline long au_set_times(int fd, struct au_statx_timestamp accessed,
                                struct au_statx_timestamp modified)
{
    struct timespec times[2] = {{accessed.tv_sec, accessed.tv_nsec},
                                {modified.tv_sec, modified.tv_nsec}};
    return au_result(futimens(fd, times));
}

static inline long au_set_mode(int fd, mode_t mode) { return au_result(fchmod(fd, mode)); }

/* Bytes that the names of its extended attributes take. */
static inline long au_attributes(int fd) { return au_result(flistxattr(fd, NULL, 0)); }

/* close(2) of one descriptor of several: what a file system has to say then, while the file is
   still open. */
static inline long au_close_copy(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return au_result(copy < 0 ? copy : close(copy));
}

/* A name for a file that was opened with O_TMPFILE, as open(2) shows it; EEXIST if it is taken. */
static inline long au_link(int fd, int dirfd, const char *name)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return au_result(linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW));
}

/* How often this thread has slept in the kernel.  getrusage(2), since 2.6.26. */
static inline long au_sleeps(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_nvcsw;
}

/* Have all of this memory, whole pages, in place: writing to it cannot fail then.  Since 5.14. */
static inline long au_populate(void *memory, size_t size)
{
    return au_result(madvise(memory, size, MADV_POPULATE_WRITE));
}

/* A piece of malloc's memory that is in place already; NULL: there is none.  In a thread's arena
   glibc asks the kernel for memory page by page (mprotect), and each page is a fault at its first
   use.  Smaller than what malloc maps by itself, or gives back to the kernel when it is freed. */
#define AU_PIECE (112 << 10)

static inline void *au_piece(void)
{
#ifdef __GLIBC__
    const uintptr_t page = 4096;
    char *piece = malloc(AU_PIECE);
    if (piece != NULL)
        au_populate((void *)(((uintptr_t)piece + page - 1) & ~(page - 1)), AU_PIECE - page);
    return piece;
#else
    return NULL;
#endif
}

static inline long au_close(int fd) { return au_result(close(fd)); }

static inline long au_fcntl(int fd, int command, long argument)
{
    return au_result(fcntl(fd, command, argument));
}

static inline long au_eventfd(void) { return au_result(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)); }

/* One read empties the counter of a plain eventfd; EAGAIN (already empty) is no error. */
static inline void au_eventfd_drain(int fd)
{
    uint64_t count;
    long ignored = read(fd, &count, sizeof(count));
    (void)ignored;
}

static inline void au_eventfd_signal(int fd)
{
    uint64_t one = 1;
    long ignored = write(fd, &one, sizeof(one));
    (void)ignored;
}

static inline void *au_map(int fd, size_t size, uint64_t offset)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);
    if (p == MAP_FAILED)
        return NULL;
    /* A forked child must fault rather than corrupt its parent's queues. */
    madvise(p, size, MADV_DONTFORK);
    return p;
}

/* Where is [offset, offset + size) of a file in memory?  1: all of it, 0: not all, -errno: the
 * mapping failed.  To be asked only where au_mincore_is_true. */
static inline long au_resident(int fd, int64_t offset, size_t size)
{
    unsigned char pages[65];
    long page = sysconf(_SC_PAGESIZE);
    int64_t start = offset - offset % page;
    size_t span = (size_t)(offset - start) + size;
    size_t count = (span + page - 1) / page;
    if (count > sizeof(pages))
        return 0;
    void *p = mmap(NULL, span, PROT_READ, MAP_SHARED, fd, start);
    if (p == MAP_FAILED)
        return -errno;
    long result = mincore(p, span, pages) < 0 ? -errno : 1;
    munmap(p, span);
    for (size_t i = 0; result == 1 && i < count; i++)
        if (!(pages[i] & 1))
            result = 0;
    return result;
}

/* Does mincore(2) tell this process the truth about a file?  1 or 0.  The kernel asks whether it
 * owns the file or may write it (mm/mincore.c, can_do_mincore); to others every page is resident.
 * faccessat2: Linux 5.8, without it only the owner is believed. */
static inline int au_mincore_is_true(int fd, uint32_t owner)
{
    return owner == (uint32_t)geteuid()
           || syscall(SYS_faccessat2, fd, "", W_OK, AT_EACCESS | AT_EMPTY_PATH) == 0;
}

/* A number for this thread that no other ever gets.  What Python and pthreads call a thread's
 * identity is used again as soon as it has ended, and the kernel refuses the second thread the ring
 * of the first (EEXIST). */
static inline uint64_t au_thread(void)
{
    static uint64_t last;
    static __thread uint64_t mine;
    if (mine == 0)
        mine = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    return mine;
}

/* Nanoseconds of a clock that only moves forward. */
static inline int64_t au_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Between two looks at memory that another processor writes to. */
static inline void au_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Whether a descriptor can be read now, or is broken: something to look at. */
static inline int au_readable(int fd)
{
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    return poll(&watched, 1, 0) != 0;
}

/* Orders the reading of a CQE after the reading of the tail that covers it (and, for the SQ
 * flags, our view of the CQ after the kernel's store of the flag). */
static inline uint32_t au_load_acquire(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* Orders the writing of an SQE before the tail that publishes it, and our last read of a CQE
 * before the head that lets the kernel overwrite it. */
static inline void au_store_release(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

/* What somebody did before another's exchange is seen by that one after it. */
static inline uint32_t au_exchange(uint32_t *p, uint32_t value)
{
    return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);
}

#endif
