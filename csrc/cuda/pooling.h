// Maximum and average over windows, and over all of a value.
#pragma once

#include "cuda/cells.h"

namespace krypton::cuda {

// Maximum or average over windows of cells that are read where they lie. A window over all of a value is its
// global pooling: what did not change comes from the view, and the whole is never put together.
template <typename T>
struct Pool {
    Cells from;
    Read reads[kAxes];  // of the first tap
    int kernel[kAxes] = {1, 1, 1};
    const float* divisors[kAxes];  // by output; null for a maximum
    bool maximum;
    Box3 box;
    T* out;
    int64_t columns;

    KRYPTON_HD void operator()(int64_t row, int lane, int lanes) const {
        int box_cell[kAxes];
        const int64_t copy = box.split(row, box_cell);
        float divisor = 1;
        int first[kAxes];
        for (int k = 0; k < kAxes; ++k) {
            const int output = (reads[k].start ? reads[k].start[copy] : 0) + box_cell[k];
            first[k] = static_cast<int>(first_read(output, reads[k].stride, reads[k].padding));
            if (!maximum && divisors[k]) divisor *= divisors[k][output];
        }
        T* to = out + row * columns;
        for (int64_t c = lane; c < columns; c += lanes * kAtOnce) {
            float total[kAtOnce];
            for (float& x : total) x = maximum ? -INFINITY : 0;
            int at[kAxes];
            for (int i = 0; i < kernel[0]; ++i) {
                at[0] = first[0] + reads[0].dilation * i;
                for (int j = 0; j < kernel[1]; ++j) {
                    at[1] = first[1] + reads[1].dilation * j;
                    float line[kAtOnce];  // short sums, so that rounding stays small
                    for (float& x : line) x = maximum ? -INFINITY : 0;
                    for (int k = 0; k < kernel[2]; ++k) {
                        at[2] = first[2] + reads[2].dilation * k;
                        const Place place = locate(from, copy, at);
                        if (place.where == Where::kOutside) continue;
                        const char* base = place.where == Where::kChanged ? from.changed : from.view;
                        const T* cell = reinterpret_cast<const T*>(base) + place.row * columns;
                        for (int n = 0; n < kAtOnce && c + n * lanes < columns; ++n)
                            line[n] = joined(line[n], to_float(cell[c + n * lanes]));
                    }
                    for (int n = 0; n < kAtOnce; ++n) total[n] = joined(total[n], line[n]);
                }
            }
            for (int n = 0; n < kAtOnce && c + n * lanes < columns; ++n)
                to[c + n * lanes] = from_float<T>(maximum ? total[n] : total[n] / divisor);
        }
    }

  private:
    static constexpr int kAtOnce = 4;  // columns for which a cell is found once

    KRYPTON_HD float joined(float a, float b) const {
        if (!maximum) return a + b;
        return b > a || b != b ? b : a;  // NaN stays
    }
};

}  // namespace krypton::cuda
