"""Layer 0 of the core: the kernel's structures and numbers (``abi.h``), nothing else."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "abi.h" nogil:
    struct au_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        int32_t file_index

    struct au_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags

    struct au_sq_offsets:
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array

    struct au_cq_offsets:
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags

    struct au_params:
        uint32_t sq_entries, cq_entries, flags, features
        au_sq_offsets sq_off
        au_cq_offsets cq_off

    struct au_timespec:
        int64_t tv_sec, tv_nsec

    struct au_files_register:
        uint32_t count, flags

    struct au_files_update:
        uint32_t offset
        uint64_t fds

    struct au_getevents_arg:
        uint64_t sigmask
        uint32_t sigmask_sz
        uint64_t ts

    struct au_probe_op:
        uint16_t flags

    struct au_probe:
        uint8_t last_op, ops_len
        au_probe_op ops[256]

    struct au_open_how:
        uint64_t flags, mode, resolve

    struct au_dirent:
        uint16_t reclen
        uint8_t type
        char name[1]

    enum:
        AU_DT_DIR, AU_DT_LNK, AU_DT_UNKNOWN

    struct au_statx_timestamp:
        int64_t tv_sec
        uint32_t tv_nsec

    struct au_statx:
        uint32_t stx_mask, stx_blksize, stx_nlink, stx_uid, stx_gid
        uint16_t stx_mode
        uint64_t stx_ino, stx_size, stx_blocks
        au_statx_timestamp stx_atime, stx_btime, stx_ctime, stx_mtime
        uint32_t stx_rdev_major, stx_rdev_minor, stx_dev_major, stx_dev_minor
        uint64_t stx_mnt_id
        uint32_t stx_dio_mem_align, stx_dio_offset_align

    const uint32_t AU_SETUP_CQSIZE
    const uint32_t AU_SETUP_CLAMP
    const uint32_t AU_SETUP_SUBMIT_ALL
    const uint32_t AU_SETUP_COOP_TASKRUN
    const uint32_t AU_SETUP_TASKRUN_FLAG
    const uint32_t AU_SETUP_SINGLE_ISSUER
    const uint32_t AU_SETUP_DEFER_TASKRUN
    const uint32_t AU_SETUP_NO_SQARRAY
    const uint32_t AU_FEAT_SINGLE_MMAP
    const uint32_t AU_FEAT_NODROP
    const uint32_t AU_FEAT_SUBMIT_STABLE
    const uint32_t AU_FEAT_RW_CUR_POS
    const uint32_t AU_FEAT_EXT_ARG
    const uint32_t AU_FEAT_NATIVE_WORKERS
    const uint32_t AU_FEAT_RSRC_TAGS
    const uint32_t AU_ENTER_GETEVENTS
    const uint32_t AU_ENTER_EXT_ARG
    const uint32_t AU_SQ_CQ_OVERFLOW
    const uint32_t AU_SQ_TASKRUN
    const uint64_t AU_OFF_SQ_RING
    const uint64_t AU_OFF_CQ_RING
    const uint64_t AU_OFF_SQES
    const uint32_t AU_REGISTER_EVENTFD
    const uint32_t AU_REGISTER_FILES_UPDATE
    const uint32_t AU_REGISTER_PROBE
    const uint32_t AU_REGISTER_FILES2
    const uint32_t AU_REGISTER_IOWQ_MAX_WORKERS
    const uint32_t AU_REGISTER_SPARSE
    const uint16_t AU_OP_SUPPORTED
    const uint8_t AU_IOSQE_FIXED_FILE
    const uint8_t AU_IOSQE_ASYNC
    const uint8_t AU_OP_NOP
    const uint8_t AU_OP_WRITEV
    const uint8_t AU_OP_FSYNC
    const uint8_t AU_OP_TIMEOUT
    const uint8_t AU_OP_ASYNC_CANCEL
    const uint8_t AU_OP_FALLOCATE
    const uint8_t AU_OP_OPENAT
    const uint8_t AU_OP_CLOSE
    const uint8_t AU_OP_STATX
    const uint8_t AU_OP_READ
    const uint8_t AU_OP_WRITE
    const uint8_t AU_OP_OPENAT2
    const uint8_t AU_OP_RENAMEAT
    const uint8_t AU_OP_UNLINKAT
    const uint8_t AU_OP_MKDIRAT
    const uint8_t AU_OP_SYMLINKAT
    const uint8_t AU_OP_LINKAT
    const uint8_t AU_OP_FIXED_FD_INSTALL
    const uint8_t AU_OP_FTRUNCATE
    const uint32_t AU_FSYNC_DATASYNC
    const uint32_t AU_NOP_INJECT_RESULT
    const uint64_t AU_RESOLVE_NO_SYMLINKS
    const uint64_t AU_RESOLVE_NO_XDEV
    const uint64_t AU_RESOLVE_CACHED
    const int AU_AT_SYMLINK_NOFOLLOW
    const int AU_AT_REMOVEDIR
    const int AU_AT_NO_AUTOMOUNT
    const int AU_AT_EMPTY_PATH
    const int AU_AT_STATX_DONT_SYNC
    const uint32_t AU_STATX_BASIC_STATS
    const uint32_t AU_STATX_BTIME
    const uint32_t AU_STATX_MNT_ID
    const uint32_t AU_STATX_MNT_ID_UNIQUE
    const uint32_t AU_STATX_DIOALIGN
    const int AU_RWF_NOWAIT
