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
    double effect(const Box& box, const float* now, const float* before) const;

    static std::size_t bytes(int64_t height, int64_t width, int64_t elements) {
        return static_cast<std::size_t>((height + 1) * (width + 1) * elements) * sizeof(double);
    }

  private:
    int64_t width_ = 0, elements_ = 0;  // of cells
    std::vector<double> sums_;          // (height + 1, width + 1, elements)

    const double* before_cell(int64_t y, int64_t x) const {
        return sums_.data() + (y * (width_ + 1) + x) * elements_;
    }
};

}  // namespace krypton
