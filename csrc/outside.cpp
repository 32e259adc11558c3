#include "outside.h"

namespace krypton {

Outside::Outside(const Operator& op, const Plane& image, const std::vector<float>& gradient, int64_t elements)
    : sizes_(image.sizes), elements_(elements), sums_((cells_of(sizes_) + 1) * elements) {
    const auto [depth, height, width] = image.sizes;
    std::vector<float> of_cell(elements);
    std::vector<double> row(elements);
    int64_t cell = 0;
    for (int64_t z = 1; z <= depth; ++z)
        for (int64_t y = 1; y <= height; ++y) {
            std::fill(row.begin(), row.end(), 0.0);
            for (int64_t x = 1; x <= width; ++x, cell += image.channels) {
                op.sensitivities(gradient.data() + cell, image.view + cell, of_cell.data());
                const double *above = &sums_[before(z, y - 1, x)], *behind = &sums_[before(z - 1, y, x)],
                             *both = &sums_[before(z - 1, y - 1, x)];
                double* here = &sums_[before(z, y, x)];
                for (int64_t e = 0; e < elements; ++e)
                    here[e] = above[e] + behind[e] - both[e] + (row[e] += of_cell[e]);
            }
        }
}

double Outside::effect(const Box& box, const float* now, const float* base) const {
    const Box inside = box.empty() ? Box{} : box;
    const double* all = sums_.data() + sums_.size() - elements_;
    // The corners of the box, by their sign in the sum over it; where no cell is before it in depth, as in
    // images, the first four have nothing.
    const double *added[4], *taken[4];
    int plus = 0, minus = 0;
    for (int corner = inside[kZ].lo ? 0 : 4; corner < 8; ++corner) {
        const bool z = corner & 4, y = corner & 2, x = corner & 1;
        const auto side = [&](Axis axis, bool far) { return far ? inside[axis].hi : inside[axis].lo; };
        const double* sums = &sums_[before(side(kZ, z), side(kY, y), side(kX, x))];
        if ((z + y + x) % 2)
            added[plus++] = sums;
        else
            taken[minus++] = sums;
    }
    double effect = 0;
    for (int64_t e = 0; e < elements_; ++e) {
        double sum = 0;
        for (int i = 0; i < plus; ++i) sum += added[i][e] - taken[i][e];
        effect += (double{now[e]} - double{base[e]}) * (all[e] - sum);
    }
    return effect;
}

}  // namespace krypton
