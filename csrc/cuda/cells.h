// Where the cells of boxes lie. No CUDA here nor in the bodies of kernels (compose.h, pointwise.h, pooling.h,
// shrink.h): compiled for the host, the same code runs in loops, so that a machine without a GPU can test it.
//
// A body computes one row: of its columns a lane takes `lane`, `lane + lanes`, ...
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
    const char* changed = nullptr;  // boxes, one after the other; null: nothing changes
    const int* place = nullptr;     // by copy: which of the boxes is its own; null for the copy's number
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

enum class Where { kView, kChanged, kOutside };

struct Place {
    Where where;
    int64_t row;
};

// Where cell `at` of `copy` lies.
KRYPTON_HD inline Place locate(const Cells& cells, int64_t copy, const int* at) {
    bool inside = cells.changed != nullptr;
    int64_t in_view = 0, in_boxes = cells.place ? cells.place[copy] : copy;
    for (int k = 0; k < kAxes; ++k) {
        const Axis& axis = cells.axes[k];
        if (at[k] < 0 || at[k] >= axis.size) return {Where::kOutside, 0};
        const int start = axis.start ? axis.start[copy] : 0;
        const int lo = axis.lo ? axis.lo[copy] : start, hi = axis.hi ? axis.hi[copy] : start + axis.extent;
        inside = inside && at[k] >= lo && at[k] < hi;
        in_view = in_view * axis.size + at[k];
        in_boxes = in_boxes * axis.extent + at[k] - start;
    }
    return inside ? Place{Where::kChanged, in_boxes} : Place{Where::kView, in_view};
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

// The window that every cell of a box reads: its taps come one after the other.
struct Taps {
    Box3 box;
    int steps[kAxes] = {1, 1, 1};  // cells from one tap to the next
};

}  // namespace krypton::cuda
