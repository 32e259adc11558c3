// Makers of all operators. Each family has a file of its own in this folder.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "operator.h"
#include "weights.h"

namespace krypton {

struct ConvolutionShape {
    ByAxis<WindowMap> maps;
    int64_t in_channels, out_channels, groups;
};

// weight: (out, in / groups, kernel z, kernel y, kernel x); bias: (out). The second operand, if any, is
// added.
std::unique_ptr<Operator> make_convolution(const Kernels& kernels, const ConvolutionShape& shape,
                                           const float* weight, const float* bias);
// Maximum, or sums over the product of a cell's divisors along the axes.
std::unique_ptr<Operator> make_pool(const ByAxis<WindowMap>& maps, bool maximum,
                                    ByAxis<std::vector<float>> divisors);
// (a op b) * scale + shift, and that times slope where it is negative; b, scale with shift, and slope may be
// missing.
std::unique_ptr<Operator> make_combine(Arithmetic arithmetic, std::vector<float> scale,
                                       std::vector<float> shift, std::vector<float> slope = {});
// Channels of an operand.
struct Piece {
    int operand;
    Interval channels;
};
// Pieces side by side, then * scale + shift.
std::unique_ptr<Operator> make_concat(std::vector<Piece> pieces, std::vector<float> scale,
                                      std::vector<float> shift);
std::unique_ptr<Operator> make_reindex(ByAxis<IndexMap> maps, float fill);
// Weighted sums along one axis after the other. weights: (outputs, taps), for the cells from the first that
// an output reads on; empty where an axis stays as it is.
std::unique_ptr<Operator> make_resample(ByAxis<IntervalMap> maps, ByAxis<std::vector<float>> weights);
// Every cell of a value becomes so many `cells` along each axis, of fewer channels: channel c of the n-th is
// channel c * by_channel + n * by_cell. sizes: of the operand.
std::unique_ptr<Operator> make_interleave(const Sizes& sizes, const Sizes& cells, int64_t by_channel,
                                          int64_t by_cell);
std::unique_ptr<Operator> make_layer_norm(int64_t channels, float epsilon, std::vector<float> weight,
                                          std::vector<float> bias);

// Sizes of boxes of a value, and of those of its operands that they are made of.
struct Extents {
    Sizes made, read;
};
// Computes boxes of one size by other means: in[i] holds those of operand i, one after the other, each (cells
// read, channels), and `out` takes the value's, alike. corners: the first cell of each of these. Any thread
// may call it.
using Elsewhere = std::function<void(int64_t boxes, const Extents& extents, const Corner* corners,
                                     const float* const* in, float* out)>;
// An operator that is computed elsewhere, from the cells that the maps have. channels: of every operand;
// bytes: of memory that is taken there for a cell.
std::unique_ptr<Operator> make_foreign(ByAxis<IntervalMap> maps, std::vector<int64_t> channels,
                                       Elsewhere compute, std::size_t bytes);

// Operators on global values, of one cell: totals take them from all cells, other operators run on them as on
// any value of one cell, and others again meet every cell of an image with them.

// The mean of every channel; with `variance`, then the variance of every channel, from `stored_channels` on.
// cells: of the operand.
std::unique_ptr<Operator> make_moments(int64_t cells, bool variance);
// The Euclidean norm of every channel.
std::unique_ptr<Operator> make_euclidean_norm(int64_t cells);
// The largest number of every channel.
std::unique_ptr<Operator> make_largest(int64_t cells);
// Of means and variances: by channel, the factor and the summand with which a norm over cells and groups
// of channels takes the image, laid out as they are. weight, bias: by channel, or empty.
std::unique_ptr<Operator> make_norm(int64_t channels, int64_t groups, float epsilon,
                                    std::vector<float> weight, std::vector<float> bias);

// What a global value does to the cells that it meets: one number for every channel, or a factor and then a
// summand.
enum class Meeting { kFactor, kSummand, kBoth };
// Such a meeting, then * scale + shift, then plus the image itself if `adds_image`; scale and shift by
// channel, or empty.
std::unique_ptr<Operator> make_meeting(Meeting meeting, std::vector<float> scale = {},
                                       std::vector<float> shift = {}, bool adds_image = false);

}  // namespace krypton
