/* The kernel's ABI for io_uring and the few system calls the core makes.
 *
 * Our own copies of the structures, so that the build needs no particular kernel headers: what a
 * kernel can do is asked at run time (feature bits, opcode probe), never at compile time.  Every
 * structure is pinned by a static assertion of its size and of the offsets the core uses; the
 * source is include/uapi/linux/{io_uring,openat2,stat}.h of Linux 6.18. */
#ifndef ANYIO_URING_ABI_H
#define ANYIO_URING_ABI_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

struct au_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;   /* also: addr2 (statx buffer), fsync end */
    uint64_t addr;
    uint32_t len;   /* also: open mode, statx mask */
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buf_index;
    uint16_t personality;
    int32_t file_index;
    uint64_t addr3;
    uint64_t pad2;
};

struct au_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct au_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct au_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct au_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t resv[3];
    struct au_sq_offsets sq_off;
    struct au_cq_offsets cq_off;
};

struct au_timespec { int64_t tv_sec, tv_nsec; };

struct au_files_register {
    uint32_t count, flags;
    uint64_t resv2, data, tags;
};

struct au_files_update {
    uint32_t offset, resv;
    uint64_t fds;
};

struct au_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz, min_wait_usec;
    uint64_t ts;
};

struct au_probe_op { uint8_t op, resv; uint16_t flags; uint32_t resv2; };

struct au_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct au_probe_op ops[256];
};

struct au_open_how { uint64_t flags, mode, resolve; };

struct au_statx_timestamp { int64_t tv_sec; uint32_t tv_nsec; int32_t reserved; };

struct au_statx {
    uint32_t stx_mask, stx_blksize;
    uint64_t stx_attributes;
    uint32_t stx_nlink, stx_uid, stx_gid;
    uint16_t stx_mode, spare0;
    uint64_t stx_ino, stx_size, stx_blocks, stx_attributes_mask;
    struct au_statx_timestamp stx_atime, stx_btime, stx_ctime, stx_mtime;
    uint32_t stx_rdev_major, stx_rdev_minor, stx_dev_major, stx_dev_minor;
    uint64_t stx_mnt_id;
    uint32_t stx_dio_mem_align, stx_dio_offset_align;
    uint64_t spare3[12];
};

/* struct linux_dirent64; the name is behind it */
struct au_dirent { uint64_t ino; int64_t off; uint16_t reclen; uint8_t type; char name[]; };
enum { AU_DT_UNKNOWN = 0, AU_DT_DIR = 4, AU_DT_LNK = 10 };

static_assert(sizeof(struct au_sqe) == 64, "io_uring_sqe");
static_assert(offsetof(struct au_sqe, off) == 8, "io_uring_sqe.off");
static_assert(offsetof(struct au_sqe, addr) == 16, "io_uring_sqe.addr");
static_assert(offsetof(struct au_sqe, op_flags) == 28, "io_uring_sqe.rw_flags");
static_assert(offsetof(struct au_sqe, user_data) == 32, "io_uring_sqe.user_data");
static_assert(offsetof(struct au_sqe, file_index) == 44, "io_uring_sqe.file_index");
static_assert(sizeof(struct au_cqe) == 16, "io_uring_cqe");
static_assert(sizeof(struct au_sq_offsets) == 40, "io_sqring_offsets");
static_assert(sizeof(struct au_cq_offsets) == 40, "io_cqring_offsets");
static_assert(sizeof(struct au_params) == 120, "io_uring_params");
static_assert(offsetof(struct au_params, sq_off) == 40, "io_uring_params.sq_off");
static_assert(sizeof(struct au_getevents_arg) == 24, "io_uring_getevents_arg");
static_assert(sizeof(struct au_files_register) == 32, "io_uring_rsrc_register");
static_assert(sizeof(struct au_files_update) == 16, "io_uring_files_update");
static_assert(sizeof(struct au_probe_op) == 8, "io_uring_probe_op");
static_assert(offsetof(struct au_probe, ops) == 16, "io_uring_probe.ops");
static_assert(sizeof(struct au_open_how) == 24, "open_how");
static_assert(offsetof(struct au_dirent, reclen) == 16, "linux_dirent64.d_reclen");
static_assert(offsetof(struct au_dirent, name) == 19, "linux_dirent64.d_name");
static_assert(sizeof(struct au_statx) == 256, "statx");
static_assert(offsetof(struct au_statx, stx_ino) == 0x20, "statx.stx_ino");
static_assert(offsetof(struct au_statx, stx_mnt_id) == 0x90, "statx.stx_mnt_id");
static_assert(offsetof(struct au_statx, stx_dio_mem_align) == 0x98, "statx.stx_dio_mem_align");

/* io_uring_setup(2) flags, with the kernel that introduced each */
#define AU_SETUP_CQSIZE (1U << 3)         /* 5.5 */
#define AU_SETUP_CLAMP (1U << 4)          /* 5.6 */
#define AU_SETUP_SUBMIT_ALL (1U << 7)     /* 5.18 */
#define AU_SETUP_COOP_TASKRUN (1U << 8)   /* 5.19 */
#define AU_SETUP_TASKRUN_FLAG (1U << 9)   /* 5.19 */
#define AU_SETUP_SINGLE_ISSUER (1U << 12) /* 6.0 */
#define AU_SETUP_DEFER_TASKRUN (1U << 13) /* 6.1 */
#define AU_SETUP_NO_SQARRAY (1U << 16)    /* 6.6 */

#define AU_FEAT_SINGLE_MMAP (1U << 0)
#define AU_FEAT_NODROP (1U << 1)
#define AU_FEAT_SUBMIT_STABLE (1U << 2)
#define AU_FEAT_RW_CUR_POS (1U << 3)
#define AU_FEAT_EXT_ARG (1U << 8)
#define AU_FEAT_NATIVE_WORKERS (1U << 9)
#define AU_FEAT_RSRC_TAGS (1U << 10)

#define AU_ENTER_GETEVENTS (1U << 0)
#define AU_ENTER_EXT_ARG (1U << 3)

#define AU_SQ_CQ_OVERFLOW (1U << 1)
#define AU_SQ_TASKRUN (1U << 2)

#define AU_OFF_SQ_RING 0ULL
#define AU_OFF_CQ_RING 0x8000000ULL
#define AU_OFF_SQES 0x10000000ULL

#define AU_REGISTER_EVENTFD 4
#define AU_REGISTER_FILES_UPDATE 6
#define AU_REGISTER_PROBE 8
#define AU_REGISTER_FILES2 13           /* 5.13 */
#define AU_REGISTER_IOWQ_MAX_WORKERS 19 /* 5.15 */
#define AU_REGISTER_SPARSE (1U << 0)     /* 5.19 */
#define AU_OP_SUPPORTED (1U << 0)

#define AU_IOSQE_FIXED_FILE (1U << 0)
#define AU_IOSQE_ASYNC (1U << 4)

#define AU_OP_NOP 0
#define AU_OP_WRITEV 2
#define AU_OP_FSYNC 3
#define AU_OP_TIMEOUT 11
#define AU_OP_ASYNC_CANCEL 14
#define AU_OP_FALLOCATE 17
#define AU_OP_OPENAT 18
#define AU_OP_CLOSE 19
#define AU_OP_STATX 21
#define AU_OP_READ 22
#define AU_OP_WRITE 23
#define AU_OP_OPENAT2 28   /* into a slot: 5.15 */
#define AU_OP_RENAMEAT 35  /* 5.11 */
#define AU_OP_UNLINKAT 36  /* 5.11 */
#define AU_OP_MKDIRAT 37   /* 5.15 */
#define AU_OP_SYMLINKAT 38 /* 5.15 */
#define AU_OP_LINKAT 39    /* 5.15 */
#define AU_OP_FIXED_FD_INSTALL 54 /* 6.8 */
#define AU_OP_FTRUNCATE 55 /* 6.9 */

#define AU_FSYNC_DATASYNC (1U << 0)
/* NOP may be told which result to complete with (6.10): the fault tests use it. */
#define AU_NOP_INJECT_RESULT (1U << 0)

#define AU_RESOLVE_NO_XDEV 0x01
#define AU_RESOLVE_NO_SYMLINKS 0x04
#define AU_RESOLVE_CACHED 0x20 /* 5.12 */
#define AU_AT_SYMLINK_NOFOLLOW 0x100
#define AU_AT_REMOVEDIR 0x200
#define AU_AT_NO_AUTOMOUNT 0x800
#define AU_AT_EMPTY_PATH 0x1000
#define AU_AT_STATX_DONT_SYNC 0x4000
#define AU_STATX_BASIC_STATS 0x7ffU
#define AU_STATX_BTIME 0x800U
#define AU_STATX_MNT_ID 0x1000U         /* 5.8 */
#define AU_STATX_DIOALIGN 0x2000U      /* 6.1 */
#define AU_STATX_MNT_ID_UNIQUE 0x4000U  /* 6.8: never reused while the system runs */
#define AU_RWF_NOWAIT 0x8

#endif
