#include "outside.h"

namespace krypton {

Outside::Outside(const Operator& op, const Plane& image, const std::vector<float>& gradient, int64_t elements)
    : width_(image.width), elements_(elements) {
    sums_.resize((image.height + 1) * (width_ + 1) * elements);
    std::vector<float> of_cell(elements);
    std::vector<double> row(elements);
    for (int64_t y = 0; y < image.height; ++y) {
        std::fill(row.begin(), row.end(), 0.0);
        for (int64_t x = 0; x < width_; ++x) {
            const int64_t cell = (y * width_ + x) * image.channels;
            op.sensitivities(gradient.data() + cell, image.view + cell, of_cell.data());
            const double* above = before_cell(y, x + 1);
            double* here = sums_.data() + ((y + 1) * (width_ + 1) + x + 1) * elements;
            for (int64_t e = 0; e < elements; ++e) here[e] = above[e] + (row[e] += of_cell[e]);
        }
    }
}

double Outside::effect(const Box& box, const float* now, const float* before) const {
    const double* all = sums_.data() + sums_.size() - elements_;
    const Box inside = box.empty() ? Box{} : box;
    const double *first = before_cell(inside.y.lo, inside.x.lo),
                 *right = before_cell(inside.y.lo, inside.x.hi),
                 *below = before_cell(inside.y.hi, inside.x.lo),
                 *last = before_cell(inside.y.hi, inside.x.hi);
    double effect = 0;
    for (int64_t e = 0; e < elements_; ++e)
        effect +=
            (double{now[e]} - double{before[e]}) * (all[e] - (last[e] - right[e] - below[e] + first[e]));
    return effect;
}

}  // namespace krypton
