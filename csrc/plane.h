// A value at one position: the shared view of the un-occluded input, and a box of changed pixels over it.
#pragma once

#include <cstdint>

#include "geometry.h"

namespace krypton {

// Cells inside `box` are read from `changed`, which holds them row by row, all others from `view`.
struct Plane {
    int64_t height = 0, width = 0, channels = 0;  // channels as stored
    const float* view = nullptr;
    const float* changed = nullptr;
    Box box;

    // Pointers to the pixels [y, y + rows) x [x, x + columns), row by row; `outside` where there is none.
    void pixels(int64_t y, int64_t x, int64_t rows, int64_t columns, const float* outside,
                const float** out) const;
};

}  // namespace krypton
