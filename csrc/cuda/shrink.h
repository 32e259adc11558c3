// Boxes cut down to the cells that changed by a threshold at least.
#pragma once

#include "cuda/cells.h"

namespace krypton::cuda {

// Marks rows and columns of every box in which a cell changed: `marks` holds for every copy the box's cells
// along axis 0, then those along axis 1, then 2; zeros before.
template <typename T>
struct Mark {
    Cells cells;
    Box3 box;  // of the changed cells
    int64_t columns;
    float threshold;
    int* marks;

    KRYPTON_HD void operator()(int64_t row, int lane, int lanes) const {
        int offset[kAxes], at[kAxes];
        const int64_t copy = box.split(row, offset);
        for (int k = 0; k < kAxes; ++k)
            at[k] = (cells.axes[k].start ? cells.axes[k].start[copy] : 0) + offset[k];
        const Place place = locate(cells, copy, at);
        if (place.where != Where::kChanged) return;
        const T* now = reinterpret_cast<const T*>(cells.changed) + place.row * columns;
        int64_t in_view = 0;
        for (int k = 0; k < kAxes; ++k) in_view = in_view * cells.axes[k].size + at[k];
        const T* before = reinterpret_cast<const T*>(cells.view) + in_view * columns;
        bool stays = false;  // not smaller: NaN stays too
        for (int64_t c = lane; c < columns; c += lanes)
            stays = stays || !(fabsf(to_float(now[c]) - to_float(before[c])) < threshold);
        if (!stays) return;
        int* mine = marks + copy * (box.sizes[0] + box.sizes[1] + box.sizes[2]);
        for (int k = 0; k < kAxes; mine += box.sizes[k], ++k)
            mine[offset[k]] = 1;  // whoever writes, writes 1
    }
};

// What is left of a box by its marks: `left` takes for every copy and axis the first cell and one past the
// last, the same twice if there is none. One row for every copy.
struct Bounds {
    Cells cells;
    Box3 box;
    const int* marks;
    int* left;

    KRYPTON_HD void operator()(int64_t copy, int lane, int) const {
        if (lane) return;
        const int* mine = marks + copy * (box.sizes[0] + box.sizes[1] + box.sizes[2]);
        for (int k = 0; k < kAxes; mine += box.sizes[k], ++k) {
            int lo = 0, hi = box.sizes[k];
            while (lo < hi && !mine[lo]) ++lo;
            while (hi > lo && !mine[hi - 1]) --hi;
            const int start = cells.axes[k].start ? cells.axes[k].start[copy] : 0;
            left[(copy * kAxes + k) * 2] = start + lo;
            left[(copy * kAxes + k) * 2 + 1] = start + hi;
        }
    }
};

// Sum of gradient * change over the cells that were changed and are left no more, by copy; zeros before.
template <typename T>
struct Dropped {
    Cells cells;
    Box3 box;
    int64_t columns;
    const char* gradient;  // laid out like the view
    const int* left;
    double* effect;

    KRYPTON_HD void operator()(int64_t row, int lane, int lanes) const {
        int at[kAxes];
        const int64_t copy = box.split(row, at);
        bool kept = true;
        int64_t in_view = 0;
        for (int k = 0; k < kAxes; ++k) {
            at[k] += cells.axes[k].start ? cells.axes[k].start[copy] : 0;
            const int* side = left + (copy * kAxes + k) * 2;
            kept = kept && at[k] >= side[0] && at[k] < side[1];
            in_view = in_view * cells.axes[k].size + at[k];
        }
        const Place place = locate(cells, copy, at);
        double sum = 0;
        if (!kept && place.where == Where::kChanged) {
            const T* now = reinterpret_cast<const T*>(cells.changed) + place.row * columns;
            const T* before = reinterpret_cast<const T*>(cells.view) + in_view * columns;
            const T* slope = reinterpret_cast<const T*>(gradient) + in_view * columns;
            for (int64_t c = lane; c < columns; c += lanes) {
                const double change = static_cast<double>(to_float(now[c])) - to_float(before[c]);
                sum += to_float(slope[c]) * change;
            }
        }
        if (sum != 0) add_to(effect + copy, sum);
    }
};

}  // namespace krypton::cuda
