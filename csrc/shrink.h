// Boxes cut down to the cells that changed by more than a little; what the others would have done to the
// model's output is kept to the first order.
#pragma once

#include <vector>

#include "plane.h"

namespace krypton {

// What is dropped of the boxes of one value.
struct Shrink {
    float threshold = 0;          // slices, rows and columns at the rim without such a change; 0 drops none
    std::vector<float> gradient;  // of a scalar by the value's stored pixels, or empty
};

// What is left of `plane.box`, perhaps nothing: the bounding box of its cells that differ from the view by
// the threshold. Its pixels move to the front of `pixels`, which are the plane's; the sum of gradient *
// change over those that are dropped is added to `effect`.
Box shrunk(const Shrink& shrink, const Plane& plane, float* pixels, double& effect);

}  // namespace krypton
