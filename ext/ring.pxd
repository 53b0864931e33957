"""Layer 2 of the core: the arithmetic of the two queues, over plain memory.

Nothing here makes a system call, so the tests run it without a kernel.  Heads and tails are
free-running ``uint32_t`` counters: differences are right across the wrap-around, and an index is
``counter & mask``.  We are the only writer of the SQ tail and the CQ head, the kernel the only
writer of the other two.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from abi cimport au_cqe, au_sqe
from kernel cimport au_load_acquire, au_store_release


cdef struct ring_queues:
    # Submission queue.  `sq_tail_local` counts the entries written; the kernel sees them once
    # `sq_publish` stored it to `sq_tail`.
    uint32_t *sq_head
    uint32_t *sq_tail
    uint32_t *sq_flags
    uint32_t *sq_array      # NULL with IORING_SETUP_NO_SQARRAY
    au_sqe *sqes
    uint32_t sq_mask
    uint32_t sq_entries
    uint32_t sq_tail_local
    # Completion queue.
    uint32_t *cq_head
    uint32_t *cq_tail
    uint32_t *cq_overflow
    au_cqe *cqes
    uint32_t cq_mask
    uint32_t cq_entries


cdef inline uint32_t sq_space(ring_queues *q) noexcept nogil:
    """Entries that can be written before the kernel has to take some."""
    # Acquire: the kernel has finished reading an entry before it moves the head past it.
    return q.sq_entries - (q.sq_tail_local - au_load_acquire(q.sq_head))


cdef inline au_sqe *sq_next(ring_queues *q) noexcept nogil:
    """The next entry, zeroed, or NULL when the queue is full."""
    cdef uint32_t index
    cdef au_sqe *sqe
    if sq_space(q) == 0:
        return NULL
    index = q.sq_tail_local & q.sq_mask
    q.sq_tail_local += 1
    if q.sq_array != NULL:
        q.sq_array[index] = index
    sqe = &q.sqes[index]
    memset(sqe, 0, sizeof(au_sqe))
    return sqe


cdef inline void sq_publish(ring_queues *q) noexcept nogil:
    """Let the kernel see every entry written so far."""
    au_store_release(q.sq_tail, q.sq_tail_local)


cdef inline uint32_t sq_pending(ring_queues *q) noexcept nogil:
    """Entries written that the kernel has not taken yet (each costs an ``io_uring_enter``)."""
    return q.sq_tail_local - au_load_acquire(q.sq_head)


cdef inline uint32_t cq_ready(ring_queues *q) noexcept nogil:
    """Completions that can be read now."""
    # The head is ours: a plain load will do.
    return au_load_acquire(q.cq_tail) - q.cq_head[0]


cdef inline au_cqe *cq_at(ring_queues *q, uint32_t index) noexcept nogil:
    """The index-th unread completion; valid until `cq_advance` passes it."""
    return &q.cqes[(q.cq_head[0] + index) & q.cq_mask]


cdef inline void cq_advance(ring_queues *q, uint32_t count) noexcept nogil:
    """Give `count` completions back to the kernel."""
    au_store_release(q.cq_head, q.cq_head[0] + count)
