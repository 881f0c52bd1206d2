/* The types of the extension `_call`; see _call.c. */
#ifndef GENSYN_CALL_H
#define GENSYN_CALL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL gensyn_call_numpy
#ifndef IS_MODULE
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#ifdef Py_GIL_DISABLED
#error "the lock of the pool relies on the GIL"
#endif

#include <stdint.h>
#include <string.h>

/* TVM's packed interface (tvm/ffi/c_api.h): a value, the index of integers, and the type of every function. */
typedef struct {
    int32_t type;
    uint32_t zero;
    int64_t value;
} Any;
#define INTEGER 1
typedef int (*Function)(void *self, const Any *arguments, int32_t count, Any *result);

/* As in storage.py; test_call.py compares them. */
#define PAGE 4096

/* Whoever has the GIL reads and writes it. */
typedef struct {
    PyObject_HEAD
    unsigned long holder; /* the thread that has the lock `depth` times */
    long depth, waiting;
    PyThread_type_lock bell; /* what waits for the lock waits for this one, which is taken unless `is_rung` */
    int is_rung;
    int threads;
} Pool;

typedef struct {
    PyObject_HEAD
    Pool *pool;
    PyArrayObject *table;
    PyObject *library; /* keeps the code in memory */
    PyObject *fail;    /* called with a status that is not 0, raises */
    PyObject *owner;   /* a Call, borrowed: it takes itself out when it goes */
    Function function;
    Function bare;     /* the same without care for the floating-point environment */
    int is_parallel;   /* whether threads other than the caller's compute, too */
    Py_ssize_t status; /* its slot */
    int64_t first, last;
} Entry;

/* Makes arrays for one large output. */
typedef struct {
    PyObject_HEAD
    PyArray_Descr *type;
    PyArray_Dims shape;
    Py_ssize_t bytes;
    PyObject *spare; /* memory that waits for the next array, or NULL */
} Results;

/* An input or an output. */
typedef struct {
    Py_ssize_t slot;
    PyArray_Descr *type;
    PyArray_Dims shape;
    Py_ssize_t bytes;
    PyArrayObject *place; /* where small arrays are copied to, or NULL */
    Results *maker;       /* of outputs: makes arrays whose memory is kept, or NULL */
} Slot;

typedef struct {
    PyObject_HEAD
    PyObject *executable; /* whose `threads` count */
    Entry *entry;         /* NULL if the program cannot be called this way */
    Py_ssize_t inputs, outputs;
    Slot *slots; /* of inputs, then of outputs */
} Call;

extern PyTypeObject PoolType, EntryType, CallType, ResultsType, LentType;

/* Take the lock, again if this thread has it; -1 if a signal's handler raises meanwhile, and then it is not taken. */
int pool_acquire(Pool *self);
void pool_release(Pool *self);

/* Whether the table has a slot; sets an exception if not. */
int entry_has_slot(const Entry *self, Py_ssize_t slot);

/* An uninitialised array that begins at a page. */
PyObject *results_make(Results *self);

/* Run the steps; the status, 0 for well. */
long long entry_run(const Entry *self, int threads);

#endif
