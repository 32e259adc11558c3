// Boxes put together from view, changed cells and a constant; rows of a convolution's windows.
#pragma once

#include "cuda/cells.h"

namespace krypton::cuda {

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
    int64_t pitch;    // units from one cell of `out` to the next
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
        const char* base = place.where == Where::kChanged ? from.changed : from.view;
        const Unit* source = reinterpret_cast<const Unit*>(base) + place.row * columns;
        for (int64_t c = lane; c < columns; c += lanes) to[c] = source[c];
    }
};

}  // namespace krypton::cuda
