/* Makes the arrays of one large output, run after run: their memory comes back when nobody holds the array any more. */
#include "_call.h"

/* What an array and its views stand on: gives the memory back when the last of them is gone, in whatever thread. */
typedef struct {
    PyObject_HEAD
    PyObject *memory; /* bytes */
    PyObject *home;   /* the list in which one piece waits */
} Lent;

static void lent_dealloc(Lent *self)
{
    /* The list cannot grow without memory; then this piece goes the usual way. */
    if (self->home != NULL && self->memory != NULL && PyList_GET_SIZE(self->home) == 0 &&
        PyList_Append(self->home, self->memory) < 0)
        PyErr_Clear();
    Py_XDECREF(self->memory);
    Py_XDECREF(self->home);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject LentType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gensyn_tvm.runtime._call.Lent",
    .tp_basicsize = sizeof(Lent),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "The memory of a large result.",
    .tp_dealloc = (destructor)lent_dealloc,
};

static int results_init(Results *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"shape", "dtype", NULL};
    if (self->spare != NULL) {
        PyErr_SetString(PyExc_TypeError, "Results are initialised once");
        return -1;
    }
    PyArray_Descr *type = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&", names, PyArray_IntpConverter, &self->shape, PyArray_DescrConverter,
                                     &type))
        return -1;
    self->type = type;
    self->bytes = PyDataType_ELSIZE(type) * PyArray_MultiplyList(self->shape.ptr, self->shape.len);
    self->spare = PyList_New(0);
    return self->spare == NULL ? -1 : 0;
}

static void results_dealloc(Results *self)
{
    Py_XDECREF(self->type);
    Py_XDECREF(self->spare);
    PyDimMem_FREE(self->shape.ptr);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* The piece that waits, or a new one. */
static PyObject *take(const Results *self)
{
    Py_ssize_t waiting = PyList_GET_SIZE(self->spare);
    if (waiting > 0) {
        PyObject *memory = Py_NewRef(PyList_GET_ITEM(self->spare, waiting - 1));
        if (PyList_SetSlice(self->spare, waiting - 1, waiting, NULL) == 0)
            return memory;
        Py_DECREF(memory);
        return NULL;
    }
    npy_intp size = self->bytes + PAGE;
    return PyArray_SimpleNew(1, &size, NPY_UINT8);
}

PyObject *results_new(const Results *self)
{
    if (self->spare == NULL) {
        PyErr_SetString(PyExc_TypeError, "Results are not initialised");
        return NULL;
    }
    Lent *lent = PyObject_New(Lent, &LentType);
    if (lent == NULL)
        return NULL;
    lent->home = Py_NewRef(self->spare);
    lent->memory = take(self);
    if (lent->memory == NULL) {
        Py_DECREF(lent);
        return NULL;
    }
    char *begin = PyArray_BYTES((PyArrayObject *)lent->memory);
    begin += -(uintptr_t)begin % PAGE;
    Py_INCREF(self->type);
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, self->type, self->shape.len, self->shape.ptr, NULL, begin,
                                           NPY_ARRAY_CARRAY, NULL);
    if (array == NULL) {
        Py_DECREF(lent);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, (PyObject *)lent) < 0) { /* takes the memory in any case */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

static PyObject *results_method_new(const Results *self, PyObject *Py_UNUSED(ignored))
{
    return results_new(self);
}

static PyMethodDef results_methods[] = {
    {"new", (PyCFunction)results_method_new, METH_NOARGS, "An uninitialised array."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ResultsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gensyn_tvm.runtime._call.Results",
    .tp_basicsize = sizeof(Results),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Makes the arrays of one large output.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)results_init,
    .tp_dealloc = (destructor)results_dealloc,
    .tp_methods = results_methods,
};
