// What a changed global value does outside the boxes of the operator that meets cells with it: to a scalar of
// the model's output, and to the first order.
#pragma once

#include <vector>

#include "operator.h"

namespace krypton {

// The scalar's derivatives by the elements of a global value, one for every cell that meets it: their sums
// from the first cell on (an integral image), so that the corners of a box give the sum over it.
class Outside {
  public:
    Outside() = default;
    // image: the first operand of `op`, un-occluded; gradient: of the scalar by the stored pixels of
    // what the global value alone makes of it; elements: of the global value, as stored.
    Outside(const Operator& op, const Plane& image, const std::vector<float>& gradient, int64_t elements);

    bool empty() const { return sums_.empty(); }
    // Of the cells outside a box, for the elements of the global value at a position and un-occluded.
    double effect(const Box& box, const float* now, const float* base) const;

    static std::size_t bytes(const Sizes& sizes, int64_t elements) {
        return static_cast<std::size_t>((cells_of(sizes) + 1) * elements) * sizeof(double);
    }

  private:
    Sizes sizes_{};
    int64_t elements_ = 0;
    std::vector<double> sums_;  // zeros, then (cells, elements): over all cells up to each

    // Number of the sum over all cells before a corner of cells.
    int64_t before(int64_t z, int64_t y, int64_t x) const {
        if (!z || !y || !x) return 0;
        return (((z - 1) * sizes_[kY] + y - 1) * sizes_[kX] + x) * elements_;
    }
};

}  // namespace krypton
