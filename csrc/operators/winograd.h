// Convolutions by Winograd's algorithm: fewer products, by tiles.
#pragma once

#include "operators/operators.h"

namespace krypton {

// Whether there are tiles for it.
bool has_winograd(const ConvolutionShape& shape);
// As `make_convolution`, of a shape that has them.
std::unique_ptr<Operator> make_winograd(const Kernels& kernels, const ConvolutionShape& shape,
                                        const float* weight, const float* bias);

}  // namespace krypton
