// Makers of all operators. Each family has a file of its own in this folder.
#pragma once

#include <memory>
#include <vector>

#include "operator.h"
#include "weights.h"

namespace krypton {

struct ConvolutionShape {
    WindowMap y, x;
    int64_t in_channels, out_channels, groups;
};

// weight: (out, in / groups, kernel y, kernel x); bias: (out). The second operand, if any, is added.
std::unique_ptr<Operator> make_convolution(const Kernels& kernels, const ConvolutionShape& shape,
                                           const float* weight, const float* bias);
// Maximum, or sums over divisor_y[y] * divisor_x[x].
std::unique_ptr<Operator> make_pool(const WindowMap& y, const WindowMap& x, bool maximum,
                                    std::vector<float> divisor_y, std::vector<float> divisor_x);
// (a op b) * scale + shift; b, and scale with shift, may be missing.
std::unique_ptr<Operator> make_combine(Arithmetic arithmetic, std::vector<float> scale,
                                       std::vector<float> shift);
// Some channels of each operand side by side, then * scale + shift.
std::unique_ptr<Operator> make_concat(std::vector<Interval> channels, std::vector<float> scale,
                                      std::vector<float> shift);
std::unique_ptr<Operator> make_reindex(IndexMap y, IndexMap x, float fill);
std::unique_ptr<Operator> make_layer_norm(int64_t channels, float epsilon, std::vector<float> weight,
                                          std::vector<float> bias);

}  // namespace krypton
