/* A library's entry and its table. */
#include "_call.h"
#ifdef __x86_64__
#include <xmmintrin.h>
#endif

/* Round to nearest even, keep subnormals, all exceptions masked. */
#define IEEE754 0x1F80

static void entry_dealloc(Entry *self)
{
    Py_XDECREF(self->pool);
    Py_XDECREF(self->table);
    Py_XDECREF(self->library);
    Py_XDECREF(self->fail);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

int entry_has_slot(const Entry *self, Py_ssize_t slot)
{
    if (slot >= 0 && slot < PyArray_SIZE(self->table))
        return 1;
    PyErr_Format(PyExc_ValueError, "the table has no slot %zd", slot);
    return 0;
}

static PyObject *entry_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"pool", "table", "library", "fail", "address", "bare", "is_parallel", "status", "first", "last", NULL};
    PyObject *pool, *table, *library, *fail;
    unsigned long long address, bare;
    int is_parallel;
    long long first, last;
    Py_ssize_t status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!OOKKpnLL", names, &PoolType, &pool, &PyArray_Type, &table,
                                     &library, &fail, &address, &bare, &is_parallel, &status, &first, &last))
        return NULL;
    PyArrayObject *array = (PyArrayObject *)table;
    if (address == 0 || bare == 0 || PyArray_NDIM(array) != 1 || PyArray_TYPE(array) != NPY_INT64 || !PyArray_ISCARRAY(array)) {
        PyErr_SetString(PyExc_ValueError, "an entry needs two functions and a table of int64");
        return NULL;
    }
    Entry *self = (Entry *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->pool = (Pool *)Py_NewRef(pool);
    self->table = (PyArrayObject *)Py_NewRef(table);
    self->library = Py_NewRef(library);
    self->fail = Py_NewRef(fail);
    self->function = (Function)(uintptr_t)address;
    self->bare = (Function)(uintptr_t)bare;
    self->is_parallel = is_parallel;
    self->status = status;
    self->first = first;
    self->last = last;
    if (!entry_has_slot(self, status)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* Run the steps in the IEEE-754 default environment; what the function returned.
 *
 * The library's own guard goes through fesetenv, which sets the x87 unit's environment too and takes as long as a small kernel.
 * No code for x86-64 uses that unit: where this thread alone computes, the control register of SSE and AVX is all there is.
 */
static int run_guarded(const Entry *self, Any *arguments, int threads, Any *answer)
{
#ifdef __x86_64__
    if (threads == 1 || !self->is_parallel) {
        unsigned int callers = _mm_getcsr();
        _mm_setcsr(IEEE754);
        int code = self->bare(NULL, arguments, 4, answer);
        _mm_setcsr(callers);
        return code;
    }
#endif
    return self->function(NULL, arguments, 4, answer);
}

long long entry_run(const Entry *self, int threads)
{
    const int64_t *table = PyArray_DATA(self->table);
    Any arguments[4] = {{INTEGER, 0, (int64_t)(intptr_t)table},
                        {INTEGER, 0, self->first},
                        {INTEGER, 0, self->last},
                        {INTEGER, 0, threads}};
    Any answer = {0, 0, 0};
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = run_guarded(self, arguments, threads, &answer);
    Py_END_ALLOW_THREADS
    return code != 0 ? code : table[self->status];
}

static PyObject *entry_own(Entry *self, PyObject *value)
{
    if (value != Py_None && !(PyObject_TypeCheck(value, &CallType) && ((Call *)value)->entry == self)) {
        PyErr_SetString(PyExc_TypeError, "the owner of an entry is None or a Call of it");
        return NULL;
    }
    self->owner = value == Py_None ? NULL : value;
    Py_RETURN_NONE;
}

static PyMethodDef entry_methods[] = {
    {"own", (PyCFunction)entry_own, METH_O, "Let a Call rely on what the table says, or with None nobody."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject EntryType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gensyn_tvm.runtime._call.Entry",
    .tp_basicsize = sizeof(Entry),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "A library's entry, and the table of addresses that its code reads.",
    .tp_new = entry_new,
    .tp_dealloc = (destructor)entry_dealloc,
    .tp_methods = entry_methods,
};
