// Where the cells of boxes lie, and what the CUDA kernels do with one row of them. No CUDA in here: compiled
// for the host, the same code runs in loops, so that a machine without a GPU can test it.
#pragma once

#include "cuda/element.h"
#include "geometry.h"

namespace krypton::cuda {

constexpr int kAxes = 3;  // along which boxes run; a value of fewer has axes of one cell

// A value along one axis.
struct Axis {
    int size = 1;                // cells of the view
    int extent = 1;              // cells of a changed box
    const int* start = nullptr;  // by copy: first cell of its box; null for 0
    const int* lo = nullptr;     // by copy: what of the box counts as changed; null for all of it
    const int* hi = nullptr;
};

// A view that all copies share, and a box of changed cells for each of them. Cells are rows of elements, one
// after the other, the last axis fastest.
struct Cells {
    const char* view = nullptr;
    const char* patch = nullptr;  // null: nothing changes
    const int* place = nullptr;   // by copy: which box of the patch is its own; null for the copy's number
    Axis axes[kAxes];
};

// Which cells of an operand a box reads along one axis.
struct Read {
    const int* start = nullptr;  // by copy: first output of the box; null for 0
    int stride = 1, padding = 0, dilation = 1;
    const int* sources = nullptr;  // by output: the cell that is moved there, or -1; null for a window

    // Cell number `i` of those that the box of `copy` reads; outside the operand where there is none.
    KRYPTON_HD int cell(int64_t copy, int i) const {
        const int first = start ? start[copy] : 0;
        if (sources) return sources[first + i];
        return static_cast<int>(first_read(first, stride, padding)) + dilation * i;
    }
};

enum class Where { kView, kPatch, kOutside };

struct Place {
    Where where;
    int64_t row;
};

// Where cell `at` of `copy` lies.
KRYPTON_HD inline Place locate(const Cells& cells, int64_t copy, const int* at) {
    bool changed = cells.patch != nullptr;
    int64_t in_view = 0, in_patch = cells.place ? cells.place[copy] : copy;
    for (int k = 0; k < kAxes; ++k) {
        const Axis& axis = cells.axes[k];
        if (at[k] < 0 || at[k] >= axis.size) return {Where::kOutside, 0};
        const int start = axis.start ? axis.start[copy] : 0;
        const int lo = axis.lo ? axis.lo[copy] : start, hi = axis.hi ? axis.hi[copy] : start + axis.extent;
        changed = changed && at[k] >= lo && at[k] < hi;
        in_view = in_view * axis.size + at[k];
        in_patch = in_patch * axis.extent + at[k] - start;
    }
    return changed ? Place{Where::kPatch, in_patch} : Place{Where::kView, in_view};
}

// A box of `sizes` for every copy; its cells are numbered copy by copy.
struct Box3 {
    int sizes[kAxes] = {1, 1, 1};

    KRYPTON_HD int64_t cells() const { return static_cast<int64_t>(sizes[0]) * sizes[1] * sizes[2]; }
    // Which box a row is in, and its coordinates there.
    KRYPTON_HD int64_t split(int64_t row, int* at) const {
        const int64_t copy = row / cells();
        int rest = static_cast<int>(row - copy * cells());  // divisions of 32 bits are much faster on a GPU
        for (int k = kAxes - 1; k >= 0; --k) {
            at[k] = rest % sizes[k];
            rest /= sizes[k];
        }
        return copy;
    }
};

// Every kernel is a body: row after row, of whose columns a lane takes `lane`, `lane + lanes`, ...

// The window that every cell of a box reads: its taps come one after the other.
struct Taps {
    Box3 box;
    int steps[kAxes] = {1, 1, 1};  // cells from one tap to the next
};

// Boxes put together from view, changed cells and a constant; with windows of several taps, the rows that a
// convolution multiplies.
template <typename Unit>
struct Compose {
    Cells from;
    Read reads[kAxes];  // of the first tap
    Box3 box;
    int64_t first;  // copy
    Taps taps;
    char* out;
    int64_t pitch;  // units from one cell of `out` to the next
    int64_t columns;  // units of a cell
    Unit fill;
    bool overlay;  // leave what has no source as it is

    KRYPTON_HD void operator()(int64_t row, int lane, int lanes) const {
        int at[kAxes], tap[kAxes] = {0, 0, 0};
        const int64_t cell = taps.box.cells() > 1 ? taps.box.split(row, tap) : row;
        const int64_t copy = first + box.split(cell, at);
        for (int k = 0; k < kAxes; ++k) at[k] = reads[k].cell(copy, at[k]) + taps.steps[k] * tap[k];
        const Place place = locate(from, copy, at);
        Unit* to = reinterpret_cast<Unit*>(out) + row * pitch;
        if (place.where == Where::kOutside) {
            if (overlay) return;
            for (int64_t c = lane; c < columns; c += lanes) to[c] = fill;
            return;
        }
        const char* base = place.where == Where::kPatch ? from.patch : from.view;
        const Unit* source = reinterpret_cast<const Unit*>(base) + place.row * columns;
        for (int64_t c = lane; c < columns; c += lanes) to[c] = source[c];
    }
};

enum class Function : int { kClamp, kSilu, kHardSwish, kSigmoid };

KRYPTON_HD inline float clamped(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;  // NaN stays
}

KRYPTON_HD inline float activated(Function function, float x, float low, float high) {
    switch (function) {
        case Function::kSilu: return x / (1 + expf(-x));
        case Function::kHardSwish: return x * clamped(x + 3, 0, 6) / 6;
        case Function::kSigmoid: return 1 / (1 + expf(-x));
        default: return clamped(x, low, high);
    }
}

// What follows a convolution, in place: bias, the cells of another value, an activation.
template <typename T>
struct Finish {
    T* x;
    int64_t columns;
    const float* bias;  // by column, or null
    bool adds;
    Cells residual;
    Read reads[kAxes];
    Box3 box;
    Function function;
    float low, high;

    KRYPTON_HD void operator()(int64_t row, int lane, int lanes) const {
        const T* other = nullptr;
        if (adds) {
            int at[kAxes];
            const int64_t copy = box.split(row, at);
            for (int k = 0; k < kAxes; ++k) at[k] = reads[k].cell(copy, at[k]);
            const Place place = locate(residual, copy, at);
            const char* base = place.where == Where::kPatch ? residual.patch : residual.view;
            other = reinterpret_cast<const T*>(base) + place.row * columns;
        }
        T* mine = x + row * columns;
        for (int64_t c = lane; c < columns; c += lanes) {
            float sum = to_float(mine[c]);
            if (bias) sum += bias[c];
            if (other) sum += to_float(other[c]);
            mine[c] = from_float<T>(activated(function, sum, low, high));
        }
    }
};

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
                        const char* base = place.where == Where::kPatch ? from.patch : from.view;
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

// -- Shrink: boxes cut down to the cells that changed by a threshold at least -------------------------------

// Marks rows and columns of every box in which a cell changed: `marks` holds for every copy the box's cells
// along axis 0, then those along axis 1, then 2; zeros before.
template <typename T>
struct Mark {
    Cells cells;
    Box3 box;  // of the patch
    int64_t columns;
    float threshold;
    int* marks;

    KRYPTON_HD void operator()(int64_t row, int lane, int lanes) const {
        int offset[kAxes], at[kAxes];
        const int64_t copy = box.split(row, offset);
        for (int k = 0; k < kAxes; ++k)
            at[k] = (cells.axes[k].start ? cells.axes[k].start[copy] : 0) + offset[k];
        const Place place = locate(cells, copy, at);
        if (place.where != Where::kPatch) return;
        const T* now = reinterpret_cast<const T*>(cells.patch) + place.row * columns;
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
        if (!kept && place.where == Where::kPatch) {
            const T* now = reinterpret_cast<const T*>(cells.patch) + place.row * columns;
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
