// A program: a model made ready. Operators on boxes first, then layers on whole vectors. Immutable once
// built, and shared by sessions.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "operator.h"
#include "weights.h"

namespace krypton {

struct Value {
    Sizes sizes;
    int64_t channels;
    std::vector<float> constant;  // stored pixels of a value that no window changes
    bool global = false;          // one cell, made of totals over others

    int64_t stored() const { return stored_channels(channels); }
    int64_t pixels() const { return cells_of(sizes); }
};

// Far more than any image has.
constexpr int64_t kLargestSize = 1 << 20;
// So that no product of sizes is an overflow.
constexpr int64_t kMostCells = int64_t{1} << 40;
constexpr int64_t kMostChannels = 1 << 16;

// A vector for every position.
struct RowLayer {
    enum Kind { kMean, kSum, kCells, kDense } kind;
    int operand;  // a layer for kDense, a value for the others
    int64_t size;
    std::vector<Panels> weights;  // one for every cell of kCells; one for kDense
    std::vector<float> bias;      // padded to whole panels
    Epilogue epilogue;

    int64_t stored() const { return stored_channels(size); }
    // Whether it adds up all cells, channel by channel.
    bool adds_up() const { return kind == kMean || kind == kSum; }
};

class Program {
  public:
    // `isa`: a name of kernel_names(), or empty for the best.
    Program(const std::string& isa, const Sizes& sizes, int64_t channels);
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    const Kernels& kernels() const { return *kernels_; }
    const std::vector<Value>& values() const { return values_; }
    const std::vector<std::unique_ptr<Operator>>& operators() const { return operators_; }
    const std::vector<RowLayer>& layers() const { return layers_; }
    std::size_t weight_bytes() const;
    // Of all views while they are made, and of the baseline.
    std::size_t view_bytes() const;
    // Of what tells of effects outside boxes, where that is asked for of all operators that leave some out.
    std::size_t outside_bytes() const;

    // From now on nothing is added: a session laid out its memory for what there is.
    void seal() { sealed_ = true; }

    // Each returns the number of the value (or layer) that it adds. The input is value 0.
    int add_constant(const Sizes& sizes, int64_t channels, const float* pixels);
    int add(std::unique_ptr<Operator> op, std::vector<int> operands, const Sizes& sizes, int64_t channels,
            const Epilogue& epilogue);
    int add_mean(int value, const Epilogue& epilogue);
    int add_sum(int value, const Epilogue& epilogue);
    // weight: (size, channels * cells), in the order of NCDHW.
    int add_cells(int value, int64_t size, const float* weight, const float* bias, const Epilogue& epilogue);
    // weight: (size, size of the layer).
    int add_dense(int layer, int64_t size, const float* weight, const float* bias, const Epilogue& epilogue);

  private:
    const Kernels* kernels_;
    bool sealed_ = false;
    std::vector<Value> values_;
    std::vector<std::unique_ptr<Operator>> operators_;
    std::vector<RowLayer> layers_;

    // Zeros where there is none, and up to whole panels.
    std::vector<float> padded_bias(const float* bias, int64_t size) const {
        return padded(bias, size, stored_channels(size) + kernels_->panel);
    }
    int add_value(Value value);
    int add_layer(RowLayer layer);
    void check_changing(int value) const;
};

}  // namespace krypton
