// Maximum and sums over windows.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

void pool(const Pooling& p) {
    for (int64_t row = 0; row < p.rows; ++row) {
        for (int64_t c = 0; c < p.channels; c += kLanes) {
            Lanes x = load(p.pixels[row] + c);
            if (p.scale) {
                for (int64_t t = 1; t < p.taps; ++t) x += load(p.pixels[t * p.stride + row] + c);
                x *= p.scale[row];
            } else {
                for (int64_t t = 1; t < p.taps; ++t) {
                    const Lanes y = load(p.pixels[t * p.stride + row] + c);
                    x = ((y > x) | (y != y)) ? y : x;
                }
            }
            store(p.out[row] + c, x);
        }
    }
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
