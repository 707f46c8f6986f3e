/* Inline caches: what an attribute access, or a method call, of a compiled module has found, kept where it stands.
 *
 * Law: a cache holds only what every object of the same type answers alike: where a slot lies (a member descriptor of
 * __slots__), or which method or constant a class without instance dictionaries has. It is good for one value of
 * tp_version_tag, which CPython changes whenever the type or one of its bases changes, and never gives to another type.
 * All else goes to the function that would have been called without the cache. So nothing that a program can observe
 * differs: classes stay ordinary ones, with slots, subclasses, assignments to __class__ and replaced methods.
 *
 * This is what the interpreter itself does since 3.11 (PEP 659: LOAD_ATTR_SLOT, STORE_ATTR_SLOT, LOAD_ATTR_METHOD). C code
 * from Cython asks the type each time instead, which costs more than compiling gains.
 *
 * And tracebacks name the source beside the module, where it is now, and not where it was compiled.
 *
 * build_hook.py includes this file before the functions of a module, and inline_cache_end.h behind them.
 */
/* The path of this module's source: that of the module with another ending. */
static const char *ph_source(const char *built) {
    static char path[4096];
    PyObject *type, *value, *trace, *file;
    const char *text;
    char *dot;
    if (path[0] == 0) {
        PyErr_Fetch(&type, &value, &trace);
        file = PyModule_GetFilenameObject(__pyx_m);
        text = file != NULL ? PyUnicode_AsUTF8(file) : NULL;
        if (text != NULL && strlen(text) + 4 < sizeof path && strrchr(text, '/') != NULL) {
            strcpy(path, text);
            dot = strchr(strrchr(path, '/'), '.');
            strcpy(dot != NULL ? dot : path + strlen(path), ".py");
        }
        Py_XDECREF(file);
        PyErr_Restore(type, value, trace);
    }
    return path[0] != 0 ? path : built;
}

#define __Pyx_AddTraceback(function, c_line, line, built) __Pyx_AddTraceback(function, c_line, line, ph_source(built))

#ifndef Py_GIL_DISABLED

#include <structmember.h>

typedef struct {
    unsigned int version; /* of the type; 0 as long as nothing is known */
    Py_ssize_t offset;    /* of the slot; 0 if the class itself has what was asked for */
    PyObject *found;      /* that; borrowed from the class, which has it as long as the version is the same */
} PhCache;

/* The slot of this name, if the type's objects have one and nothing else decides. */
static PyMemberDef *ph_slot(PyTypeObject *type, PyObject *name) {
    PyObject *found = _PyType_Lookup(type, name);
    PyMemberDef *member;
    if (found == NULL || Py_TYPE(found) != &PyMemberDescr_Type || !PyType_IsSubtype(type, PyDescr_TYPE(found))) {
        return NULL;
    }
    member = ((PyMemberDescrObject *)found)->d_member;
    return member->type == T_OBJECT_EX && member->flags == 0 ? member : NULL;
}

/* What the class answers, if no object of it can have an answer of its own. */
static PyObject *ph_shared(PyTypeObject *type, PyObject *name) {
    if (type->tp_dictoffset != 0) {
        return NULL;
    }
#ifdef Py_TPFLAGS_MANAGED_DICT
    if (type->tp_flags & Py_TPFLAGS_MANAGED_DICT) {
        return NULL;
    }
#endif
    return _PyType_Lookup(type, name);
}

static inline int ph_knows(PhCache *cache, PyObject *object) {
    return likely(cache->version == Py_TYPE(object)->tp_version_tag && cache->version != 0);
}

static inline PyObject *ph_in_slot(PhCache *cache, PyObject *object) {
    return *(PyObject **)((char *)object + cache->offset);
}

static __attribute__((noinline, cold)) PyObject *ph_get_anew(PyObject *object, PyObject *name, PhCache *cache) {
    PyTypeObject *type = Py_TYPE(object);
    PyMemberDef *slot;
    PyObject *found;
    if (type->tp_getattro == PyObject_GenericGetAttr) {
        if ((slot = ph_slot(type, name)) != NULL) {
            cache->version = type->tp_version_tag;
            cache->offset = slot->offset;
        } else if ((found = ph_shared(type, name)) != NULL && Py_TYPE(found)->tp_descr_get == NULL) {
            cache->version = type->tp_version_tag;
            cache->offset = 0;
            cache->found = found;
        }
    }
    return PyObject_GetAttr(object, name);
}

static inline PyObject *ph_get(PyObject *object, PyObject *name, PhCache *cache) {
    PyObject *value;
    if (!ph_knows(cache, object)) {
        return ph_get_anew(object, name, cache);
    }
    value = likely(cache->offset != 0) ? ph_in_slot(cache, object) : cache->found;
    if (unlikely(value == NULL)) { /* an empty slot: AttributeError */
        return PyObject_GetAttr(object, name);
    }
    Py_INCREF(value);
    return value;
}

static __attribute__((noinline, cold)) int ph_set_anew(PyObject *object, PyObject *name, PyObject *value, PhCache *cache) {
    PyTypeObject *type = Py_TYPE(object);
    PyMemberDef *slot;
    if (type->tp_setattro == PyObject_GenericSetAttr && (slot = ph_slot(type, name)) != NULL) {
        cache->version = type->tp_version_tag;
        cache->offset = slot->offset;
    }
    return PyObject_SetAttr(object, name, value);
}

static inline int ph_set(PyObject *object, PyObject *name, PyObject *value, PhCache *cache) {
    PyObject **place, *old;
    if (value == NULL) { /* del */
        return PyObject_SetAttr(object, name, value);
    }
    if (!ph_knows(cache, object)) {
        return ph_set_anew(object, name, value, cache);
    }
    place = (PyObject **)((char *)object + cache->offset);
    old = *place;
    Py_INCREF(value);
    *place = value;
    Py_XDECREF(old); /* last: it may run any code */
    return 0;
}

static __attribute__((noinline, cold)) int ph_method_anew(PyObject *object, PyObject *name, PhCache *cache) {
    PyTypeObject *type = Py_TYPE(object);
    PyMemberDef *slot;
    PyObject *found;
    if (type->tp_getattro != PyObject_GenericGetAttr) {
        return 0;
    }
    if ((slot = ph_slot(type, name)) != NULL) {
        cache->offset = slot->offset;
    } else if (
        (found = ph_shared(type, name)) != NULL && PyType_HasFeature(Py_TYPE(found), Py_TPFLAGS_METHOD_DESCRIPTOR)
        && PyVectorcall_Function(found) != NULL) {
        cache->offset = 0;
        cache->found = found;
    } else {
        return 0;
    }
    cache->version = type->tp_version_tag;
    return ph_knows(cache, object);
}

/* args[0] is the object, and the others are the arguments. */
static inline PyObject *ph_call(PyObject *name, PyObject *const *args, size_t flags, PhCache *cache) {
    PyObject *object = args[0], *called, *result;
    size_t count = (size_t)PyVectorcall_NARGS(flags);
    if (!ph_knows(cache, object) && !ph_method_anew(object, name, cache)) {
        return PyObject_VectorcallMethod(name, args, flags, NULL);
    }
    called = cache->offset != 0 ? ph_in_slot(cache, object) : cache->found;
    if (unlikely(called == NULL)) {
        return PyObject_VectorcallMethod(name, args, flags, NULL);
    }
    Py_INCREF(called); /* what it does may replace it */
    if (cache->offset != 0) {
        result = PyObject_Vectorcall(called, args + 1, (count - 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    } else {
        result = PyVectorcall_Function(called)(called, args, count, NULL);
    }
    Py_DECREF(called);
    return result;
}

#undef __Pyx_PyObject_GetAttrStr
#undef __Pyx_PyObject_SetAttrStr
#undef __Pyx_PyObject_FastCallMethod
#define __Pyx_PyObject_GetAttrStr(o, n) ({ static PhCache ph_here; ph_get(o, n, &ph_here); })
#define __Pyx_PyObject_SetAttrStr(o, n, v) ({ static PhCache ph_here; ph_set(o, n, v, &ph_here); })
#define __Pyx_PyObject_FastCallMethod(n, a, f) ({ static PhCache ph_here; ph_call(n, a, f, &ph_here); })

#endif
