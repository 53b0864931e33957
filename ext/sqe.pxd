"""Layer 3 of the core: one function per opcode that fills a (zeroed) submission entry.

The caller keeps what an entry points at (data, path, statx buffer) alive until the operation's
own completion; the paths could go earlier (IORING_FEAT_SUBMIT_STABLE), but one rule is simpler.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from abi cimport (
    AU_IOSQE_FIXED_FILE, AU_OP_ASYNC_CANCEL, AU_OP_CLOSE, AU_OP_FALLOCATE, AU_OP_FIXED_FD_INSTALL,
    AU_OP_FSYNC, AU_OP_FTRUNCATE, AU_OP_MKDIRAT, AU_OP_NOP, AU_OP_OPENAT, AU_OP_OPENAT2,
    AU_OP_READ, AU_OP_STATX, AU_OP_SYMLINKAT, AU_OP_TIMEOUT, AU_OP_UNLINKAT, AU_OP_WRITE,
    AU_OP_WRITEV, AU_NOP_INJECT_RESULT, au_open_how, au_sqe, au_statx, au_timespec,
)


cdef inline void prep_nop(au_sqe *sqe, int32_t result) noexcept nogil:
    """Does nothing; on 6.10+ completes with `result` (0 asks for nothing special)."""
    sqe.opcode = AU_OP_NOP
    if result != 0:
        sqe.op_flags = AU_NOP_INJECT_RESULT
        sqe.len = <uint32_t>result


cdef inline void prep_read(au_sqe *sqe, int fd, void *data, uint32_t size,
                           int64_t offset) noexcept nogil:
    """read(2) at offset -1, pread(2) elsewhere.  5.6."""
    sqe.opcode = AU_OP_READ
    sqe.fd = fd
    sqe.addr = <uint64_t>data
    sqe.len = size
    sqe.off = <uint64_t>offset


cdef inline void prep_write(au_sqe *sqe, int fd, const void *data, uint32_t size,
                            int64_t offset) noexcept nogil:
    """write(2) at offset -1, pwrite(2) elsewhere.  5.6."""
    sqe.opcode = AU_OP_WRITE
    sqe.fd = fd
    sqe.addr = <uint64_t>data
    sqe.len = size
    sqe.off = <uint64_t>offset


cdef inline void prep_writev(au_sqe *sqe, int fd, const void *vectors, uint32_t count,
                             int64_t offset) noexcept nogil:
    """pwritev(2) of so many `struct iovec`.  5.1."""
    sqe.opcode = AU_OP_WRITEV
    sqe.fd = fd
    sqe.addr = <uint64_t>vectors
    sqe.len = count
    sqe.off = <uint64_t>offset


cdef inline void prep_openat(au_sqe *sqe, int dirfd, const char *path, int flags,
                             uint32_t mode) noexcept nogil:
    """openat(2).  5.6."""
    sqe.opcode = AU_OP_OPENAT
    sqe.fd = dirfd
    sqe.addr = <uint64_t>path
    sqe.len = mode
    sqe.op_flags = <uint32_t>flags


cdef inline void prep_openat2_slot(au_sqe *sqe, int dirfd, const char *path, au_open_how *how,
                                   uint32_t slot) noexcept nogil:
    """openat2(2) into a slot of the registered files, in place of what is there.  5.15."""
    sqe.opcode = AU_OP_OPENAT2
    sqe.fd = dirfd
    sqe.addr = <uint64_t>path
    sqe.len = sizeof(au_open_how)
    sqe.off = <uint64_t>how
    sqe.file_index = <int32_t>(slot + 1)


cdef inline void prep_fd_install(au_sqe *sqe, uint32_t slot) noexcept nogil:
    """A descriptor, with O_CLOEXEC, of what is in a slot of the registered files.  6.8."""
    sqe.opcode = AU_OP_FIXED_FD_INSTALL
    sqe.flags = AU_IOSQE_FIXED_FILE
    sqe.fd = <int32_t>slot


cdef inline void prep_close(au_sqe *sqe, int fd) noexcept nogil:
    """close(2).  5.6."""
    sqe.opcode = AU_OP_CLOSE
    sqe.fd = fd


cdef inline void prep_statx(au_sqe *sqe, int dirfd, const char *path, int flags, uint32_t mask,
                            au_statx *out) noexcept nogil:
    """statx(2).  5.6."""
    sqe.opcode = AU_OP_STATX
    sqe.fd = dirfd
    sqe.addr = <uint64_t>path
    sqe.len = mask
    sqe.off = <uint64_t>out
    sqe.op_flags = <uint32_t>flags


cdef inline void prep_fsync(au_sqe *sqe, int fd, uint32_t flags) noexcept nogil:
    """fsync(2), or fdatasync(2) with IORING_FSYNC_DATASYNC.  5.1."""
    sqe.opcode = AU_OP_FSYNC
    sqe.fd = fd
    sqe.op_flags = flags


cdef inline void prep_fallocate(au_sqe *sqe, int fd, int mode, int64_t offset,
                                int64_t size) noexcept nogil:
    """fallocate(2).  5.6."""
    sqe.opcode = AU_OP_FALLOCATE
    sqe.fd = fd
    sqe.off = <uint64_t>offset
    sqe.addr = <uint64_t>size
    sqe.len = <uint32_t>mode


cdef inline void prep_ftruncate(au_sqe *sqe, int fd, int64_t size) noexcept nogil:
    """ftruncate(2).  6.9."""
    sqe.opcode = AU_OP_FTRUNCATE
    sqe.fd = fd
    sqe.off = <uint64_t>size


cdef inline void prep_two_paths(au_sqe *sqe, uint8_t opcode, int dirfd, const char *path,
                                const char *second) noexcept nogil:
    """renameat(2) (5.11) and linkat(2) (5.15) without flags, symlinkat(2) (5.15).

    Of a symlink the first path is its target, which no directory belongs to.
    """
    sqe.opcode = opcode
    sqe.fd = dirfd
    sqe.addr = <uint64_t>path
    sqe.off = <uint64_t>second
    if opcode != AU_OP_SYMLINKAT:
        sqe.len = <uint32_t>dirfd   # of the second path


cdef inline void prep_unlinkat(au_sqe *sqe, int dirfd, const char *path, int flags) noexcept nogil:
    """unlink(2), or rmdir(2) with AT_REMOVEDIR.  5.11."""
    sqe.opcode = AU_OP_UNLINKAT
    sqe.fd = dirfd
    sqe.addr = <uint64_t>path
    sqe.op_flags = <uint32_t>flags


cdef inline void prep_mkdirat(au_sqe *sqe, int dirfd, const char *path,
                              uint32_t mode) noexcept nogil:
    """mkdir(2).  5.15."""
    sqe.opcode = AU_OP_MKDIRAT
    sqe.fd = dirfd
    sqe.addr = <uint64_t>path
    sqe.len = mode


cdef inline void prep_cancel(au_sqe *sqe, uint64_t user_data) noexcept nogil:
    """Asks for the end of the operation with that `user_data`.  5.5."""
    sqe.opcode = AU_OP_ASYNC_CANCEL
    sqe.fd = -1
    sqe.addr = user_data


cdef inline void prep_timeout(au_sqe *sqe, const au_timespec *after) noexcept nogil:
    """Completes with -ETIME when that time is over.  5.4."""
    sqe.opcode = AU_OP_TIMEOUT
    sqe.fd = -1
    sqe.addr = <uint64_t>after
    sqe.len = 1
