// Multiplications and additions of registers alone: the most that a core reaches.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

// As many sums as a tile of products has: they fit the registers, and hide the latency of one another.
constexpr int64_t kTurnOperations = 2 * kTile * kVectors * kLanes;

float multiply_add(int64_t turns) {
    const Lanes factor = splat(0.999f), term = splat(0.001f);
    Lanes sums[kTile][kVectors], all{};
#define EACH(r, v) UNROLL for (int r = 0; r < kTile; ++r) UNROLL for (int v = 0; v < kVectors; ++v)
    EACH(r, v) sums[r][v] = splat(static_cast<float>(r * kVectors + v));
    for (int64_t i = 0; i < turns; ++i) EACH(r, v) sums[r][v] = sums[r][v] * factor + term;
    EACH(r, v) all += sums[r][v];
#undef EACH
    return all[0];
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
