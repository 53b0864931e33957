# cython: language_level=3, auto_pickle=False, autotestdict=False
"""The compiled core: rings, operations, and the calls that never sleep.

Knows no event loop.  A host (``anyio_uring._host_asyncio``, ``_host_trio``) owns one `Ring`, hands
it `Operation` objects, asks it for finished ones and wakes whoever waited; the drivers and the
file layer build operations and read their outcome.  ``ext/README.md`` has the table of states,
with the owner of buffer, file and slot in each.

Everything here runs with the GIL held unless it says otherwise, and a `Ring` is used by the
thread that made it only.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_AsString, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_FindChar, PyUnicode_GET_LENGTH, PyUnicode_Substring
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MAX, SIZE_MAX, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memchr, memcpy, memmove, memset, strlen, strncmp, strrchr
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.uio cimport iovec

from abi cimport (
    AU_AT_EMPTY_PATH, AU_AT_NO_AUTOMOUNT, AU_AT_REMOVEDIR, AU_AT_STATX_DONT_SYNC,
    AU_AT_SYMLINK_NOFOLLOW, AU_DT_DIR, AU_DT_LNK, AU_DT_UNKNOWN, AU_ENTER_EXT_ARG,
    AU_ENTER_GETEVENTS, AU_FEAT_EXT_ARG, AU_FEAT_NATIVE_WORKERS, AU_FEAT_NODROP, AU_FEAT_RSRC_TAGS,
    AU_FEAT_RW_CUR_POS, AU_FEAT_SINGLE_MMAP, AU_FEAT_SUBMIT_STABLE, AU_FSYNC_DATASYNC,
    AU_IOSQE_ASYNC, AU_IOSQE_FIXED_FILE, AU_OFF_CQ_RING, AU_OFF_SQES, AU_OFF_SQ_RING,
    AU_OP_ASYNC_CANCEL, AU_OP_CLOSE, AU_OP_FALLOCATE, AU_OP_FSYNC, AU_OP_FTRUNCATE, AU_OP_LINKAT,
    AU_OP_MKDIRAT, AU_OP_NOP, AU_OP_OPENAT, AU_OP_READ, AU_OP_RENAMEAT, AU_OP_STATX,
    AU_OP_SUPPORTED, AU_OP_SYMLINKAT, AU_OP_UNLINKAT, AU_OP_WRITE, AU_REGISTER_EVENTFD,
    AU_REGISTER_IOWQ_MAX_WORKERS, AU_REGISTER_FILES2, AU_REGISTER_FILES_UPDATE, AU_REGISTER_PROBE,
    AU_REGISTER_SPARSE, AU_RESOLVE_CACHED, AU_RESOLVE_NO_SYMLINKS, AU_RESOLVE_NO_XDEV,
    AU_RWF_NOWAIT, AU_SETUP_CLAMP, AU_SETUP_COOP_TASKRUN, AU_SETUP_CQSIZE, AU_SETUP_DEFER_TASKRUN,
    AU_SETUP_NO_SQARRAY, AU_SETUP_SINGLE_ISSUER, AU_SETUP_SUBMIT_ALL, AU_SETUP_TASKRUN_FLAG,
    AU_SQ_CQ_OVERFLOW, AU_SQ_TASKRUN, AU_STATX_BASIC_STATS, AU_STATX_DIOALIGN, AU_STATX_MNT_ID,
    AU_STATX_MNT_ID_UNIQUE, au_cqe, au_dirent, au_files_register, au_files_update,
    au_getevents_arg, au_open_how, au_params, au_probe, au_sqe, au_statx, au_statx_timestamp,
    au_timespec,
)
from kernel cimport (
    AU_PIECE, au_attributes, au_clone, au_close, au_close_copy, au_enter, au_eventfd,
    au_eventfd_drain, au_eventfd_signal, au_exchange, au_fcntl, au_getdents, au_is_directory,
    au_link, au_load_acquire, au_lseek, au_map, au_mincore_is_true, au_now, au_open, au_openat,
    au_openat2, au_piece, au_populate, au_pread, au_preadv2, au_pwrite, au_readable, au_register,
    au_relax, au_resident, au_set_mode, au_set_times, au_setup, au_sleeps, au_statx_call,
    au_store_release, au_thread,
)
from ring cimport (
    cq_advance, cq_at, cq_ready, ring_queues, sq_next, sq_pending, sq_publish, sq_space,
)
from sqe cimport (
    prep_cancel, prep_close, prep_fallocate, prep_fd_install, prep_fsync, prep_ftruncate,
    prep_mkdirat, prep_nop, prep_openat, prep_openat2_slot, prep_read, prep_statx, prep_timeout,
    prep_two_paths, prep_unlinkat, prep_write, prep_writev,
)

cdef extern from "Python.h":
    PyObject *PyBytes_Fresh "PyBytes_FromStringAndSize"(const char *content, Py_ssize_t size)
    char *PyBytes_Content "PyBytes_AS_STRING"(PyObject *data)
    Py_ssize_t Py_REFCNT(object)
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t newsize) except -1
    object PyWeakref_NewRef(object ob, object callback)
    ctypedef struct PyWeakReference:
        PyObject *wr_object     # None once that is gone
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
    ctypedef struct PyMemberDescrObject:
        PyMemberDef *d_member
    PyObject *Py_TYPE(PyObject *)
    PyObject *PyDict_GetItemWithError(object p, object key) except? NULL
    void PyErr_SetObject(object type, object value)
    int PyIter_Send(PyObject *iter, PyObject *value, PyObject **result) except -1

cdef extern from "Python.h":
    object PyStructSequence_New(PyTypeObject *type)
    void PyStructSequence_SET_ITEM(object sequence, Py_ssize_t index, PyObject *value)
    PyObject *PyStructSequence_GET_ITEM(object sequence, Py_ssize_t index)
    bytes PyUnicode_EncodeFSDefault(object text)
    unicode PyUnicode_DecodeFSDefault(const char *text)
    PyObject *PyLong_FromUnsignedLongLong(unsigned long long value) except NULL
    PyObject *PyLong_FromLongLong(long long value) except NULL
    PyObject *PyFloat_FromDouble(double value) except NULL
    ctypedef object (*getattrofunc)(object, object)
    ctypedef PyObject *(*iternextfunc)(PyObject *)
    ctypedef int (*sendfunc)(PyObject *, PyObject *, PyObject **)
    ctypedef struct PyAsyncMethods:
        sendfunc am_send
    ctypedef object (*newfunc)(object, object, PyObject *)
    ctypedef struct PyTypeObject:
        getattrofunc tp_getattro
        newfunc tp_new
        iternextfunc tp_iternext
        PyAsyncMethods *tp_as_async
    object PyObject_GenericGetAttr(object, object)
    void PyType_Modified(PyTypeObject *)

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef extern from "Python.h":
    bint PyMethod_Check(object o)
    PyObject *PyMethod_GET_FUNCTION(object method)
    PyObject *PyMethod_GET_SELF(object method)
    int PySys_Audit(const char *event, const char *format, ...) except -1
    int PyUnicode_CompareWithASCIIString(object text, const char *ascii)
    bint PyUnicode_IS_ASCII(object text)
    const char *PyUnicode_AsUTF8(object text) except NULL

cdef extern from "errno.h" nogil:
    const int EACCES, EAGAIN, EALREADY, EBADR, EBUSY, ECANCELED, EINTR, EINVAL, EISDIR, ELOOP
    const int EMFILE, ENAMETOOLONG, ENFILE, ENOENT, ENOMEM, ENOSYS, ENOTDIR, ENOTTY, EOPNOTSUPP
    const int EPERM, EROFS, ETIME, ETXTBSY, EXDEV

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **memptr, size_t alignment, size_t size)

cdef extern from "sys/mman.h" nogil:
    int munmap(void *addr, size_t length)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_trylock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *condition, void *attributes)
    int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, timespec *end)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_broadcast(pthread_cond_t *condition)

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "fcntl.h" nogil:
    const int AT_FDCWD
    const int F_SETFL
    const int O_CLOEXEC
    const int O_CREAT
    const int O_DIRECT
    const int O_DIRECTORY
    const int O_DSYNC
    const int O_NOFOLLOW
    const int O_NONBLOCK
    const int O_PATH
    const int O_TMPFILE
    const int O_TRUNC
    const int O_WRONLY
    const int O_ACCMODE
    const int O_RDONLY
    const int SEEK_CUR
    const int SEEK_SET

cdef extern from "sys/sysmacros.h" nogil:
    uint64_t makedev(unsigned int major, unsigned int minor)

cdef extern from "sys/stat.h" nogil:
    bint S_ISDIR(uint32_t mode)
    bint S_ISREG(uint32_t mode)
    bint S_ISFIFO(uint32_t mode)


# ---------------------------------------------------------------------------------------------
# Numbers shared with Python
# ---------------------------------------------------------------------------------------------

cdef enum:
    # What a now-call answers instead of a count: it would have to wait, or is not ours to do.
    _MISS = -1

    # Where a file's cached data can be read without sleeping
    _NOW_NEVER = 0
    _NOW_NOWAIT = 1     # preadv2(RWF_NOWAIT)
    _NOW_PLAIN = 2      # tmpfs without swap: everything is in memory
    _NOW_RESIDENT = 3   # overlayfs: ask mincore(2) first

    # States of an operation; ext/README.md has the table
    _NEW = 0
    _QUEUED = 1
    _STARTED = 2
    _DONE = 3

    # io_uring_enter takes at most this much in one transfer without losing the whole to one
    # short completion; the kernel's own limit is 0x7ffff000.
    _VECTORS_MAX = 1024     # Linux's UIO_MAXIOV
    _TRANSFER_MAX = 64 << 20
    # Direct I/O wants memory aligned to the logical block; no common device asks for more.
    _ALIGNMENT = 4096
    # Aligned buffers of 4 KiB, 8 KiB, ... 1 MiB are kept for the next operation, 1 MiB of each
    # size: memory that is new to the process costs more to touch than to copy.
    _POOL_CLASSES = 9
    _POOL_KEPT_MAX = 256
    _POOL_KEPT_MIN = 3          # as many threads as read many files
    # Completions are copied out in runs of this many.
    _REAP_RUN = 64
    # Turns of a loop with nothing to do that are spared one after the other
    _SPARED_MAX = 5
    # Trio's tasks, or uvloop's timers, that are looked through
    _SEEN_MAX = 64
    # How long the completion of an operation that is alone is looked for: four writes of 64 KiB.
    _LINGER_NS = 80_000
    # An operation whose worker did not notice that it is cancelled is asked again no sooner.
    _DEAF_NS = 10_000_000
    # What is sent for workers that do not come
    _KICKS_MAX = 16
    # Rounds of "more work has come meanwhile" in one wake-up before the loop gets its turn.
    _ROUNDS_MAX = 8
    # Below this many entries an enter is too short to be worth giving up the GIL.
    _ENTER_KEEP_GIL_MAX = 4
    # From here on a copy is timed: what it costs depends on the memory, by a factor of three.
    _MEASURED_MIN = 16 << 10
    # So long a small file that had a name is taken to have one still, see `close_now`
    _LINKED_NS = 1_000_000
    _LINKED_BYTES = 64 << 10
    # The smallest page of memory there is
    _PAGE_LEAST = 4096
    # Tasks that ask something of paths, from which on that is shared out (`Crew`)
    _CROWD = 16
    # Misses in a row after which a file's cached reads are tried only now and then.
    _MISSES_MAX = 4
    _SKIP = 15
    # CPython's structmember.h: any object
    _T_OBJECT_EX = 16

    # The kernel's own restart codes (include/linux/errno.h), seen when a cancel interrupts a
    # worker; never meant for users.
    _ERESTARTSYS = 512
    _ERESTARTNOINTR = 513
    _ERESTARTNOHAND = 514
    _ERESTART_RESTARTBLOCK = 516

MISS = _MISS
CROWD = _CROWD
NOW_NEVER = _NOW_NEVER
NOW_NOWAIT = _NOW_NOWAIT
NOW_PLAIN = _NOW_PLAIN
NOW_RESIDENT = _NOW_RESIDENT

OPERATIONS = {
    "nop": AU_OP_NOP, "read": AU_OP_READ, "write": AU_OP_WRITE, "openat": AU_OP_OPENAT,
    "close": AU_OP_CLOSE, "statx": AU_OP_STATX, "fsync": AU_OP_FSYNC,
    "fallocate": AU_OP_FALLOCATE, "ftruncate": AU_OP_FTRUNCATE, "async_cancel": AU_OP_ASYNC_CANCEL,
    "rename": AU_OP_RENAMEAT, "unlink": AU_OP_UNLINKAT, "mkdir": AU_OP_MKDIRAT,
    "symlink": AU_OP_SYMLINKAT, "link": AU_OP_LINKAT,
}
SETUP_FLAGS = {
    "SINGLE_ISSUER": AU_SETUP_SINGLE_ISSUER, "DEFER_TASKRUN": AU_SETUP_DEFER_TASKRUN,
    "TASKRUN_FLAG": AU_SETUP_TASKRUN_FLAG, "COOP_TASKRUN": AU_SETUP_COOP_TASKRUN,
    "NO_SQARRAY": AU_SETUP_NO_SQARRAY, "SUBMIT_ALL": AU_SETUP_SUBMIT_ALL,
}
FEATURES = {
    "NODROP": AU_FEAT_NODROP, "SUBMIT_STABLE": AU_FEAT_SUBMIT_STABLE,
    "RW_CUR_POS": AU_FEAT_RW_CUR_POS, "EXT_ARG": AU_FEAT_EXT_ARG,
    "NATIVE_WORKERS": AU_FEAT_NATIVE_WORKERS, "RSRC_TAGS": AU_FEAT_RSRC_TAGS,
}

# Newest first.  A kernel answers EINVAL to a flag it does not know; asking costs a system call
# once, and is right on kernels with backports, which version numbers are not.
cdef uint32_t[4] SETUP_LADDER
SETUP_LADDER[0] = (AU_SETUP_SINGLE_ISSUER | AU_SETUP_DEFER_TASKRUN | AU_SETUP_TASKRUN_FLAG
                   | AU_SETUP_COOP_TASKRUN | AU_SETUP_NO_SQARRAY | AU_SETUP_SUBMIT_ALL)
SETUP_LADDER[1] = (AU_SETUP_SINGLE_ISSUER | AU_SETUP_DEFER_TASKRUN | AU_SETUP_TASKRUN_FLAG
                   | AU_SETUP_COOP_TASKRUN | AU_SETUP_SUBMIT_ALL)
SETUP_LADDER[2] = AU_SETUP_COOP_TASKRUN | AU_SETUP_TASKRUN_FLAG | AU_SETUP_SUBMIT_ALL
SETUP_LADDER[3] = 0


# ---------------------------------------------------------------------------------------------
# Meter: may this operation be served at once?
# ---------------------------------------------------------------------------------------------

@cython.final
cdef class Member:
    """An attribute of other people's objects, read at the place that ``__slots__`` has given it.

    `getattr` takes 15 ns, and the gate would call it several times in a read of 250.  It does so
    where the attribute is no slot, and for objects of another class than the first one seen.
    """

    cdef object name
    cdef object cls             # of the objects seen first
    cdef Py_ssize_t offset      # 0: no slot

    def __cinit__(self, name):
        self.name = name

    cdef inline object of(self, object owner):
        cdef PyObject *value = self.kept(owner)
        return getattr(owner, self.name) if value == NULL else <object>value

    cdef inline PyObject *kept(self, object owner) except? NULL:
        """What the slot holds, borrowed; NULL: ask for it."""
        if type(owner) is not self.cls:
            if self.cls is not None:
                return NULL
            self.learn(type(owner))
        return (<PyObject **>(<char *><PyObject *>owner + self.offset))[0] if self.offset else NULL

    cdef int learn(self, cls) except -1:
        from types import MemberDescriptorType
        slot = getattr(cls, self.name, None)
        self.cls = cls
        if (type(slot) is MemberDescriptorType
                and (<PyMemberDescrObject *>slot).d_member.type == _T_OBJECT_EX):
            self.offset = (<PyMemberDescrObject *>slot).d_member.offset
        return 0


@cython.final
cdef class Meter:
    """The allowance of one loop, and its way to see whether the current task is cancelled.

    The compiled half of the gate (``anyio_uring._gate``).  It imports no event loop: the host
    hands over the few objects to look at (``anyio_uring._private`` names them and falls back to
    the public, slower question when one of them has changed its shape).
    """

    cdef uint8_t kind           # 0: ask in public, 1: asyncio under AnyIO, 2: Trio
    cdef unsigned long thread   # where the loop runs
    cdef object loop            # asyncio's; None once it has ended
    cdef uintptr_t runner       # identity of Trio's; 0 once it has ended
    cdef object current_task    # dict or callable: loop -> task
    cdef object task_states     # AnyIO's WeakKeyDictionary.data: ref(task) -> state
    cdef object eager           # asyncio's tasks in a first step within another's; None: unknown
    cdef Member cancel_scope, cancel_called, shield, parent_scope
    cdef object task_reference  # of the task seen last, and its state
    cdef object task_state
    cdef dict trio_locals       # Trio's variables of this thread: "task", "runner"
    cdef Member ki_pending, cancel_status, effectively_cancelled
    cdef public object runtime  # whose meter this is; None once its loop has ended
    cdef bint foresees          # what the loop has to do next can be seen
    cdef int events             # readable when the loop has descriptors to serve; -1: unknown
    cdef object ready           # uvloop's callbacks
    cdef object timers          # and timers
    cdef int spared             # turns of the loop, since the last that the gate has waited for
    cdef int64_t granted        # the allowance at its beginning,
    cdef int64_t granted_at     # when that was,
    cdef uintptr_t granted_to   # for which task,
    cdef int64_t used_up_at     # and when that found it used up
    cdef double due             # Trio's next deadline when it was last looked at
    cdef public bint busy       # a task waits for its turn (the gate's line)
    cdef readonly int64_t left
    cdef int64_t budget         # between two turns of the loop
    cdef int64_t budget_least   # of a task on its own before the loop's next timer,
    cdef int64_t budget_most    # and instead of a turn of a loop that has nothing to do
    cdef int64_t cost_fixed     # of one operation, in nanoseconds of the loop's time
    cdef int64_t cost_buffered  # of one that finds its data in a file's buffer
    cdef int cost_shift         # bytes >> shift: nanoseconds to copy them, at least
    cdef public int64_t linger_ns       # how long a completion is looked for
    cdef int in_vain            # completions that did not come in that time, running
    cdef int64_t lingered       # the time when one was looked for last
    cdef public Py_ssize_t inline_max
    cdef public bint enabled    # False: the now tier is switched off (a testing setting)
    cdef readonly uint64_t hits
    cdef readonly uint64_t misses
    cdef readonly uint64_t opened
    cdef readonly uint64_t closed
    cdef readonly Py_ssize_t crowd      # questions of tasks that the crew has not answered yet
    cdef object fresh           # what the crew has given a task that has not waited since
    cdef Crew crew

    def __cinit__(self):
        # Some 120 cached reads of 4 KiB, or three of 1 MiB; docs/explanation/fairness.md
        self.budget = 200_000
        self.budget_least = 60_000
        self.budget_most = 400_000
        self.cost_fixed = 1_450
        self.cost_buffered = 500    # more than it is: the task does something with each of them
        self.cost_shift = 4     # 16 bytes per nanosecond: fast memory, see `took`
        self.left = self.granted = self.budget
        self.granted_at = self.used_up_at = au_now()
        self.events = -1
        self.inline_max = 1 << 20
        self.enabled = True
        self.linger_ns = _LINGER_NS

    def watch_asyncio(self, loop, current_task, task_states, eager=None):
        self.kind = 1
        self.eager = eager
        self.thread = PyThread_get_thread_ident()
        self.loop = loop
        self.current_task = current_task
        self.task_states = task_states
        self.cancel_scope = Member("cancel_scope")
        self.cancel_called = Member("_cancel_called")
        self.shield = Member("_shield")
        self.parent_scope = Member("_parent_scope")

    def watch_trio(self, runner, dict trio_locals not None):
        self.kind = 2
        self.thread = PyThread_get_thread_ident()
        self.runner = <uintptr_t><void *>runner
        self.trio_locals = trio_locals
        self.ki_pending = Member("ki_pending")
        self.cancel_status = Member("_cancel_status")
        self.effectively_cancelled = Member("effectively_cancelled")

    def foresee(self, int events, ready=None, timers=None):
        """From now on `spare` can tell what the loop has to do next.

        :param events: a descriptor that is readable when the loop has others to serve.  With it
            turns that would find nothing to do can be spared; -1: there is none
        :param ready: uvloop's callbacks; other loops have them in an attribute
        :param timers: and its timers
        """
        self.foresees = True
        self.events = events
        self.ready = ready
        self.timers = timers
        self.due = INFINITY

    def checkpoint_every(self, int64_t count):
        """Count operations instead of time: a turn of the loop after every `count` of them."""
        self.budget = self.budget_least = self.budget_most = count
        self.cost_fixed = self.cost_buffered = 1
        self.cost_shift = 63
        self.left = 0

    def retire(self):
        """The loop has ended: no file may take this meter for the current one any more."""
        self.kind = 0
        self.foresees = False
        self.events = -1
        self.loop = self.task_reference = self.task_state = self.runtime = self.crew = None
        self.ready = self.timers = None
        self.runner = 0

    def refill(self, double spare=-1.0):
        """After a turn of the loop.

        :param spare: for a task on its own, seconds until the loop has something else to do
        """
        cdef int64_t allowance = self.budget
        if 0 <= spare * 1e9 < self.budget:
            allowance = max(<int64_t>(spare * 1e9), self.budget_least)
        self.spared = 0
        self.grant(allowance, self.task())

    cpdef bint overdue(self) except -1:
        """Whether the loop was busy otherwise, or asleep, for much longer than the last allowance,
        since that was used up.
        """
        return au_now() - self.used_up_at > 4 * self.granted

    cdef uintptr_t task(self) except? 0:
        """The identity of the current task."""
        cdef PyObject *found
        if self.kind == 2:
            found = PyDict_GetItemWithError(self.trio_locals, "task")
            return <uintptr_t>found
        if self.kind == 1 and type(self.current_task) is dict:
            found = PyDict_GetItemWithError(self.current_task, self.loop)
            return <uintptr_t>found
        if self.kind == 1:
            current = self.current_task(self.loop)
            return <uintptr_t><void *>current
        return 0

    cpdef double spare(self) except? -2.0:
        """Seconds until the loop has something else to do; 0.0: at once; -1.0: nobody can tell.

        Once in a turn: on Trio it also tells what has become due since the last time.
        """
        cdef double seconds = INFINITY
        if not self.foresees:
            return -1.0
        if self.ready is not None:
            if self.ready:
                return 0.0
            if len(self.timers) > _SEEN_MAX:
                return -1.0
            for timer in self.timers:
                seconds = min(seconds, timer.when())
            seconds -= au_now() * 1e-9      # the loop's own clock stands still between its turns
        elif self.kind == 1:
            if self.loop._ready or self.loop._stopping:
                return 0.0
            timers = self.loop._scheduled   # another list now and then
            if timers:
                seconds = timers[0].when() - self.loop.time()
        else:
            runner = self.trio_locals["runner"]
            seconds = runner.clock.current_time()
            # One that has passed woke a task for the round which runs now: not in the queue
            passed = self.due <= seconds
            self.due = runner.deadlines.next_deadline()
            if passed or runner.runq:
                return 0.0
            seconds = self.due - seconds
        if not seconds > 0 or (self.events >= 0 and au_readable(self.events)):
            return 0.0
        return seconds

    cdef bint spare_turn(self) except -1:
        """Refill without a turn of the loop: where it would find nothing to do, or is so busy with
        other things that a small allowance is lost among them.

        The former not for ever, and only for a task that does little else: what it does between its
        operations takes nothing from the allowance, and there may be much of it.  The latter only
        for another task than the last time: in a server each request would else wait for all the
        others at each of its operations.
        """
        cdef double seconds
        cdef uintptr_t task
        cdef int64_t now
        cdef bint overdue
        if self.cost_shift == 63:
            return False            # operations are counted
        task = self.task()
        if task != self.granted_to and self.granted_to != 0:
            # An eager task is another one without any turn of the loop
            overdue = ((self.kind == 2 or (self.eager is not None and not self.eager))
                       and self.overdue())
            if overdue:
                self.grant(self.budget_least, task)
            return overdue
        self.granted_to = task
        self.used_up_at = now = au_now()    # what went by until here was its own time
        if (self.events < 0 or self.busy or self.spared == _SPARED_MAX
                or now - self.granted_at > 4 * self.granted):
            return False
        if self.others_ready() if self.kind == 2 else self.cancelling():
            return False            # there is a turn to wait for
        seconds = self.spare()
        if not seconds * 1e9 >= self.budget_least:
            return False
        self.grant(<int64_t>min(seconds * 1e9, <double>self.budget_most), task)
        self.spared += 1
        return True

    cdef void grant(self, int64_t allowance, uintptr_t task) noexcept:
        self.left = self.granted = allowance
        self.granted_at = self.used_up_at = au_now()
        self.granted_to = task

    cdef bint cancelling(self) except -1:
        """Whether the current asyncio task is being cancelled."""
        if type(self.current_task) is dict:
            task = self.current_task.get(self.loop)
        else:
            task = self.current_task(self.loop)
        return task is None or task.cancelling()

    cdef bint others_ready(self) except -1:
        """Whether a Trio task is ready beside the current one, in this round or the next."""
        tasks = self.trio_locals["runner"].tasks
        if len(tasks) > _SEEN_MAX:
            return True             # for all that can be told
        for task in tasks:
            if task._next_send_fn is not None:
                return True
        return False

    def linger(self, Ring ring not None, Operation operation not None):
        """Look for the completion of an operation that was just submitted, for a short while.

        A kernel worker writes 64 KiB to the page cache in 20 us.  To sleep meanwhile, and be woken,
        takes as long at best, and on a virtual machine, whose idle processors are given back to the
        host, five times that.  So: for an operation that waits for no device, alone in the ring,
        while the loop has nothing else to do; and not where that was in vain.  What it takes comes
        out of the allowance.

        :returns: the operations that have finished
        """
        cdef int64_t begun, end
        if ring.inflight != 1 or not operation.is_short() or not self.may_linger():
            return NOTHING
        begun = self.lingered = au_now()
        end = begun + self.linger_ns
        with nogil:
            while self.lingered < end and not ring.stirs():
                au_relax()
                self.lingered = au_now()
        return ring.poll() if self.has_lingered(begun) else NOTHING

    def linger_in_thread(self):
        """The same for what a thread is about to do, if this is the time for it: a `Landing`, which
        is given to the thread before it is looked at; else None.
        """
        return new_landing(self) if self.may_linger() else None

    cdef bint may_linger(self) except -1:
        """Whether this is the time to look for a completion."""
        if self.linger_ns == 0 or self.left <= 0 or self.busy:
            return False
        if self.in_vain >= _MISSES_MAX:
            self.in_vain += 1
            if self.in_vain & _SKIP:
                return False
        if self.events < 0 or not self.spare() * 1e9 >= self.linger_ns:
            return False
        return self.kind != 2 or not self.others_ready()

    cdef bint has_lingered(self, int64_t begun):
        """From `begun` to `lingered`: what that has cost, and whether it has come by then."""
        self.left -= self.lingered - begun
        if self.lingered - begun >= self.linger_ns:
            self.in_vain += 1
            return False
        self.in_vain = 0
        return True

    cpdef bint charge(self, Py_ssize_t size) except -1:
        """Take the cost of one operation; False when nothing is left and a turn is due."""
        if self.left <= 0 and not self.spare_turn():
            return False
        self.left -= self.cost_fixed + (size >> self.cost_shift)
        return True

    def spend(self, Py_ssize_t size):
        """Take the cost of bytes that were copied by an operation admitted without knowing them."""
        self.left -= size >> self.cost_shift

    cdef bint admit_buffered(self, Py_ssize_t size) except -1:
        """As `admit`, for an operation that makes no system call."""
        if not self.look() or (self.left <= 0 and not self.spare_turn()):
            return False
        self.left -= self.cost_buffered + (size >> self.cost_shift)
        return True

    cdef void took(self, Py_ssize_t size, int64_t elapsed) noexcept:
        """Take what copying so many bytes has cost beyond the estimate, in nanoseconds."""
        if self.cost_shift < 63:
            self.left -= max(elapsed - (size >> self.cost_shift), 0)

    cpdef void refund(self, Py_ssize_t size) noexcept:
        """Give back the cost of an operation that waits after all, for a thread."""
        self.left = min(self.left + self.cost_fixed + (size >> self.cost_shift), self.budget_most)

    cdef bint admit(self, Py_ssize_t size) except -1:
        """False: ask the gate (another loop, a cancelled scope, or the allowance is used up)."""
        return self.look() and self.charge(size)

    def admits(self, Py_ssize_t size):
        """As `admit`, for the slow path; no more is charged than what is copied at once."""
        return self.admit(min(size, self.inline_max))

    cdef bint look(self) except -1:
        """Whether this meter's loop runs the current task and no scope around it is cancelled."""
        if self.kind == 1:
            return self.look_asyncio()
        if self.kind == 2:
            return self.look_trio()
        return False

    cdef bint look_asyncio(self) except -1:
        cdef PyObject *found
        # Asking for the running loop would cost a getpid(2) on 3.11.  In the loop's own thread
        # its entry in the table of current tasks says the same.
        if PyThread_get_thread_ident() != self.thread:
            return False
        if type(self.current_task) is dict:
            found = PyDict_GetItemWithError(self.current_task, self.loop)
            if found == NULL:
                return False
        else:
            task = self.current_task(self.loop)
            if task is None:
                return False
            found = <PyObject *>task
        # What a task's state is, AnyIO does not change
        if (self.task_reference is None
                or (<PyWeakReference *>self.task_reference).wr_object != found):
            if not self.task_states:
                return True
            reference = PyWeakref_NewRef(<object>found, None)
            found = PyDict_GetItemWithError(self.task_states, reference)
            if found == NULL:
                return True
            self.task_reference = reference
            self.task_state = <object>found
        scope = self.cancel_scope.of(self.task_state)
        while scope is not None:
            if self.cancel_called.of(scope):
                return False
            if self.shield.of(scope):
                return True
            scope = self.parent_scope.of(scope)
        return True

    cdef bint look_trio(self) except -1:
        cdef PyObject *found
        if PyThread_get_thread_ident() != self.thread:
            return False
        found = PyDict_GetItemWithError(self.trio_locals, "runner")
        if <uintptr_t>found != self.runner or self.ki_pending.of(<object>found):
            return False
        found = PyDict_GetItemWithError(self.trio_locals, "task")
        if found == NULL:
            return False
        status = self.cancel_status.of(<object>found)
        return not self.effectively_cancelled.of(status)

    def clear(self):
        """True when `look` says that nothing stands in the way (for the slow path and tests)."""
        return self.look()


cdef enum:
    _ALOFT, _AWAITED, _LANDED


@cython.final
cdef class Landing:
    """Where the loop's thread looks for the end of what another thread does."""

    cdef Meter meter
    cdef uint32_t state

    def land(self):
        """It is done; False if nobody is looking, who has to be told otherwise then."""
        return au_exchange(&self.state, _LANDED) == _AWAITED

    def look(self):
        """Wait for it without the interpreter's lock, but not for long; whether it has come."""
        cdef int64_t begun, end
        cdef Meter meter = self.meter
        begun = meter.lingered = au_now()
        end = begun + meter.linger_ns
        with nogil:
            while meter.lingered < end and au_load_acquire(&self.state) != _LANDED:
                au_relax()
                meter.lingered = au_now()
        meter.has_lingered(begun)
        return au_exchange(&self.state, _ALOFT) == _LANDED


cdef Landing new_landing(Meter meter):
    cdef Landing landing = Landing.__new__(Landing)
    landing.meter = meter
    landing.state = _AWAITED
    return landing


# ---------------------------------------------------------------------------------------------
# Handle: a file descriptor and what is known about it
# ---------------------------------------------------------------------------------------------

cdef long surely_resident(int fd, bint writable, Py_ssize_t size, int64_t offset) noexcept nogil:
    """0 if all of [offset, offset + size) up to EOF is in memory on overlayfs; else -errno."""
    cdef au_statx facts
    cdef int64_t end
    if offset == -1:
        return -EAGAIN      # where that is only the kernel knows
    if au_statx_call(fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC, AU_STATX_BASIC_STATS,
                     &facts) < 0:
        return -EAGAIN
    if not writable and not au_mincore_is_true(fd, facts.stx_uid):
        return -EOPNOTSUPP
    end = min(<int64_t>facts.stx_size, offset + size)
    if end > offset and au_resident(fd, offset, <size_t>(end - offset)) != 1:
        return -EAGAIN
    return 0


cdef Py_ssize_t read_in_memory(int fd, int now, char *data, Py_ssize_t size, int64_t offset,
                               int64_t end) noexcept nogil:
    """Read until there is no more or no room for it: how much, or -errno.

    A read that stops short may have met the end of the file or a page that is not in memory; the
    next one tells.  It can be spared where the first stops at the end that statx(2) has told and
    within a page: missing pages begin on the border of one.

    :param end: that end, of a file whose size is no hearsay; -1: none was told
    """
    cdef Py_ssize_t count = 0
    cdef long result
    while True:
        if now == _NOW_NOWAIT:
            result = au_preadv2(fd, data + count, size - count,
                                -1 if offset == -1 else offset + count, AU_RWF_NOWAIT)
        else:
            result = au_pread(fd, data + count, size - count,
                              -1 if offset == -1 else offset + count)
        if result < 0:
            # At the kernel's own offset a first part is already consumed: return it.  (Evicted,
            # or another process has moved the offset, since the look.)
            return count if count and offset == -1 else result
        count += result
        if result == 0 or count == size:
            return count
        if end >= 0 and offset + count == end and end % _PAGE_LEAST:
            return count


cdef object shortened(PyObject *data, Py_ssize_t size):
    """Fresh bytes that nobody else has, cut off; their reference is used up."""
    _PyBytes_Resize(&data, size)
    result = <object>data
    Py_DECREF(result)
    return result


@cython.final
cdef class Handle:
    """An open file descriptor, with the facts that decide which tier may serve it.

    Owns the descriptor (if `closefd`) until `release` passes it to whoever closes it.  Counts the
    operations in the kernel that use it: the descriptor is not closed under them.
    """

    cdef readonly int fd                # -1 once released
    cdef readonly int open_flags
    cdef readonly uint32_t st_mode
    cdef readonly uint32_t blksize
    cdef readonly bint closefd
    cdef readonly bint readable
    cdef readonly bint writable
    cdef readonly bint append
    cdef readonly bint regular
    cdef readonly bint nonblocking
    cdef readonly bint direct
    cdef readonly bint local            # regular, on an allow-listed local file system
    cdef public bint closes_now         # as long as it is linked: nobody is asked by its close
    cdef readonly int now               # NOW_*
    cdef readonly int inflight
    cdef public bint shared             # the kernel's offset counts, not `position`
    cdef public bint seekable
    cdef public bint closing            # no new operations
    cdef public bint busy               # an operation owns the position: wait in line
    cdef public int64_t position
    cdef public Meter meter             # of the loop that used the file last
    cdef public bytes kept              # read from a stream for a task that had left
    cdef public object when_idle        # called once, when the last operation leaves
    cdef public uint32_t align          # direct I/O in blocks of this size is our affair; 0: not
    cdef public object guard            # the `BlockGuard` of such a file
    cdef public object twin             # the synchronous file on the descriptor, once asked for
    cdef public int64_t linked_at       # when a helper saw that a small file has a name; 0: look
    cdef readonly bint tried            # the last attempt of the hot path was made, and missed
    cdef int64_t expected               # where it ended when last seen, a guess; -1: unknown
    cdef int misses, skip
    cdef object __weakref__

    def __cinit__(self):
        self.fd = -1
        self.kept = b""
        self.expected = -1

    def __init__(self, int fd, int open_flags, *, bint closefd=True, uint32_t st_mode=0,
                 uint32_t blksize=0, int now=_NOW_NEVER, bint local=False):
        self.begin(fd, open_flags, closefd)
        self.learn(st_mode, blksize, now, local)

    cdef void begin(self, int fd, int open_flags, bint closefd) noexcept:
        self.fd = fd
        self.open_flags = open_flags
        self.closefd = closefd
        self.readable = (open_flags & O_ACCMODE) != 1      # not O_WRONLY
        self.writable = (open_flags & O_ACCMODE) != O_RDONLY
        self.append = (open_flags & 0o2000) != 0           # O_APPEND
        self.nonblocking = (open_flags & O_NONBLOCK) != 0
        self.direct = (open_flags & O_DIRECT) != 0

    cdef void learn(self, uint32_t st_mode, uint32_t blksize, int now, bint local) noexcept:
        self.st_mode = st_mode
        self.blksize = blksize
        self.regular = S_ISREG(st_mode)
        self.seekable = self.regular or (st_mode & 0o170000) == 0o060000
        self.local = local and self.regular
        self.closes_now = self.local and not self.writable
        # A stream waits for its peer, whatever file system its name is on
        self.now = now if self.regular and not self.direct else _NOW_NEVER

    def __dealloc__(self):
        # The last resort: whoever dropped the file has warned already, and no operation is in
        # flight, since each holds a reference.
        if self.fd >= 0 and self.closefd:
            au_close(self.fd)

    @property
    def closed(self):
        return self.fd < 0 or self.closing

    def release(self):
        """Give up the descriptor: returns it, and this handle is closed from now on."""
        cdef int fd = self.fd
        self.fd = -1
        self.closing = True
        return fd

    def forget_operations(self):
        """After fork, in the child: the operations in flight are the parent's."""
        self.inflight = 0
        self.busy = False
        self.when_idle = None

    def call_when_idle(self, callback):
        """Have `callback` called by the last operation that leaves; False if there is none.

        One step, since that operation may leave in another thread.
        """
        if self.inflight == 0:
            return False
        self.when_idle = callback
        return True

    def join(self):
        """Somebody uses the descriptor; it is not closed meanwhile."""
        self.inflight += 1

    cpdef int leave(self) except -1:
        """The counterpart of `join`, in whatever thread."""
        self.inflight -= 1
        if self.inflight == 0 and self.when_idle is not None:
            callback, self.when_idle = self.when_idle, None
            callback()
        return 0

    # -- reads that never sleep ---------------------------------------------------------------

    cdef Py_ssize_t read_cached(self, char *data, Py_ssize_t size, int64_t offset,
                                int64_t end=-1) noexcept nogil:
        """Read all of [offset, offset + size) up to EOF from memory; -errno when that cannot be.

        EAGAIN means "would have to wait", anything else is handed to the next tier as well, so
        that an error is raised in one place, by a call that may take its time over it.

        :param end: where the file ends, as far as is known (see `read_in_memory`)
        """
        cdef Py_ssize_t count
        if self.now == _NOW_RESIDENT:
            count = surely_resident(self.fd, self.writable, size, offset)
            if count < 0:
                return count
        if offset == -1 and self.now == _NOW_NOWAIT:
            # There a first part would be consumed before it turns out that the rest is not in
            # memory, and a short read is taken for the end of the file.  So look first.
            offset = au_lseek(self.fd, 0, SEEK_CUR)
            if offset < 0:
                return -EAGAIN
            count = self.read_cached(data, size, offset)
            if count < 0:
                return count
            offset = -1
        return read_in_memory(self.fd, self.now, data, size, offset, end)

    cdef Py_ssize_t read_measured(self, char *data, Py_ssize_t size, int64_t offset,
                                  int64_t end=-1) noexcept:
        """As `read_cached`, charged by the clock where copying is most of it: memory differs."""
        cdef int64_t start
        cdef Py_ssize_t count
        if size < _MEASURED_MIN:
            return self.read_cached(data, size, offset, end)
        start = au_now()
        count = self.read_cached(data, size, offset, end)
        if count >= 0:
            self.meter.took(size, au_now() - start)
        return count

    cdef bint may_try(self, Py_ssize_t size) noexcept:
        if self.now == _NOW_NEVER or size > self.meter.inline_max or not self.meter.enabled:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        return True

    cdef void missed(self, Py_ssize_t error) noexcept:
        self.meter.misses += 1
        if error == -EOPNOTSUPP or error == -EINVAL or error == -ENOSYS:
            self.now = _NOW_NEVER   # this file cannot; others on other file systems may
        else:
            self.misses += 1
            if self.misses >= _MISSES_MAX:
                self.skip = _SKIP

    cdef object bytes_now(self, Py_ssize_t size, int64_t offset, int64_t end=-1):
        """bytes, or None.  Everything has been checked and charged."""
        cdef PyObject *data
        cdef Py_ssize_t count
        if not self.may_try(size):
            return None
        result = PyBytes_FromStringAndSize(NULL, size)
        count = self.read_measured(PyBytes_AS_STRING(result), size, offset, end)
        if count < 0:
            self.missed(count)
            return None
        self.misses = 0
        self.meter.hits += 1
        if count == size:
            return result
        data = <PyObject *>result
        Py_INCREF(result)
        result = None
        return shortened(data, count)

    # `pread` and `read` answer None for whatever is not served on the spot, be it a question for
    # the gate, an error to be raised or data that is not there; `tried` tells the last apart.

    cpdef object pread(self, Py_ssize_t size, int64_t offset):
        """Cached bytes at `offset`, or None.  The hot path of positional reads."""
        self.tried = False
        if (self.meter is None or self.fd < 0 or self.closing or not self.readable or size < 0
                or offset < 0 or not self.seekable or not self.meter.admit(size)):
            return None
        result = self.bytes_now(size, offset)
        if result is None:
            self.tried = True
            self.meter.refund(size)
        return result

    cpdef object read(self, Py_ssize_t size):
        """Cached bytes at the position, which moves, or None."""
        self.tried = False
        if (self.meter is None or self.fd < 0 or self.closing or not self.readable or size < 0
                or self.busy or not self.seekable or not self.meter.admit(size)):
            return None
        result = self.bytes_now(size, -1 if self.shared else self.position)
        if result is None:
            self.tried = True
            self.meter.refund(size)
        elif not self.shared:
            self.position += PyBytes_GET_SIZE(result)
        return result

    def pread_cached(self, Py_ssize_t size, int64_t offset):
        """Like `pread` for a caller that has been admitted already: bytes or None."""
        return self.bytes_now(size, offset)

    def fill_cached(self, bytes whole not None, Py_ssize_t start, Py_ssize_t size, int64_t offset):
        """Read from memory into a part of fresh bytes (`new_bytes`): the count, or MISS."""
        cdef Py_ssize_t count
        if start < 0 or size < 0 or start + size > PyBytes_GET_SIZE(whole):
            raise ValueError("piece outside its buffer")
        if not self.may_try(size):
            return _MISS
        count = self.read_measured(PyBytes_AS_STRING(whole) + start, size, offset)
        if count < 0:
            self.missed(count)
            return _MISS
        self.misses = 0
        self.meter.hits += 1
        return count

    def readinto_cached(self, buffer, int64_t offset):
        """Fill a writable buffer from memory: the count, or MISS.  The caller was admitted."""
        cdef Py_buffer view
        cdef Py_ssize_t count
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE | PyBUF_SIMPLE)
        try:
            if not self.may_try(view.len):
                return _MISS
            count = self.read_measured(<char *>view.buf, view.len, offset)
        finally:
            PyBuffer_Release(&view)
        if count < 0:
            self.missed(count)
            return _MISS
        self.misses = 0
        self.meter.hits += 1
        return count

    # -- other calls that never sleep ---------------------------------------------------------

    def size_now(self):
        """st_size of a file whose inode is in memory by its nature, or MISS."""
        cdef au_statx facts
        if not (self.local and self.meter is not None and self.meter.enabled) or au_statx_call(
                self.fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC, AU_STATX_BASIC_STATS,
                &facts) < 0:
            return _MISS
        return facts.stx_size

    cpdef int close_now(self) noexcept:
        """Close at once if that cannot sleep: 0 (closed) or MISS.

        Opened read-only, still linked, on a local file system, or at once on another: no truncation
        to finish, no inode to delete.  Of a small file that a helper has opened a moment ago, for a
        task that has not waited for anything since, a name is taken for granted: to look takes as
        long as to close.  Only somebody else can have deleted it in that time.
        """
        cdef au_statx facts
        if (not self.closes_now or self.inflight or self.meter is None
                or not self.meter.enabled):
            return _MISS
        if (self.meter.fresh is not self or au_now() - self.linked_at > _LINKED_NS) and (
                au_statx_call(self.fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC,
                              AU_STATX_BASIC_STATS, &facts) < 0 or facts.stx_nlink == 0):
            return _MISS
        self.closing = True
        au_close(self.fd)
        self.fd = -1
        self.meter.closed += 1
        return 0


@cython.final
cdef class Buffer:
    """What a buffered file holds between its user and the kernel.

    Either bytes that were read ahead or bytes that are still to be written, never both.  The
    handle's position (or the kernel's own) is where the next transfer goes: behind what was read
    ahead, or where the unwritten bytes begin.

    :param size: of reads that fill it, and the most that it holds unwritten, in bytes
    :param past: the size of writes that go past it, even if they would fit
    :ivar changes: counts what `pwrite` has changed in the file, so that a read under way does not
        keep what is older
    """

    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t past
    cdef public Py_ssize_t changes
    cdef bytes data                 # read ahead; `data[start:]` is unread
    cdef Py_ssize_t start
    cdef char *dirty                # `size` bytes, of which `pending` are unwritten
    cdef readonly Py_ssize_t pending

    def __cinit__(self):
        self.data = b""

    def __init__(self, Py_ssize_t size, Py_ssize_t past):
        if size < 1:
            raise ValueError("buffer size must be positive")
        self.size = size
        self.past = past

    def __dealloc__(self):
        free(self.dirty)

    cdef inline Py_ssize_t ahead(self) noexcept:
        return PyBytes_GET_SIZE(self.data) - self.start

    @property
    def unread(self):
        """Bytes read ahead."""
        return self.ahead()

    cpdef bytes take(self, Py_ssize_t size):
        """The next `size` bytes (or as many as there are)."""
        cdef bytes result
        if size > self.ahead():
            size = self.ahead()
        if size == PyBytes_GET_SIZE(self.data):
            result = self.data
        else:
            result = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.data) + self.start, size)
        self.start += size
        if PyBytes_GET_SIZE(self.data) > self.size and self.ahead() <= self.size:
            # A big read has gone through here: do not keep its memory
            self.data = self.data[self.start:]
            self.start = 0
        return result

    cdef Py_ssize_t line_end(self, Py_ssize_t limit) noexcept:
        """The size of the next line, newline included, or -1 if its end is not here."""
        cdef Py_ssize_t size = self.ahead()
        cdef char *begin = PyBytes_AS_STRING(self.data) + self.start
        cdef char *end
        if 0 <= limit < size:
            size = limit
        end = <char *>memchr(begin, 10, size)
        if end != NULL:
            return end - begin + 1
        return size if size == limit else -1

    def take_line(self, Py_ssize_t limit):
        """The next line, cut off after `limit` bytes if that is not negative; None if its end has
        not been read yet."""
        cdef Py_ssize_t size = self.line_end(limit)
        return None if size < 0 else self.take(size)

    def peek(self):
        """What was read ahead, without taking it."""
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.data) + self.start, self.ahead())

    def fill(self, bytes data not None):
        """Bytes have been read: behind those that are still unread."""
        if self.ahead() == 0:
            self.data = data
        else:
            self.data = self.peek() + data
        self.start = 0

    def drop(self):
        """Forget what was read ahead; returns how many bytes that were."""
        cdef Py_ssize_t count = self.ahead()
        self.data = b""
        self.start = 0
        return count

    cpdef bint step(self, int64_t delta) except -1:
        """Move within what has been read; False if that is not possible."""
        if self.pending or not -self.start <= delta <= self.ahead():
            return False
        self.start += delta
        return True

    cpdef bint add(self, data, bint whole=False) except -1:
        """Take bytes to be written, if they fit and nothing is read ahead.

        :param whole: they are all of one write, which may go past the buffer
        """
        cdef Py_buffer view
        cdef bint fits
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            fits = view.len <= self.size - self.pending and self.ahead() == 0
            if whole and view.len >= self.past:
                fits = False
            if fits:
                if self.dirty == NULL:
                    self.dirty = <char *>malloc(self.size)
                    if self.dirty == NULL:
                        raise MemoryError
                # What lies behind us can be read again, but is not ours to step back into
                self.data = b""
                self.start = 0
                memcpy(self.dirty + self.pending, view.buf, view.len)
                self.pending += view.len
            return fits
        finally:
            PyBuffer_Release(&view)

    def unwritten(self):
        """A copy of the bytes still to be written, for the kernel."""
        return PyBytes_FromStringAndSize(self.dirty, self.pending)

    def written(self, Py_ssize_t count):
        """The first `count` of them have been."""
        if count > self.pending:
            count = self.pending
        if count > 0:
            self.pending -= count
            memmove(self.dirty, self.dirty + count, self.pending)


@cython.final
cdef class Text:
    """What a text file holds between its user and the bytes: decoded text and encoded bytes.

    :param newline: as of ``open``; says what ends a line
    :param chunk_size: encoded bytes are kept up to this many
    """

    cdef readonly unicode chars     # None: nothing was decoded since the last seek or write
    cdef Py_ssize_t start           # `chars[start:]` is unread
    cdef readonly object newline
    cdef Py_UCS4 ending             # the last character of a line's end; 0: any of the three
    cdef public Py_ssize_t chunk_size
    cdef readonly list encoded      # bytes that the buffer below has not got yet, in pieces
    cdef readonly Py_ssize_t size   # of them all
    # How `text_write_now` encodes: None if a write is more than that
    cdef public object encode
    cdef public object translated   # what is written for a newline; None for itself
    # How they decode: None if the position is not our own, or there is nothing to read
    cdef public object decoder
    cdef public bint idle           # the decoder has seen nothing
    # Its flags, and the bytes that it was given with them last, to tell the position; None
    # if that does not depend on a decoder
    cdef public tuple snapshot
    cdef public double ratio        # bytes for a character, as of the last chunk

    def __cinit__(self, newline, Py_ssize_t chunk_size):
        self.newline = newline
        self.ending = 13 if newline == "\r" else 0 if newline == "" else 10
        self.chunk_size = chunk_size
        self.encoded = []
        self.idle = True

    @property
    def used(self):
        """How much of `chars` has been read."""
        return self.start

    def decoded(self, unicode chars, Py_ssize_t used=0):
        """Hold other text, of which `used` has been read."""
        self.chars = chars
        self.start = used

    cdef inline Py_ssize_t ahead(self) noexcept:
        return 0 if self.chars is None else PyUnicode_GET_LENGTH(self.chars) - self.start

    @property
    def unread(self):
        """Characters that have been decoded and not read."""
        return self.ahead()

    cpdef unicode take(self, Py_ssize_t size):
        """The next `size` characters (or as many as there are)."""
        cdef Py_ssize_t begin = self.start
        if size > self.ahead():
            size = self.ahead()
        if size == 0:
            return ""
        self.start = begin + size
        return PyUnicode_Substring(self.chars, begin, begin + size)

    cdef Py_ssize_t find(self, Py_UCS4 char, Py_ssize_t begin, Py_ssize_t end) except -2:
        return PyUnicode_FindChar(self.chars, char, begin, end, 1)

    cpdef Py_ssize_t line_size(self, bint after_cr=False) except -2:
        """The size of the next line, its end included; -1 if that is not here.

        :param after_cr: the part of the line that has been taken ends with "\\r"
        """
        cdef Py_ssize_t begin = self.start, end, feed, back
        if self.ahead() == 0:
            return -1
        end = PyUnicode_GET_LENGTH(self.chars)
        if self.ending == 0:
            feed = self.find(10, begin, end)
            back = self.find(13, begin, end if feed < 0 else feed)
            if back < 0:
                return -1 if feed < 0 else feed + 1 - begin
            # The decoder never leaves the two characters of one end apart
            return back + (2 if feed == back + 1 else 1) - begin
        if self.newline != "\r\n":
            back = self.find(self.ending, begin, end)
            return -1 if back < 0 else back + 1 - begin
        feed = begin - 1
        while True:
            feed = self.find(10, feed + 1, end)
            if feed < 0:
                return -1
            if after_cr if feed == begin else self.chars[feed - 1] == "\r":
                return feed + 1 - begin

    cpdef decode_chunk(self, decoder, bytes chunk, bint telling):
        """Decode bytes, in place of what was decoded before; returns the characters."""
        cdef Py_ssize_t size
        held, flags = decoder.getstate() if telling else (b"", 0)
        self.idle = False
        chars = decoder.decode(chunk, not chunk)
        self.decoded(chars)
        size = PyUnicode_GET_LENGTH(self.chars)
        self.ratio = PyBytes_GET_SIZE(chunk) / <double>size if size else 0.0
        if telling:
            self.snapshot = (flags, held + chunk)
        return chars

    def add(self, bytes piece not None):
        """Hold encoded bytes."""
        self.encoded.append(piece)
        self.size += PyBytes_GET_SIZE(piece)

    def forget_encoded(self):
        """The buffer has got them."""
        self.encoded = []
        self.size = 0


# Of a file that has not been initialised: it is closed.
cdef Handle NO_HANDLE = Handle(-1, 0)


cdef class HandleOwner:
    """The compiled part of a file object: what every one has.

    Here the hot path finds the handle without asking the interpreter (an attribute of a class with
    ``__getattr__``, as AnyIO's is, costs more than the whole check), and an open file is made in a
    third of the time that an initialiser in Python takes.
    """

    cdef public Handle _handle
    cdef public Buffer _buffer      # None in an unbuffered file
    cdef public Text _text          # None in a binary file
    cdef public object _name, _mode, _limiter
    cdef public object _last_job
    cdef object line

    def __cinit__(self):
        self._handle = NO_HANDLE

    def __init__(self, Handle handle not None, name, mode, limiter=None, Buffer buffer=None):
        self._handle = handle
        self._name = name
        self._mode = mode
        self._limiter = limiter
        self._buffer = buffer
        self._text = self._last_job = self.line = None

    @property
    def _line(self):
        """The line for the position; made when something has to be waited for: with most small
        files nothing has.
        """
        if self.line is None:
            line = self._new_line()
            if self.line is None:       # (or another thread has been here)
                self.line = line
        return self.line

    @_line.setter
    def _line(self, line):
        self.line = line

    def __aenter__(self):
        return new_step(self, take_entered, begin_entering)

    # (AnyIO's would put a coroutine around that of `aclose`)
    def __aexit__(self, *_):
        closing = self.aclose
        if (PyMethod_Check(closing) and PyMethod_GET_SELF(closing) == <PyObject *>self
                and <object>PyMethod_GET_FUNCTION(closing) in QUICK_CLOSES):
            return new_step(self, take_closed, begin_closing)
        return closing()

    # Most files that go have been closed: to see that here is a tenth of what a method takes
    def __del__(self):
        cdef Handle handle = self._handle
        if handle is not None and handle.fd >= 0 and not handle.closing:
            self._dropped()

    def _dropped(self):
        """The file goes, and nobody has closed it."""


cdef object RAW_FILE = None, BUFFERED_FILE = None, BUFFER_SIZE = None
cdef uint32_t recent_blksize = 0
cdef Py_ssize_t recent_size = 0


def set_plain_files(raw, buffered, buffer_size):
    """Set what `open_plain` opens.

    :param raw: the class of files without a buffer,
    :param buffered: and with one
    :param buffer_size: st_blksize -> the size of the latter's, in bytes
    """
    global RAW_FILE, BUFFERED_FILE, BUFFER_SIZE, recent_blksize, recent_size
    RAW_FILE, BUFFERED_FILE, BUFFER_SIZE = raw, buffered, buffer_size
    recent_blksize, recent_size = 0, buffer_size(0)


cdef HandleOwner plain_file(Handle handle, name, bint buffered):
    """As their initialisers make it for mode "rb", in half the time."""
    global recent_blksize, recent_size
    kind = BUFFERED_FILE if buffered else RAW_FILE
    cdef HandleOwner file = (<PyTypeObject *>kind).tp_new(kind, (), NULL)
    file._name = name
    file._mode = "rb"
    if buffered:
        if handle.blksize != recent_blksize:
            recent_size = BUFFER_SIZE(handle.blksize)
            recent_blksize = handle.blksize
        file._buffer = Buffer.__new__(Buffer)
        file._buffer.size = file._buffer.past = recent_size     # (nothing will be written)
    file._handle = handle           # the last: what fails before leaves no file to be closed
    return file


def plain_attributes(cls):
    """Look the attributes of a class's instances up in the ordinary way, past ``__getattr__``.

    AnyIO's file class has a ``__getattr__`` that passes everything through to the file it wraps;
    ours wraps none.  Inheriting it makes each attribute and each method call take the
    interpreter's slow way (some 40 ns, three times in a cached read of 800).  Subclasses get the
    ordinary dispatch again, so the class still defines a ``__getattr__`` that only raises.
    """
    if not isinstance(cls, type):
        raise TypeError("not a class")
    (<PyTypeObject *>cls).tp_getattro = PyObject_GenericGetAttr
    PyType_Modified(<PyTypeObject *>cls)


def pread_now(HandleOwner file, Py_ssize_t size, offset):
    """`Handle.pread` of a file that holds nothing unwritten."""
    # (as an int64_t it could be a float)
    if type(offset) is not int or (file._buffer is not None and file._buffer.pending):
        file._handle.tried = False
        return None
    return file._handle.pread(size, offset)


def read_now(HandleOwner file, Py_ssize_t size):
    """`Handle.read` of a file."""
    return file._handle.read(size)


def close_quick(HandleOwner file):
    """Close a file that nobody uses, if that cannot sleep; False: go the long way."""
    cdef Handle handle = file._handle
    if (handle.fd < 0 or handle.closing or handle.busy or not handle.closefd
            or not handle.closes_now or handle.inflight or handle.meter is None
            or handle.twin is not None
            or (file._text is not None and file._text.size)
            or not handle.meter.admit(0)):
        return False
    if handle.close_now() == _MISS:
        handle.meter.refund(0)
        return False
    return True


# The same for buffered files.  Each does all of its operation or nothing, and answers None then.

# Beyond this a position may exceed what a file system holds; the kernel is asked then.
cdef int64_t POSITION_SAFE_MAX = <int64_t>1 << 42

cdef bint ready_to_read(HandleOwner file) noexcept:
    cdef Handle handle = file._handle
    return (handle.meter is not None and handle.fd >= 0 and not handle.closing
            and handle.readable and not handle.busy
            and file._buffer is not None and file._buffer.pending == 0)


cdef bytes read_ahead(HandleOwner file, Py_ssize_t wanted):
    """Cached bytes at the position, `wanted` or to the end of the file, or None.

    The position moves behind them; the caller was admitted.
    """
    cdef Handle handle = file._handle
    data = None
    if not handle.shared and handle.seekable:
        data = handle.bytes_now(wanted, handle.position)
    if data is None:
        handle.meter.refund(wanted)
        return None
    handle.position += PyBytes_GET_SIZE(data)
    return <bytes>data


cdef bytes rest_now(HandleOwner file):
    """All that is left of a file that is not big, or None."""
    cdef Handle handle = file._handle
    cdef Buffer buffer = file._buffer
    cdef int64_t end
    cdef Py_ssize_t wanted
    cdef bytes data, ahead
    if not ready_to_read(file) or handle.shared or not handle.local:
        return None
    # What `open` has found will do: if the file has grown, there is more than was asked for
    end = handle.expected
    if end < handle.position or handle.writable:
        end = handle.size_now()
    wanted = <Py_ssize_t>max(end - handle.position, 0) + 1
    if end < 0 or wanted > handle.meter.inline_max or not handle.meter.admit(wanted):
        return None
    data = handle.bytes_now(wanted, handle.position, end)
    if data is None or PyBytes_GET_SIZE(data) == wanted:
        handle.expected = -1
        handle.meter.refund(wanted)
        return None
    handle.position += PyBytes_GET_SIZE(data)
    ahead = buffer.take(buffer.ahead())
    buffer.drop()
    return ahead + data if ahead else data


def buffered_read_now(HandleOwner file, size):
    """`size` bytes at the position, fewer only at the end of the file; or None."""
    cdef Handle handle = file._handle
    cdef Buffer buffer = file._buffer
    cdef Py_ssize_t wanted, rest
    cdef bytes data
    if size is None:
        return rest_now(file)
    if type(size) is not int:
        return None
    wanted = size
    if wanted == -1:
        return rest_now(file)
    if wanted < 0 or not ready_to_read(file):
        return None
    rest = wanted - buffer.ahead()
    if rest <= 0:
        return buffer.take(wanted) if handle.meter.admit_buffered(wanted) else None
    if wanted > handle.meter.inline_max or handle.shared or not handle.meter.admit(wanted):
        return None
    # In whole buffers, as `io`: where the next one begins can be seen
    data = read_ahead(file, (rest + buffer.size - 1) // buffer.size * buffer.size)
    if data is None:
        return None
    if buffer.ahead() == 0:
        buffer.data = data
        buffer.start = 0
        return buffer.take(wanted)
    result = buffer.take(wanted)
    buffer.data = data
    buffer.start = 0
    return result + buffer.take(rest)


def buffered_readline_now(HandleOwner file):
    """The next line; or None."""
    cdef Handle handle = file._handle
    cdef Buffer buffer = file._buffer
    cdef Py_ssize_t size
    cdef bytes data
    if not ready_to_read(file):
        return None
    size = buffer.line_end(-1)
    if size >= 0:
        return buffer.take(size) if handle.meter.admit_buffered(size) else None
    if buffer.ahead() >= buffer.size or handle.shared or not handle.meter.admit(buffer.size):
        return None
    data = read_ahead(file, buffer.size)
    if data is None:
        return None
    at_end = PyBytes_GET_SIZE(data) < buffer.size
    buffer.fill(data)
    size = buffer.line_end(-1)
    if size < 0:
        if not at_end:
            return None     # a long line: what was read waits in the buffer
        size = buffer.ahead()
    return buffer.take(size)


def buffered_write_now(HandleOwner file, data):
    """Put bytes into the buffer: their number; or None if they do not fit."""
    cdef Handle handle = file._handle
    cdef Buffer buffer = file._buffer
    cdef Py_ssize_t before
    if buffer is None:
        return None
    before = buffer.pending
    if (handle.meter is None or handle.fd < 0 or handle.closing or not handle.writable
            or handle.busy or buffer.ahead() or type(data) is unicode
            or not handle.meter.admit_buffered(0) or not buffer.add(data, True)):
        return None
    return buffer.pending - before


def buffered_seek_now(HandleOwner file, offset, whence):
    """Move the position of a file that keeps it itself: the new position; or None."""
    cdef Handle handle = file._handle
    cdef Buffer buffer = file._buffer
    cdef int64_t position
    if (type(offset) is not int or type(whence) is not int or handle.meter is None
            or handle.fd < 0 or handle.closing or handle.busy or handle.shared
            or not handle.seekable or buffer is None or buffer.pending):
        return None
    position = handle.position - buffer.ahead()
    if whence == 0:
        if not 0 <= offset <= POSITION_SAFE_MAX:
            return None
        position = <int64_t>offset - position
    elif whence == 1:
        if not -position <= offset <= POSITION_SAFE_MAX:
            return None
        position = offset
    else:
        return None
    if not handle.meter.admit_buffered(0):
        return None
    # From here on `position` is the distance
    if not buffer.step(position):
        handle.position += position - buffer.drop()
    return handle.position - buffer.ahead()


def buffered_tell_now(HandleOwner file):
    """The position of a file that keeps it itself; or None."""
    cdef Handle handle = file._handle
    if (handle.meter is None or handle.fd < 0 or handle.closing or handle.busy or handle.shared
            or not handle.seekable or file._buffer is None
            or not handle.meter.admit_buffered(0)):
        return None
    return handle.position - file._buffer.ahead() + file._buffer.pending


# And for text files.

cdef unicode decode_ahead(HandleOwner file, Py_ssize_t wanted):
    """The next `wanted` characters, or the next line (-1), decoding a cached chunk; or None."""
    cdef Text text = file._text
    cdef Meter meter = file._handle.meter
    cdef Py_ssize_t begin = text.start, ahead = text.ahead(), size = text.chunk_size, found
    cdef unicode chars = text.chars, first
    cdef tuple snapshot = text.snapshot
    cdef bytes chunk
    if wanted > meter.inline_max or text.decoder is None or file._buffer.ahead():
        return None
    if wanted > ahead:
        size = max(size, <Py_ssize_t>(max(text.ratio, 1.0) * (wanted - ahead)))
    if size > meter.inline_max or file._handle.shared or not meter.admit(size):
        return None
    chunk = read_ahead(file, size)
    if not chunk:
        return None
    first = text.take(ahead)
    text.decoded(None)
    text.decode_chunk(text.decoder, chunk, True)
    if wanted < 0:
        found = text.line_size(first.endswith("\r"))
    else:
        found = wanted - ahead if wanted - ahead <= text.ahead() else -1
    if found >= 0:
        return first + text.take(found) if ahead else text.take(found)
    if ahead:
        # All of it is still to be read: as if it had come in one chunk
        text.decoded(chars + text.chars, begin)
        text.snapshot = (snapshot[0], snapshot[1] + chunk)
    return None


def text_read_now(HandleOwner file, size):
    """The next `size` characters, if they are decoded or cached; or None."""
    cdef Text text = file._text
    cdef Py_ssize_t wanted
    if type(size) is not int or size < 0 or not ready_to_read(file) or text.size:
        return None
    wanted = size
    if wanted > text.ahead():
        return decode_ahead(file, wanted)
    return text.take(wanted) if file._handle.meter.admit_buffered(wanted) else None


cdef unicode next_line(HandleOwner file):
    cdef Text text = file._text
    cdef Py_ssize_t size
    if not ready_to_read(file) or text.size:
        return None
    size = text.line_size()
    if size < 0:
        return decode_ahead(file, -1)
    return text.take(size) if file._handle.meter.admit_buffered(size) else None


def text_readline_now(HandleOwner file):
    """The next line, if it is decoded or cached; or None."""
    return next_line(file)


# What there is not at once.
cdef object ABSENT = object()
ctypedef object (*stepfunc)(object)


@cython.final
@cython.freelist(8)
cdef class Step:
    """What ``async for`` and ``async with`` await: the result is there at once, or a coroutine is
    awaited for it.
    """

    cdef object subject     # an iterator, or a file
    cdef stepfunc take      # the result, or ABSENT
    cdef stepfunc begin     # the coroutine
    cdef object waiting

    cdef int step(self, PyObject *value, PyObject **result) except -1:
        """Go on: what is yielded (1) or returned (0)."""
        if self.waiting is None:
            try:
                item = self.take(self.subject)
            except StopIteration as error:     # it would pass for a result
                raise RuntimeError("coroutine raised StopIteration") from error
            if item is not ABSENT:
                Py_INCREF(item)
                result[0] = <PyObject *>item
                return 0
            self.waiting = self.begin(self.subject)
        return PyIter_Send(<PyObject *>self.waiting, value, result)

    # As of a generator, for whoever follows what a task waits for (Trio's `iter_await_frames`)
    gi_frame = None

    @property
    def gi_yieldfrom(self):
        """What is awaited, if anything is."""
        return self.waiting

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """As of a coroutine."""
        cdef PyObject *result = NULL
        cdef int kind = self.step(<PyObject *>value, &result)
        found = <object>result
        Py_DECREF(found)
        if kind == 0:
            raise StopIteration(found)
        return found

    def throw(self, *error):
        """As of a coroutine."""
        if self.waiting is None:
            self.waiting = self.begin(self.subject)
        return self.waiting.throw(*error)

    def close(self):
        """As of a coroutine."""
        if self.waiting is not None:
            self.waiting.close()


# `raise StopIteration` costs several times the rest, so the interpreter gets the item by the two
# doors that it knows for awaiting; which one it takes depends on its version.

cdef int step_send(PyObject *step, PyObject *value, PyObject **result) except -1:
    return (<Step>step).step(value, result)


cdef PyObject *step_next(PyObject *step) except NULL:
    cdef PyObject *result = NULL
    cdef int kind = (<Step>step).step(<PyObject *>None, &result)
    return result if kind else stop_with(result)


cdef PyObject *stop_with(PyObject *result) except? NULL:
    """Raise StopIteration with what is returned."""
    found = <object>result
    Py_DECREF(found)
    if isinstance(found, (tuple, BaseException)):
        found = StopIteration(found)    # or it would be taken for the exception's arguments
    PyErr_SetObject(StopIteration, found)
    return NULL


(<PyTypeObject *>Step).tp_as_async.am_send = <sendfunc>step_send
(<PyTypeObject *>Step).tp_iternext = <iternextfunc>step_next


cdef Step new_step(object subject, stepfunc take, stepfunc begin):
    cdef Step step = Step.__new__(Step)
    step.subject, step.take, step.begin = subject, take, begin
    return step


# -- the ends of an ``async with``, which need no coroutine where nothing is waited for -----------

# Functions `aclose` that begin with `close_quick`
cdef set QUICK_CLOSES = set()


def closes_quickly(function):
    """A decorator: this `aclose` does nothing else where `close_quick` closes the file."""
    QUICK_CLOSES.add(function)
    return function


cdef object take_entered(object file):
    cdef Handle handle = (<HandleOwner>file)._handle
    return ABSENT if handle.fd < 0 or handle.closing else file


cdef object begin_entering(object file):
    return file._enter()


cdef object take_closed(object file):
    return None if close_quick(file) else ABSENT


cdef object begin_closing(object file):
    return file.aclose()


@cython.final
cdef class LineIterator:
    """The lines of a text file.

    :param slow: gives a coroutine for the next line, which raises StopAsyncIteration at the end
    """

    cdef HandleOwner file
    cdef object slow

    def __cinit__(self, HandleOwner file not None, slow):
        self.file = file
        self.slow = slow

    def __aiter__(self):
        return self

    def __anext__(self):
        return new_step(self, take_line, begin_line)


cdef object take_line(object lines):
    cdef unicode line = next_line((<LineIterator>lines).file)
    return ABSENT if line is None else line


cdef object begin_line(object lines):
    return (<LineIterator>lines).slow()


# -- the entries of a directory ---------------------------------------------------------------

cdef enum:
    _NAMES_CLASS = 3        # of the pool: what readdir(3) asks for at a time, too


@cython.final
cdef class Names:
    """The names in a directory, without ``.`` and ``..``, as they are read; for a worker thread."""

    cdef object path
    cdef char *block
    cdef long filled, position, last
    cdef int fd

    def __cinit__(self, path not None):
        cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
        cdef const char *name = PyBytes_AsString(encoded)
        cdef long fd = -EINTR
        self.path = path
        self.block = <char *>take_block(_NAMES_CLASS)
        self.fd = -1
        with nogil:
            while fd == -EINTR:
                fd = au_open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECTORY)
        if fd < 0:
            raise path_error(fd, path)
        self.fd = <int>fd

    def __dealloc__(self):
        self.let_go()

    cdef void let_go(self) noexcept:
        if self.block == NULL:      # it never came so far, and `fd` is 0; or it has let go
            return
        if self.fd >= 0:
            au_close(self.fd)
        give_block(self.block, _NAMES_CLASS)
        self.fd = -1
        self.block = NULL
        self.filled = self.position = 0

    def close(self):
        """Also in the middle; there is nothing more then."""
        self.let_go()

    def __iter__(self):
        return self

    def __next__(self):
        cdef au_dirent *entry
        cdef const char *name
        while True:
            if self.position >= self.filled and not self.fill():
                raise StopIteration
            entry = <au_dirent *>(self.block + self.position)
            self.last = self.position
            self.position += entry.reclen
            name = entry.name
            if name[0] != c"." or (name[1] and (name[1] != c"." or name[2])):
                return PyUnicode_DecodeFSDefault(name)

    def sort(self, bint follow):
        """What is left: the names of directories, and the others, as `os.DirEntry.is_dir` tells."""
        cdef list directories = [], others = []
        cdef au_dirent *entry
        cdef bint is_directory
        for name in self:
            entry = <au_dirent *>(self.block + self.last)
            is_directory = entry.type == AU_DT_DIR
            if entry.type == AU_DT_UNKNOWN or (entry.type == AU_DT_LNK and follow):
                with nogil:
                    is_directory = au_is_directory(self.fd, entry.name, follow)
            (directories if is_directory else others).append(name)
        return directories, others

    cdef bint fill(self) except -1:
        """Ask for more entries; False: there are none."""
        cdef long result = -EINTR
        if self.fd < 0:
            return False
        with nogil:
            while result == -EINTR:
                result = au_getdents(self.fd, self.block, <size_t>_ALIGNMENT << _NAMES_CLASS)
        self.position = 0
        self.filled = max(result, 0)
        if result < 0 and result != -ENOENT:    # it has been removed: readdir(3) ends there, too
            raise path_error(result, self.path)
        return result > 0


@cython.final
cdef class Children:
    """Makes paths of names: of a class that takes ``_text`` for a path, with its ``_limiter``."""

    cdef object kind            # with any metaclass
    cdef object limiter
    cdef unicode prefix

    def __cinit__(self, kind, limiter, unicode prefix not None):
        if not isinstance(kind, type):
            raise TypeError("not a class")
        self.kind = kind
        self.limiter = limiter
        self.prefix = prefix

    def __call__(self, unicode name not None):
        return self.make(name)

    cdef object make(self, unicode name):
        # (`__new__`, looked up and called, takes as long as all the rest)
        path = (<PyTypeObject *>self.kind).tp_new(self.kind, (), NULL)
        path._limiter = self.limiter
        path._text = self.prefix + name
        return path


cdef class Entries:
    """An asynchronous iterator over what is held, the next one last, as long as it lasts.

    :param convert: makes of an entry what is handed out
    """

    cdef readonly list _chunk
    cdef object convert

    def __init__(self, convert):
        self._chunk = []
        self.convert = convert

    def __aiter__(self):
        return self

    def __anext__(self):
        return new_step(self, take_entry, begin_refill)


cdef object take_entry(object iterator):
    cdef Entries entries = <Entries>iterator
    if not entries._chunk:
        return ABSENT
    entry = entries._chunk.pop()
    if type(entries.convert) is Children:
        return (<Children>entries.convert).make(entry)
    return entries.convert(entry)


cdef object begin_refill(object iterator):
    return iterator._refill()


def text_write_now(HandleOwner file, chars):
    """Encode and hold text: the number of characters; or None if the buffer has to get some."""
    cdef Handle handle = file._handle
    cdef Text text = file._text
    cdef bytes piece
    if (type(chars) is not unicode or text is None or text.encode is None or not text.idle
            or text.chars is not None or handle.meter is None or handle.fd < 0 or handle.closing
            or not handle.writable or handle.busy
            or PyUnicode_GET_LENGTH(chars) >= text.chunk_size - text.size):
        return None
    lines = chars
    if text.translated is not None and "\n" in lines:
        lines = lines.replace("\n", text.translated)
    encoded = text.encode(lines)
    if type(encoded) is not bytes:
        return None
    piece = encoded
    if (text.size + PyBytes_GET_SIZE(piece) >= text.chunk_size
            or not handle.meter.admit_buffered(PyBytes_GET_SIZE(piece))):
        return None
    text.encoded.append(piece)
    text.size += PyBytes_GET_SIZE(piece)
    return PyUnicode_GET_LENGTH(chars)


# ---------------------------------------------------------------------------------------------
# Opening and stating without sleeping
# ---------------------------------------------------------------------------------------------

# unique mount id (or device number, where the kernel has none) -> ("name", NOW_*, local)
cdef dict mounts = {}
cdef object classify = None
# unique mount id -> whether it is whole, of the mounts that directories were read on
cdef dict whole_mounts = {}
cdef object look_whole = None
cdef uint64_t whole_mount = 0   # one that is, which was met last; threads look without a lock


def set_classifier(function, whole_function):
    """Register ``function(mount_id, dev_major, dev_minor) -> (fs_type, now, local)`` and
    ``whole_function(now, local, dev_major, dev_minor) -> bool`` (`_mounts.is_whole`).

    Called once for each mount that files are opened on, the second in a worker thread;
    `mount_id` is -1 before Linux 5.8.
    """
    global classify, look_whole
    classify, look_whole = function, whole_function
    forget_mounts()


def forget_mounts():
    global whole_mount
    mounts.clear()
    whole_mounts.clear()
    whole_mount = 0


cdef object mount_facts(int fd, au_statx *facts):
    """(fs_type, now, local) of the mount that `fd` is on, as `_mounts.classify`.

    The key must never come to mean another mount: unique mount ids (6.8) are not reused; the
    device number of a block device stays local storage whatever is mounted from it; anonymous
    device numbers (major 0) are reused, so without unique ids those mounts are not cached.
    """
    cdef au_statx old
    cdef long mount_id = -1
    cdef object key = None
    if facts.stx_mask & AU_STATX_MNT_ID_UNIQUE:
        key = facts.stx_mnt_id
    elif facts.stx_dev_major:
        key = (facts.stx_dev_major, facts.stx_dev_minor)
    if key is not None:
        found = mounts.get(key)
        if found is not None:
            return found
    if au_statx_call(fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC,
                     AU_STATX_BASIC_STATS | AU_STATX_MNT_ID, &old) == 0 \
            and old.stx_mask & AU_STATX_MNT_ID:
        mount_id = <long>old.stx_mnt_id
    found = classify(mount_id, facts.stx_dev_major, facts.stx_dev_minor)
    if key is not None:
        if len(mounts) >= 1024:
            mounts.clear()
        mounts[key] = found
    return found


def directory_stamp(path):
    """(mount, device, inode, st_ctime in nanoseconds) of what a path leads to, without asking a
    server or mounting anything; None: that cannot be seen.  For a worker thread.
    """
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = PyBytes_AsString(encoded)
    cdef au_statx facts
    cdef long result
    with nogil:
        result = au_statx_call(AT_FDCWD, name, AU_AT_STATX_DONT_SYNC | AU_AT_NO_AUTOMOUNT,
                               AU_STATX_BASIC_STATS | AU_STATX_MNT_ID, &facts)
    if result < 0 or not facts.stx_mask & AU_STATX_MNT_ID:
        return None
    return (facts.stx_mnt_id, makedev(facts.stx_dev_major, facts.stx_dev_minor),
            facts.stx_ino, facts.stx_ctime.tv_sec * 1_000_000_000 + facts.stx_ctime.tv_nsec)


cdef object facts_tuple(int fd, au_statx *facts):
    fs_type, now, local = mount_facts(fd, facts)
    return facts.stx_mode, facts.stx_blksize, facts.stx_size, fs_type, now, local


def fd_facts(int fd):
    """(st_mode, blksize, size, fs_type, now, local) of an open descriptor; never sleeps.

    AT_STATX_DONT_SYNC: a network file system answers from what it has, so `size` is a hint there.

    :raises OSError: EBADF, or ENOSYS where the kernel has no statx(2) (before 4.11)
    """
    cdef au_statx facts
    cdef long result = au_statx_call(fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC,
                                     AU_STATX_BASIC_STATS | AU_STATX_MNT_ID_UNIQUE, &facts)
    if result < 0:
        raise OSError(-result, strerror(-result))
    return facts_tuple(fd, &facts)


cdef enum:
    # What opens no file at once: it makes one, cuts it off, or has to be looked at first
    _NOT_AT_ONCE = O_CREAT | O_TRUNC | O_DIRECT | O_NONBLOCK


cdef long open_cached(const char *path, int flags, au_statx *facts, int *now,
                      bint *local) except? -1:
    """Open an existing regular file on a local file system without sleeping.

    A probe (O_PATH, RESOLVE_CACHED) finds out what the path names without opening it; only then
    the file is opened, by path again, and the inode compared, since the name may have moved.
    O_NONBLOCK guards the second open against a FIFO or a lease that came in between.

    :returns: the descriptor; MISS; or an error as `walk_error` gives it
    """
    cdef au_statx probe
    cdef long probed
    if flags & _NOT_AT_ONCE:
        return _MISS
    probed = probe_path(path, True, &probe)
    if probed < 0:
        return walk_error(probed)
    try:
        if not S_ISREG(probe.stx_mode):
            return _MISS
        mount = mount_facts(probed, &probe)
        now[0], local[0] = mount[1], mount[2]
        if not may_open(flags, now[0], local[0]):
            return _MISS
        return open_known(path, flags, &probe, facts)
    finally:
        au_close(probed)


cdef bint may_open(int flags, int now, bint local) noexcept nogil:
    """Whether a regular file on such a mount opens without asking anybody."""
    return local or (now == _NOW_RESIDENT and (flags & O_ACCMODE) == O_RDONLY)


cdef long open_known(const char *path, int flags, au_statx *probe,
                     au_statx *facts) noexcept nogil:
    """Open what is known to be a regular file on a local file system, if it still is the same."""
    cdef au_open_how how
    cdef long fd
    memset(&how, 0, sizeof(how))
    how.flags = <uint64_t>(flags | O_NONBLOCK | O_CLOEXEC)
    how.resolve = AU_RESOLVE_CACHED
    fd = au_openat2(AT_FDCWD, path, &how)
    if fd < 0:
        return walk_error(fd)
    # O_NONBLOCK means nothing to a regular file, but a child or a program that looks at
    # the flags would see it, and io_uring would take it for "never wait".
    if (au_statx_call(fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC,
                      AU_STATX_BASIC_STATS | AU_STATX_MNT_ID_UNIQUE, facts) < 0
            or facts.stx_ino != probe.stx_ino or facts.stx_mnt_id != probe.stx_mnt_id
            or facts.stx_dev_minor != probe.stx_dev_minor
            or facts.stx_dev_major != probe.stx_dev_major
            or au_fcntl(fd, F_SETFL, flags) < 0):
        au_close(fd)
        return _MISS
    return fd


def open_now(bytes path, int flags, Meter meter):
    """Open an existing regular file on a local file system without sleeping.

    :returns: (fd, facts as `fd_facts`); MISS; or -errno of the path walk (below -4000: as
        ``-4096 - errno``, apart from the codes)
    """
    cdef au_statx facts
    cdef int now = _NOW_NEVER
    cdef bint local = False
    cdef long fd
    if not meter.enabled:
        return _MISS
    fd = open_cached(path, flags, &facts, &now, &local)
    if fd < 0:
        return fd
    try:
        meter.opened += 1
        return fd, facts_tuple(fd, &facts)
    except BaseException:
        au_close(fd)
        raise


# -- facts about a path -----------------------------------------------------------------------

cdef enum:
    _STAT_FIELDS_MAX = 32
    _STAT_TIMES = 10        # of the names below: behind the plain numbers
    _STAT_SECONDS = 7       # whole seconds are fields without a name

# The fields of an os.stat_result.  Where each one sits is asked of the type: Python may add some.
cdef tuple STAT_NAMES = (
    "st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size", "st_blksize",
    "st_blocks", "st_rdev", "st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns",
    "st_ctime_ns",
)
cdef Py_ssize_t STAT_AT[16]
cdef Py_ssize_t STAT_FIELDS = 0
cdef object STAT_TYPE = None


cdef int learn_stat_result() except -1:
    global STAT_FIELDS, STAT_TYPE
    import os
    STAT_FIELDS = os.stat_result.n_fields
    if STAT_FIELDS > _STAT_FIELDS_MAX:
        raise ImportError("os.stat_result has more fields than expected")
    numbered = os.stat_result(range(STAT_FIELDS))
    for index, name in enumerate(STAT_NAMES):
        STAT_AT[index] = getattr(numbered, name)
    STAT_TYPE = os.stat_result
    return 0


learn_stat_result()


cdef object stat_result(au_statx *facts):
    """What os.stat would answer, with these facts."""
    return stat_result_like(facts, NULL, None)


cdef PyObject *whole(uint64_t value, uint64_t known, object like, Py_ssize_t index) except NULL:
    """A number; the one at this place in `like`, if that has the same, which saves making it."""
    cdef PyObject *number
    if value != known or like is None:
        return PyLong_FromUnsignedLongLong(value)
    number = PyStructSequence_GET_ITEM(like, index)
    Py_INCREF(<object>number)
    return number


cdef object stat_result_like(au_statx *facts, au_statx *known, object like):
    """`stat_result`; it shares numbers with an earlier one.

    :param known: the facts of that one, if there is one
    :param like: it, or None
    """
    cdef au_statx_timestamp times[3]
    cdef Py_ssize_t index
    cdef PyObject *fields[_STAT_FIELDS_MAX]
    if known == NULL:
        known = facts
        like = None
    for index in range(STAT_FIELDS):
        fields[index] = NULL
    times[0], times[1], times[2] = facts.stx_atime, facts.stx_mtime, facts.stx_ctime
    fields[STAT_AT[0]] = whole(facts.stx_mode, known.stx_mode, like, STAT_AT[0])
    fields[STAT_AT[1]] = PyLong_FromUnsignedLongLong(facts.stx_ino)
    fields[STAT_AT[2]] = whole(makedev(facts.stx_dev_major, facts.stx_dev_minor),
                               makedev(known.stx_dev_major, known.stx_dev_minor), like, STAT_AT[2])
    fields[STAT_AT[3]] = PyLong_FromUnsignedLongLong(facts.stx_nlink)
    fields[STAT_AT[4]] = whole(facts.stx_uid, known.stx_uid, like, STAT_AT[4])
    fields[STAT_AT[5]] = whole(facts.stx_gid, known.stx_gid, like, STAT_AT[5])
    fields[STAT_AT[6]] = PyLong_FromUnsignedLongLong(facts.stx_size)
    fields[STAT_AT[7]] = whole(facts.stx_blksize, known.stx_blksize, like, STAT_AT[7])
    fields[STAT_AT[8]] = PyLong_FromUnsignedLongLong(facts.stx_blocks)
    fields[STAT_AT[9]] = PyLong_FromUnsignedLongLong(
        makedev(facts.stx_rdev_major, facts.stx_rdev_minor))
    for index in range(3):
        put_time(fields, times, index)
    result = PyStructSequence_New(<PyTypeObject *>STAT_TYPE)
    for index in range(STAT_FIELDS):
        if fields[index] == NULL:
            Py_INCREF(None)
            fields[index] = <PyObject *>None
        PyStructSequence_SET_ITEM(result, index, fields[index])
    return result


cdef int put_time(PyObject **fields, au_statx_timestamp *times, Py_ssize_t index) except -1:
    """The three forms of a time; those of the time before it, if that is the same, as it mostly is
    with a file that was written once.
    """
    cdef Py_ssize_t at[3]
    cdef Py_ssize_t form
    at[0] = _STAT_SECONDS + index
    at[1] = STAT_AT[_STAT_TIMES + index]
    at[2] = STAT_AT[_STAT_TIMES + 3 + index]
    if index and times[index].tv_sec == times[index - 1].tv_sec:
        fields[at[0]] = fields[at[0] - 1]
        Py_INCREF(<object>fields[at[0]])
        if times[index].tv_nsec == times[index - 1].tv_nsec:
            for form in range(1, 3):
                fields[at[form]] = fields[STAT_AT[_STAT_TIMES + 3 * (form - 1) + index - 1]]
                Py_INCREF(<object>fields[at[form]])
            return 0
    else:
        fields[at[0]] = PyLong_FromLongLong(times[index].tv_sec)
    fields[at[1]] = PyFloat_FromDouble(times[index].tv_sec + 1e-9 * times[index].tv_nsec)
    fields[at[2]] = nanoseconds(&times[index])
    return 0


cdef PyObject *nanoseconds(au_statx_timestamp *time) except NULL:
    if -9000000000 < time.tv_sec < 9000000000:
        return PyLong_FromLongLong(time.tv_sec * 1000000000 + time.tv_nsec)
    result = <object>time.tv_sec * 1000000000 + time.tv_nsec
    Py_INCREF(result)
    return <PyObject *>result


cdef long probe_path(const char *path, bint follow, au_statx *facts) noexcept nogil:
    """An O_PATH descriptor of what a path names, if the walk is cached, with its facts; or -errno.

    The facts are of the inode in memory: AT_STATX_DONT_SYNC, so a server is not asked.
    """
    cdef au_open_how how
    cdef long fd, result
    memset(&how, 0, sizeof(how))
    how.flags = <uint64_t>(O_PATH | O_CLOEXEC | (0 if follow else O_NOFOLLOW))
    how.resolve = AU_RESOLVE_CACHED
    fd = au_openat2(AT_FDCWD, path, &how)
    if fd < 0:
        return fd
    result = au_statx_call(fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC,
                           AU_STATX_BASIC_STATS | AU_STATX_MNT_ID_UNIQUE, facts)
    if result < 0:
        au_close(fd)
        return -EAGAIN
    return fd


def stat_now(bytes path, bint follow, Meter meter):
    """os.stat_result of a path on a local file system without sleeping.

    On overlayfs too: the inodes below it are held in memory by its own, but what file system
    they are on cannot be seen.

    :returns: it; MISS; or an error of the path walk, as `open_now`
    """
    cdef au_statx facts
    cdef long fd
    if not meter.enabled:
        return _MISS
    fd = probe_path(path, follow, &facts)
    if fd < 0:
        return walk_error(fd)
    try:
        mount = mount_facts(fd, &facts)
    finally:
        au_close(fd)
    if not mount[2] and mount[1] != _NOW_RESIDENT:
        return _MISS
    meter.hits += 1
    return stat_result(&facts)


def read_path_now(bytes path, Meter meter):
    """All of a regular file on a local file system without sleeping, in one go.

    As `open_now`, but less is checked after the open, since nothing stays open: if the name has
    moved in between, pread(2) refuses a FIFO, and what else it reads is what the path names now.

    :returns: bytes; MISS; or an error of the path walk, as `open_now`
    """
    cdef au_statx facts
    cdef long probed, fd
    cdef int now
    cdef bint local
    cdef PyObject *data
    cdef Py_ssize_t size, count
    cdef int64_t start
    if not meter.enabled:
        return _MISS
    probed = probe_path(path, True, &facts)
    if probed < 0:
        return walk_error(probed)
    try:
        if not S_ISREG(facts.stx_mode) or facts.stx_size >= <uint64_t>meter.inline_max:
            return _MISS
        mount = mount_facts(probed, &facts)
        now, local = mount[1], mount[2]
        if not may_read(now, local):
            return _MISS
        fd = open_to_read(path)
    finally:
        au_close(probed)
    if fd < 0:
        return walk_error(fd)
    size = <Py_ssize_t>facts.stx_size + 1      # one more, to see the end
    data = PyBytes_Fresh(NULL, size)
    if data == NULL:
        au_close(fd)
        raise MemoryError
    start = au_now() if size >= _MEASURED_MIN else 0
    count = read_opened(fd, now, local, PyBytes_Content(data), size)
    if count < 0 or count == size:
        Py_XDECREF(data)
        meter.misses += 1
        return _MISS
    meter.hits += 1
    meter.spend(count)
    if start:
        meter.took(size, au_now() - start)
    return shortened(data, count)


cdef bint may_read(int now, bint local) noexcept nogil:
    """Whether what is in memory of a regular file on such a mount can be read without sleeping."""
    return now != _NOW_NEVER and (local or now == _NOW_RESIDENT)


cdef long open_to_read(const char *path) noexcept nogil:
    """A descriptor for one read of what is known to be a regular file; or -errno."""
    cdef au_open_how how
    memset(&how, 0, sizeof(how))
    how.flags = <uint64_t>(O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    how.resolve = AU_RESOLVE_CACHED
    return au_openat2(AT_FDCWD, path, &how)


cdef Py_ssize_t read_opened(int fd, int now, bint local, char *data,
                            Py_ssize_t size) noexcept nogil:
    """Read and close it: how much, or -errno.

    :param size: one byte more than statx(2) has told: with as much the file is another one by now
    """
    cdef Py_ssize_t count = 0
    if now == _NOW_RESIDENT:
        count = surely_resident(fd, False, size, 0)
    if count == 0:
        count = read_in_memory(fd, now, data, size, 0, size - 1 if local else -1)
    au_close(fd)
    return count


# The meter of the loop that has served a path last, which mostly is the one that serves the next:
# looking it up costs a tenth of a cached stat.
cdef Meter recent = None


def remember(Meter meter):
    """The loop that runs the current task has this meter."""
    global recent
    recent = meter


def admitted(Py_ssize_t cost):
    """The meter of the loop that runs the current task, if it admits an operation of this cost at
    once; None: go the long way.
    """
    cdef Meter meter = recent      # a loop in another thread may take its place meanwhile
    if meter is None or meter.crowd >= _CROWD or not meter.admit(cost):
        return None
    return meter


def open_quick(path, int flags, Py_ssize_t cost, Meter meter not None):
    """A `Handle` of an existing regular file, opened without sleeping; None: go the long way.

    :param cost: what `meter` has been charged with, for this open
    """
    return open_encoded(path_bytes(path), path, flags, cost, meter)


cdef object open_encoded(bytes encoded, path, int flags, Py_ssize_t cost, Meter meter):
    """As `open_quick`; `encoded` is what `path_bytes` has made of the path."""
    cdef au_statx facts
    cdef int now = _NOW_NEVER
    cdef bint local = False
    cdef long fd = _MISS
    if encoded is not None and meter.enabled:
        fd = open_cached(encoded, flags, &facts, &now, &local)
    if fd < 0:
        return path_outcome(fd, path, cost, meter)
    try:
        return new_handle(<int>fd, flags, &facts, now, local, meter)
    except BaseException:
        au_close(<int>fd)
        raise


cdef Handle new_handle(int fd, int flags, au_statx *facts, int now, bint local, Meter meter,
                       int64_t seen_at=0):
    """The handle of a regular file that has been opened without sleeping.

    :param seen_at: before the facts were found
    """
    cdef Handle handle = Handle.__new__(Handle)     # (arguments would go through a tuple)
    handle.begin(fd, flags, True)
    handle.learn(facts.stx_mode, facts.stx_blksize, now, local)
    handle.meter = meter
    if local:
        handle.expected = facts.stx_size
        if (facts.stx_nlink and facts.stx_size <= _LINKED_BYTES
                and facts.stx_blocks <= _LINKED_BYTES >> 9):    # (it may have more than it uses)
            handle.linked_at = seen_at
    else:
        # (elsewhere a file without a size may be one whose text is made up, too)
        handle.shared = facts.stx_size == 0
        handle.closes_now = not handle.writable     # with the same trust that it was opened with
    meter.opened += 1
    return handle


from pathlib import Path

cdef object PLAIN_PATH = type(Path())
cdef Member PATH_TEXT = Member("_str")


def path_text(path):
    """`str` of it.  A `pathlib.Path` keeps that, and to ask its method takes some 100 ns."""
    cdef PyObject *text
    if type(path) is PLAIN_PATH:
        text = PATH_TEXT.kept(path)
        if text != NULL and type(<object>text) is unicode:
            return <object>text
    return str(path)


cdef bytes path_bytes(path):
    """The path as the kernel takes it, or None: of another type, or not to be taken."""
    cdef bytes encoded
    if type(path) is not unicode:
        return None
    encoded = PyUnicode_EncodeFSDefault(path)
    if memchr(PyBytes_AS_STRING(encoded), 0, PyBytes_GET_SIZE(encoded)) != NULL:
        return None
    return encoded


cdef bytes encoded_path(path, Py_ssize_t cost, Meter meter):
    """The path as the kernel takes it, if the meter's loop is the current one and admits it."""
    cdef bytes encoded
    if (meter is None or meter.crowd >= _CROWD or type(path) is not unicode
            or not meter.admit(cost)):
        return None
    try:
        encoded = path_bytes(path)
    except UnicodeError:
        meter.refund(cost)
        raise
    if encoded is None:
        meter.refund(cost)
    return encoded


cdef object path_outcome(found, path, Py_ssize_t cost, Meter meter):
    """What was found; None for a MISS.

    :raises OSError: an error of the path walk
    """
    cdef int number
    if type(found) is not int:
        return found
    if found > -4096:
        meter.refund(cost)
        return None
    number = -4096 - found
    raise OSError(number, strerror(number), path)


def stat_quick(path, bint follow, Py_ssize_t cost):
    """`stat_now` for the loop that runs the current task; None: go the long way."""
    cdef Meter meter = recent      # a loop in another thread may take its place meanwhile
    cdef bytes encoded = encoded_path(path, cost, meter)
    if encoded is None:
        return None
    return path_outcome(stat_now(encoded, follow, meter), path, cost, meter)


def seen_quick(path, Py_ssize_t cost):
    """Whether `stat_quick` has an answer, for who only wants to know what is in memory."""
    cdef au_statx facts
    cdef Meter meter = recent      # (as above)
    cdef bytes encoded = encoded_path(path, cost, meter)
    cdef long fd = -1
    if encoded is None:
        return False
    if meter.enabled:
        fd = probe_path(encoded, True, &facts)
    if fd >= 0:
        try:
            mount = mount_facts(fd, &facts)
        finally:
            au_close(fd)
        if mount[2] or mount[1] == _NOW_RESIDENT:
            meter.hits += 1
            return True
    meter.refund(cost)
    return False


def read_quick(path, Py_ssize_t cost):
    """`read_path_now` for the loop that runs the current task; None: go the long way."""
    cdef Meter meter = recent      # (as above)
    cdef bytes encoded = encoded_path(path, cost, meter)
    if encoded is None:
        return None
    return path_outcome(read_path_now(encoded, meter), path, cost, meter)


cdef long walk_error(long error) noexcept nogil:
    """Errors of the path itself are final; anything else is the next tier's to explain."""
    if error in (-ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG, -EACCES, -EISDIR, -EROFS, -ETXTBSY):
        return -4096 + error
    return _MISS


cdef str strerror(long number):
    import os
    return os.strerror(number)


def dio_alignment(int fd):
    """What direct I/O on a descriptor wants aligned, memory and offsets, in bytes; 0 of what the
    kernel does not tell (before 6.1, or a file system that does not).
    """
    cdef au_statx facts
    if au_statx_call(fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC, AU_STATX_DIOALIGN,
                     &facts) < 0 or not facts.stx_mask & AU_STATX_DIOALIGN:
        return 0, 0
    return facts.stx_dio_mem_align, facts.stx_dio_offset_align


def is_fifo_cached(bytes path):
    """Whether a path whose walk is cached names a FIFO: its open waits for another process."""
    cdef au_statx facts
    cdef long fd = probe_path(path, True, &facts)
    if fd < 0:
        return False
    au_close(fd)
    return bool(S_ISFIFO(facts.stx_mode))


# ---------------------------------------------------------------------------------------------
# Errands: what many tasks ask of paths at once, by a thread that does not know the interpreter
# ---------------------------------------------------------------------------------------------

cdef enum:
    _ERRAND_STAT = 0
    _ERRAND_READ = 1
    _ERRAND_OPEN = 2
    _ROOM = 4096                # bytes that a file's content is read into as it will be given,
    _ROOMS_MAX = 256            # for so many questions at a time
    _AHEAD = 64                 # answers, each perhaps an open file, that wait to be handed out
    # With fewer, a helper that has stopped begins again: to be woken costs more than an errand
    _AHEAD_LEAST = 32
    # So far apart it looks for the next errand: what it looks at, the loop has to write
    _RELAX = 16
    _TRIES = 200                # to have the mutex, before it is waited for
    _MISSES_RUN = 64            # answers without use after which the crew is not asked,
    _PAUSE = 1000               # so many times
    _IDLE_SECONDS = 2           # (as `Crew.idle_seconds`)
    _PATIENCE_NS = 5_000_000    # for a helper, where there is no time to sleep
    _READ_MAX = 64 << 10        # (as `errand_t.limit`)
    _IN_A_TURN = 32             # answers handed out in one turn of Trio's,
    _TURN_NS = 250_000          # and how long, about, asyncio's tasks go on with theirs
    _OWN = 8                    # (as `Crew.own_most`)
    _ENTITLED_NS = 10_000       # for whoever has waited: about an open file's read and close
    _PLACES = 16                # mounts that helpers know
    _LOOK_NS = 300_000          # how long a helper looks for the next errand before it sleeps


cdef struct place_t:
    uint64_t mount_id           # unique
    int now
    bint local


cdef struct errand_t:
    errand_t *next
    void *owner                 # the `Errand`; a reference of the crew's, from `push` to `hand_out`
    const char *path
    uint8_t kind
    bint follow
    int flags
    Py_ssize_t limit            # a file that is not smaller goes another way
    long result                 # 0, a count, or a descriptor; MISS; or an error as of `walk_error`
    au_statx facts
    int64_t seen_at             # before an open file's were found
    place_t place               # where it is, as far as that is known
    bint strange                # on a mount that helpers do not know
    char *room                  # of _ROOM bytes, or NULL
    char *data                  # what has been read: in `room`, or malloc's


cdef struct errands_t:
    errand_t *first
    errand_t *last              # of anything, if there is a first one
    uint32_t count


cdef struct crew_t:
    pthread_mutex_t mutex       # for what follows up to `armed`
    pthread_cond_t come         # there is something to run, or the end has come
    errands_t asked             # to be run
    errands_t done              # to be handed out
    int helpers
    int sleeping                # of them
    int idle_seconds
    bint ended
    bint armed                  # the loop will sleep: signal what is done
    int eventfd
    place_t places[_PLACES]     # what stands there is never changed
    uint32_t known              # how many there are


cdef void lock_crew(crew_t *crew) noexcept nogil:
    """It is held for so short that to sleep until it is free takes longest."""
    cdef int _count
    for _count in range(_TRIES):
        if pthread_mutex_trylock(&crew.mutex) == 0:
            return
        au_relax()
    pthread_mutex_lock(&crew.mutex)


cdef void unlock_crew(crew_t *crew) noexcept nogil:
    pthread_mutex_unlock(&crew.mutex)


cdef bint find_place(crew_t *crew, errand_t *errand) noexcept nogil:
    cdef uint32_t index
    if errand.facts.stx_mask & AU_STATX_MNT_ID_UNIQUE:
        for index in range(au_load_acquire(&crew.known)):
            if crew.places[index].mount_id == errand.facts.stx_mnt_id:
                errand.place = crew.places[index]
                return True
    errand.strange = True
    return False


cdef void run_errand(crew_t *crew, errand_t *errand, bint may_wait) noexcept nogil:
    """Find out what is asked, in whatever thread, if it is in memory on a local file system.

    Nothing is opened before it is known where it is.

    :param may_wait: whether the way there may be looked up where it is not in memory, which takes
        one system call instead of three
    """
    cdef au_statx probe
    cdef long result
    if may_wait:
        result = au_statx_call(
            AT_FDCWD, errand.path,
            AU_AT_STATX_DONT_SYNC | AU_AT_NO_AUTOMOUNT
            | (0 if errand.follow else AU_AT_SYMLINK_NOFOLLOW),
            AU_STATX_BASIC_STATS | AU_STATX_MNT_ID_UNIQUE, &errand.facts)
    else:
        result = probe_path(errand.path, errand.follow, &errand.facts)
        if result >= 0:
            au_close(<int>result)
    if result < 0:
        errand.result = walk_error(result)
    elif not find_place(crew, errand):
        errand.result = _MISS
    elif errand.kind == _ERRAND_STAT:
        errand.result = 0
        if not errand.place.local and errand.place.now != _NOW_RESIDENT:
            errand.result = _MISS
    elif not S_ISREG(errand.facts.stx_mode):
        errand.result = _MISS
    elif errand.kind == _ERRAND_READ:
        errand.result = run_read(errand)
    elif may_open(errand.flags, errand.place.now, errand.place.local):
        probe = errand.facts
        errand.seen_at = au_now()
        errand.result = open_known(errand.path, errand.flags, &probe, &errand.facts)


cdef long run_read(errand_t *errand) noexcept nogil:
    cdef long fd, count
    cdef Py_ssize_t size = <Py_ssize_t>errand.facts.stx_size + 1    # one more, to see the end
    if (errand.facts.stx_size >= <uint64_t>errand.limit
            or not may_read(errand.place.now, errand.place.local)):
        return _MISS
    errand.data = errand.room
    if size > _ROOM or errand.room == NULL:
        errand.data = <char *>malloc(size)
    if errand.data == NULL:
        return _MISS
    fd = open_to_read(errand.path)
    if fd < 0:
        return walk_error(fd)
    count = read_opened(<int>fd, errand.place.now, errand.place.local, errand.data, size)
    return _MISS if count < 0 or count == size else count


cdef void put_errand(errands_t *queue, errand_t *errand) noexcept nogil:
    """With the mutex held, as `take_errand`."""
    errand.next = NULL
    if queue.first == NULL:
        queue.first = errand
    else:
        queue.last.next = errand
    queue.last = errand
    au_store_release(&queue.count, queue.count + 1)


cdef errand_t *take_errand(errands_t *queue) noexcept nogil:
    cdef errand_t *errand = queue.first
    if errand != NULL:
        queue.first = errand.next
        au_store_release(&queue.count, queue.count - 1)
    return errand


cdef bint has_work(crew_t *crew) noexcept nogil:
    """Without the mutex a guess."""
    return (au_load_acquire(&crew.asked.count) != 0
            and au_load_acquire(&crew.done.count) < _AHEAD)


cdef bint is_worth_it(crew_t *crew) noexcept nogil:
    """The same for a helper that has stopped: it begins again for many at a time."""
    return (au_load_acquire(&crew.asked.count) != 0
            and au_load_acquire(&crew.done.count) < _AHEAD_LEAST)


cdef void help_crew(crew_t *crew) noexcept nogil:
    """Run errands until the end, or there have been none for long."""
    cdef errand_t *errand
    cdef int64_t end
    cdef timespec due
    cdef int late, _count
    lock_crew(crew)
    while not crew.ended:
        errand = take_errand(&crew.asked) if has_work(crew) else NULL
        if errand != NULL:
            unlock_crew(crew)
            run_errand(crew, errand, True)
            lock_crew(crew)
            put_errand(&crew.done, errand)
            if crew.armed:
                crew.armed = False
                au_eventfd_signal(crew.eventfd)
            continue
        # To be woken takes longer than most errands, and to wake it longer than the loop's part in
        # them.  So long, about, the loop takes for what is done when a helper stops.
        unlock_crew(crew)
        end = au_now() + _LOOK_NS
        while not is_worth_it(crew) and au_now() < end:
            for _count in range(_RELAX):
                au_relax()
            sched_yield()           # to whoever has something to do
        lock_crew(crew)
        if not is_worth_it(crew) and not crew.ended:
            clock_gettime(CLOCK_REALTIME, &due)
            due.tv_sec += crew.idle_seconds
            crew.sleeping += 1
            late = pthread_cond_timedwait(&crew.come, &crew.mutex, &due)
            crew.sleeping -= 1
            if late and crew.asked.first == NULL:
                break
    crew.helpers -= 1
    unlock_crew(crew)


@cython.final
cdef class Woken:
    """What Trio's tasks are woken with, as with an ``outcome.Value``: always the same one, since it
    is `Errand.step` that gets it.
    """

    def unwrap(self):
        """As of an outcome."""


cdef Woken WOKEN = Woken()


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Errand:
    """One question about a path, and its answer; to be awaited, once.

    To an asyncio task it is what a future is, but of this task alone, which goes on as soon as the
    answer is handed out: not in a callback of its own, which with a future's own work would be a
    quarter of what a cached stat costs the loop.

    Out of the collector's sight, which so many short lives would call often: it refers to what
    refers to it, a task, only as long as that waits.
    """

    cdef errand_t errand
    cdef bytes path
    cdef object content         # fresh bytes: the room for a file's
    cdef object waiter          # what wakes asyncio's task, or Trio's task; None: nobody waits
    cdef object context         # of asyncio's,
    cdef object task_reference, task_state      # and what the meter has seen of it
    cdef object given           # the answer
    cdef object cancel_message  # of asyncio's, as a tuple; None: not cancelled
    cdef object name            # of the file that is to be made of the answer, or None
    cdef bint buffered          # and which kind
    cdef public bint _asyncio_future_blocking   # (its tasks look for this)
    cdef bint begun             # it is waited for
    cdef Crew crew

    def __dealloc__(self):
        self.close_file()
        if self.errand.data != self.errand.room:
            free(self.errand.data)

    # -- as tasks await it ------------------------------------------------------------------------

    cdef int step(self, PyObject *outcome, PyObject **result) except -1:
        """What is yielded (1) or returned (0)."""
        if self.begun:
            if self.crew.is_trio:
                if outcome != <PyObject *>WOKEN:
                    (<object>outcome).unwrap()      # raises what has cancelled it
                self.crew.meter.fresh = self.given
            answer, self.given = self.given, None
            if self.name is not None and type(answer) is Handle:
                # (not before: a file that nobody gets would warn that it was not closed)
                answer = plain_file(<Handle>answer, self.name, self.buffered)
            Py_INCREF(answer)
            result[0] = <PyObject *>answer
            return 0
        if self.crew.crew.ended:
            raise RuntimeError("Event loop is closed")
        if self.crew.is_trio:
            request = self.crew.park(self)
            # From here until Trio has it, no handler of a signal is called
            self.waiter = self.crew.meter.trio_locals["task"]
        else:
            request = self
            self._asyncio_future_blocking = True
        self.begun = True
        self.crew.start(self)
        Py_INCREF(request)
        result[0] = <PyObject *>request
        return 1

    def __call__(self, how):
        """Trio: the task is cancelled."""
        self.waiter = None
        return self.crew.left

    def get_loop(self):
        """asyncio: whose task may wait for it."""
        return self.crew.loop

    def add_done_callback(self, callback, *, context=None):
        """asyncio: the task has begun to wait."""
        cdef Meter meter = self.crew.meter
        self.waiter, self.context = callback, context
        self.task_reference, self.task_state = meter.task_reference, meter.task_state

    def cancel(self, msg=None):
        """asyncio: the task is cancelled; False: it has its answer already."""
        callback, context = self.waiter, self.context
        self.forget()
        if callback is None:
            return False
        if self.crew.loop is None:
            raise RuntimeError("Event loop is closed")
        self.cancel_message = () if msg is None else (msg,)
        self.crew.loop.call_soon(callback, self, context=context)
        return True

    def cancelled(self):
        """asyncio: whether its task was cancelled while it waited for this."""
        return self.cancel_message is not None

    def done(self):
        """asyncio: whether its task does not wait for it any more."""
        return self.begun and self.waiter is None

    def result(self):
        """asyncio: asked of one whose task is cancelled (`go_on` calls back with another)."""
        if self.cancel_message is not None:
            from asyncio import CancelledError
            raise CancelledError(*self.cancel_message)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, outcome):
        """As of a coroutine."""
        cdef PyObject *result = NULL
        cdef int kind = self.step(<PyObject *>outcome, &result)
        found = <object>result
        Py_DECREF(found)
        if kind == 0:
            raise StopIteration(found)
        return found

    def throw(self, error, value=None, traceback=None):
        """As of a coroutine."""
        self.given = None
        self.forget()
        raise error if value is None else value

    def close(self):
        """As of a coroutine."""
        self.given = None
        self.forget()

    cdef void forget(self) noexcept:
        """Nobody waits any more."""
        self.waiter = self.context = self.task_reference = self.task_state = None

    # -- what it has found ------------------------------------------------------------------------

    cdef void close_file(self) noexcept:
        """Where nobody has taken it."""
        if self.errand.kind == _ERRAND_OPEN and self.errand.result >= 0:
            au_close(<int>self.errand.result)
            self.errand.result = _MISS

    cdef object answer(self, Meter meter):
        """What was found; MISS, or an error of the path walk as `open_now`."""
        cdef errand_t *errand = &self.errand
        cdef long result = errand.result
        cdef PyObject *data
        cdef Handle handle
        if result < 0:
            return result
        if errand.kind == _ERRAND_STAT:
            meter.hits += 1
            return stat_result(&errand.facts)
        if errand.kind == _ERRAND_READ:
            meter.hits += 1
            if errand.data != errand.room:
                return PyBytes_FromStringAndSize(errand.data, result)
            data = <PyObject *>self.content
            Py_INCREF(self.content)
            self.content = None
            return shortened(data, result)
        handle = new_handle(<int>result, errand.flags, &errand.facts, errand.place.now,
                            errand.place.local, meter, errand.seen_at)
        errand.result = _MISS       # it is the handle's now
        return handle


cdef int errand_send(PyObject *errand, PyObject *value, PyObject **result) except -1:
    return (<Errand>errand).step(value, result)


cdef PyObject *errand_next(PyObject *errand) except NULL:
    cdef PyObject *result = NULL
    cdef int kind = (<Errand>errand).step(<PyObject *>None, &result)
    return result if kind else stop_with(result)


# (as of `Step`)
(<PyTypeObject *>Errand).tp_as_async.am_send = <sendfunc>errand_send
(<PyTypeObject *>Errand).tp_iternext = <iternextfunc>errand_next


@cython.final
cdef class Crew:
    """Helpers of one loop: threads that run errands without the interpreter's lock.

    A question about a path in memory takes some system calls.  Where many tasks ask, each of them
    waits for the others' calls; helpers make these while the loop runs the tasks.  What a helper
    does may wait, for a directory on a disk say, and then only what it is at waits: the loop runs
    errands, too, whenever it would have nothing else to do with them, and never waits.

    Everything but `help` runs in the loop's thread.
    """

    cdef crew_t crew
    cdef object __weakref__
    cdef readonly Meter meter
    cdef object come            # called with the first errand: have `turn` called in the next turn
    cdef object hire            # has a thread call `help` of this: True if there is one
    cdef bint is_trio
    cdef object loop            # asyncio's; None: Trio's, or ended
    cdef object over            # a future of asyncio's that is done
    cdef object park            # errand -> what Trio is to be asked
    cdef object wake            # Trio's, of a task
    cdef object left            # what says to Trio that a task may be woken
    cdef bint coming
    cdef bint signalled         # the eventfd, perhaps
    cdef readonly int helpers_max
    cdef public int own_most            # errands that the loop runs in a turn with none to hand out
    cdef readonly uint64_t served       # errands,
    cdef readonly uint64_t own          # of those, run by the loop,
    cdef readonly uint64_t missed       # and of no use
    cdef int misses                     # the last ones,
    cdef int pause                      # and how often it is not to be asked

    def __cinit__(self, Meter meter not None, int helpers_max):
        cdef au_statx facts
        cdef long fd
        pthread_mutex_init(&self.crew.mutex, NULL)
        pthread_cond_init(&self.crew.come, NULL)
        self.crew.eventfd = -1
        if (au_statx_call(AT_FDCWD, b"/", AU_AT_STATX_DONT_SYNC, AU_STATX_MNT_ID_UNIQUE, &facts) < 0
                or not facts.stx_mask & AU_STATX_MNT_ID_UNIQUE):
            raise OSError(ENOSYS, "a helper cannot tell what mount a file is on")
        fd = au_eventfd()
        if fd < 0:
            raise OSError(-fd, strerror(-fd))
        self.crew.eventfd = <int>fd
        self.meter = meter
        self.helpers_max = helpers_max
        self.own_most = _OWN
        self.crew.idle_seconds = _IDLE_SECONDS

    def __dealloc__(self):
        # No helper is left: each holds a reference
        self.drop_all()
        if self.crew.eventfd >= 0:
            au_close(self.crew.eventfd)

    def serve_asyncio(self, loop not None, come, hire, over):
        self.come, self.hire, self.loop, self.over = come, hire, loop, over
        self.meter.crew = self

    def serve_trio(self, come, hire, park, wake, left):
        self.come, self.hire, self.is_trio = come, hire, True
        self.park, self.wake, self.left = park, wake, left
        self.meter.crew = self

    @property
    def eventfd(self):
        return self.crew.eventfd

    @property
    def takes_stats(self):
        """Not Trio's: to wake one of its tasks costs more than a stat that is made at once."""
        return not self.is_trio

    @property
    def outstanding(self):
        """Questions that are not answered yet."""
        return self.meter.crowd

    @property
    def ended(self):
        return bool(self.crew.ended)

    @property
    def done(self):
        """Answers that are not handed out yet."""
        return self.crew.done.count

    @property
    def helpers(self):
        """How many there are; each leaves after `idle_seconds` without anything asked."""
        return self.crew.helpers

    @property
    def idle_seconds(self):
        return self.crew.idle_seconds

    @idle_seconds.setter
    def idle_seconds(self, int seconds):
        self.crew.idle_seconds = seconds

    cpdef bint willing(self):
        """Whether it is worth asking: not for a while after many answers without use."""
        if self.pause:
            self.pause -= 1
            self.misses = 0
        return self.pause == 0 and not self.crew.ended

    def help(self):
        """In a helper: run errands until the end."""
        with nogil:
            help_crew(&self.crew)
        if self.crew.ended:
            self.drop_all()         # what has been put there since

    # -- asking -----------------------------------------------------------------------------------

    def stat(self, bytes path not None, bint follow):
        """To be awaited: an os.stat_result, MISS, or an error of the path walk, as `stat_now`."""
        return self.push(path, _ERRAND_STAT, follow, 0)

    def read(self, bytes path not None):
        """To be awaited: bytes, MISS, or an error of the path walk, as `read_path_now`."""
        return self.push(path, _ERRAND_READ, True, 0)

    def open(self, bytes path not None, int flags):
        """To be awaited: a `Handle`, MISS, or an error of the path walk; None: not so."""
        return None if flags & _NOT_AT_ONCE else self.push(path, _ERRAND_OPEN, True, flags)

    cdef object push(self, bytes path, uint8_t kind, bint follow, int flags):
        cdef Errand owner = Errand.__new__(Errand)
        cdef errand_t *errand = &owner.errand
        owner.crew = self
        owner.path = path
        errand.owner = <void *>owner
        errand.path = PyBytes_AS_STRING(path)
        errand.kind = kind
        errand.follow = follow
        errand.flags = flags
        errand.limit = min(_READ_MAX, self.meter.inline_max)
        if kind == _ERRAND_READ and self.meter.crowd < _ROOMS_MAX:
            owner.content = PyBytes_FromStringAndSize(NULL, _ROOM)
            errand.room = PyBytes_AS_STRING(owner.content)
        errand.result = _MISS
        return owner

    cdef int start(self, Errand owner) except -1:
        if not self.coming:
            self.come()
            self.coming = True
        Py_INCREF(owner)
        self.meter.crowd += 1
        lock_crew(&self.crew)
        put_errand(&self.crew.asked, &owner.errand)
        if (self.crew.sleeping and self.crew.asked.count >= self.own_most
                and is_worth_it(&self.crew)):
            pthread_cond_signal(&self.crew.come)
        unlock_crew(&self.crew)
        return 0

    # -- answering --------------------------------------------------------------------------------

    def turn(self):
        """Hand out what is done; if that is nothing, run some errands in this thread before.

        :returns: whether it is to be called again in the next turn.  Otherwise the eventfd will say
        """
        cdef uint32_t asked, done
        cdef bint hires
        if self.crew.ended:
            return False
        lock_crew(&self.crew)
        hires = self.crew.asked.count > self.own_most and self.crew.helpers < self.helpers_max
        if hires:
            self.crew.helpers += 1
        unlock_crew(&self.crew)
        if hires:
            self.begin_hire()
        lock_crew(&self.crew)
        self.crew.armed = False
        done, asked = self.crew.done.count, self.crew.asked.count
        if self.crew.sleeping and asked > self.own_most and is_worth_it(&self.crew):
            pthread_cond_signal(&self.crew.come)
        unlock_crew(&self.crew)
        if self.signalled:          # not before: while it was armed, a helper might have followed
            self.signalled = False
            au_eventfd_drain(self.crew.eventfd)
        if not done and asked:
            self.run_some()
        self.hand_out()
        self.coming = not self.may_sleep()
        return self.coming

    cdef int begin_hire(self) except -1:
        """Have one helper more; where there can be none, this is not tried again."""
        hired = False
        try:
            hired = self.hire(self)
        finally:
            if not hired:
                lock_crew(&self.crew)
                self.crew.helpers -= 1
                unlock_crew(&self.crew)
        if not hired:
            self.helpers_max = 0
        return 0

    def wait_begins(self, bint sleeps):
        """Trio is about to look for events, with no task that is ready.

        It has to come back for what is under way; and where it does not sleep, since it may take
        this for the time to set an autojump clock forward, at once.
        """
        cdef int64_t end
        self.meter.fresh = None     # (by now all that are ready have run)
        if not self.meter.crowd or self.crew.ended:
            return
        if not sleeps and self.meter.trio_locals["runner"].runq:
            return
        if au_load_acquire(&self.crew.done.count) == 0:
            self.run_some()
        if not sleeps:
            end = au_now() + _PATIENCE_NS
            with nogil:
                while au_load_acquire(&self.crew.done.count) == 0 and au_now() < end:
                    au_relax()
        if not self.may_sleep():
            self.signalled = True
            au_eventfd_signal(self.crew.eventfd)

    cdef bint may_sleep(self) noexcept:
        """Whether all there is to do is in the helpers' hands, who signal it from now on."""
        cdef bint result
        lock_crew(&self.crew)
        result = self.crew.done.first == NULL and self.crew.asked.first == NULL
        self.crew.armed = result and self.meter.crowd > 0
        if self.crew.armed:
            self.signalled = True
        unlock_crew(&self.crew)
        return result

    cdef void run_some(self) noexcept:
        """Those that have waited longest."""
        cdef errand_t *errand
        cdef int _count
        with nogil:
            lock_crew(&self.crew)
            for _count in range(self.own_most):
                errand = take_errand(&self.crew.asked)
                if errand == NULL:
                    break
                unlock_crew(&self.crew)
                run_errand(&self.crew, errand, False)
                lock_crew(&self.crew)
                put_errand(&self.crew.done, errand)
                self.own += 1
            unlock_crew(&self.crew)

    cdef int hand_out(self) except -1:
        """What is done, for some time."""
        cdef errand_t *errand
        cdef int64_t begun = au_now(), left = self.meter.left
        cdef int count = 0
        while count < _IN_A_TURN if self.is_trio else au_now() - begun < _TURN_NS:
            if au_load_acquire(&self.crew.done.count) == 0:
                break               # (nobody else takes any)
            if not count and not self.is_trio:
                # Its tasks run within this: one may run the loop itself, as notebooks do
                self.come()
                self.coming = True
            lock_crew(&self.crew)
            errand = take_errand(&self.crew.done)
            unlock_crew(&self.crew)
            if errand == NULL:      # an inner turn has taken it
                break
            if not count:
                # They have waited for a turn, as for any other: nobody is to think it overdue
                self.meter.grant(self.meter.budget, 0)
                self.meter.left = left
            count += 1
            if self.is_trio:
                left = max(left, min(count * _ENTITLED_NS, self.meter.budget))
            else:
                left = max(self.meter.left, _ENTITLED_NS)
            self.meter.left = left
            self.hand_over(errand)
        return 0

    cdef int hand_over(self, errand_t *errand) except -1:
        cdef Errand owner = <Errand>errand.owner
        Py_DECREF(owner)            # the crew's reference
        self.meter.crowd -= 1
        self.served += 1
        try:
            if errand.strange:
                self.learn(errand)
        finally:
            if owner.waiter is not None:
                self.give(owner)
            else:
                # Now: a traceback may hold on to whoever has waited
                owner.close_file()
                owner.content = None
        return 0

    cdef int give(self, Errand owner) except -1:
        cdef object waiter = owner.waiter, context = owner.context
        if owner.task_state is not None:    # it is to be looked at next
            self.meter.task_reference = owner.task_reference
            self.meter.task_state = owner.task_state
        owner.forget()
        try:
            answer = owner.answer(self.meter)
        except MemoryError:
            answer = _MISS          # the task will meet it again
        owner.content = None        # (a traceback may hold on to whoever has waited)
        if type(answer) is not int or answer != _MISS:
            self.misses = 0
        else:
            self.missed += 1
            # (many may have come before helpers knew a mount that they know by now)
            if not owner.errand.strange or self.crew.known == _PLACES:
                self.misses += 1
                if self.misses >= _MISSES_RUN:
                    self.pause = _PAUSE
        owner.given = answer
        if self.is_trio:
            self.wake(waiter, WOKEN)
        else:
            self.go_on(waiter, context, answer)
        return 0

    cdef int go_on(self, callback, context, answer) except -1:
        """Run asyncio's task until it waits for something else.

        It is called back with a future that is over, of asyncio's own class, which it looks into at
        once; for the errand it would look up and call a method, a quarter of its way.
        """
        try:
            PyContext_Enter(context)
        except RuntimeError:        # this very task's is entered, further up the stack
            self.loop.call_soon(callback, self.over, context=context)
            return 0
        self.meter.fresh = answer
        try:
            callback(self.over)
        finally:
            self.meter.fresh = None
            PyContext_Exit(context)
        return 0

    cdef int learn(self, errand_t *errand) except -1:
        """From now on helpers know the mount that this is on, if that can be seen."""
        cdef au_statx facts
        cdef place_t *place
        cdef uint32_t index
        cdef long fd
        if self.crew.known == _PLACES:
            return 0
        fd = probe_path(errand.path, errand.follow, &facts)
        if fd < 0:
            return 0
        try:
            if not facts.stx_mask & AU_STATX_MNT_ID_UNIQUE:
                return 0
            for index in range(self.crew.known):
                if self.crew.places[index].mount_id == facts.stx_mnt_id:
                    return 0
            mount = mount_facts(<int>fd, &facts)
        except Exception:
            return 0                # the task will meet it again
        finally:
            au_close(<int>fd)
        place = &self.crew.places[self.crew.known]
        place.mount_id, place.now, place.local = facts.stx_mnt_id, mount[1], mount[2]
        au_store_release(&self.crew.known, self.crew.known + 1)
        return 0

    # -- the end ----------------------------------------------------------------------------------

    def end(self):
        """The loop has ended: nobody waits any more, and the helpers go."""
        lock_crew(&self.crew)
        self.crew.ended = True
        pthread_cond_broadcast(&self.crew.come)
        unlock_crew(&self.crew)
        self.drop_all()
        self.meter.crew = self.meter.fresh = None
        self.meter.crowd = 0
        self.park = self.come = self.hire = self.loop = self.wake = self.left = self.over = None

    def forget(self):
        """After fork, in the child: the helpers are the parent's, and one may have held the mutex.
        What has been asked is not answered.
        """
        pthread_mutex_init(&self.crew.mutex, NULL)
        pthread_cond_init(&self.crew.come, NULL)
        self.crew.helpers = self.crew.sleeping = 0
        self.crew.armed = False
        self.crew.ended = True
        self.meter.crew = self.meter.fresh = None
        self.meter.crowd = 0

    cdef void drop_all(self) noexcept:
        """What no helper is at."""
        cdef errand_t *errand
        cdef Errand owner
        while True:
            lock_crew(&self.crew)
            errand = take_errand(&self.crew.asked)
            if errand == NULL:
                errand = take_errand(&self.crew.done)
            unlock_crew(&self.crew)
            if errand == NULL:
                return
            owner = <Errand>errand.owner
            owner.forget()
            Py_DECREF(owner)


cdef Crew crew_of_crowd():
    """The crew of the loop that runs the current task, if it is the one to ask; else None."""
    cdef Meter meter = recent      # (as above)
    if meter is None or meter.crowd < _CROWD or meter.crew is None or not meter.look():
        return None
    return meter.crew if meter.crew.willing() else None


def ask_stat(path, bint follow):
    """As `Crew.stat`; None: go the long way."""
    cdef Crew crew = crew_of_crowd()
    cdef bytes encoded = None if crew is None or crew.is_trio else path_bytes(path)
    return None if encoded is None else crew.push(encoded, _ERRAND_STAT, follow, 0)


def ask_read(path):
    """As `Crew.read`; None: go the long way."""
    cdef Crew crew = crew_of_crowd()
    cdef bytes encoded = None if crew is None else path_bytes(path)
    return None if encoded is None else crew.push(encoded, _ERRAND_READ, True, 0)


def ask_open(path, int flags):
    """As `Crew.open`; None: go the long way."""
    cdef Crew crew = None if flags & _NOT_AT_ONCE else crew_of_crowd()
    cdef bytes encoded = None if crew is None else path_bytes(path)
    return None if encoded is None else crew.push(encoded, _ERRAND_OPEN, True, flags)


def open_plain(file, mode, buffering, encoding, errors, newline, closefd, opener, limiter,
               Py_ssize_t cost):
    """The commonest call of `open`, a path and "rb": a file opened without sleeping.

    :param file: a str, or a `pathlib.Path`
    :returns: a file (`set_plain_files`); an `Errand`, which gives one, or what `Crew.open` gives
        where there is none; MISS: it has been audited, and cannot be opened so; None: another call,
        or not the time for it, and nothing has happened
    :raises OSError: an error of the path walk
    """
    cdef Crew crew
    cdef Meter meter
    cdef Errand errand
    cdef bytes encoded
    cdef int flags = O_RDONLY | O_CLOEXEC
    if (type(mode) is not unicode or PyUnicode_CompareWithASCIIString(mode, b"rb")
            or type(buffering) is not int or not (buffering == -1 or buffering == 0)
            or closefd is not True or encoding is not None or errors is not None
            or newline is not None or opener is not None or limiter is not None):
        return None
    path = path_text(file) if type(file) is PLAIN_PATH else file
    encoded = path_bytes(path)
    if encoded is None:
        return None
    crew = crew_of_crowd()
    if crew is not None:
        PySys_Audit(b"open", b"Osi", <PyObject *>path, b"r", flags)
        errand = crew.push(encoded, _ERRAND_OPEN, True, flags)
        errand.name, errand.buffered = path, buffering != 0
        return errand
    meter = admitted(cost)
    if meter is None:
        return None
    try:
        PySys_Audit(b"open", b"Osi", <PyObject *>path, b"r", flags)
    except BaseException:
        meter.refund(cost)
        raise
    handle = open_encoded(encoded, path, flags, cost, meter)
    return _MISS if handle is None else plain_file(<Handle>handle, path, buffering != 0)


# ---------------------------------------------------------------------------------------------
# The queues of a ring in memory
# ---------------------------------------------------------------------------------------------

cdef struct Mapping:
    void *sq
    void *cq                # the same where the kernel has both in one
    void *sqes
    size_t sq_bytes, cq_bytes, sqe_bytes


cdef long map_queues(int fd, au_params *params, Mapping *memory, ring_queues *q) noexcept nogil:
    """Of a new ring: 0 or -errno.  In either case `unmap_queues` has to be called."""
    cdef char *sq
    cdef char *cq
    memory.sq_bytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t)
    memory.cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(au_cqe)
    memory.sqe_bytes = params.sq_entries * sizeof(au_sqe)
    if params.features & AU_FEAT_SINGLE_MMAP:
        memory.sq_bytes = memory.cq_bytes = max(memory.sq_bytes, memory.cq_bytes)
    memory.sq = au_map(fd, memory.sq_bytes, AU_OFF_SQ_RING)
    if params.features & AU_FEAT_SINGLE_MMAP:
        memory.cq = memory.sq
    else:
        memory.cq = au_map(fd, memory.cq_bytes, AU_OFF_CQ_RING)
    memory.sqes = au_map(fd, memory.sqe_bytes, AU_OFF_SQES)
    if memory.sq == NULL or memory.cq == NULL or memory.sqes == NULL:
        return -ENOMEM
    sq = <char *>memory.sq
    cq = <char *>memory.cq
    q.sq_head = <uint32_t *>(sq + params.sq_off.head)
    q.sq_tail = <uint32_t *>(sq + params.sq_off.tail)
    q.sq_flags = <uint32_t *>(sq + params.sq_off.flags)
    q.sq_array = NULL
    if not params.flags & AU_SETUP_NO_SQARRAY:
        q.sq_array = <uint32_t *>(sq + params.sq_off.array)
    q.sqes = <au_sqe *>memory.sqes
    q.sq_entries = params.sq_entries
    q.sq_mask = params.sq_entries - 1
    q.sq_tail_local = q.sq_tail[0]
    q.cq_head = <uint32_t *>(cq + params.cq_off.head)
    q.cq_tail = <uint32_t *>(cq + params.cq_off.tail)
    q.cq_overflow = <uint32_t *>(cq + params.cq_off.overflow)
    q.cqes = <au_cqe *>(cq + params.cq_off.cqes)
    q.cq_entries = params.cq_entries
    q.cq_mask = params.cq_entries - 1
    return 0


cdef void unmap_queues(Mapping *memory) noexcept nogil:
    if memory.sqes != NULL:
        munmap(memory.sqes, memory.sqe_bytes)
    if memory.cq != NULL and memory.cq != memory.sq:
        munmap(memory.cq, memory.cq_bytes)
    if memory.sq != NULL:
        munmap(memory.sq, memory.sq_bytes)
    memory.sq = memory.cq = memory.sqes = NULL


# ---------------------------------------------------------------------------------------------
# Many paths in a worker thread, without the interpreter's lock
# ---------------------------------------------------------------------------------------------

cdef enum:
    _STAT_STEP = 256            # questions between two turns with the interpreter
    _STAT_CLASS = 4             # of the pool: memory for their answers
    _READ_STEP = 16 << 10       # a file is begun where there is so much room
    _FILES_PER_SLEEP = 4        # more sleeps than that are those of a disk
    _FILES_PER_LOOK = 16        # for which it is looked how often the thread has slept
    _READ_CLASS = 7             # of the pool: the memory that files are read into
    _READ_CLASS_FEW = 5         # the same where there are no more than so many
    _FEW = 32
    _SLASH = 47
    _RING_FILES = 32            # at a time, by a ring of their own, if there are as many
    _RINGS_KEPT = 4             # for the next batches
    _RING_PAUSE = 16            # which do without when it was of no use
    _SHARE = 4096 + 64          # bytes for each of them, at first and at most
    _SHARE_MOST = 4 * _SHARE
    _RUN = 8                    # paths in the same directory for which that is opened
    _DIRECTORY_MAX = 512        # bytes of its name
    _PATH_MAX = 4096            # with the null byte (limits.h)
    _PIECES_MAX = 5             # with which objects are made of as much
    _PIECES_OBJECT = 512        # the smallest that Python asks malloc for
    _OBJECT_EXTRA = 48          # what bytes take besides their content
    _COPY_CLASS = 6             # of the pool: memory for what is copied; no file is bigger


cdef const char **c_paths(list paths, list encoded) except NULL:
    """The paths as the kernel wants them, for as long as `paths` and `encoded` live.

    ASCII is what it is in every encoding of file names, and already there in a str.
    """
    cdef Py_ssize_t index, count = len(paths)
    cdef const char **result = <const char **>malloc((count + 1) * sizeof(char *))
    if result == NULL:
        raise MemoryError
    try:
        for index in range(count):
            path = paths[index]
            if isinstance(path, unicode):
                if PyUnicode_IS_ASCII(path):
                    result[index] = PyUnicode_AsUTF8(path)
                    continue
                path = PyUnicode_EncodeFSDefault(path)
                encoded.append(path)
            result[index] = PyBytes_AsString(path)
    except BaseException:
        free(result)
        raise
    return result


def are_plain(list paths not None):
    """Whether all of them are str, and none a subclass, without a null character."""
    for path in paths:
        if type(path) is not unicode or PyUnicode_FindChar(
                path, 0, 0, PyUnicode_GET_LENGTH(path), 1) != -1:
            return False
    return True


cdef object path_error(long outcome, path):
    return OSError(-outcome, strerror(-outcome), path)


def stat_many(list paths not None, bint follow):
    """For each path (str or bytes) an os.stat_result or its OSError, for a worker thread; the
    indices of the errors; and whether it had to wait for a disk, which ends it early.
    """
    cdef Py_ssize_t first, last, index, count = len(paths)
    cdef long sleeps
    cdef bint cold = False
    cdef int flags = AU_AT_NO_AUTOMOUNT | (0 if follow else AU_AT_SYMLINK_NOFOLLOW)
    cdef list encoded = [], results = [], odd = []
    cdef const char **names = c_paths(paths, encoded)
    cdef au_statx *facts = NULL
    cdef au_statx *known = NULL
    cdef long outcomes[_STAT_STEP]
    try:
        facts = <au_statx *>take_block(_STAT_CLASS)
        for first in range(0, count, _STAT_STEP):
            last = min(first + _STAT_STEP, count)
            with nogil:
                sleeps = au_sleeps()
                for index in range(first, last):
                    outcomes[index - first] = au_statx_call(
                        AT_FDCWD, names[index], flags, AU_STATX_BASIC_STATS, &facts[index - first])
                cold = (au_sleeps() - sleeps) * _FILES_PER_SLEEP > last - first
            known = NULL    # those before are overwritten
            like = None
            for index in range(last - first):
                if outcomes[index]:
                    odd.append(first + index)
                    results.append(path_error(outcomes[index], paths[first + index]))
                else:
                    like = stat_result_like(&facts[index], known, like)
                    known = &facts[index]
                    results.append(like)
            if cold:
                break
        return results, odd, cold
    finally:
        free(names)
        if facts != NULL:
            give_block(facts, _STAT_CLASS)


cdef struct Content:
    long outcome        # bytes; -errno; or, if `special`, a descriptor
    bint special        # not a regular file
    bint skipped        # for another way: too big, or a lease is in it
    bint full           # it does not fit behind the others
    size_t start        # in the common memory


cdef struct Contents:
    char *memory        # the block, or, for a file that is too big for it, more
    char *block         # of the pool
    size_t size, used
    size_t before       # bytes that have become objects
    size_t limit        # of those behind them
    size_t gaps         # bytes between them that are nobody's
    bint ready          # no page of it is missing
    Py_ssize_t by_ring  # files


cdef size_t find_room(Contents *all) noexcept nogil:
    """Room for some bytes more, if the limit leaves any: how many; 0 if there is none."""
    cdef size_t wanted
    cdef char *memory
    if all.used == all.size and all.size < all.limit + all.gaps:
        wanted = min(2 * all.size, all.limit + all.gaps)
        memory = <char *>realloc(NULL if all.memory == all.block else all.memory, wanted)
        if memory != NULL:
            if all.memory == all.block:
                memcpy(memory, all.block, all.used)
            all.memory = memory
            all.size = wanted
            all.ready = False
    return min(all.size, all.limit + all.gaps) - all.used


# For files in memory: threads that open files get in each other's way at the process's table of
# descriptors, where what is in the slots of a ring is not.
cdef struct FileRing:
    int fd                  # -1: there is none
    size_t room             # for each file; 0: nothing is to be read this way
    bint clear              # no file is open
    bint broken             # the kernel refuses it, or has not taken all that is in the queue
    Mapping memory
    ring_queues q
    long opened[_RING_FILES]
    long got[_RING_FILES]


# A directory that some paths in a row are in.  Looked up from there they are found sooner, and what
# is found is known to be on its mount.
cdef struct Directory:
    const char *path        # one of those in it; NULL: none was
    size_t size             # of the part that names the directory, with its slash
    long fd                 # with O_PATH; -1: it does not serve
    au_statx facts
    FileRing *ring          # for what is in it


cdef const char *name_in(Directory *directory, const char *path) noexcept nogil:
    """What comes behind this directory in a path; NULL: it does not lead there."""
    if directory.path == NULL or strncmp(path, directory.path, directory.size):
        return NULL
    return path + directory.size


cdef void leave_directory(Directory *directory) noexcept nogil:
    """Its paths are looked up whole from now on."""
    if directory.fd >= 0:
        au_close(<int>directory.fd)
    directory.fd = -1


cdef void enter_directory(Directory *directory, const char **paths,
                          Py_ssize_t count) noexcept nogil:
    """That of the first path, if several in a row are in it."""
    cdef const char *slash = strrchr(paths[0], _SLASH)
    cdef char name[_DIRECTORY_MAX]
    leave_directory(directory)
    directory.path = NULL
    if slash == NULL or count < _RUN or slash - paths[0] + 1 >= _DIRECTORY_MAX:
        return
    directory.path, directory.size = paths[0], slash - paths[0] + 1
    if name_in(directory, paths[_RUN - 1]) == NULL:
        directory.path = NULL
        return
    memcpy(name, directory.path, directory.size)
    name[directory.size] = 0
    directory.fd = au_open(name, O_PATH | O_CLOEXEC)
    if directory.fd >= 0 and (
            au_statx_call(<int>directory.fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC,
                          AU_STATX_BASIC_STATS | AU_STATX_MNT_ID_UNIQUE, &directory.facts) < 0
            or not directory.facts.stx_mask & AU_STATX_MNT_ID_UNIQUE):
        leave_directory(directory)


cdef bint is_whole(Directory *directory) except -1:
    """See `_mounts.is_whole`."""
    cdef au_statx *facts = &directory.facts
    found = whole_mounts.get(facts.stx_mnt_id)
    if found is None:
        _, now, local = mount_facts(<int>directory.fd, facts)
        found = look_whole(now, local, facts.stx_dev_major, facts.stx_dev_minor)
        if len(whole_mounts) >= 1024:
            whole_mounts.clear()
        whole_mounts[facts.stx_mnt_id] = found
    return found


cdef int learn_mount(Directory *directory) except -1:
    """With the interpreter's lock: find out about the mount of a directory that was not known."""
    global whole_mount
    if directory.fd < 0 or directory.facts.stx_mnt_id == whole_mount:
        return 0
    try:
        if is_whole(directory):
            whole_mount = directory.facts.stx_mnt_id
            return 0
    except Exception:
        pass            # the files can be read without; whoever asks for the mount will meet it
    leave_directory(directory)
    return 0


cdef const char *name_here(Directory *directory, const char *path) noexcept nogil:
    """What a path is in this directory, if that serves; else NULL."""
    cdef const char *name
    if directory.fd < 0 or directory.facts.stx_mnt_id != whole_mount:
        return NULL
    name = name_in(directory, path)
    # Behind two slashes it would be looked up from the root; and the limit is for all of a path.
    if name != NULL and (name[0] == _SLASH or directory.size + strlen(name) >= _PATH_MAX):
        return NULL
    return name


cdef const char *name_from(Directory *directory, const char **paths,
                           Py_ssize_t count) noexcept nogil:
    """What the first path is in its directory, if that serves; else NULL."""
    if name_in(directory, paths[0]) == NULL:
        enter_directory(directory, paths, count)
    return name_here(directory, paths[0])


cdef long open_in(Directory *directory, const char *name) noexcept nogil:
    """Open it on the directory's own mount, and by no symlink: those on the way there count, too.
    """
    cdef au_open_how how
    memset(&how, 0, sizeof(how))
    how.flags = <uint64_t>(O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    how.resolve = AU_RESOLVE_NO_XDEV | AU_RESOLVE_NO_SYMLINKS
    return au_openat2(<int>directory.fd, name, &how)


cdef bint is_special(int fd) noexcept nogil:
    """Neither a regular file nor a directory, but a pipe, a device, ..."""
    cdef au_statx facts
    return (au_statx_call(fd, b"", AU_AT_EMPTY_PATH, AU_STATX_BASIC_STATS, &facts) == 0
            and not S_ISREG(facts.stx_mode) and not S_ISDIR(facts.stx_mode))


cdef void read_one(const char **paths, Py_ssize_t count, Directory *directory, Contents *all,
                   Content *one) noexcept nogil:
    """All of a regular file, the first of these paths.

    Opened with O_NONBLOCK, which says nothing to a regular file: a FIFO does not make the files
    behind it wait for its writer, and is opened but once.  pread(2) refuses FIFOs and terminals, so
    what it answers with bytes need not be asked for its kind.
    """
    cdef size_t room = 1
    cdef const char *name = name_from(directory, paths, count)
    cdef long got, fd = -EINTR if name == NULL else open_in(directory, name)
    # On a mount that is known, a read of a regular file into memory that is there stops short at
    # the end, or before a page that cannot be read.  What is none refuses RWF_NOWAIT, or is a
    # device without an end.
    cdef bint known = fd >= 0, ends = False
    if fd < 0:
        fd = -EINTR
        while fd == -EINTR:     # as os.open
            fd = au_open(paths[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK)
            if fd in (-EMFILE, -ENFILE) and (directory.fd >= 0 or directory.ring.fd >= 0):
                leave_directory(directory)          # they have the last descriptors
                end_file_ring(directory.ring)
                fd = -EINTR
        if name != NULL and fd >= 0:
            leave_directory(directory)  # another by now, or one of symlinks or mounts
    one.outcome, one.special, one.skipped, one.full, one.start = fd, False, False, False, all.used
    if fd < 0:
        one.skipped = fd == -EAGAIN     # a lease
        return
    while True:
        room = find_room(all)
        if room == 0:
            one.full = all.before + one.start > 0
            one.skipped = not one.full
            break
        got = -EAGAIN
        if known and all.used == one.start:
            got = au_preadv2(fd, all.memory + all.used, room, 0, AU_RWF_NOWAIT)
            ends = got > 0
        if got < 0:
            got = au_pread(fd, all.memory + all.used, room, all.used - one.start)
        if got > 0:
            all.used += got
        if got == 0 or (ends and all.ready and 0 < got < <long>room
                        and (all.used - one.start) % _PAGE_LEAST):
            one.outcome = <long>(all.used - one.start)
            break
        if got < 0 and got != -EINTR:
            one.outcome = got
            break
    if (one.outcome <= 0 or room == 0) and is_special(<int>fd):
        one.special, one.skipped, one.full = True, False, False
        one.outcome = fd
        return
    if one.skipped or one.full or one.outcome < 0:
        all.used = one.start
    au_close(fd)


cdef void begin_file_ring(FileRing *ring) noexcept nogil:
    """Make it; where that cannot be had, files are read without, and what there is of it ends when
    it is given back.
    """
    cdef au_params params
    cdef au_files_register slots
    cdef size_t room = ring.room
    cdef long result
    memset(&params, 0, sizeof(params))
    memset(&slots, 0, sizeof(slots))
    ring.room, ring.clear, ring.broken = 0, True, True
    params.flags = AU_SETUP_SUBMIT_ALL
    result = au_setup(_RING_FILES, &params)
    if result < 0:
        return
    ring.fd = <int>result
    slots.count, slots.flags = _RING_FILES, AU_REGISTER_SPARSE
    if (map_queues(ring.fd, &params, &ring.memory, &ring.q) == 0
            and au_register(ring.fd, AU_REGISTER_FILES2, &slots, sizeof(slots)) == 0):
        ring.room, ring.broken = room, False


cdef void close_files(FileRing *ring) noexcept nogil:
    """Those that are open still."""
    cdef int nothing[_RING_FILES]
    cdef au_files_update update
    if ring.fd < 0 or ring.clear:
        return
    memset(nothing, -1, sizeof(nothing))
    memset(&update, 0, sizeof(update))
    update.fds = <uint64_t>&nothing[0]
    ring.clear = au_register(ring.fd, AU_REGISTER_FILES_UPDATE, &update, _RING_FILES) >= 0


cdef void end_file_ring(FileRing *ring) noexcept nogil:
    close_files(ring)   # now: the ring itself ends later, in a worker of the kernel
    unmap_queues(&ring.memory)
    if ring.fd >= 0:
        au_close(ring.fd)
    ring.fd, ring.room = -1, 0


cdef void ask_ring(FileRing *ring, uint32_t count, long *answers) noexcept nogil:
    """Have the kernel do the `count` things in the queue: the answers, each where its `user_data`
    says; those that it did not take keep theirs, and the ring is of no more use.

    Nothing stays with it: what would have to wait is refused.  So what it has taken it has answered
    when it comes back, and nothing is waited for.
    """
    cdef uint32_t index
    cdef au_cqe *cqe
    sq_publish(&ring.q)
    while cq_ready(&ring.q) < count:
        if au_enter(ring.fd, sq_pending(&ring.q), 0, 0, NULL, 0) <= 0:
            ring.room, ring.broken = 0, True
            break
    count = min(cq_ready(&ring.q), count)
    for index in range(count):
        cqe = cq_at(&ring.q, index)
        answers[cqe.user_data] = cqe.res
    cq_advance(&ring.q, count)


cdef void ask_for_files(FileRing *ring, Directory *directory, const char **names, int count,
                        char *memory) noexcept nogil:
    """Open regular files into the slots, and read each but once, if all that takes no waiting.

    Of a pipe or a terminal a ring takes the next bytes, wherever a read is to begin: these refuse
    RWF_NOWAIT.  (Pipes that have no name do not.)
    """
    cdef au_open_how how
    cdef au_sqe *sqe
    cdef int index
    cdef uint32_t asked = 0
    memset(&how, 0, sizeof(how))
    how.flags = <uint64_t>(O_RDONLY | O_NONBLOCK)
    how.resolve = AU_RESOLVE_NO_XDEV | AU_RESOLVE_NO_SYMLINKS | AU_RESOLVE_CACHED
    for index in range(count):
        ring.opened[index] = ring.got[index] = -EAGAIN
        sqe = sq_next(&ring.q)
        prep_openat2_slot(sqe, <int>directory.fd, names[index], &how, <uint32_t>index)
        sqe.user_data = <uint64_t>index
    ring.clear = False
    ask_ring(ring, <uint32_t>count, ring.opened)
    if ring.broken:
        return
    for index in range(count):
        if ring.opened[index] == 0:
            sqe = sq_next(&ring.q)
            prep_read(sqe, index, memory + index * ring.room, <uint32_t>ring.room, 0)
            sqe.flags = AU_IOSQE_FIXED_FILE
            sqe.op_flags = AU_RWF_NOWAIT
            sqe.user_data = <uint64_t>index
            asked += 1
    ask_ring(ring, asked, ring.got)


cdef bint ends_there(long got, size_t room) noexcept nogil:
    """Whether a read of a file has met its end: see `read_one`."""
    return 0 < got < <long>room and got % _PAGE_LEAST


cdef long special_of(FileRing *ring, int index) noexcept nogil:
    """A descriptor of what a slot has, if it is special; else -errno."""
    cdef long fd = -EINVAL
    if ring.opened[index] or ring.got[index] != -EOPNOTSUPP or ring.broken or ring.fd < 0:
        return fd
    prep_fd_install(sq_next(&ring.q), <uint32_t>index)
    ask_ring(ring, 1, &fd)
    if fd >= 0 and not is_special(<int>fd):
        au_close(<int>fd)
        fd = -EINVAL
    return fd


cdef int last_refused(FileRing *ring, int count) noexcept nogil:
    """Up to here everything is to be handed out, as it may be special: a pipe's writer has been let
    in, and the next who opens the pipe might find him gone."""
    while count and (ring.opened[count - 1] or ring.got[count - 1] != -EOPNOTSUPP):
        count -= 1
    return count - 1


cdef bint judge_ring(FileRing *ring, size_t room, int count) noexcept nogil:
    """After so many files: whether most have been read; what the next ones are given."""
    cdef int index, ended = 0, bigger = 0
    cdef long most = 0
    for index in range(count):
        ended += ends_there(ring.got[index], room)
        bigger += ring.got[index] == <long>room
        most = max(most, ring.got[index])
    if bigger > count // 4 and 0 < ring.room < _SHARE_MOST:
        ring.room *= 2
    elif ended <= count // 2:
        ring.room = 0
    elif most < <long>(room // 2) and room > _SHARE:
        ring.room //= 2
    return ended > count // 2


cdef Py_ssize_t read_by_ring(const char **paths, Py_ssize_t count, Directory *directory,
                             Contents *all, Content *found) noexcept nogil:
    """Files from the first one on that are in the directory, some of them perhaps in the common
    way: how many; 0: none.
    """
    cdef const char *names[_RING_FILES]
    cdef Content *one
    cdef FileRing *ring = directory.ring
    cdef size_t start = all.used, room = ring.room
    cdef size_t fit = (min(all.size, all.limit + all.gaps) - start) // room
    cdef int index, asked = 0, most = <int>min(fit, <size_t>min(count, _RING_FILES))
    cdef int last
    cdef bint most_read
    while asked < most:
        names[asked] = name_here(directory, paths[asked])
        if names[asked] == NULL:
            break
        asked += 1
    if asked < _RUN:
        return 0
    if ring.fd < 0:
        begin_file_ring(ring)
        if ring.room == 0:
            return 0
    ask_for_files(ring, directory, names, asked, all.memory + start)
    last = last_refused(ring, asked)
    most_read = judge_ring(ring, room, asked) or last >= 0
    all.used = start + asked * room
    all.gaps += asked * room
    for index in range(asked):
        one = &found[index]
        one.outcome, one.start = ring.got[index], start + index * room
        one.special = one.skipped = one.full = False
        if ends_there(one.outcome, room):
            all.gaps -= one.outcome
            all.by_ring += 1
        elif most_read:
            one.outcome = special_of(ring, index)
            if one.outcome >= 0:
                one.special = True
                continue
            read_one(paths + index, count - index, directory, all, one)
            if one.full and index < last:
                one.full, one.skipped = False, True
            if one.full:
                return index + 1
        else:
            all.used = start + index * room
            all.gaps -= (asked - index) * room
            return index
    return asked


cdef Py_ssize_t read_some(const char **paths, Py_ssize_t first, Py_ssize_t count,
                          Directory *directory, Contents *all, Content *found,
                          bint *cold) noexcept nogil:
    """Files from the first one on, until the memory is used up, or it waits for a disk: how far it
    came.
    """
    cdef Py_ssize_t done, index = first, looked = first
    cdef long sleeps = au_sleeps()
    cdef bint full = False
    while (index < count and not full and not cold[0]
           and (index == first or all.used + _READ_STEP <= all.size)):
        done = 0
        if directory.ring.room and all.ready:
            done = read_by_ring(paths + index, count - index, directory, all, &found[index])
        if done == 0:
            read_one(paths + index, count - index, directory, all, &found[index])
            done = 1
        index += done
        full = found[index - 1].full
        if index - looked >= _FILES_PER_LOOK:
            looked = index
            cold[0] = (au_sleeps() - sleeps) * _FILES_PER_SLEEP > index - first
    if not cold[0]:
        cold[0] = (au_sleeps() - sleeps) * _FILES_PER_SLEEP > index - first
    return index


# Memory of malloc's that objects are made of next, which comes while the interpreter's lock is not
# held: with it the threads would take turns with that.
cdef struct Pieces:
    void *piece[_PIECES_MAX]
    size_t freed, count


cdef void free_pieces(Pieces *pieces, size_t size) noexcept nogil:
    """Those that objects of so many bytes together are made of."""
    while pieces.freed < pieces.count and pieces.freed * AU_PIECE < size:
        free(pieces.piece[pieces.freed])
        pieces.freed += 1


cdef void take_pieces(Pieces *pieces, size_t size, size_t count) noexcept nogil:
    """As many as so many objects want.  Tiny ones are not malloc's, and big ones a mapping each."""
    free_pieces(pieces, SIZE_MAX)
    pieces.freed = pieces.count = 0
    if _PIECES_OBJECT * count < size < AU_PIECE // 4 * count:
        while pieces.count < _PIECES_MAX and pieces.count * AU_PIECE < size:
            pieces.piece[pieces.count] = au_piece()
            pieces.count += 1


cdef size_t bytes_of(Content *found, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """What these files have in memory."""
    cdef size_t size = 0
    cdef Py_ssize_t index
    for index in range(first, last):
        if found[index].outcome > 0 and not (found[index].special or found[index].skipped
                                             or found[index].full):
            size += found[index].outcome
    return size


@cython.final
cdef class FileRings:
    """For the batches of a run, kept from one to the next: to make a ring stops all threads for a
    moment, as it changes the memory that they share.

    :ivar files: read so far
    """

    cdef FileRing kept[_RINGS_KEPT]
    cdef int count
    cdef int pause          # batches that do without: it was of no use to the last one
    cdef bint closed
    cdef readonly uint64_t files
    cdef object __weakref__

    cdef void take(self, FileRing *ring) noexcept:
        """One that is to spare, or none yet."""
        if self.pause:
            self.pause -= 1
            return
        if self.count:
            self.count -= 1
            ring[0] = self.kept[self.count]
        else:
            ring.room = _SHARE

    cdef void give(self, FileRing *ring) noexcept:
        if ring.broken or (ring.fd >= 0 and ring.room == 0):
            ring.room = _SHARE
            self.pause = _RING_PAUSE
        if ring.fd < 0:
            return
        with nogil:
            close_files(ring)
        if ring.broken or not ring.clear or self.closed or self.count == _RINGS_KEPT:
            end_file_ring(ring)
        else:
            self.kept[self.count] = ring[0]
            self.count += 1

    def forget(self):
        """In a forked child: the rings are the parent's, and their memory is not here."""
        while self.count:
            self.count -= 1
            au_close(self.kept[self.count].fd)

    cpdef close(self):
        """What is in use ends when it is given back."""
        self.closed = True
        while self.count:
            self.count -= 1
            end_file_ring(&self.kept[self.count])

    def __dealloc__(self):
        self.close()


def read_many(list paths not None, size_t limit, left, FileRings rings=None):
    """For each path (str or bytes) its bytes, its OSError or what `left` makes of a descriptor, for
    a worker thread; the indices of what is not bytes; and whether it had to wait for a disk.

    These are of what is no regular file, opened with O_NONBLOCK, now the caller's; or -1 for a file
    of about `limit` bytes or more.  Ends early, but not before the first, where the next file would
    make it more than `limit` bytes; and after a wait for a disk.

    They are read into the same memory again and again, which stays in the processor's cache and
    costs no page faults, and become objects whenever it is full.
    """
    cdef Py_ssize_t index, read = 0, made = 0, count = len(paths)
    cdef int number = _READ_CLASS_FEW if count <= _FEW else _READ_CLASS
    cdef size_t used, size
    cdef bint cold = False
    cdef Pieces pieces
    cdef FileRing ring
    cdef list encoded = [], results = [], odd = []
    cdef const char **names = c_paths(paths, encoded)
    cdef Content *found = <Content *>malloc((count + 1) * sizeof(Content))
    cdef Contents all
    cdef Directory directory
    directory.path, directory.fd = NULL, -1
    memset(&all, 0, sizeof(all))
    memset(&pieces, 0, sizeof(pieces))
    memset(&ring, 0, sizeof(ring))
    ring.fd = -1
    directory.ring = &ring
    if rings is not None and count >= _RING_FILES:
        rings.take(&ring)
    all.limit = limit
    try:
        if found == NULL:
            raise MemoryError
        all.block = all.memory = <char *>take_block(number)
        all.size = <size_t>_ALIGNMENT << number
        all.ready = count >= _RUN and au_populate(all.block, all.size) == 0
        while read < count:
            with nogil:
                read = read_some(names, read, count, &directory, &all, found, &cold)
                size = bytes_of(found, made, read)
                take_pieces(&pieces, size + _OBJECT_EXTRA * (read - made), read - made)
            learn_mount(&directory)
            used = 0
            for index in range(made, read):
                if found[index].full:
                    return results, odd, cold
                made = index + 1
                if found[index].outcome >= 0 and not (found[index].skipped or found[index].special):
                    used += found[index].outcome + _OBJECT_EXTRA
                    free_pieces(&pieces, used)
                    results.append(PyBytes_FromStringAndSize(all.memory + found[index].start,
                                                             found[index].outcome))
                    continue
                odd.append(index)
                if found[index].skipped or found[index].special:
                    results.append(left(found[index].outcome if found[index].special else -1))
                else:
                    results.append(path_error(found[index].outcome, paths[index]))
            all.before += size
            all.limit -= size
            all.used = all.gaps = 0
            if cold:
                break
        return results, odd, cold
    except BaseException:
        for index in range(read):
            if found[index].special:
                au_close(found[index].outcome)
        raise
    finally:
        free_pieces(&pieces, SIZE_MAX)
        leave_directory(&directory)
        if rings is not None:
            rings.files += all.by_ring
            rings.give(&ring)
        free(names)
        free(found)
        if all.memory != all.block:
            free(all.memory)
        if all.block != NULL:
            give_block(all.block, number)


cdef struct Copying:
    int source, target      # directories
    char *memory
    size_t most
    bint metadata
    bint clone              # files can share blocks, as far as is known
    bint refused            # the target takes no files without a name, or gives them none


cdef bint is_plain(int fd, au_statx *facts, Copying *how) noexcept nogil:
    """Whether it is a small file without holes, and without attributes, if those matter."""
    cdef long names
    if (au_statx_call(fd, b"", AU_AT_EMPTY_PATH, AU_STATX_BASIC_STATS, facts) < 0
            or not S_ISREG(facts.stx_mode) or facts.stx_size > how.most
            or facts.stx_blocks * 512 < facts.stx_size):
        return False
    if not how.metadata:
        return True
    names = au_attributes(fd)
    return names == 0 or names == -EOPNOTSUPP


cdef long copied_content(int source, int target, size_t size, Copying *how) noexcept nogil:
    """The bytes copied into a new file; or less than 0."""
    cdef au_statx facts
    cdef size_t read = 0, written = 0
    cdef long count
    if how.clone and size:
        count = au_clone(target, source)
        if count == 0 and au_statx_call(
                target, b"", AU_AT_EMPTY_PATH, AU_STATX_BASIC_STATS, &facts) == 0:
            return <long>facts.stx_size
        if count not in (-EOPNOTSUPP, -ENOTTY, -EXDEV, -ENOSYS):
            return -1
        how.clone = False
    # Of one that grows, what it was at first; of one that says it is empty, whether that is true
    while read < max(size, 1):
        count = au_pread(source, how.memory + read, max(size, 1) - read, read)
        if count < 0:
            return -1
        if count == 0:
            break
        read += count
    if read > size:
        return -1
    while written < read:
        count = au_pwrite(target, how.memory + written, read - written, written)
        if count <= 0:
            return -1
        written += count
    return <long>read


cdef long finish_copy(int fd, const char *name, au_statx *facts, Copying *how) noexcept nogil:
    """Times and permission bits as they were, if they matter, and its name; or less than 0."""
    cdef long result = 0
    if how.metadata:
        result = au_set_times(fd, facts.stx_atime, facts.stx_mtime)
        if result == 0:
            result = au_set_mode(fd, facts.stx_mode & 0o7777)
    if result == 0:
        result = au_close_copy(fd)
    if result == 0:
        result = au_link(fd, how.target, name)
        how.refused = result in (-ENOENT, -EPERM, -EACCES, -EXDEV, -EOPNOTSUPP)
    return result


cdef long copy_one(const char *name, Copying *how) noexcept nogil:
    cdef au_statx facts
    cdef long to = -1, copied = -1, fd
    fd = au_openat(how.source, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, 0)
    if fd < 0:
        return -1
    # Before it is read, which changes its time of access
    if is_plain(fd, &facts, how):
        to = au_openat(how.target, b".", O_TMPFILE | O_WRONLY | O_CLOEXEC,
                       facts.stx_mode & 0o777 if how.metadata else 0o666)
        how.refused = to in (-EOPNOTSUPP, -EISDIR, -EINVAL)
    if to >= 0:
        copied = copied_content(fd, to, facts.stx_size, how)
        if copied >= 0 and finish_copy(to, name, &facts, how) < 0:
            copied = -1
        au_close(to)
    au_close(fd)
    return copied


def copy_many(list names not None, int source, int target, bint metadata, bint clone):
    """Copy small regular files from one open directory to another, for a worker thread.

    A copy has no name (O_TMPFILE) until it is complete; then it gets its own, if nothing else has
    that.

    :param metadata: times and permission bits as well
    :param clone: try to have files share blocks
    :returns: for each the bytes copied, or -1: there is nothing of it, since it is for another
        way, which also finds out what is wrong with it; whether files could share blocks, as far
        as `clone` and these have told; and whether the target refuses copies of this kind, and
        the rest was not tried
    """
    cdef Py_ssize_t index, count = len(names)
    cdef list encoded = []
    cdef const char **paths = c_paths(names, encoded)
    cdef long *copied = <long *>malloc((count + 1) * sizeof(long))
    cdef Copying how
    memset(&how, 0, sizeof(how))
    how.source, how.target, how.metadata, how.clone = source, target, metadata, clone
    how.most = <size_t>_ALIGNMENT << _COPY_CLASS
    try:
        if copied == NULL:
            raise MemoryError
        how.memory = <char *>take_block(_COPY_CLASS)
        with nogil:
            for index in range(count):
                copied[index] = -1 if how.refused else copy_one(paths[index], &how)
        return [copied[index] for index in range(count)], bool(how.clone), bool(how.refused)
    finally:
        free(paths)
        free(copied)
        if how.memory != NULL:
            give_block(how.memory, _COPY_CLASS)


# ---------------------------------------------------------------------------------------------
# Operation: one request to the kernel, and everything it may touch
# ---------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc_clear
@cython.freelist(64)
cdef class Operation:
    """One request to the kernel.  Owns its buffer and a share in its file until it is done.

    Made by the ``*_operation`` functions below, started by `Ring.start`, finished by its own
    completion only.  `no_gc_clear`: the collector must not take the buffer of an operation that
    the kernel may still write to (while it is started, the ring holds a counted reference too).
    """

    cdef Handle handle
    cdef object buffer          # bytes being filled, or a tuple of bytes to write, or the path
    cdef bytes second           # the other path of an operation that has two
    cdef Py_buffer *view        # the caller's buffer, if it is exported
    cdef char *data             # where the kernel reads or writes
    cdef void *scratch          # aligned memory of our own (bounce buffer, statx, vectors)
    cdef int scratch_class              # of the pool that it goes back to
    cdef Py_ssize_t size
    cdef readonly Py_ssize_t moved      # bytes transferred so far
    cdef Py_ssize_t head, asked         # of whole blocks: where what was asked for is, its size
    cdef char *target                   # where that goes at the end, if anywhere
    cdef int64_t offset
    cdef int64_t before         # the kernel's offset before the transfer, if that is used
    cdef int fd
    cdef int flags
    cdef uint32_t mode
    cdef uint8_t opcode
    cdef uint8_t state
    cdef bint exact             # go on after a short transfer
    cdef bint gathers           # writes from several buffers
    cdef bint force_async
    cdef readonly bint effect           # may change something: never cancelled once started
    cdef bint once                      # changes a directory: a second time is another thing
    cdef readonly bint cancel_asked
    cdef readonly bint cancelled        # the kernel gave it up because we asked
    cdef readonly bint abandoned        # nobody waits any more
    cdef readonly bint refused          # the ring could not do it; a thread may
    cdef bint claimed                   # its result has an owner
    cdef bint leaked                    # no completion will come: its memory is the kernel's
    cdef bint left                      # has left its file
    cdef uint32_t slot, generation
    cdef readonly int result            # count or 0, or -errno
    cdef public object waiter           # the host's: whom to wake
    cdef public object when_done        # called with the operation, at its completion

    def __cinit__(self):
        self.fd = -1
        self.offset = -1
        self.asked = -1

    def __dealloc__(self):
        # Never reached while the kernel owns anything: the ring's reference is given back at
        # the completion, and kept for good if that never comes.
        self.drop_view()
        release_scratch(self)
        if (self.opcode == AU_OP_OPENAT and self.state == _DONE and self.result >= 0
                and not self.claimed):
            # Whoever asked was torn away (an interrupt) between the completion and `claim`.
            au_close(self.result)

    cdef bint is_short(self) noexcept:
        """Whether a worker does it in memory, as a rule: no disk's data, nothing to be synced."""
        if self.opcode == AU_OP_WRITE:
            return self.handle.regular and not self.handle.open_flags & (O_DIRECT | O_DSYNC)
        return self.opcode not in (AU_OP_READ, AU_OP_FSYNC, AU_OP_FALLOCATE)

    @property
    def done(self):
        return self.state == _DONE

    @property
    def started(self):
        return self.state == _STARTED

    @property
    def positional(self):
        """At an explicit offset; else at the kernel's own, which moves with it."""
        return self.offset != -1

    @property
    def requested(self):
        """Bytes asked for."""
        return self.size

    cdef void prepare(self, au_sqe *sqe) noexcept:
        cdef uint32_t size = <uint32_t>min(self.size - self.moved, <Py_ssize_t>_TRANSFER_MAX)
        cdef int64_t offset = -1 if self.offset == -1 else self.offset + self.moved
        if self.at_kernel_offset():
            self.before = au_lseek(self.fd, 0, SEEK_CUR)
        if self.opcode == AU_OP_READ:
            prep_read(sqe, self.fd, self.data + self.moved, size, offset)
        elif self.opcode == AU_OP_WRITE:
            if self.gathers:
                self.prepare_gathering(sqe, offset)
            else:
                prep_write(sqe, self.fd, self.data + self.moved, size, offset)
        elif self.opcode == AU_OP_OPENAT:
            prep_openat(sqe, AT_FDCWD, self.data, self.flags, self.mode)
        elif self.opcode == AU_OP_CLOSE:
            prep_close(sqe, self.fd)
        elif self.opcode == AU_OP_STATX:
            prep_statx(sqe, self.fd, self.data, self.flags, self.mode, <au_statx *>self.scratch)
        elif self.second is not None:
            prep_two_paths(sqe, self.opcode, AT_FDCWD, self.data, PyBytes_AS_STRING(self.second))
        elif self.opcode == AU_OP_UNLINKAT:
            prep_unlinkat(sqe, AT_FDCWD, self.data, self.flags)
        elif self.opcode == AU_OP_MKDIRAT:
            prep_mkdirat(sqe, AT_FDCWD, self.data, self.mode)
        elif self.opcode == AU_OP_FSYNC:
            prep_fsync(sqe, self.fd, <uint32_t>self.flags)
        elif self.opcode == AU_OP_FTRUNCATE:
            prep_ftruncate(sqe, self.fd, self.offset)
        elif self.opcode == AU_OP_FALLOCATE:
            prep_fallocate(sqe, self.fd, self.flags, self.offset, self.size)
        else:
            prep_nop(sqe, self.flags)
        if self.nonblocking() and (self.opcode == AU_OP_READ or self.opcode == AU_OP_WRITE):
            # O_NONBLOCK alone makes the kernel wait all the same, where a poll can tell it when
            sqe.op_flags = AU_RWF_NOWAIT
        if self.force_async:
            sqe.flags |= AU_IOSQE_ASYNC

    cdef void prepare_gathering(self, au_sqe *sqe, int64_t offset) noexcept:
        """A write from several buffers, or what is left of it."""
        cdef iovec *vectors = <iovec *>self.scratch
        cdef Py_ssize_t done = self.moved, size
        cdef uint32_t count = 0
        cdef bytes part
        for part in <tuple>self.buffer:
            size = PyBytes_GET_SIZE(part)
            if done >= size:
                done -= size
                continue
            vectors[count].iov_base = PyBytes_AS_STRING(part) + done
            vectors[count].iov_len = size - done
            count += 1
            done = 0
        prep_writev(sqe, self.fd, vectors, count, offset)

    cdef bint complete(self, int res) noexcept:
        """Take in one completion.  True: not finished, start it again."""
        if self.opcode == AU_OP_READ or self.opcode == AU_OP_WRITE:
            if res > 0:
                self.moved += res
                self.result = 0
                self.move_on(res)
                if self.asked >= 0 and self.moved % self.handle.align:
                    return False    # the end of the file, within a block
                if self.exact and self.moved < self.size:
                    if self.wanted():
                        return True
                    # A part of a write has happened; a read is given up, its bytes forgotten.
                    if self.opcode == AU_OP_READ:
                        return self.give_up()
                return False
            if res == 0:
                self.result = 0     # EOF; a write of nothing is told by `moved`
                return False
        self.result = res
        if res == -EINTR and self.opcode == AU_OP_CLOSE:
            self.result = 0         # the descriptor is gone all the same: never again
            return False
        if self.once and (res == -EINTR or res == -_ERESTARTSYS or res == -_ERESTARTNOINTR
                          or res == -_ERESTARTNOHAND or res == -_ERESTART_RESTARTBLOCK):
            self.result = -EINTR    # it may have happened, and not twice
            return False
        if (res == -ECANCELED or res == -EINTR or res == -_ERESTARTSYS
                or res == -_ERESTARTNOINTR or res == -_ERESTARTNOHAND
                or res == -_ERESTART_RESTARTBLOCK):
            if self.cancel_asked:
                return self.give_up()
            if res != -ECANCELED:
                return True if self.wanted() else self.give_up()    # a signal: once more
            # Nobody asked: no worker could be made (a pids limit).  Nothing has happened.
            self.refused = True
        elif res == -EAGAIN and not self.nonblocking() and not self.once:
            if not self.wanted():
                return self.give_up()
            if not self.force_async:
                self.force_async = True
                return True
            self.refused = True
        elif res == -EOPNOTSUPP and self.nonblocking():
            self.refused = True     # it knows no RWF_NOWAIT; read(2) obeys O_NONBLOCK
        elif res == -ENOMEM and self.opcode == AU_OP_WRITE:
            # xfs, 6.0 to 6.14: a NOWAIT buffered write can fail for memory it could wait for
            if not self.force_async:
                self.force_async = True
                return True
            self.refused = True
        elif res == -EINVAL and self.opcode == AU_OP_FTRUNCATE:
            self.refused = True     # let ftruncate(2) decide: the argument, or the opcode
        if self.moved and self.refused and self.offset != -1:
            self.moved = 0          # a thread does all of it again, to the same effect
        elif self.moved and (self.refused or self.opcode == AU_OP_READ):
            self.refused = False
            self.result = 0         # the part counts, as in read(2); the next call meets the error
        return False

    cdef bint wanted(self) noexcept:
        """Whether it is to be started once more: a cancel that came too late asks only once."""
        return self.effect or not (self.abandoned or self.cancel_asked)

    cdef bint give_up(self) noexcept:
        """Cancelled, and nothing has happened; but a part of a write to a stream has."""
        if self.moved and self.opcode == AU_OP_WRITE:
            self.result = 0
            return False
        self.cancelled = True
        self.result = -ECANCELED
        if self.moved and self.at_kernel_offset():
            au_lseek(self.fd, -self.moved, SEEK_CUR)
        return False

    cdef bint at_kernel_offset(self) noexcept:
        return self.offset == -1 and self.handle is not None and self.handle.seekable

    cdef void move_on(self, int count) noexcept:
        """The kernel's offset after a transfer of `count` bytes, where io_uring leaves it behind.

        A transfer that completes asynchronously in the device (O_DIRECT, a FUSE server's direct
        I/O) does not store the new offset (`kiocb_done` does, `io_complete_rw` does not; seen on
        6.18).  Buffered I/O on local file systems gets there only when an error ended a write
        behind a part of it (a full disk): the part is told, but the worker that met the error
        stores nothing.
        """
        cdef au_statx facts
        cdef bint cut_off = self.opcode == AU_OP_WRITE and self.moved < self.size
        if (not self.at_kernel_offset()
                or (self.handle.local and not self.handle.direct and not cut_off)
                or au_lseek(self.fd, 0, SEEK_CUR) != self.before):
            return
        if self.opcode == AU_OP_WRITE and self.handle.append:
            if au_statx_call(self.fd, b"", AU_AT_EMPTY_PATH | AU_AT_STATX_DONT_SYNC,
                             AU_STATX_BASIC_STATS, &facts) == 0:
                au_lseek(self.fd, facts.stx_size, SEEK_SET)
        else:
            au_lseek(self.fd, self.before + count, SEEK_SET)

    cdef void narrow(self) noexcept:
        """At the end of a read of whole blocks: what was asked for is all that it has brought."""
        self.moved = max(min(self.moved - self.head, self.asked), <Py_ssize_t>0)
        self.size = self.asked
        self.asked = -1
        self.offset += self.head
        self.data += self.head
        if self.target != NULL:
            memcpy(self.target, self.data, self.moved)

    cdef bint nonblocking(self) noexcept:
        return self.handle is not None and self.handle.nonblocking and not self.handle.seekable

    cdef void drop_view(self) noexcept:
        if self.view != NULL:
            PyBuffer_Release(self.view)
            free(self.view)
            self.view = NULL

    cdef int export(self, buffer, int flags) except -1:
        """Hold the caller's buffer until `drop_view`."""
        cdef Py_buffer *view = <Py_buffer *>malloc(sizeof(Py_buffer))
        if view == NULL:
            raise MemoryError
        try:
            PyObject_GetBuffer(buffer, view, flags)
        except BaseException:
            free(view)
            raise
        self.view = view
        return 0

    cdef int check_done(self) except -1:
        """What the kernel may still write to is shown to nobody."""
        if self.state != _DONE or self.leaked:
            raise RuntimeError("the operation is still in the kernel")
        return 0

    def uses(self, Handle handle):
        return self.handle is handle

    def cancel(self, Ring ring):
        ring.cancel(self)

    def abandon(self, Ring ring):
        ring.abandon(self)

    cpdef bytes take(self):
        """The bytes of a finished read (shorter than asked only at EOF or on a stream)."""
        cdef PyObject *data
        self.check_done()
        result, self.buffer = self.buffer, None
        if result is None:
            return PyBytes_FromStringAndSize(self.data, self.moved)
        if self.moved != PyBytes_GET_SIZE(result):
            data = <PyObject *>result
            Py_INCREF(result)
            result = None
            _PyBytes_Resize(&data, self.moved)
            result = <object>data
            Py_DECREF(result)
        return result

    def copy_out(self):
        """Give a finished read its destination: copies the bounce buffer, returns the count."""
        self.check_done()
        if self.moved:
            if self.view == NULL:
                raise RuntimeError("the destination has been given back")
            memcpy(self.view.buf, self.data, self.moved)
        self.drop_view()
        return self.moved

    def bounced(self):
        """The bytes of a finished `readinto` whose destination is not wanted any more."""
        self.check_done()
        return PyBytes_FromStringAndSize(self.data, self.moved)

    def claim(self):
        """The new descriptor of a finished open now belongs to the caller."""
        self.check_done()
        self.claimed = True
        return self.result

    def statx(self):
        """(st_mode, blksize, size, fs_type, now, local) of a finished statx."""
        self.check_done()
        return facts_tuple(self.fd, <au_statx *>self.scratch)

    def stat_result(self):
        """os.stat_result of a finished statx."""
        self.check_done()
        return stat_result(<au_statx *>self.scratch)

    def error(self, filename=None):
        """The OSError of a failed operation."""
        if filename is None:
            return OSError(-self.result, strerror(-self.result))
        return OSError(-self.result, strerror(-self.result), filename)


cdef Operation new_operation(Handle handle, uint8_t opcode):
    cdef Operation operation = Operation.__new__(Operation)
    operation.handle = handle
    operation.opcode = opcode
    if handle is not None:
        operation.fd = handle.fd
    return operation


# Free buffers by class.  The GIL guards them.
cdef void *pool[_POOL_CLASSES][_POOL_KEPT_MAX]
cdef uint32_t pool_counts[_POOL_CLASSES]


cdef void *take_block(int number) except NULL:
    """Memory of a class; aligned."""
    cdef void *block = NULL
    if pool_counts[number]:
        pool_counts[number] -= 1
        return pool[number][pool_counts[number]]
    if posix_memalign(&block, _ALIGNMENT, <size_t>_ALIGNMENT << number) != 0:
        raise MemoryError
    return block


cdef void give_block(void *block, int number) noexcept:
    if pool_counts[number] < max(<uint32_t>_POOL_KEPT_MAX >> number, <uint32_t>_POOL_KEPT_MIN):
        pool[number][pool_counts[number]] = block
        pool_counts[number] += 1
    else:
        free(block)


cdef int allocate_scratch(Operation operation, size_t size) except -1:
    # Less than the smallest is not kept: thousands of operations may wait, each with its own
    cdef int number = 0 if size >= _ALIGNMENT else _POOL_CLASSES
    while number < _POOL_CLASSES and <size_t>_ALIGNMENT << number < size:
        number += 1
    operation.scratch_class = number
    if number < _POOL_CLASSES:
        operation.scratch = take_block(number)
    elif posix_memalign(&operation.scratch, _ALIGNMENT, size if size else 1) != 0:
        operation.scratch = NULL
        raise MemoryError
    return 0


cdef void release_scratch(Operation operation) noexcept:
    if operation.scratch == NULL:
        return
    if operation.scratch_class < _POOL_CLASSES:
        give_block(operation.scratch, operation.scratch_class)
    else:
        free(operation.scratch)
    operation.scratch = NULL


cdef int read_blocks(Operation operation) except -1:
    """Make a read one of the whole blocks round it, into memory of our own."""
    cdef int64_t align = operation.handle.align
    cdef int64_t head
    if align and operation.offset >= 0 and operation.offset < INT64_MAX - operation.size - align:
        head = operation.offset % align
        operation.head = head
        operation.asked = operation.size
        operation.offset -= head
        operation.size = (head + operation.size + align - 1) // align * align
    allocate_scratch(operation, operation.size)
    operation.data = <char *>operation.scratch
    return 0


cdef bint needs_worker(Handle handle) noexcept:
    """A regular file that cannot be asked not to wait: the first attempt would fail in any case.

    In /proc, /sys and FUSE it would do so 128 times: the kernel finds a poll method that says
    "ready" and tries again (6.18: reading /proc/kallsyms took 19 s instead of 0.04).
    """
    return handle.regular and handle.now == _NOW_NEVER and not handle.direct


cpdef Operation read_operation(
    Handle handle, Py_ssize_t size, int64_t offset, bint exact, bint force_async
):
    """A read into fresh bytes (`Operation.take`).  Offset -1: the file's own position."""
    cdef Operation operation = new_operation(handle, AU_OP_READ)
    operation.size = size
    operation.offset = offset
    operation.exact = exact
    operation.force_async = force_async or needs_worker(handle)
    if handle.direct:
        read_blocks(operation)
    else:
        operation.buffer = PyBytes_FromStringAndSize(NULL, size)
        operation.data = PyBytes_AS_STRING(operation.buffer)
    return operation


def piece_operation(Handle handle, bytes whole, Py_ssize_t start, Py_ssize_t size, int64_t offset):
    """A read into a part of fresh bytes that several operations fill; always by a worker."""
    cdef Operation operation = new_operation(handle, AU_OP_READ)
    if start < 0 or size < 0 or start + size > PyBytes_GET_SIZE(whole):
        raise ValueError("piece outside its buffer")
    operation.buffer = whole
    operation.data = PyBytes_AS_STRING(whole) + start
    operation.size = size
    operation.offset = offset
    operation.exact = True
    operation.force_async = True
    if handle.direct:
        operation.target = operation.data
        operation.force_async = False
        read_blocks(operation)
    return operation


def new_bytes(Py_ssize_t size):
    """Bytes with no content yet, for `piece_operation`; show them to nobody before that."""
    return PyBytes_FromStringAndSize(NULL, size)


def take_bytes(list box, Py_ssize_t size):
    """Take the bytes out of a list of one, cut to `size` in place: a copy would take its time.

    Nobody else may hold them, or else they are copied all the same.
    """
    cdef PyObject *data
    cdef bytes result = box.pop()
    if size >= PyBytes_GET_SIZE(result):
        return result
    if Py_REFCNT(result) > 1:
        return result[:size]
    data = <PyObject *>result
    Py_INCREF(result)
    result = None
    _PyBytes_Resize(&data, size)
    result = <bytes>data
    Py_DECREF(result)
    return result


def readinto_operation(Handle handle, buffer, int64_t offset, bint exact, bint force_async):
    """A read into the caller's buffer, by way of one of our own (`Operation.copy_out`).

    So an operation that must be abandoned leaves the caller's memory alone.
    """
    cdef Operation operation = new_operation(handle, AU_OP_READ)
    operation.export(buffer, PyBUF_WRITABLE | PyBUF_SIMPLE)
    operation.size = operation.view.len
    operation.offset = offset
    operation.exact = exact
    operation.force_async = force_async or needs_worker(handle)
    read_blocks(operation)
    return operation


def write_operation(Handle handle, buffer, int64_t offset, bint exact):
    """A write of a buffer, which stays exported until the operation is done; or copied, if direct
    I/O wants it elsewhere.
    """
    cdef Operation operation = new_operation(handle, AU_OP_WRITE)
    operation.export(buffer, PyBUF_SIMPLE)
    operation.data = <char *>operation.view.buf
    operation.size = operation.view.len
    operation.offset = offset
    operation.exact = exact
    operation.force_async = needs_worker(handle)
    # To a pipe or terminal a write can wait for ever, and a part of it is an honest result.
    operation.effect = handle.seekable
    if handle.align and <uintptr_t>operation.data % handle.align:
        allocate_scratch(operation, operation.size)
        memcpy(operation.scratch, operation.data, operation.size)
        operation.data = <char *>operation.scratch
        operation.drop_view()
    return operation


def gather_operation(Handle handle, tuple parts not None, int64_t offset):
    """A write of several bytes objects, one behind the other, as one; always by a worker.

    :param parts: up to 1024, and no more than 64 MiB
    """
    cdef Operation operation = new_operation(handle, AU_OP_WRITE)
    cdef bytes part
    if not 0 < len(parts) <= _VECTORS_MAX:
        raise ValueError(f"parts must be 1 to {_VECTORS_MAX}, not {len(parts)}")
    if handle.align:
        raise ValueError("parts are not aligned")
    for part in parts:
        if part is None:
            raise TypeError("a part must be bytes")
        operation.size += PyBytes_GET_SIZE(part)
    if operation.size > _TRANSFER_MAX:
        raise ValueError("more than one transfer")
    allocate_scratch(operation, len(parts) * sizeof(iovec))
    operation.buffer = parts
    operation.gathers = True
    operation.offset = offset
    operation.exact = True
    operation.force_async = True
    operation.effect = True
    return operation


def open_operation(bytes path, int flags, uint32_t mode):
    """openat(2) by a worker, always: an open can wait for a peer, a server, a disk."""
    cdef Operation operation = new_operation(None, AU_OP_OPENAT)
    operation.buffer = path
    operation.data = PyBytes_AS_STRING(path)
    operation.flags = flags | O_CLOEXEC
    operation.mode = mode
    operation.force_async = True
    operation.effect = (flags & (O_CREAT | O_TRUNC)) != 0
    return operation


def close_operation(int fd):
    """close(2) by a worker: it can flush, truncate, delete."""
    cdef Operation operation = new_operation(None, AU_OP_CLOSE)
    operation.fd = fd
    operation.force_async = True
    operation.effect = True
    return operation


def statx_operation(Handle handle):
    """statx(2) of an open file, by a worker; the result is as fresh as fstat(2)'s."""
    cdef Operation operation = new_operation(handle, AU_OP_STATX)
    operation.buffer = b""
    operation.data = PyBytes_AS_STRING(operation.buffer)
    operation.flags = AU_AT_EMPTY_PATH
    operation.mode = AU_STATX_BASIC_STATS | AU_STATX_MNT_ID_UNIQUE
    allocate_scratch(operation, sizeof(au_statx))
    return operation


def stat_operation(bytes path, bint follow):
    """stat(2) or lstat(2) of a path, by a worker (`Operation.stat_result`)."""
    cdef Operation operation = path_operation(AU_OP_STATX, path)
    operation.flags = AU_AT_NO_AUTOMOUNT | (0 if follow else AU_AT_SYMLINK_NOFOLLOW)
    operation.mode = AU_STATX_BASIC_STATS
    operation.fd = AT_FDCWD
    operation.effect = operation.once = False
    allocate_scratch(operation, sizeof(au_statx))
    return operation


def rename_operation(bytes source, bytes target):
    """rename(2): what `target` names is replaced."""
    return two_paths_operation(AU_OP_RENAMEAT, source, target)


def symlink_operation(bytes content, bytes path):
    return two_paths_operation(AU_OP_SYMLINKAT, content, path)


def link_operation(bytes source, bytes path):
    """link(2), which does not follow `source` if that is a symlink."""
    return two_paths_operation(AU_OP_LINKAT, source, path)


def unlink_operation(bytes path):
    return path_operation(AU_OP_UNLINKAT, path)


def rmdir_operation(bytes path):
    cdef Operation operation = path_operation(AU_OP_UNLINKAT, path)
    operation.flags = AU_AT_REMOVEDIR
    return operation


def mkdir_operation(bytes path, uint32_t mode):
    cdef Operation operation = path_operation(AU_OP_MKDIRAT, path)
    operation.mode = mode
    return operation


cdef Operation path_operation(uint8_t opcode, bytes path):
    """A change of a directory, by a worker, as the kernel does them all."""
    cdef Operation operation = new_operation(None, opcode)
    operation.buffer = path
    operation.data = PyBytes_AS_STRING(path)
    operation.effect = operation.once = True
    return operation


cdef Operation two_paths_operation(uint8_t opcode, bytes path, bytes second):
    cdef Operation operation = path_operation(opcode, path)
    operation.second = second
    return operation


def fsync_operation(Handle handle, bint datasync):
    cdef Operation operation = new_operation(handle, AU_OP_FSYNC)
    operation.flags = AU_FSYNC_DATASYNC if datasync else 0
    operation.effect = True
    return operation


def ftruncate_operation(Handle handle, int64_t size):
    cdef Operation operation = new_operation(handle, AU_OP_FTRUNCATE)
    operation.offset = size
    operation.effect = True
    return operation


def fallocate_operation(Handle handle, int mode, int64_t offset, int64_t size):
    cdef Operation operation = new_operation(handle, AU_OP_FALLOCATE)
    operation.flags = mode
    operation.offset = offset
    operation.size = size
    operation.effect = True
    return operation


def nop_operation(int result=0, bint force_async=False):
    """Completes at once, or by a worker; with 6.10+, as if its result had been `result` (tests)."""
    cdef Operation operation = new_operation(None, AU_OP_NOP)
    operation.flags = result
    operation.force_async = force_async
    return operation


# ---------------------------------------------------------------------------------------------
# Ring
# ---------------------------------------------------------------------------------------------

cdef uint64_t CANCEL_BIT = <uint64_t>1 << 63
cdef uint64_t WATCH_DATA = 0xfffffffe   # of the ring's own entries; no slot has these numbers
cdef uint64_t KICK_DATA = 0xffffffff
cdef uint32_t GENERATION_MASK = 0x7fffffff


@cython.final
@cython.no_gc_clear
cdef class Ring:
    """One io_uring instance with its slots.  Used by the thread that made it.

    :param inflight_max: operations in the kernel at once; more wait in user space, in order
    :param workers_max: cap for the kernel's worker threads of this thread (None: the kernel's
        own, four per processor)
    :param entries: size of the submission queue
    :param ladder_from: the first set of set-up flags to try (for tests)
    :param cq_entries: size of the completion queue; 0: so many that it cannot overflow.  Tests make
        it smaller.
    :param kick_after: seconds after which operations that are still in the kernel get something
        for a worker to do behind them (see `watch`)
    :raises OSError: whatever io_uring_setup(2), mmap(2) or io_uring_register(2) answered;
        `strerror` names the call
    """

    cdef int fd
    cdef readonly int eventfd
    cdef ring_queues q
    cdef Mapping memory
    cdef readonly uint32_t setup_flags
    cdef readonly uint32_t features
    cdef readonly unsigned long thread
    cdef uint64_t owner             # the same, by a number that no later thread gets
    cdef object backlog             # started by the user, no slot yet
    cdef list finished              # done, not handed out yet
    cdef list deaf                  # abandoned; their worker has not noticed the cancel
    cdef int64_t deaf_until         # when to ask those again
    cdef PyObject **slots           # counted references to the operations in the kernel
    cdef uint32_t *generations
    cdef uint32_t *free_slots
    cdef uint32_t free_count
    cdef readonly uint32_t inflight_max
    cdef readonly uint32_t inflight         # operations whose completion has not come
    cdef readonly uint32_t cancels          # cancel requests whose completion has not come
    cdef readonly uint64_t submitted        # operations started, by the ring's whole life
    cdef readonly uint64_t enters
    cdef readonly uint64_t overflows
    cdef readonly uint64_t orphans          # descriptors that arrived for nobody, closed
    cdef readonly dict counts               # opcode -> operations
    cdef au_timespec kick_after
    cdef readonly bint watching             # that time runs: the eventfd will be signalled
    cdef readonly uint32_t kicks            # what was sent for a worker and has not come back
    cdef readonly uint64_t kicked           # how often something was
    cdef uint64_t pushed, pushed_before     # entries of operations; those before the last kick
    cdef object __weakref__

    def __cinit__(self, uint32_t inflight_max=1024, workers_max=None, uint32_t entries=128,
                  int ladder_from=0, uint32_t cq_entries=0, double kick_after=1.0):
        cdef au_params params
        cdef long result = -EINVAL
        cdef bint can_overflow = cq_entries != 0
        cdef uint32_t workers[2]
        cdef int step = ladder_from
        cdef uint32_t slot
        from collections import deque
        self.fd = -1
        self.eventfd = -1
        self.backlog = deque()
        self.deaf = []
        self.finished = []
        self.counts = {}
        self.inflight_max = inflight_max
        self.kick_after.tv_sec = <int64_t>kick_after
        self.kick_after.tv_nsec = <int64_t>((kick_after - <double>self.kick_after.tv_sec) * 1e9)
        self.thread = PyThread_get_thread_ident()
        self.owner = au_thread()
        if not can_overflow:
            # Every operation and one cancel for each can complete without anybody reaping.
            # (What the ring sends itself, some 16 entries, may overflow then: `turn` gets them.)
            cq_entries = max(2 * inflight_max, 2 * entries)
        while True:
            memset(&params, 0, sizeof(params))
            params.flags = SETUP_LADDER[step] | AU_SETUP_CQSIZE | AU_SETUP_CLAMP
            params.cq_entries = cq_entries
            result = au_setup(entries, &params)
            if result == -EINVAL and step < 3:
                step += 1
            elif result == -ENOMEM and entries > 8:
                # Before 5.12 ring memory counts against RLIMIT_MEMLOCK; later, fragmentation.
                entries //= 2
                cq_entries //= 2
            else:
                break
        if result < 0:
            raise OSError(-result, f"io_uring_setup: {strerror(-result)}")
        self.fd = <int>result
        self.setup_flags = params.flags
        self.features = params.features
        result = map_queues(self.fd, &params, &self.memory, &self.q)
        if result < 0:
            raise OSError(-result, f"mmap of the rings: {strerror(-result)}")
        if not can_overflow:
            self.inflight_max = min(inflight_max, params.cq_entries // 2)
        self.slots = <PyObject **>calloc(self.inflight_max, sizeof(PyObject *))
        self.generations = <uint32_t *>calloc(self.inflight_max, sizeof(uint32_t))
        self.free_slots = <uint32_t *>calloc(self.inflight_max, sizeof(uint32_t))
        if self.slots == NULL or self.generations == NULL or self.free_slots == NULL:
            raise MemoryError
        for slot in range(self.inflight_max):
            self.free_slots[slot] = self.inflight_max - 1 - slot
        self.free_count = self.inflight_max
        result = au_eventfd()
        if result < 0:
            raise OSError(-result, f"eventfd: {strerror(-result)}")
        self.eventfd = <int>result
        result = au_register(self.fd, AU_REGISTER_EVENTFD, &self.eventfd, 1)
        if result < 0:
            raise OSError(-result, f"io_uring_register(EVENTFD): {strerror(-result)}")
        if workers_max is not None:
            workers[0] = workers[1] = <uint32_t>workers_max
            # 5.15; without it the kernel's own cap holds, which is no reason to refuse
            au_register(self.fd, AU_REGISTER_IOWQ_MAX_WORKERS, workers, 2)

    def __dealloc__(self):
        # Operations still in the kernel hold counted references to themselves (never to us), so
        # their buffers outlive this ring.
        unmap_queues(&self.memory)
        self.close_fds()
        free(self.slots)
        free(self.generations)
        free(self.free_slots)

    cdef void close_fds(self) noexcept:
        if self.fd >= 0:
            au_close(self.fd)
        if self.eventfd >= 0:
            au_close(self.eventfd)
        self.fd = self.eventfd = -1

    # -- facts ----------------------------------------------------------------------------------

    @property
    def closed(self):
        return self.fd < 0

    @property
    def here(self):
        """Whether this is the thread that made the ring (`thread` is used again after its end)."""
        return self.owner == au_thread()

    @property
    def idle(self):
        """No operation in the kernel, none waiting to go there, nothing to hand out.

        The ring's own entries (`watching`, `kicks`) may be there, and will signal the eventfd.
        """
        return self.inflight == 0 and not self.backlog and not self.finished

    @property
    def queued(self):
        """Operations that wait in user space for a slot."""
        return len(self.backlog)

    @property
    def sq_entries(self):
        return self.q.sq_entries

    @property
    def cq_entries(self):
        return self.q.cq_entries

    @property
    def pending(self):
        """Entries written that the kernel has not seen."""
        return 0 if self.fd < 0 else sq_pending(&self.q)

    def supported(self):
        """The set of opcodes this kernel has (IORING_REGISTER_PROBE).

        :raises OSError: the registration is refused (some seccomp filters do)
        """
        cdef au_probe *probe = <au_probe *>calloc(1, sizeof(au_probe))
        cdef long result
        cdef int index
        if probe == NULL:
            raise MemoryError
        try:
            result = au_register(self.fd, AU_REGISTER_PROBE, probe, 256)
            if result < 0:
                raise OSError(-result, f"io_uring_register(PROBE): {strerror(-result)}")
            return {index for index in range(probe.ops_len)
                    if probe.ops[index].flags & AU_OP_SUPPORTED}
        finally:
            free(probe)

    def limit_workers(self, uint32_t bounded, uint32_t unbounded):
        """Cap the kernel's worker threads of this thread: for files, and for everything else."""
        cdef uint32_t workers[2]
        workers[0] = bounded
        workers[1] = unbounded
        return au_register(self.fd, AU_REGISTER_IOWQ_MAX_WORKERS, workers, 2) == 0

    # -- starting ---------------------------------------------------------------------------------

    cpdef start(self, Operation operation):
        """Take an operation.  It reaches the kernel with the next `submit` or `wake`."""
        if operation.state != _NEW:
            raise RuntimeError("operation started twice")
        if self.fd < 0:
            raise RuntimeError("ring is closed")
        if self.deaf:
            self.ask_again()
        operation.state = _QUEUED
        try:
            if self.backlog or not self.push(operation):
                self.backlog.append(operation)
        except BaseException:
            operation.state = _NEW
            raise
        if operation.handle is not None:
            operation.handle.inflight += 1
        self.submitted += 1
        self.counts[operation.opcode] = self.counts.get(operation.opcode, 0) + 1

    cdef bint push(self, Operation operation) except -1:
        """Write the entry of an operation; False when a slot or the queue is lacking."""
        cdef au_sqe *sqe
        cdef uint32_t slot
        if operation.state == _QUEUED and self.free_count == 0:
            return False
        sqe = self.next_entry()
        if sqe == NULL:
            return False
        if operation.state == _QUEUED:
            self.free_count -= 1
            slot = self.free_slots[self.free_count]
            operation.slot = slot
            operation.generation = self.generations[slot]
            operation.state = _STARTED
            Py_INCREF(operation)
            self.slots[slot] = <PyObject *>operation
            self.inflight += 1
        operation.prepare(sqe)
        sqe.user_data = (<uint64_t>operation.generation << 32) | operation.slot
        self.pushed += 1
        if not self.watching:
            self.watch()
        return True

    cdef void watch(self) noexcept:
        """Have the kernel tell when `kick_after` is over.

        Linux can lose the request for a worker: seen once, on 6.18, with the first operation of a
        ring, which stayed in the kernel's queue until another one wanted a worker.  So what is in
        the kernel for that long gets such a thing behind it, once.  A ring of which nothing is
        wanted has no timer.
        """
        # (not `next_entry`: it may enter, and that raise, behind the entry of an operation)
        cdef au_sqe *sqe = sq_next(&self.q)
        if sqe != NULL:     # else with the next operation
            prep_timeout(sqe, &self.kick_after)
            sqe.user_data = WATCH_DATA
            self.watching = True

    cdef void kick(self) noexcept:
        """`kick_after` is over."""
        cdef int kind
        cdef au_sqe *sqe
        # Nothing is there; enough was sent; or a worker has come since
        if (self.inflight == 0 or self.kicks >= _KICKS_MAX
                or (self.kicks == 0 and self.pushed == self.pushed_before)):
            return
        self.pushed_before = self.pushed
        self.kicked += 1
        for kind in range(2):
            sqe = sq_next(&self.q)
            if sqe == NULL:
                break
            if kind == 0:
                prep_nop(sqe, 0)
            else:           # the workers for what is no file of a disk are others
                prep_read(sqe, self.eventfd, NULL, 0, 0)
            sqe.flags = AU_IOSQE_ASYNC
            sqe.user_data = KICK_DATA
            self.kicks += 1
        self.watch()

    cdef au_sqe *next_entry(self) except? NULL:
        """The next free entry; submits what is written when the queue is full."""
        cdef au_sqe *sqe = sq_next(&self.q)
        if sqe == NULL:
            self.enter(0, 0)
            sqe = sq_next(&self.q)
        return sqe

    cdef int drain_backlog(self) except -1:
        while self.backlog:
            if not self.push(self.backlog[0]):
                return 0
            self.backlog.popleft()
        return 0

    cpdef cancel(self, Operation operation):
        """Ask the kernel, once, to give an operation up; its own completion tells the outcome.

        One that has not reached the kernel is finished on the spot.  Does nothing for an
        operation that may have an effect, and for one that is done.
        """
        cdef au_sqe *sqe
        if operation.cancel_asked or operation.state == _DONE or self.fd < 0:
            return
        if operation.state == _QUEUED:
            # A descriptor that waits to be closed would be lost
            if operation.opcode != AU_OP_CLOSE and operation in self.backlog:
                self.backlog.remove(operation)
                operation.cancel_asked = True
                operation.give_up()
                self.finish(operation)
            return
        if (operation.state != _STARTED or operation.effect
                or self.slots[operation.slot] != <PyObject *>operation):
            return
        if self.backlog and operation in self.backlog:
            # Between two parts, or before a second try: the kernel has nothing to cancel
            self.backlog.remove(operation)
            operation.cancel_asked = True
            operation.give_up()
            self.vacate(operation)
            self.finish(operation)
            return
        sqe = self.next_entry()
        if sqe == NULL:
            return      # the queue is stuck; the caller's grace period still ends the wait
        operation.cancel_asked = True
        prep_cancel(sqe, (<uint64_t>operation.generation << 32) | operation.slot)
        sqe.user_data = CANCEL_BIT | (<uint64_t>operation.generation << 32) | operation.slot
        self.cancels += 1

    cpdef abandon(self, Operation operation):
        """Nobody waits for this operation any more; the ring keeps it until its completion.

        A descriptor that it opens, or has opened already, is closed.  An operation that may have
        an effect goes on to its end.
        """
        operation.waiter = None
        if operation.abandoned:
            return
        operation.abandoned = True
        if operation.opcode == AU_OP_READ and operation.scratch != NULL:
            operation.drop_view()       # the kernel writes to our memory, not the caller's
        if operation.state == _DONE:
            self.close_orphan(operation)
            return
        # A worker that was just going from its first attempt to a poll has not noticed the first
        # time (Linux 6.18: 3 of 100 cancels some 50 us behind the submission), and an operation
        # that stays would take the data of a stream from the next reader.
        self.ask(operation)

    cdef int ask(self, Operation operation) except -1:
        """Cancel once more."""
        asked, operation.cancel_asked = operation.cancel_asked, False
        self.cancel(operation)
        operation.cancel_asked = operation.cancel_asked or asked
        return 0

    cdef int ask_again(self) except -1:
        """Before the next operation, or in `wait`, not by a clock: one that nobody competes with
        may stay.

        A worker that the machine does not let run can miss any number of cancels; one that waits
        for a device hears none.  So never more often than `_DEAF_NS`.
        """
        cdef int64_t now = au_now()
        if now < self.deaf_until:
            return 0
        self.deaf_until = now + _DEAF_NS
        deaf, self.deaf = self.deaf, []
        for operation in deaf:
            self.ask(operation)
        return 0

    cdef int close_orphan(self, Operation operation) except -1:
        cdef Operation closing
        if operation.opcode == AU_OP_OPENAT and operation.result >= 0 and not operation.claimed:
            operation.claimed = True
            self.orphans += 1
            if self.fd < 0:
                au_close(operation.result)
            else:
                closing = close_operation(operation.result)
                closing.abandoned = True
                self.start(closing)
        return 0

    # -- entering and reaping -----------------------------------------------------------------

    cdef long enter(self, uint32_t wait, uint32_t flags, au_timespec *timeout=NULL) except? -1:
        """io_uring_enter(2) for everything written.  0, or -EAGAIN, -EBUSY, -ETIME."""
        cdef uint32_t pending
        cdef long result
        cdef au_getevents_arg arg
        cdef void *extra = NULL
        cdef size_t extra_size = 0
        sq_publish(&self.q)
        if timeout != NULL:
            memset(&arg, 0, sizeof(arg))
            arg.ts = <uint64_t>timeout
            extra = &arg
            extra_size = sizeof(arg)
            flags |= AU_ENTER_EXT_ARG
        while True:
            pending = sq_pending(&self.q)
            self.enters += 1
            if wait == 0 and pending <= _ENTER_KEEP_GIL_MAX:
                result = au_enter(self.fd, pending, 0, flags, extra, extra_size)
            else:
                with nogil:
                    result = au_enter(self.fd, pending, wait, flags, extra, extra_size)
            if result >= 0:
                if <uint32_t>result >= pending or result == 0:
                    return 0
                continue        # an entry was refused on the spot; go on behind it
            if result == -EINTR and timeout == NULL:
                continue
            if result in (-EAGAIN, -EBUSY, -ETIME, -EINTR):
                return result
            if result == -EBADR:
                # Completions were dropped for lack of memory; what can be reaped is there.
                self.overflows += 1
                return 0
            raise OSError(-result, f"io_uring_enter: {strerror(-result)}")

    cdef uint32_t reap(self) except? 0xffffffff:
        """Take every completion that is there.  No Python code of others runs in here."""
        cdef au_cqe run[_REAP_RUN]
        cdef uint32_t count, index, total = 0
        while True:
            count = min(cq_ready(&self.q), <uint32_t>_REAP_RUN)
            if count == 0:
                return total
            for index in range(count):
                run[index] = cq_at(&self.q, index)[0]
            cq_advance(&self.q, count)
            for index in range(count):
                self.take(run[index].user_data, run[index].res)
            total += count

    cdef int take(self, uint64_t user_data, int res) except -1:
        cdef uint32_t slot = <uint32_t>(user_data & 0xffffffffu)
        cdef uint32_t generation = <uint32_t>(user_data >> 32) & GENERATION_MASK
        cdef Operation operation
        if user_data == WATCH_DATA:
            self.watching = False
            if res == -ETIME:       # else it was refused, and the next operation tries again
                self.kick()
        elif user_data == KICK_DATA:
            self.kicks -= 1
        elif user_data & CANCEL_BIT:
            # 0: was queued, its own completion follows; EALREADY: a worker runs it; ENOENT: done,
            # or waiting for a page or a device.  Nothing here says that the operation is over.
            self.cancels -= 1
        if (slot >= self.inflight_max or self.slots[slot] == NULL
                or self.generations[slot] != generation):
            return 0
        operation = <Operation>self.slots[slot]
        if user_data & CANCEL_BIT:
            if res == -EALREADY and operation.abandoned and operation not in self.deaf:
                self.deaf.append(operation)
            return 0
        if operation.complete(res):
            if not self.push(operation):
                self.backlog.appendleft(operation)
            return 0
        self.vacate(operation)
        self.finish(operation)
        return 0

    cdef int vacate(self, Operation operation) except -1:
        """The kernel has done with an operation: free its slot."""
        cdef uint32_t slot = operation.slot
        self.slots[slot] = NULL
        self.generations[slot] = (operation.generation + 1) & GENERATION_MASK
        self.free_slots[self.free_count] = slot
        self.free_count += 1
        self.inflight -= 1
        Py_DECREF(operation)        # the kernel's reference; the caller holds another
        return 0

    cdef int finish(self, Operation operation) except -1:
        operation.state = _DONE
        if self.deaf and operation in self.deaf:
            self.deaf.remove(operation)
        if operation.asked >= 0:
            operation.narrow()
        if (operation.opcode != AU_OP_READ or operation.abandoned or operation.cancelled
                or operation.moved == 0):
            operation.drop_view()       # nothing to be copied out
        if operation.abandoned:
            self.close_orphan(operation)
            if operation.opcode == AU_OP_CLOSE and operation.refused:
                au_close(operation.fd)  # nobody else knows the descriptor any more
        self.finished.append(operation)
        return 0

    cdef list hand_out(self):
        """The finished operations, their state committed and their files released.

        `when_done` is our own code (the file layer's lock and position); it runs before any task
        is woken, also when the task that asked has left.
        """
        cdef Operation operation
        cdef list batch
        if not self.finished:
            return NOTHING
        batch, self.finished = self.finished, []
        try:
            for operation in batch:
                if operation.when_done is not None:
                    callback, operation.when_done = operation.when_done, None
                    if type(callback) is Spans:
                        (<Spans>callback).span_done(operation)
                    else:
                        callback(operation)
                # Only now: whoever closes a file when it is idle finds its state committed
                if operation.handle is not None and not operation.left:
                    operation.left = True
                    operation.handle.leave()
        except BaseException:
            # A KeyboardInterrupt, say.  The rest, and all the waking, in the next turn.
            self.finished = batch + self.finished
            if self.fd >= 0:
                au_eventfd_signal(self.eventfd)
            raise
        return batch

    def submit(self):
        """Submit what is written and take what completed at once; the finished operations."""
        self.check_thread()
        self.turn(False)
        return self.hand_out()

    cpdef push_only(self):
        """Submit, but leave completions for later (the loop has computed its timeout already)."""
        cdef long result
        self.check_thread()
        if self.backlog:
            self.drain_backlog()
        if sq_pending(&self.q):
            result = self.enter(0, 0)
            if result == -EAGAIN or result == -EBUSY:
                au_eventfd_signal(self.eventfd)
        if self.finished:
            # Cancelled before they reached the kernel, which will not tell of them
            au_eventfd_signal(self.eventfd)

    def wake(self):
        """The eventfd was readable: run what the kernel has for us; the finished operations."""
        self.check_thread()
        self.turn(True)
        return self.hand_out()

    cdef bint stirs(self) noexcept nogil:
        """Whether there is a completion, or work that leads to one."""
        return (cq_ready(&self.q) != 0
                or au_load_acquire(self.q.sq_flags) & (AU_SQ_TASKRUN | AU_SQ_CQ_OVERFLOW) != 0)

    def poll(self):
        """Empty the eventfd, then as `wake` if anything is there to be done.

        For a loop that looks by itself after each wait.  Drained first: the kernel posts the
        completion, or sets SQ_TASKRUN, before it signals.
        """
        self.check_thread()
        au_eventfd_drain(self.eventfd)
        if self.finished or self.stirs():
            self.turn(True)
            return self.hand_out()
        return NOTHING

    cdef int turn(self, bint drain) except -1:
        """Enter, empty the eventfd, reap, look whether more came meanwhile.

        The order loses nothing: the kernel sets SQ_TASKRUN before it signals, so a signal that
        we swallow after the enter is seen in the flags afterwards; a completion that was posted
        before the drain is reaped after it.  With nothing to reap the eventfd is left alone (a
        signal may be on its way for work that the flags do not show yet).
        """
        cdef int _round
        cdef uint32_t flags
        for _round in range(_ROUNDS_MAX):
            if self.backlog:
                self.drain_backlog()
            self.enter(0, AU_ENTER_GETEVENTS)
            if drain or cq_ready(&self.q):
                au_eventfd_drain(self.eventfd)
                self.reap()
            if self.backlog:
                self.drain_backlog()
            flags = au_load_acquire(self.q.sq_flags)
            if flags & AU_SQ_CQ_OVERFLOW:
                self.overflows += 1
            elif not flags & AU_SQ_TASKRUN and not sq_pending(&self.q):
                return 0
            drain = True
        # Still more: the loop's other work first, then us again.
        au_eventfd_signal(self.eventfd)
        return 0

    def wait(self, double seconds):
        """Block until something completes or the time is up; for the probe and for `close`."""
        cdef au_timespec timeout
        self.check_thread()
        if seconds < 0:
            seconds = 0
        if self.deaf:
            self.ask_again()
            seconds = min(seconds, _DEAF_NS * 1e-9)     # whoever waits for those comes again
        timeout.tv_sec = <int64_t>seconds
        timeout.tv_nsec = <int64_t>((seconds - <double>timeout.tv_sec) * 1e9)
        if self.backlog:
            self.drain_backlog()
        if cq_ready(&self.q) == 0 and not self.finished:
            self.enter(1, AU_ENTER_GETEVENTS, &timeout)
        self.turn(True)
        return self.hand_out()

    cdef int check_thread(self) except -1:
        if self.fd < 0:
            raise RuntimeError("ring is closed")
        if self.owner != au_thread():
            raise RuntimeError("ring used outside the thread that made it")
        return 0

    # -- the end --------------------------------------------------------------------------------

    def operations(self):
        """The operations in the kernel or waiting to go there."""
        cdef uint32_t slot
        result = [<object>self.slots[slot] for slot in range(self.inflight_max)
                  if self.slots[slot] != NULL]
        for operation in self.backlog:
            if (<Operation>operation).state == _QUEUED:
                result.append(operation)
        return result

    def leak(self):
        """Give up on what is still in the kernel: close the ring, keep every buffer for good.

        Closing the ring's descriptor does not stop the kernel's writes at once, so nothing it
        may touch is ever freed.  For everybody else the operations are over (`collect`): those
        without effect count as cancelled; of the others nobody can tell, and they fail with
        ECANCELED.  Their files can be closed: an operation that runs holds its file by itself.

        :returns: the number of operations left behind
        """
        cdef uint32_t slot, count = 0
        cdef Operation operation
        if self.fd < 0:
            return 0
        for operation in self.backlog:
            if operation.state == _QUEUED:
                operation.drop_view()
                if operation.opcode == AU_OP_CLOSE:
                    au_close(operation.fd)
                self.strand(operation, operation.opcode != AU_OP_CLOSE)
        self.backlog.clear()
        self.deaf = []
        for slot in range(self.inflight_max):
            if self.slots[slot] != NULL:
                operation = <Operation>self.slots[slot]
                self.slots[slot] = NULL     # its counted reference stays, on purpose
                operation.leaked = True
                self.strand(operation, not operation.effect)
                count += 1
        self.inflight = 0
        unmap_queues(&self.memory)
        self.close_fds()
        return count

    cdef int strand(self, Operation operation, bint cancelled) except -1:
        operation.state = _DONE
        operation.cancelled = cancelled
        operation.result = -ECANCELED
        operation.moved = 0
        self.finished.append(operation)
        return 0

    def collect(self):
        """The operations that have finished, without a look at the kernel (after `leak`)."""
        return self.hand_out()

    def forget(self):
        """After fork, in the child: drop the parent's ring without touching its memory.

        The mappings do not exist here (MADV_DONTFORK).  The kernel writes to the parent's pages,
        so this process's copies of the buffers are free to go.
        """
        cdef uint32_t slot
        cdef Operation operation
        memset(&self.memory, 0, sizeof(self.memory))
        if self.fd < 0:
            return
        self.close_fds()
        for slot in range(self.inflight_max):
            if self.slots[slot] != NULL:
                operation = <Operation>self.slots[slot]
                self.slots[slot] = NULL
                self.strand(operation, True)
                Py_DECREF(operation)
        for operation in self.backlog:
            if operation.state == _QUEUED:
                self.strand(operation, True)
        for operation in self.finished:
            operation.waiter = operation.when_done = None
            if operation.handle is not None:
                operation.handle.forget_operations()
        self.backlog.clear()
        self.finished = []
        self.deaf = []
        self.inflight = self.cancels = 0


cdef list NOTHING = []


# ---------------------------------------------------------------------------------------------
# Many reads under one roof
# ---------------------------------------------------------------------------------------------

cdef enum:
    # So many ranges of one call are in the kernel at once; a device has no more to choose from,
    # and operations of other tasks are not kept waiting behind them
    _SPANS_MAX = 256
    _SPANS_PUSHED = 16          # begin at once: the device is busy while the next ones are made


ctypedef struct range_t:
    int64_t offset, size
    Py_ssize_t number


cdef int compare_ranges(const void *one, const void *other) noexcept nogil:
    """Where they begin; what begins at the same place stays in order."""
    cdef const range_t *a = <const range_t *>one
    cdef const range_t *b = <const range_t *>other
    if a.offset != b.offset:
        return -1 if a.offset < b.offset else 1
    return -1 if a.number < b.number else 1


def plain_ranges(requests):
    """A list of `requests`, and their least size, least offset and greatest of either.

    None where they are no list of tuples of plain ints that are sizes and offsets.
    """
    cdef int64_t size, offset, least_size = INT64_MAX, least_offset = INT64_MAX, most = 0
    if type(requests) is not list or not requests:
        return None
    cdef list copy = list(requests)     # the caller's may change
    for request in copy:
        if type(request) is not tuple or len(<tuple>request) != 2:
            return None
        if type((<tuple>request)[0]) is not int or type((<tuple>request)[1]) is not int:
            return None
        try:
            size, offset = (<tuple>request)[0], (<tuple>request)[1]
        except OverflowError:
            return None
        least_size, least_offset = min(least_size, size), min(least_offset, offset)
        most = max(most, size, offset)
    return copy, (least_size, least_offset, most)


def touching(list requests not None, list numbers not None, int64_t most):
    """Ranges for `Spans`, in the order of the file: requests that touch or overlap become one.

    :param requests: (size, offset)
    :param numbers: which of them
    :param most: bytes up to which they do
    """
    cdef Py_ssize_t count = len(numbers), at
    cdef int64_t begin = 0, size = 0, reach
    cdef list result = [], inside = None
    cdef tuple request
    cdef range_t *found
    cdef range_t *ranges = <range_t *>malloc(max(count, 1) * sizeof(range_t))
    if ranges == NULL:
        raise MemoryError
    try:
        for at in range(count):
            found = &ranges[at]
            found.number = numbers[at]
            request = requests[found.number]
            found.size, found.offset = request[0], request[1]
        qsort(ranges, count, sizeof(range_t), compare_ranges)
        for at in range(count):
            found = &ranges[at]
            reach = found.offset - begin        # (an end may be beyond what fits)
            if inside is not None and reach <= size and found.size <= most - reach:
                size = max(size, reach + found.size)
                inside.append(found.number)
                continue
            if inside is not None:
                result.append((inside, size, begin))
            begin, size, inside = found.offset, found.size, [found.number]
        if inside is not None:
            result.append((inside, size, begin))
    finally:
        free(ranges)
    return result


@cython.final
cdef class Spans:
    """Reads of many ranges of a file, side by side: a task waits for all, and gives all of it up.

    A range is (numbers, size, offset).  What a single number stands for goes to that place of a
    list; what several do, to another list, with these numbers.
    """

    cdef object host
    cdef Handle handle
    cdef object todo                    # iterator of ranges, taken as there is room for them
    cdef list found, merged
    cdef Py_ssize_t inline_max
    cdef Py_ssize_t limit, low
    cdef dict live                      # by operation
    cdef public object waiter           # the host's: whom to wake
    cdef readonly list again            # begun and not read: cancelled, or refused
    cdef readonly Operation failed      # of those that ended with an error, the first one's
    cdef int64_t failed_number
    cdef object error                   # of ours
    cdef readonly int refused           # or the result of an operation that the ring has refused
    cdef readonly bint cancelled
    cdef readonly bint abandoned
    cdef readonly bint done
    cdef bint stopping                  # no more of them is to begin
    cdef bint asked                     # to give up

    def __init__(self, host not None, Handle handle not None, todo, list found not None,
                 list merged not None, Py_ssize_t inline_max):
        self.host, self.handle, self.todo = host, handle, iter(todo)
        self.found, self.merged, self.inline_max = found, merged, inline_max
        self.live, self.again = {}, []

    @property
    def effect(self):
        """Of none (`Unit`)."""
        return False

    def start(self):
        cdef Ring ring = self.host.ring
        if ring is None:
            raise RuntimeError("no ring")
        self.limit = min(<uint32_t>_SPANS_MAX, ring.inflight_max)
        self.low = self.limit * 15 // 16    # then the next ones are begun, some at a time
        self.fill(ring)
        if self.live:
            self.host.submit_now()
        else:
            self.finish()

    def check(self, name):
        """Once it is done: raise what has gone wrong.

        :param name: the file's, for its errors
        """
        error, self.error = self.error, None
        if error is not None:
            raise error
        if self.failed is not None:
            raise self.failed.error(name)

    cdef int fill(self, Ring ring) except -1:
        """Begin as many as there is room for; the last of them with the loop's next turn."""
        while not self.stopping and len(self.live) < self.limit:
            span = next(self.todo, None)
            if span is None:
                self.stopping = True
                break
            self.begin(ring, span)
            if sq_pending(&ring.q) >= _SPANS_PUSHED:
                ring.push_only()
        return 0

    cdef int begin(self, Ring ring, tuple span) except -1:
        cdef Py_ssize_t size = span[1]
        cdef Operation operation = read_operation(
            self.handle, size, span[2], True, size > self.inline_max
        )
        operation.when_done = self
        self.live[operation] = span
        try:
            ring.start(operation)
        except BaseException:
            del self.live[operation]
            raise
        return 0

    cdef int span_done(self, Operation operation) except -1:
        """At its completion.  What is raised meanwhile is the task's: it would wait for ever for
        what is lost.
        """
        cdef Ring ring
        try:
            self.keep(operation, self.live.pop(operation))
            if not self.stopping and len(self.live) <= self.low:
                ring = self.host.ring
                if ring is None or ring.fd < 0 or self.host.ended:
                    self.stopping = self.cancelled = True
                else:
                    self.fill(ring)
        except BaseException as error:
            self.error, self.stopping = error, True
        if not self.live:
            self.finish()
        return 0

    cdef int keep(self, Operation operation, tuple span) except -1:
        cdef list numbers = span[0]
        if operation.result < 0:
            self.stopping = True
            if operation.refused:
                self.refused = operation.result
                self.again.append(span)
            elif operation.cancelled:
                self.cancelled = True
                self.again.append(span)
            elif self.failed is None or <int64_t>numbers[0] < self.failed_number:
                self.failed, self.failed_number = operation, numbers[0]
        elif self.abandoned:
            pass
        elif len(numbers) == 1:
            self.found[<Py_ssize_t>numbers[0]] = operation.take()
        else:
            self.merged.append((numbers, operation.take()))
        return 0

    cdef int finish(self) except -1:
        self.done = True
        try:
            if self.asked and (span := next(self.todo, None)) is not None:
                self.again.append(span)
                self.cancelled = True       # some had not begun
        except BaseException as error:
            self.error = error
        if self.waiter is not None:
            self.host.awake(self)
        return 0

    def cancel(self, Ring ring not None):
        self.stopping = self.asked = True
        for operation in list(self.live):
            ring.cancel(operation)

    def abandon(self, Ring ring not None):
        self.abandoned = self.stopping = True
        for operation in list(self.live):
            ring.abandon(operation)


# ---------------------------------------------------------------------------------------------
# The queues without a kernel
# ---------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class PlainQueues:
    """The arithmetic of ``ring.pxd`` over plain memory, for the tests, who play the kernel.

    :param sq_entries: size of the submission queue, a power of two
    :param cq_entries: size of the completion queue, a power of two
    :param start: where all counters begin; near 2**32 they wrap around
    :param indirect: with the array of indices between tail and entries (no NO_SQARRAY)
    """

    cdef ring_queues q
    cdef uint32_t sq_head, sq_tail, sq_flags, cq_head, cq_tail, cq_overflow

    def __cinit__(self, uint32_t sq_entries, uint32_t cq_entries, uint32_t start=0,
                  bint indirect=False):
        memset(&self.q, 0, sizeof(self.q))
        for entries in (sq_entries, cq_entries):
            if entries == 0 or entries & (entries - 1):
                raise ValueError(f"not a power of two: {entries}")
        self.sq_flags = self.cq_overflow = 0
        self.sq_head = self.sq_tail = self.cq_head = self.cq_tail = start
        self.q.sq_head, self.q.sq_tail = &self.sq_head, &self.sq_tail
        self.q.cq_head, self.q.cq_tail = &self.cq_head, &self.cq_tail
        self.q.sq_flags, self.q.cq_overflow = &self.sq_flags, &self.cq_overflow
        self.q.sq_tail_local = start
        self.q.sq_entries, self.q.sq_mask = sq_entries, sq_entries - 1
        self.q.cq_entries, self.q.cq_mask = cq_entries, cq_entries - 1
        self.q.sqes = <au_sqe *>calloc(sq_entries, sizeof(au_sqe))
        self.q.cqes = <au_cqe *>calloc(cq_entries, sizeof(au_cqe))
        if indirect:
            self.q.sq_array = <uint32_t *>calloc(sq_entries, sizeof(uint32_t))
        if (self.q.sqes == NULL or self.q.cqes == NULL
                or (indirect and self.q.sq_array == NULL)):
            raise MemoryError

    def __dealloc__(self):
        free(self.q.sqes)
        free(self.q.cqes)
        free(self.q.sq_array)

    @property
    def space(self):
        return sq_space(&self.q)

    @property
    def pending(self):
        return sq_pending(&self.q)

    @property
    def ready(self):
        return cq_ready(&self.q)

    def write(self, uint64_t user_data):
        """Write one entry; False when the queue is full."""
        cdef au_sqe *sqe = sq_next(&self.q)
        if sqe == NULL:
            return False
        if sqe.user_data:
            raise AssertionError("the entry was not cleared")
        sqe.user_data = user_data
        return True

    def publish(self):
        sq_publish(&self.q)

    def kernel_takes(self, uint32_t count):
        """As the kernel does: take up to `count` published entries; their user_data."""
        cdef uint32_t index
        taken = []
        while count and self.sq_head != self.sq_tail:
            index = self.sq_head & self.q.sq_mask
            if self.q.sq_array != NULL:
                index = self.q.sq_array[index]
            taken.append(self.q.sqes[index].user_data)
            self.sq_head += 1
            count -= 1
        return taken

    def kernel_posts(self, uint64_t user_data, int res):
        """As the kernel does: post a completion; False when the queue is full."""
        cdef uint32_t index = self.cq_tail & self.q.cq_mask
        if <uint32_t>(self.cq_tail - self.cq_head) == self.q.cq_entries:
            return False
        self.q.cqes[index].user_data = user_data
        self.q.cqes[index].res = res
        self.cq_tail += 1
        return True

    def reap(self, uint32_t count):
        """Up to `count` completions as (user_data, res), and the head moved past them."""
        cdef uint32_t index
        count = min(count, cq_ready(&self.q))
        reaped = [(cq_at(&self.q, index).user_data, cq_at(&self.q, index).res)
                  for index in range(count)]
        cq_advance(&self.q, count)
        return reaped
