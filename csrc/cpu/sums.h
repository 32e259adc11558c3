// Sums over the cells of a box.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

// Few floats are added up before they go to the double, so that they round little.
constexpr int64_t kFloatSums = 8;

template <bool CHANGES, bool SQUARES>
void sum_rows(const Sums& s) {
    for (int64_t c = 0; c < s.channels; c += kLanes) {
        double sums[kLanes] = {}, squares[kLanes] = {};
        const Lanes centre = SQUARES ? load(s.centre + c) : Lanes{};
        for (int64_t row = 0; row < s.rows;) {
            const int64_t end = row + kFloatSums < s.rows ? row + kFloatSums : s.rows;
            Lanes sum{}, square{};
            for (; row < end; ++row) {
                const Lanes now = load(s.now[row] + c) - centre;
                if (CHANGES) {
                    const Lanes before = load(s.before[row] + c) - centre;
                    sum += now - before;
                    if (SQUARES) square += (now - before) * (now + before);
                } else {
                    sum += now;
                    if (SQUARES) square += now * now;
                }
            }
            UNROLL for (int i = 0; i < kLanes; ++i) sums[i] += sum[i];
            if (SQUARES) UNROLL for (int i = 0; i < kLanes; ++i) squares[i] += square[i];
        }
        UNROLL for (int i = 0; i < kLanes; ++i) s.sums[c + i] = sums[i];
        if (SQUARES) UNROLL for (int i = 0; i < kLanes; ++i) s.squares[c + i] = squares[i];
    }
}

void sum(const Sums& s) {
    if (s.before) return s.centre ? sum_rows<true, true>(s) : sum_rows<true, false>(s);
    return s.centre ? sum_rows<false, true>(s) : sum_rows<false, false>(s);
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
