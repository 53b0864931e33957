"""Layer 1 of the core: system calls (each returns a count or ``-errno``) and the atomics."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from abi cimport au_open_how, au_params, au_statx, au_statx_timestamp


cdef extern from "kernel.h" nogil:
    long au_setup(uint32_t entries, au_params *params)
    long au_enter(int fd, uint32_t to_submit, uint32_t min_complete, uint32_t flags,
                  void *arg, size_t size)
    long au_register(int fd, uint32_t opcode, void *arg, uint32_t count)
    long au_open(const char *path, int flags)
    long au_openat(int dirfd, const char *path, int flags, unsigned int mode)
    long au_openat2(int dirfd, const char *path, au_open_how *how)
    long au_getdents(int fd, void *entries, size_t size)
    bint au_is_directory(int dirfd, const char *name, bint follow)
    long au_statx_call(int dirfd, const char *path, int flags, uint32_t mask, au_statx *out)
    long au_preadv2(int fd, void *buffer, size_t size, int64_t offset, int flags)
    long au_pread(int fd, void *buffer, size_t size, int64_t offset)
    long au_lseek(int fd, int64_t offset, int whence)
    long au_pwrite(int fd, const void *data, size_t size, int64_t offset)
    long au_clone(int to, int source)
    long au_set_times(int fd, au_statx_timestamp accessed, au_statx_timestamp modified)
    long au_set_mode(int fd, unsigned int mode)
    long au_attributes(int fd)
    long au_close_copy(int fd)
    long au_link(int fd, int dirfd, const char *name)
    long au_sleeps()
    enum:
        AU_PIECE
    long au_populate(void *memory, size_t size)
    void *au_piece()
    long au_close(int fd)
    long au_fcntl(int fd, int command, long argument)
    long au_eventfd()
    void au_eventfd_drain(int fd)
    void au_eventfd_signal(int fd)
    void *au_map(int fd, size_t size, uint64_t offset)
    bint au_mincore_is_true(int fd, uint32_t owner)
    long au_resident(int fd, int64_t offset, size_t size)
    uint64_t au_thread()
    int64_t au_now()
    void au_relax()
    bint au_readable(int fd)
    uint32_t au_load_acquire(const uint32_t *p)
    void au_store_release(uint32_t *p, uint32_t value)
    uint32_t au_exchange(uint32_t *p, uint32_t value)
