// What an op throws goes through torch to torch's own pybind11, which asks an exception of pybind11
// to set the error itself; C++ knows a class by its name, whatever library it comes from. Of Python
// that takes a few functions, which every version has: the library is of no one Python.

#include "errors.h"

#include <pybind11/detail/common.h>

#include <stdexcept>

namespace emergence_ext {
namespace {

class NotImplementedError : public pybind11::builtin_exception {
 public:
  using builtin_exception::builtin_exception;
  void set_error() const override { PyErr_SetString(PyExc_NotImplementedError, what()); }
};

class OutOfMemoryError : public pybind11::builtin_exception {
 public:
  using builtin_exception::builtin_exception;
  void set_error() const override {
    PyObject* const torch = PyImport_ImportModule("torch");
    PyObject* const type = torch ? PyObject_GetAttrString(torch, "OutOfMemoryError") : nullptr;
    if (type) PyErr_SetString(type, what());
    Py_DecRef(type);
    Py_DecRef(torch);
  }
};

}  // namespace

void value_error(const std::string& text) { throw pybind11::value_error(text); }
void type_error(const std::string& text) { throw pybind11::type_error(text); }
void runtime_error(const std::string& text) { throw std::runtime_error(text); }
void not_implemented_error(const std::string& text) { throw NotImplementedError(text); }
void out_of_memory_error(const std::string& text) { throw OutOfMemoryError(text); }

}  // namespace emergence_ext
