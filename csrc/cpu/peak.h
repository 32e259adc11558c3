// Multiplications and additions of registers alone: the most that a core reaches.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

// As many sums as a tile of products has: they fit the registers, and hide the latency of one another.
constexpr int kSums = kTile * kVectors;

float multiply_add(int64_t turns) {
    const Lanes factor = splat(0.999f), term = splat(0.001f);
    Lanes sums[kSums];
    UNROLL for (int j = 0; j < kSums; ++j) sums[j] = splat(static_cast<float>(j));
    for (int64_t i = 0; i < turns; ++i) {
        UNROLL for (int j = 0; j < kSums; ++j) sums[j] = sums[j] * factor + term;
    }
    Lanes all{};
    UNROLL for (int j = 0; j < kSums; ++j) all += sums[j];
    return all[0];
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
