// Which kernels this machine can run. Compiled for the oldest machine of its family.
#include "cpu/kernels.h"

#include <array>
#include <cstring>

namespace krypton {

#define KRYPTON_DECLARE(isa)    \
    namespace isa {             \
    extern const Kernels table; \
    }
#if defined(__x86_64__)
KRYPTON_DECLARE(avx512)
KRYPTON_DECLARE(avx2)
#elif defined(__aarch64__)
KRYPTON_DECLARE(neon)
#endif
KRYPTON_DECLARE(portable)

namespace {

// Best first, null at the end.
const Kernels* const* available() {
    static const auto tables = [] {
        std::array<const Kernels*, 4> found{};
        std::size_t n = 0;
#if defined(__x86_64__)
        __builtin_cpu_init();
        const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        if (wide && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
            found[n++] = &avx512::table;
        if (wide) found[n++] = &avx2::table;
#elif defined(__aarch64__)
        found[n++] = &neon::table;
#endif
        found[n++] = &portable::table;
        return found;
    }();
    return tables.data();
}

}  // namespace

const Kernels* kernels(const char* name) {
    for (const Kernels* const* k = available(); *k; ++k)
        if (!name || std::strcmp((*k)->name, name) == 0) return *k;
    return nullptr;
}

const char* const* kernel_names() {
    static const auto names = [] {
        std::array<const char*, 4> all{};
        for (std::size_t i = 0; available()[i]; ++i) all[i] = available()[i]->name;
        return all;
    }();
    return names.data();
}

}  // namespace krypton
