// Elements of values as floats, for device and host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "device.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace krypton::cuda {

struct Half {
    std::uint16_t bits;
};

struct BFloat {
    std::uint16_t bits;
};

KRYPTON_HD inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

KRYPTON_HD inline float float_of(std::uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

KRYPTON_HD inline float to_float(float x) { return x; }

KRYPTON_HD inline float to_float(BFloat x) { return float_of(static_cast<std::uint32_t>(x.bits) << 16); }

KRYPTON_HD inline float to_float(Half x) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(x.bits));
#else
    const std::uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    // Shifted into float's place, the exponent is 112 too small: a product mends that, denormals included.
    const float magnitude =
        rest >= 0x7c00u ? float_of(rest << 13 | 0x7f800000u) : float_of(rest << 13) * 0x1p112f;
    return float_of(bits_of(magnitude) | sign);
#endif
}

// Rounded to the nearest, ties to even.
template <typename T>
KRYPTON_HD inline T from_float(float x);

template <>
KRYPTON_HD inline float from_float<float>(float x) {
    return x;
}

template <>
KRYPTON_HD inline BFloat from_float<BFloat>(float x) {
    const std::uint32_t bits = bits_of(x);
    if (x != x) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
    return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
KRYPTON_HD inline Half from_float<Half>(float x) {
#ifdef __CUDA_ARCH__
    return {__half_as_ushort(__float2half_rn(x))};
#else
    const std::uint32_t sign = bits_of(x) >> 16 & 0x8000u, magnitude = bits_of(x) & 0x7fffffffu;
    std::uint32_t bits;
    if (magnitude > 0x7f800000u) {
        bits = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
        bits = 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // denormal: adding 0.5 leaves multiples of 2^-24, rounded
        bits = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    } else {
        bits = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    }
    return {static_cast<std::uint16_t>(sign | bits)};
#endif
}

// Several lanes and rows may add to one place.
KRYPTON_HD inline void add_to(double* place, double x) {
#ifdef __CUDA_ARCH__
    atomicAdd(place, x);
#else
    *place += x;
#endif
}

}  // namespace krypton::cuda
