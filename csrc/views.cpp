#include "views.h"

#include <algorithm>
#include <barrier>
#include <stdexcept>

#include "rows.h"

namespace krypton {

namespace {

// Copies a box of a value's pixels, stored with `channels`.
void copy_box(const Box& box, const Sizes& sizes, int64_t channels, const float* from, float* to) {
    for_rows(box, sizes, [&](int64_t first) {
        std::copy_n(from + first * channels, box[kX].size() * channels, to + first * channels);
    });
}

int64_t new_state() {
    static std::atomic<int64_t> last = 0;
    return ++last;
}

}  // namespace

Views::Views(const Program& program, const float* input, std::size_t scratch_bytes, int threads,
             const Poll& poll)
    : program_(&program),
      pixels_(program.values().size()),
      state_(new_state()),
      settled_(program.values().size()) {
    const auto& ops = program.operators();
    const auto& layers = program.layers();
    pixels_[0] = stored_pixels(program.values()[0], input);
    for (const auto& op : ops) pixels_[op->value].resize(program.values()[op->value].pixels() * op->stored);
    for (const RowLayer& layer : layers) {
        sums_.emplace_back(layer.stored(), 0.0f);
        rows_.emplace_back(layer.stored(), 0.0f);
    }

    std::atomic<bool> cancelled = false;
    std::barrier barrier(threads);
    std::vector<std::atomic<int64_t>> next(ops.size() + layers.size());
    on_threads(threads, program.kernels(), poll, cancelled, [&](int thread, const Guard& guard) {
        Scratch scratch(scratch_bytes);
        for (std::size_t i = 0; i < ops.size(); ++i) {
            guard([&] { compute_operator(*ops[i], next[i], threads, scratch, cancelled); });
            barrier.arrive_and_wait();
        }
        for (std::size_t l = 0; l < layers.size(); ++l) {
            guard([&] { compute_layer(l, next[ops.size() + l], cancelled); });
            barrier.arrive_and_wait();
            guard([&] {
                if (thread != 0) return;
                rows_[l] = sums_[l];
                float* row = rows_[l].data();
                finish_rows(program.kernels(), layers[l].epilogue, &row, 1, layers[l].stored());
            });
            barrier.arrive_and_wait();
        }
    });
    if (cancelled) throw std::runtime_error("cancelled");
}

Plane Views::plane(int value) const {
    const Value& v = program_->values()[value];
    const float* view = v.constant.empty() ? pixels_[value].data() : v.constant.data();
    return {v.sizes, v.stored(), view, nullptr, {}};
}

void Views::settle(int value, const Plane& plane) {
    if (pixels_[value].empty()) return;
    if (plane.box.empty()) return;
    const int64_t width = plane.box[kX].size() * plane.channels;
    const float* in = plane.changed;
    for_rows(plane.box, plane.sizes, [&](int64_t first) {
        std::copy_n(in, width, pixels_[value].data() + first * plane.channels);
        in += width;
    });
    std::vector<Box>& boxes = settled_[value];
    if (boxes.size() == kMostSettled) boxes = {Box::of(plane.sizes)};
    if (origin_) boxes.push_back(plane.box);
}

void Views::moved() { state_ = new_state(); }

void Views::forked() {
    origin_ = state_;
    for (std::vector<Box>& boxes : settled_) boxes.clear();
}

void Views::become(const Views& other) {
    if (this == &other) return;
    if (origin_ != other.state_) {
        *this = other;
    } else {
        for (std::size_t v = 0; v < pixels_.size(); ++v) {
            const Value& value = program_->values()[v];
            for (const Box& box : settled_[v])
                copy_box(box, value.sizes, value.stored(), other.pixels_[v].data(), pixels_[v].data());
        }
        sums_ = other.sums_;
        state_ = other.state_;
    }
    forked();
}

void Views::compute_operator(const Operator& op, std::atomic<int64_t>& next, int threads, Scratch& scratch,
                             const std::atomic<bool>& cancelled) {
    const Value& value = program_->values()[op.value];
    std::vector<Plane> in;
    for (int operand : op.operands) in.push_back(plane(operand));
    // Bands of rows, a multiple of what any kernel computes together; where a value has depth, of slices,
    // which may be few.
    const Axis axis = value.sizes[kZ] > 1 ? kZ : kY;
    const int64_t step = axis == kZ ? std::clamp<int64_t>(value.sizes[kZ] / threads, 1, 4) : 12;
    const int64_t cells = value.pixels() / value.sizes[axis];
    const int64_t band = std::max<int64_t>(step, value.sizes[axis] / (4 * threads) / step * step);
    for (int64_t first; (first = next++ * band) < value.sizes[axis] && !cancelled;) {
        Box box = Box::of(value.sizes);
        box[axis] = {first, std::min(first + band, value.sizes[axis])};
        const Job job{box, pixels_[op.value].data() + first * cells * op.stored, in.data()};
        op.compute(program_->kernels(), &job, 1, scratch);
    }
}

void Views::compute_layer(std::size_t l, std::atomic<int64_t>& next, const std::atomic<bool>& cancelled) {
    const RowLayer& layer = program_->layers()[l];
    float* row = sums_[l].data();
    if (layer.adds_up()) {
        if (next++) return;
        const Value& value = program_->values()[layer.operand];
        const int64_t channels = value.stored();
        std::vector<double> all(channels);
        const float* pixel = pixels_[layer.operand].data();
        for (int64_t i = 0; i < value.pixels(); ++i, pixel += channels)
            for (int64_t c = 0; c < channels; ++c) all[c] += pixel[c];
        const double divisor = layer.kind == RowLayer::kMean ? static_cast<double>(value.pixels()) : 1.0;
        for (int64_t c = 0; c < channels; ++c) row[c] = static_cast<float>(all[c] / divisor);
        return;
    }
    const Kernels& kernels = program_->kernels();
    const bool cells = layer.kind == RowLayer::kCells;
    const float* in = cells ? pixels_[layer.operand].data() : rows_[layer.operand].data();
    const int64_t step = cells ? program_->values()[layer.operand].stored() : 0;
    Multiply m{};
    m.rows = m.a_stride = m.taps = 1;
    m.c = &row;
    m.low = -kNoLimit;
    m.high = kNoLimit;
    for (int64_t p; (p = next++) < layer.weights[0].count() && !cancelled;) {
        m.c_offset = p * kernels.panel;
        m.columns = layer.weights[0].columns(p);
        m.bias = layer.bias.data() + m.c_offset;
        const float* a = in;
        m.a = &a;
        for (const Panels& weights : layer.weights) {
            m.depth = weights.depth();
            m.b = weights[p];
            kernels.multiply(m);
            m.bias = nullptr;
            a += step;
        }
    }
}

std::vector<float> stored_pixels(const Value& value, const float* pixels) {
    std::vector<float> stored(value.pixels() * value.stored(), 0.0f);
    for (int64_t i = 0; i < value.pixels(); ++i)
        std::copy_n(pixels + i * value.channels, value.channels, stored.begin() + i * value.stored());
    return stored;
}

}  // namespace krypton
