#include "plane.h"

namespace krypton {

void Plane::pixels(int64_t y, int64_t x, int64_t rows, int64_t columns, const float* outside,
                   const float** out) const {
    const Interval whole{std::clamp<int64_t>(-x, 0, columns), std::clamp<int64_t>(width - x, 0, columns)};
    const Interval mine{std::clamp(box.x.lo - x, whole.lo, whole.hi),
                        std::clamp(box.x.hi - x, whole.lo, whole.hi)};
    const int64_t box_width = box.x.size();
    for (int64_t r = 0; r < rows; ++r, out += columns) {
        const int64_t row = y + r;
        if (row < 0 || row >= height) {
            std::fill_n(out, columns, outside);
            continue;
        }
        const bool inside = row >= box.y.lo && row < box.y.hi && !mine.empty();
        const Interval inner = inside ? mine : Interval{whole.lo, whole.lo};
        const int64_t cell = row * width + x, box_cell = (row - box.y.lo) * box_width + x - box.x.lo;
        int64_t c = 0;
        for (; c < whole.lo; ++c) out[c] = outside;
        for (; c < inner.lo; ++c) out[c] = view + (cell + c) * channels;
        for (; c < inner.hi; ++c) out[c] = changed + (box_cell + c) * channels;
        for (; c < whole.hi; ++c) out[c] = view + (cell + c) * channels;
        for (; c < columns; ++c) out[c] = outside;
    }
}

}  // namespace krypton
