/* Makes the arrays of one large output, run after run: their memory comes back when nobody holds the array any more. */
#include "_call.h"

/* What an array and its views stand on: gives the memory back when the last of them is gone, in whatever thread. */
typedef struct {
    PyObject_HEAD
    PyObject *memory; /* bytes */
    Results *home;
} Lent;

static void lent_dealloc(Lent *self)
{
    if (self->home->spare == NULL)
        self->home->spare = self->memory;
    else
        Py_DECREF(self->memory);
    Py_DECREF(self->home);
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

static PyObject *results_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"shape", "dtype", NULL};
    Results *self = (Results *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&", names, PyArray_IntpConverter, &self->shape, PyArray_DescrConverter,
                                     &self->type)) {
        Py_DECREF(self);
        return NULL;
    }
    self->bytes = PyDataType_ELSIZE(self->type) * PyArray_MultiplyList(self->shape.ptr, self->shape.len);
    return (PyObject *)self;
}

static void results_dealloc(Results *self)
{
    Py_XDECREF(self->type);
    Py_XDECREF(self->spare);
    PyDimMem_FREE(self->shape.ptr);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* The memory that waits, or new one. */
static PyObject *take(Results *self)
{
    PyObject *memory = self->spare;
    self->spare = NULL;
    npy_intp size = self->bytes + PAGE;
    return memory != NULL ? memory : PyArray_SimpleNew(1, &size, NPY_UINT8);
}

PyObject *results_make(Results *self)
{
    PyObject *memory = take(self);
    if (memory == NULL)
        return NULL;
    Lent *lent = PyObject_New(Lent, &LentType);
    if (lent == NULL) {
        Py_DECREF(memory);
        return NULL;
    }
    lent->memory = memory;
    lent->home = (Results *)Py_NewRef(self);
    char *begin = PyArray_BYTES((PyArrayObject *)memory);
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

static PyObject *results_method_new(Results *self, PyObject *Py_UNUSED(ignored))
{
    return results_make(self);
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
    .tp_new = results_new,
    .tp_dealloc = (destructor)results_dealloc,
    .tp_methods = results_methods,
};
