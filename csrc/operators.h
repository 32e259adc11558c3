// Operators on boxes. Each says what a changed box of its operands changes, and computes boxes of its value
// from pixels that lie in a changed patch, in the shared view, or in padding.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "geometry.h"

namespace krypton {

constexpr float kNoLimit = std::numeric_limits<float>::infinity();

inline int64_t stored_channels(int64_t channels) {
    return (channels + kChannelStep - 1) / kChannelStep * kChannelStep;
}

// A materialised view and what changed of it: cells inside `box` are read from `patch`.
struct Plane {
    int64_t height = 0, width = 0, channels = 0;  // channels as stored
    const float* view = nullptr;
    const float* patch = nullptr;
    Box box;

    // Pointers to the pixels [y, y + rows) x [x, x + columns), row by row; `outside` where there is none.
    void pixels(int64_t y, int64_t x, int64_t rows, int64_t columns, const float* outside,
                const float** out) const;
};

// One box to compute: `out` takes its pixels, row by row.
struct Job {
    Box box;
    float* out;
    const Plane* in;  // one for every operand
};

// Memory that lives as long as one call of Operator::run.
class Scratch {
  public:
    explicit Scratch(std::size_t bytes) : memory_(bytes + kAlign), used_(0) {}

    void reset() {
        used_ = 0;
        more_.clear();
    }
    template <typename T>
    T* take(int64_t count) {
        const std::size_t bytes =
            (static_cast<std::size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
        return reinterpret_cast<T*>(take_bytes(bytes));
    }
    std::size_t size() const { return memory_.size(); }

  private:
    static constexpr std::size_t kAlign = 64;
    char* take_bytes(std::size_t bytes);
    std::vector<char> memory_;
    std::vector<std::vector<char>> more_;
    std::size_t used_;
};

// What happens to an output after its sum.
struct Epilogue {
    float low = -kNoLimit, high = kNoLimit;
    Function function = kIdentity;
    float parameter = 0;

    bool clamps() const { return low != -kNoLimit || high != kNoLimit; }
};

class Operator {
  public:
    std::vector<int> operands;
    int value = -1;  // what it computes
    Epilogue epilogue;
    int64_t stored = 0;  // channels of its value, as stored

    virtual ~Operator() = default;
    // What changes when `changed[i]` of operand i does.
    virtual Box reach(const Box* changed) const;
    // Compute boxes; none of them is empty.
    virtual void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const = 0;
    // Upper bound of the scratch memory for jobs of at most `box` cells, `count` of them.
    virtual std::size_t scratch_bytes(const Box& box, int64_t count) const = 0;
    // Whether cells of operand i are read that its reader's box does not hold.
    virtual bool reads_context(int) const { return true; }
    virtual std::size_t weight_bytes() const { return 0; }
    // Cells of its value to compute together, so that one pass over the weights serves them all.
    virtual int64_t preferred_cells() const { return 1; }
};

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

// A linear layer's weights in panels: rows of pixels or of values times them.
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

}  // namespace krypton
