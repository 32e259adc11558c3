// Weights as kernels read them: padded channels, panels of columns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "cpu/kernels.h"

namespace krypton {

inline int64_t stored_channels(int64_t channels) {
    return (channels + kChannelStep - 1) / kChannelStep * kChannelStep;
}

// A matrix of weights, `depth` x `columns`, in panels of columns that a kernel computes together.
class Panels {
  public:
    Panels(const Kernels& kernels, int64_t depth, int64_t columns)
        : panel_(kernels.panel), depth_(depth), stored_(stored_channels(columns)) {
        data_.resize(static_cast<std::size_t>(count() * depth * panel_), 0.0f);
    }
    float& at(int64_t k, int64_t n) { return data_[(n / panel_ * depth_ + k) * panel_ + n % panel_]; }
    int64_t count() const { return (stored_ + panel_ - 1) / panel_; }
    int64_t columns(int64_t p) const { return std::min(panel_, stored_ - p * panel_); }
    const float* operator[](int64_t p) const { return data_.data() + p * depth_ * panel_; }
    int64_t depth() const { return depth_; }
    std::size_t bytes() const { return data_.size() * sizeof(float); }

  private:
    int64_t panel_, depth_, stored_;
    std::vector<float> data_;
};

// `count` values (zeros where there are none), and zeros up to `size`.
std::vector<float> padded(const float* values, int64_t count, int64_t size);

}  // namespace krypton
