// The Python module krypton_engine._native. Only this folder knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings/arguments.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
    m.doc() = "Krypton's C++ engine: programs and sessions on boxes of NDHWC float32 values.";
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const char* const* name = krypton::kernel_names(); *name; ++name) names.emplace_back(*name);
        return names;
    });
    krypton::bind_program(m);
    krypton::bind_session(m);
}
