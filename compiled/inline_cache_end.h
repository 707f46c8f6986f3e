/* Behind the functions of a module: Cython's own functions follow, each called from many places, which have no cache. */
#undef __Pyx_AddTraceback
#ifndef Py_GIL_DISABLED
#undef __Pyx_PyObject_GetAttrStr
#undef __Pyx_PyObject_SetAttrStr
#undef __Pyx_PyObject_FastCallMethod
#define __Pyx_PyObject_FastCallMethod(name, args, flags) PyObject_VectorcallMethod(name, args, flags, NULL)
#endif
