// Vectors of floats.
// A part of kernels.cpp, and of no other file.
#pragma once

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

#define UNROLL _Pragma("GCC unroll 16")

namespace krypton {
namespace KRYPTON_ISA {
namespace {

constexpr int kLanes = KRYPTON_LANES;
constexpr int kVectors = 2;  // of one row of a tile
constexpr int kPanel = kLanes * kVectors;
constexpr int kTile = KRYPTON_TILE;

constexpr double kRootHalf = 0.70710678118654752440, kRootTwo = 1.41421356237309504880;

typedef float Lanes __attribute__((vector_size(kLanes * 4)));
typedef float Unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

static_assert(kChannelStep % kLanes == 0, "a pixel is a whole number of vectors");

inline Lanes load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Lanes v) { *reinterpret_cast<Unaligned*>(p) = v; }
// x - 0 is x, and so a load of its own; x + 0 is not (-0), and an addition costs Intel's cores half their
// speed.
inline Lanes splat(float x) { return x - Lanes{}; }
// NaN stays NaN, as in PyTorch.
inline Lanes clamp(Lanes x, Lanes low, Lanes high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
