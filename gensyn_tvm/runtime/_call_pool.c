/* The lock on TVM's thread pool. No function of the system is called unless somebody waits. */
#include "_call.h"

static PyObject *pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs != NULL && PyDict_GET_SIZE(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "Pool() takes no arguments");
        return NULL;
    }
    Pool *self = (Pool *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->bell = PyThread_allocate_lock();
    if (self->bell == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(self->bell, NOWAIT_LOCK);
    return (PyObject *)self;
}

static void pool_dealloc(Pool *self)
{
    if (self->bell != NULL) {
        if (!self->is_rung)
            PyThread_release_lock(self->bell);
        PyThread_free_lock(self->bell); /* nobody waits: who waits holds the object */
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

int pool_acquire(Pool *self)
{
    unsigned long me = PyThread_get_thread_ident();
    if (self->depth > 0 && self->holder == me) {
        self->depth++;
        return 0;
    }
    while (self->depth > 0) {
        PyLockStatus status;
        self->waiting++;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->bell, -1, 1);
        Py_END_ALLOW_THREADS
        self->waiting--;
        if (status == PY_LOCK_ACQUIRED)
            self->is_rung = 0;
        else if (PyErr_CheckSignals() < 0)
            return -1; /* the bell goes on ringing for others, if it does */
    }
    self->holder = me;
    self->depth = 1;
    return 0;
}

void pool_release(Pool *self)
{
    if (--self->depth == 0 && self->waiting > 0 && !self->is_rung) {
        self->is_rung = 1;
        PyThread_release_lock(self->bell);
    }
}

static PyObject *pool_enter(Pool *self, PyObject *Py_UNUSED(ignored))
{
    if (pool_acquire(self) < 0)
        return NULL;
    return Py_NewRef(self);
}

static PyObject *pool_exit(Pool *self, PyObject *Py_UNUSED(args))
{
    if (self->depth == 0 || self->holder != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "this thread does not have the lock");
        return NULL;
    }
    pool_release(self);
    Py_RETURN_NONE;
}

static PyMethodDef pool_methods[] = {
    {"__enter__", (PyCFunction)pool_enter, METH_NOARGS, "Take the lock; as often as wanted in one thread."},
    {"__exit__", (PyCFunction)pool_exit, METH_VARARGS, "Give it back."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pool_members[] = {
    {"threads", T_INT, offsetof(Pool, threads), 0, "what the pool is sized for; 0 before its first use"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject PoolType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gensyn_tvm.runtime._call.Pool",
    .tp_basicsize = sizeof(Pool),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The lock on TVM's thread pool, and its number of threads.",
    .tp_new = pool_new,
    .tp_dealloc = (destructor)pool_dealloc,
    .tp_methods = pool_methods,
    .tp_members = pool_members,
};
