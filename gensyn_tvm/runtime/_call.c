/* Calls of a bound program as cheap as calls of C: what bound.py and machine.py do in each call, without Python's interpreter.
 *
 * Pool   the lock on TVM's thread pool, and its number of threads.
 * Entry  a library's entry, the table of addresses that its code reads, and who may rely on what the table says.
 * Call   the base of bound.py's BoundCall. If the last run of the machine was one of its own, a call needs the addresses of
 *        inputs and results only; otherwise, and with arrays that need more than that, its method `_long` runs the program.
 * Results  makes the arrays of a large output, whose memory is used again.
 *
 * Between taking the lock and giving it back no code of Python runs and nothing is collected: results are made before.
 */
#define IS_MODULE
#include "_call.h"

/* As in plan.py; test_call.py compares them. */
#define ACCEPTED 16
#define ALIGNMENT 64

static PyObject *name_threads, *name_long, *name_into;

static int call_traverse(Call *self, visitproc visit, void *arg)
{
    Py_VISIT(self->executable);
    return 0;
}

static int call_clear(Call *self)
{
    Entry *entry = self->entry;
    self->entry = NULL;
    if (entry != NULL && entry->owner == (PyObject *)self)
        entry->owner = NULL;
    Py_XDECREF(entry);
    Slot *slots = self->slots;
    Py_ssize_t count = self->inputs + self->outputs;
    self->slots = NULL;
    self->inputs = self->outputs = 0;
    for (Py_ssize_t k = 0; slots != NULL && k < count; k++) {
        Py_XDECREF(slots[k].type);
        Py_XDECREF(slots[k].place);
        Py_XDECREF(slots[k].maker);
        PyDimMem_FREE(slots[k].shape.ptr);
    }
    PyMem_Free(slots);
    Py_CLEAR(self->executable);
    return 0;
}

static void call_dealloc(Call *self)
{
    PyObject_GC_UnTrack(self);
    call_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Read (slot, dtype, shape, place or None, maker or None). */
static int read_slot(const Entry *entry, Slot *slot, PyObject *given)
{
    PyObject *type, *place, *maker;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "a slot is a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(given, "nO!O&OO", &slot->slot, &PyArrayDescr_Type, &type, PyArray_IntpConverter, &slot->shape, &place,
                          &maker))
        return -1;
    slot->type = (PyArray_Descr *)Py_NewRef(type);
    slot->bytes = PyDataType_ELSIZE(slot->type) * PyArray_MultiplyList(slot->shape.ptr, slot->shape.len);
    if (!entry_has_slot(entry, slot->slot))
        return -1;
    if (maker != Py_None) {
        if (!PyObject_TypeCheck(maker, &ResultsType) || ((Results *)maker)->bytes != slot->bytes) {
            PyErr_SetString(PyExc_ValueError, "what makes an output's arrays are Results of its size");
            return -1;
        }
        slot->maker = (Results *)Py_NewRef(maker);
    }
    if (place == Py_None)
        return 0;
    if (!PyArray_CheckExact(place) || !PyArray_ISCARRAY((PyArrayObject *)place) ||
        PyArray_NBYTES((PyArrayObject *)place) != slot->bytes) {
        PyErr_SetString(PyExc_ValueError, "a fixed place is an array of its slot's size");
        return -1;
    }
    slot->place = (PyArrayObject *)Py_NewRef(place);
    return 0;
}

static int call_init(Call *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"executable", "entry", "inputs", "outputs", NULL};
    PyObject *executable, *entry, *inputs, *outputs;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O!O!", names, &executable, &EntryType, &entry, &PyTuple_Type, &inputs,
                                     &PyTuple_Type, &outputs))
        return -1;
    if (self->entry != NULL) {
        PyErr_SetString(PyExc_TypeError, "a Call is initialised once");
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(inputs), total = count + PyTuple_GET_SIZE(outputs);
    self->slots = PyMem_Calloc((size_t)total + 1, sizeof(Slot));
    if (self->slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->entry = (Entry *)Py_NewRef(entry);
    self->executable = Py_NewRef(executable);
    self->inputs = count;
    self->outputs = total - count;
    for (Py_ssize_t k = 0; k < total; k++) {
        PyObject *given = k < count ? PyTuple_GET_ITEM(inputs, k) : PyTuple_GET_ITEM(outputs, k - count);
        if (read_slot(self->entry, &self->slots[k], given) < 0) {
            call_clear(self);
            return -1;
        }
    }
    return 0;
}

/* A new array in which the code may write, or from whose slot's fixed place it is copied. */
static PyObject *new_result(const Slot *slot)
{
    PyArray_Descr *type = slot->type;
    if (slot->maker != NULL)
        return results_make(slot->maker);
    if (slot->place != NULL) {
        Py_INCREF(type);
        return PyArray_NewFromDescr(&PyArray_Type, type, slot->shape.len, slot->shape.ptr, NULL, NULL, 0, NULL);
    }
    npy_intp size = slot->bytes + ALIGNMENT;
    PyObject *memory = PyArray_SimpleNew(1, &size, NPY_UINT8);
    if (memory == NULL)
        return NULL;
    char *begin = PyArray_BYTES((PyArrayObject *)memory);
    begin += -(uintptr_t)begin % ALIGNMENT;
    Py_INCREF(type);
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, type, slot->shape.len, slot->shape.ptr, NULL, begin, NPY_ARRAY_CARRAY,
                                           NULL);
    if (array == NULL) {
        Py_DECREF(memory);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, memory) < 0) { /* takes the memory in any case */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

/* An array, or a list of arrays if there are several outputs; nobody finds the list before it is filled. */
static PyObject *new_results(const Call *self)
{
    const Slot *slots = self->slots + self->inputs;
    if (self->outputs == 1)
        return new_result(slots);
    PyObject *list = PyList_New(self->outputs);
    if (list != NULL)
        PyObject_GC_UnTrack(list);
    for (Py_ssize_t k = 0; list != NULL && k < self->outputs; k++) {
        PyObject *array = new_result(&slots[k]);
        if (array == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, k, array);
    }
    return list;
}

static PyArrayObject *result_at(const Call *self, PyObject *results, Py_ssize_t k)
{
    return (PyArrayObject *)(self->outputs == 1 ? results : PyList_GET_ITEM(results, k));
}

/* Whether the code can read an array where it is, or after its bytes were copied to a fixed place. */
static int fits(const Slot *slot, PyObject *value)
{
    if (!PyArray_CheckExact(value))
        return 0;
    PyArrayObject *array = (PyArrayObject *)value;
    if (PyArray_TYPE(array) != slot->type->type_num || !PyArray_ISNOTSWAPPED(array) || PyArray_NDIM(array) != slot->shape.len ||
        !PyArray_CompareLists(PyArray_DIMS(array), slot->shape.ptr, slot->shape.len))
        return 0;
    return slot->place != NULL || (PyArray_IS_C_CONTIGUOUS(array) && (uintptr_t)PyArray_DATA(array) % ACCEPTED == 0);
}

/* Let the code read the inputs, which fit, and write the results. */
static int place_all(const Call *self, PyObject *values, PyObject *results)
{
    int64_t *table = PyArray_DATA(self->entry->table);
    for (Py_ssize_t k = 0; k < self->inputs; k++) {
        const Slot *slot = &self->slots[k];
        PyArrayObject *value = (PyArrayObject *)PyTuple_GET_ITEM(values, k);
        if (slot->place == NULL)
            table[slot->slot] = (int64_t)(intptr_t)PyArray_DATA(value);
        else if (PyArray_IS_C_CONTIGUOUS(value))
            memcpy(PyArray_DATA(slot->place), PyArray_DATA(value), (size_t)slot->bytes);
        else if (PyArray_CopyInto(slot->place, value) < 0)
            return -1;
    }
    for (Py_ssize_t k = 0; k < self->outputs; k++) {
        const Slot *slot = &self->slots[self->inputs + k];
        if (slot->place == NULL)
            table[slot->slot] = (int64_t)(intptr_t)PyArray_DATA(result_at(self, results, k));
    }
    return 0;
}

/* With the lock: fill `results`; the status of the run, 0 for well. `*is_run`: whether arrays and machine allowed one. */
static long long run_held(const Call *self, PyObject *values, PyObject *results, long threads, int *is_run)
{
    const Entry *entry = self->entry;
    *is_run = 0;
    if (entry->owner != (PyObject *)self || entry->pool->threads != threads)
        return 0;
    for (Py_ssize_t k = 0; k < self->inputs; k++)
        if (!fits(&self->slots[k], PyTuple_GET_ITEM(values, k)))
            return 0;
    *is_run = 1;
    if (place_all(self, values, results) < 0)
        return 0; /* the exception is set */
    long long status = entry_run(entry, entry->pool->threads);
    for (Py_ssize_t k = 0; status == 0 && k < self->outputs; k++) {
        const Slot *slot = &self->slots[self->inputs + k];
        if (slot->place != NULL)
            memcpy(PyArray_DATA(result_at(self, results, k)), PyArray_DATA(slot->place), (size_t)slot->bytes);
    }
    return status;
}

/* The results of a run; NULL with an exception, or without one if it takes the long way. */
static PyObject *call_short(Call *self, PyObject *values)
{
    if (self->entry == NULL || self->entry->owner != (PyObject *)self || PyTuple_GET_SIZE(values) != self->inputs)
        return NULL;
    PyObject *number = PyObject_GetAttr(self->executable, name_threads);
    if (number == NULL)
        return NULL;
    long threads = PyLong_AsLong(number);
    Py_DECREF(number);
    if (threads == -1 && PyErr_Occurred())
        return NULL;
    PyObject *results = new_results(self);
    if (results == NULL)
        return NULL;
    if (pool_acquire(self->entry->pool) < 0) {
        Py_DECREF(results);
        return NULL;
    }
    int is_run;
    long long status = run_held(self, values, results, threads, &is_run);
    pool_release(self->entry->pool);
    if (status != 0)
        Py_XDECREF(PyObject_CallFunction(self->entry->fail, "L", status));
    if (is_run && status == 0 && !PyErr_Occurred()) {
        if (self->outputs != 1)
            PyObject_GC_Track(results);
        return results;
    }
    Py_DECREF(results);
    if (status != 0 && !PyErr_Occurred())
        PyErr_Format(PyExc_RuntimeError, "the code returned status %lld", status);
    return NULL;
}

static PyObject *call_call(Call *self, PyObject *args, PyObject *kwargs)
{
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyObject *into = PyObject_GetAttr((PyObject *)self, name_into);
        if (into == NULL)
            return NULL;
        PyObject *written = PyObject_Call(into, args, kwargs);
        Py_DECREF(into);
        return written;
    }
    PyObject *results = call_short(self, args);
    if (results != NULL || PyErr_Occurred())
        return results;
    return PyObject_CallMethodOneArg((PyObject *)self, name_long, args);
}

static PyObject *call_is_short(Call *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->entry != NULL && self->entry->owner == (PyObject *)self);
}

static PyGetSetDef call_properties[] = {
    {"is_short", (getter)call_is_short, NULL, "Whether the next call needs the addresses of its arrays only.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject CallType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gensyn_tvm.runtime._call.Call",
    .tp_basicsize = sizeof(Call),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "The base of BoundCall.",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)call_init,
    .tp_dealloc = (destructor)call_dealloc,
    .tp_traverse = (traverseproc)call_traverse,
    .tp_clear = (inquiry)call_clear,
    .tp_call = (ternaryfunc)call_call,
    .tp_getset = call_properties,
};

/* ---- the module ---- */

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "gensyn_tvm.runtime._call", .m_size = -1};

PyMODINIT_FUNC PyInit__call(void)
{
    import_array();
    name_threads = PyUnicode_InternFromString("threads");
    name_long = PyUnicode_InternFromString("_long");
    name_into = PyUnicode_InternFromString("_into");
    if (name_threads == NULL || name_long == NULL || name_into == NULL)
        return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL)
        return NULL;
    if (PyModule_AddType(made, &PoolType) < 0 || PyModule_AddType(made, &EntryType) < 0 ||
        PyModule_AddType(made, &CallType) < 0 || PyModule_AddType(made, &ResultsType) < 0 || PyType_Ready(&LentType) < 0 ||
        PyModule_AddIntMacro(made, ACCEPTED) < 0 || PyModule_AddIntMacro(made, ALIGNMENT) < 0 ||
        PyModule_AddIntMacro(made, PAGE) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
