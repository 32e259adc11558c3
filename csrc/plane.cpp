#include "plane.h"

namespace krypton {

void Plane::pixels(const Corner& first, const Sizes& extent, const float* outside, const float** out) const {
    const int64_t x = first[kX], columns = extent[kX], width = sizes[kX];
    const Interval whole{std::clamp<int64_t>(-x, 0, columns), std::clamp<int64_t>(width - x, 0, columns)};
    const Interval mine{std::clamp(box[kX].lo - x, whole.lo, whole.hi),
                        std::clamp(box[kX].hi - x, whole.lo, whole.hi)};
    const int64_t box_width = box[kX].size(), box_height = box[kY].size();
    for (int64_t z = first[kZ]; z < first[kZ] + extent[kZ]; ++z) {
        if (z < 0 || z >= sizes[kZ]) {
            out = std::fill_n(out, extent[kY] * columns, outside);
            continue;
        }
        const bool box_here = z >= box[kZ].lo && z < box[kZ].hi && !mine.empty();
        for (int64_t row = first[kY]; row < first[kY] + extent[kY]; ++row, out += columns) {
            if (row < 0 || row >= sizes[kY]) {
                std::fill_n(out, columns, outside);
                continue;
            }
            const bool inside = box_here && row >= box[kY].lo && row < box[kY].hi;
            const Interval inner = inside ? mine : Interval{whole.lo, whole.lo};
            const int64_t cell = (z * sizes[kY] + row) * width + x;
            const int64_t box_cell =
                ((z - box[kZ].lo) * box_height + row - box[kY].lo) * box_width + x - box[kX].lo;
            int64_t c = 0;
            for (; c < whole.lo; ++c) out[c] = outside;
            for (; c < inner.lo; ++c) out[c] = view + (cell + c) * channels;
            for (; c < inner.hi; ++c) out[c] = changed + (box_cell + c) * channels;
            for (; c < whole.hi; ++c) out[c] = view + (cell + c) * channels;
            for (; c < columns; ++c) out[c] = outside;
        }
    }
}

}  // namespace krypton
