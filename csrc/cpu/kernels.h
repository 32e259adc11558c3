// The table of kernels: raw pointers in, raw pointers out. One table for every instruction set.
//
// Values are NHWC float32. Channels are stored in multiples of kChannelStep, the last ones padded, so that
// no kernel has a tail. A pixel is one pointer to its channels; where pixels come from (a changed box, the
// shared view, padding) was settled when the pointers were made.
#pragma once

#include <stdint.h>

#include "function.h"

namespace krypton {

constexpr int64_t kChannelStep = 16;

// Interpolation points of one axis of a Winograd transform, in the order in which weights are stored.
// A kernel of `taps` cells produces `outputs` cells of `points` products (Winograd F(outputs, taps)).
constexpr int kMaxPoints = 9;

// Kinds of one axis of a Winograd tile: F(outputs, taps). With stride 2 (kS) every other cell meets the
// outer two taps, F(outputs, 2), and those between meet the middle one, each as it is.
enum WinogradAxis : int { kF1x1, kF2x3, kF3x3, kF4x3, kF2x5, kF2x7, kF3x7, kS2x3, kS3x3, kWinogradAxes };

struct AxisShape {
    int outputs;
    int taps;
    int points;
    // Its weights are those of the axis kind with the most outputs, from `first` on: one for every point, but
    // for those from `shared` on, which have the same.
    int first;
    int shared;

    constexpr int weight(int point) const { return first + (point < shared ? point : shared); }
};

constexpr AxisShape kAxisShapes[kWinogradAxes] = {
    {1, 1, 1, 0, 1}, {2, 3, 4, 1, 4}, {3, 3, 5, 1, 5}, {4, 3, 6, 0, 6}, {2, 5, 6, 0, 6},
    {2, 7, 8, 0, 8}, {3, 7, 9, 0, 9}, {2, 3, 5, 1, 3}, {3, 3, 7, 0, 4},
};

// rows x depth times depth x columns, over several taps: c = clamp(sum a * b + bias + residual).
struct Multiply {
    int64_t rows;
    int64_t taps;
    int64_t depth;                 // channels of one tap
    const float* const* a;         // (taps, a_stride): pixels
    int64_t a_stride;              // at least rows
    int64_t a_offset;              // first channel
    const float* b;                // (taps, depth, panel)
    const float* next;             // as large as b, wanted next: fetched into the cache meanwhile; or null
    int64_t columns;               // of the panel that exist: a multiple of kChannelStep, or the whole panel
    float* const* c;               // (rows): pixels
    int64_t c_offset;              // first channel
    const float* bias;             // (panel), or null to add to what c holds
    const float* const* residual;  // (rows) pixels added before clamping, or null
    float low, high;               // clamp
};

// One Winograd tile: pixels in, transformed pixels out (or back).
struct WinogradInput {
    const float* const* pixels;  // top left of the tile
    int64_t pixel_stride;        // pointers to the next row
    float* const* out;           // (points of y, points of x): pixels
    int64_t channels;
};

struct WinogradOutput {
    const float* const* in;        // (points of y, points of x): pixels
    float* out;                    // top left of the tile
    int64_t out_stride;            // floats to the next row
    int64_t channels;              // also floats to the next pixel
    int rows, columns;             // of the tile that exist
    const float* bias;             // (channels)
    const float* const* residual;  // top left of the tile, or null
    int64_t residual_stride;       // pointers to the next row
    float low, high;
};

// Two tiles one behind the other, F(2, 3) in depth: four slices of one point become four points of depth, and
// four products two slices, in place if need be.
constexpr int kPairPoints = 4;

struct WinogradPair {
    const float* in[kPairPoints];
    float* out[kPairPoints];  // of products the first two
    int64_t channels;
};

// out[row] = clamp(sum over taps of pixels * weight + bias), channel by channel.
struct Depthwise {
    int64_t rows;
    int64_t taps;
    int64_t channels;
    const float* const* pixels;  // (taps, stride)
    int64_t stride;              // at least rows
    const float* weight;         // (taps, channels)
    const float* bias;           // (channels)
    const float* const* residual;
    float* const* out;
    float low, high;
};

// Maximum over taps, or their sum times scale[row].
struct Pooling {
    int64_t rows;
    int64_t taps;
    int64_t channels;
    const float* const* pixels;  // (taps, stride)
    int64_t stride;              // at least rows
    const float* scale;          // (rows), or null for the maximum
    float* const* out;
};

// In place: x = function(x), with `parameter` a slope where it has one.
struct Activate {
    Function function;
    float parameter;
    float* x;
    int64_t count;
};

enum Arithmetic : int { kAdd, kSubtract, kMultiply, kDivide, kMaximum, kMinimum };

// out = clamp(x, or x * slope where that is negative; x = (a op b) * scale + shift), pixel by pixel; scale,
// shift and slope by channel, or null.
struct Combine {
    Arithmetic arithmetic;
    int64_t rows;
    int64_t channels;
    const float* const* a;
    const float* const* b;  // null: just a
    const float* scale;
    const float* shift;
    float* const* out;
    float low, high;
    const float* slope = nullptr;
};

// Over the first `channels` of every pixel; those up to `stored` become 0.
struct LayerNorm {
    int64_t rows;
    int64_t channels;
    int64_t stored;
    float epsilon;
    const float* weight;  // or null
    const float* bias;    // or null
    const float* const* in;
    float* const* out;
};

// Sums over pixels, or of the changes of pixels, channel by channel.
struct Sums {
    int64_t rows;
    int64_t channels;
    const float* const* now;
    const float* const* before;  // null: just now
    const float* centre;         // (channels), subtracted before squaring; null: no squares
    double* sums;                // (channels)
    double* squares;             // (channels)
};

struct Kernels {
    const char* name;
    int64_t panel;  // columns of b that are stored together
    int64_t tile;   // rows of c that are computed together
    void (*multiply)(const Multiply&);
    // By axis kinds of y and x; null where nobody asked for it.
    void (*winograd_input[kWinogradAxes][kWinogradAxes])(const WinogradInput&);
    void (*winograd_output[kWinogradAxes][kWinogradAxes])(const WinogradOutput&);
    void (*winograd_pair_input)(const WinogradPair&);
    void (*winograd_pair_output)(const WinogradPair&);
    void (*depthwise)(const Depthwise&);
    void (*pool)(const Pooling&);
    void (*activate)(const Activate&);
    void (*combine)(const Combine&);
    void (*layer_norm)(const LayerNorm&);
    void (*sum)(const Sums&);
    // What bounds all of them: a loop in registers, of so many operations a turn. Its result means nothing.
    float (*multiply_add)(int64_t turns);
    int64_t turn_operations;
    // Denormal numbers would slow the core down a hundredfold: flush them to zero in this thread.
    void (*flush_denormals)();
};

// The best table that this machine can run, or the one that is named; null if there is none.
const Kernels* kernels(const char* name);
// Names of the tables that this machine can run, best first; null at the end.
const char* const* kernel_names();

}  // namespace krypton
