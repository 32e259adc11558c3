// A value at one position: the shared view of the un-occluded input, and a box of changed pixels over it.
#pragma once

#include <cstdint>

#include "geometry.h"

namespace krypton {

// Cells inside `box` are read from `changed`, which holds them row by row, all others from `view`.
struct Plane {
    Sizes sizes{};
    int64_t channels = 0;  // as stored
    const float* view = nullptr;
    const float* changed = nullptr;
    Box box;

    // Pointers to the pixels of `extent` cells from `first` on, row by row; `outside` where there is none.
    void pixels(const Corner& first, const Sizes& extent, const float* outside, const float** out) const;
    void pixels(const Box& of, const float* outside, const float** out) const {
        pixels(of.first(), of.sizes(), outside, out);
    }
    // The pixel of a cell that exists.
    const float* pixel(const Corner& cell) const {
        return box.holds(cell) ? changed + box.number(cell) * channels
                               : view + Box::of(sizes).number(cell) * channels;
    }
    // The pixel of a value of one cell.
    const float* pixel() const { return box.empty() ? view : changed; }
};

}  // namespace krypton
