#include "program.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "outside.h"

namespace krypton {

Program::Program(const std::string& isa, const Sizes& sizes, int64_t channels)
    : kernels_(krypton::kernels(isa.empty() ? nullptr : isa.c_str())) {
    if (!kernels_) throw std::invalid_argument("this machine cannot run kernels for '" + isa + "'");
    add_value({sizes, channels, {}});
}

std::size_t Program::weight_bytes() const {
    std::size_t bytes = 0;
    for (const auto& op : operators_) bytes += op->weight_bytes();
    for (const RowLayer& layer : layers_) {
        bytes += layer.bias.size() * sizeof(float);
        for (const Panels& panels : layer.weights) bytes += panels.bytes();
    }
    return bytes;
}

int Program::add_value(Value value) {
    if (sealed_) throw std::invalid_argument("a program with a session can not grow");
    for (int64_t size : value.sizes)
        if (size < 1 || size > kLargestSize)
            throw std::invalid_argument("a value cannot have a side of " + std::to_string(size));
    if (value.pixels() > kMostCells) throw std::invalid_argument("a value has too many cells");
    if (value.channels < 1 || value.channels > kMostChannels)
        throw std::invalid_argument("a value cannot have " + std::to_string(value.channels) + " channels");
    values_.push_back(std::move(value));
    return static_cast<int>(values_.size()) - 1;
}

int Program::add_layer(RowLayer layer) {
    if (sealed_) throw std::invalid_argument("a program with a session can not grow");
    if (layer.size < 1) throw std::invalid_argument("a layer cannot be empty");
    layers_.push_back(std::move(layer));
    return static_cast<int>(layers_.size()) - 1;
}

void Program::check_changing(int value) const {
    if (value < 0 || value >= static_cast<int>(values_.size()))
        throw std::invalid_argument("there is no value " + std::to_string(value));
    if (!values_[value].constant.empty()) throw std::invalid_argument("a layer of a constant");
}

std::size_t Program::view_bytes() const {
    std::size_t floats = values_[0].pixels() * values_[0].stored();
    for (const Value& value : values_) floats += value.pixels() * value.stored();
    return floats * sizeof(float);
}

std::size_t Program::outside_bytes() const {
    std::size_t bytes = 0;
    for (const auto& op : operators_)
        if (op->met() >= 0) {
            const Value& value = values_[op->value];
            bytes += Outside::bytes(value.sizes, values_[op->operands[op->met()]].stored());
        }
    return bytes;
}

int Program::add_constant(const Sizes& sizes, int64_t channels, const float* pixels) {
    Value value{sizes, channels, {}};
    value.constant.assign(value.pixels() * value.stored(), 0.0f);
    for (int64_t i = 0; i < value.pixels(); ++i)
        std::copy_n(pixels + i * channels, channels, value.constant.begin() + i * value.stored());
    return add_value(std::move(value));
}

int Program::add(std::unique_ptr<Operator> op, std::vector<int> operands, const Sizes& sizes,
                 int64_t channels, const Epilogue& epilogue) {
    const bool global = op->totals() || (!operands.empty() && std::ranges::all_of(operands, [&](int operand) {
                            return values_[operand].global;
                        }));
    op->operands = std::move(operands);
    op->value = add_value({sizes, channels, {}, global});
    op->epilogue = epilogue;
    op->channels = channels;
    op->stored = values_.back().stored();
    operators_.push_back(std::move(op));
    return operators_.back()->value;
}

int Program::add_mean(int value, const Epilogue& epilogue) {
    check_changing(value);
    return add_layer({RowLayer::kMean, value, values_[value].channels, {}, {}, epilogue});
}

int Program::add_sum(int value, const Epilogue& epilogue) {
    check_changing(value);
    return add_layer({RowLayer::kSum, value, values_[value].channels, {}, {}, epilogue});
}

int Program::add_cells(int value, int64_t size, const float* weight, const float* bias,
                       const Epilogue& epilogue) {
    check_changing(value);
    const Value& v = values_[value];
    RowLayer layer{RowLayer::kCells, value, size, {}, padded_bias(bias, size), epilogue};
    const int64_t cells = v.pixels();
    for (int64_t cell = 0; cell < cells; ++cell) layer.weights.emplace_back(*kernels_, v.channels, size);
    for (int64_t first = 0; first < size; first += kernels_->panel)
        for (int64_t c = 0; c < v.channels; ++c)
            for (int64_t n = first; n < std::min(first + kernels_->panel, size); ++n) {
                const float* from = weight + (n * v.channels + c) * cells;
                for (int64_t cell = 0; cell < cells; ++cell) layer.weights[cell].at(c, n) = from[cell];
            }
    return add_layer(std::move(layer));
}

int Program::add_dense(int layer, int64_t size, const float* weight, const float* bias,
                       const Epilogue& epilogue) {
    if (layer < 0 || layer >= static_cast<int>(layers_.size()))
        throw std::invalid_argument("there is no layer " + std::to_string(layer));
    const int64_t depth = layers_[layer].size;
    RowLayer dense{RowLayer::kDense, layer, size, {}, padded_bias(bias, size), epilogue};
    dense.weights.emplace_back(*kernels_, depth, size);
    for (int64_t n = 0; n < size; ++n)
        for (int64_t k = 0; k < depth; ++k) dense.weights[0].at(k, n) = weight[n * depth + k];
    return add_layer(std::move(dense));
}

}  // namespace krypton
