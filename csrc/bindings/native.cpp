// The Python module krypton_engine._native. Only this folder knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "bindings/arguments.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// The most operations a second that a loop in registers reached, within so many seconds.
double peak(const std::string& isa, double seconds) {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t kTurns = 1 << 17;  // a few milliseconds
    const krypton::Kernels* found = krypton::kernels(isa.c_str());
    krypton::require(found, "this machine has no kernels '" + isa + "'");
    const auto since = [](Clock::time_point start) {
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    double best = 0;
    const auto begin = Clock::now();
    do {
        const auto start = Clock::now();
        found->multiply_add(kTurns);
        best = std::max(best, static_cast<double>(kTurns * found->turn_operations) / since(start));
    } while (since(begin) < seconds);
    return best;
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Krypton's C++ engine: programs and sessions on boxes of NDHWC float32 values, and kriging.";
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const char* const* name = krypton::kernel_names(); *name; ++name) names.emplace_back(*name);
        return names;
    });
    m.def("peak", &peak, "isa"_a, "seconds"_a, nb::call_guard<nb::gil_scoped_release>());
    krypton::bind_kriging(m);
    krypton::bind_program(m);
    krypton::bind_session(m);
}
