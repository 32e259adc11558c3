#include "views.h"

#include <algorithm>
#include <barrier>
#include <stdexcept>

#include "rows.h"

namespace krypton {

namespace {

// Copies a box of a value's pixels, stored with `channels`.
void copy_box(const Box& box, int64_t width, int64_t channels, const float* from, float* to) {
    for (int64_t y = box.y.lo; y < box.y.hi; ++y) {
        const int64_t first = (y * width + box.x.lo) * channels;
        std::copy_n(from + first, box.x.size() * channels, to + first);
    }
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
    return {v.height, v.width, v.stored(), view, nullptr, {}};
}

void Views::settle(int value, const Plane& plane) {
    if (pixels_[value].empty()) return;
    const int64_t width = plane.box.x.size() * plane.channels;
    const float* in = plane.changed;
    for (int64_t y = plane.box.y.lo; y < plane.box.y.hi && width; ++y, in += width)
        std::copy_n(in, width, pixels_[value].data() + (y * plane.width + plane.box.x.lo) * plane.channels);
    std::vector<Box>& boxes = settled_[value];
    if (boxes.size() == kMostSettled) boxes = {{{0, plane.height}, {0, plane.width}}};
    if (origin_ && plane.box.y.size() && plane.box.x.size()) boxes.push_back(plane.box);
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
                copy_box(box, value.width, value.stored(), other.pixels_[v].data(), pixels_[v].data());
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
    // Bands of rows, a multiple of what any kernel computes together.
    const int64_t band = std::max<int64_t>(12, value.height / (4 * threads) / 12 * 12);
    for (int64_t y; (y = next++ * band) < value.height && !cancelled;) {
        const Box box{{y, std::min(y + band, value.height)}, {0, value.width}};
        const Job job{box, pixels_[op.value].data() + y * value.width * op.stored, in.data()};
        op.compute(program_->kernels(), &job, 1, scratch);
    }
}

void Views::compute_layer(std::size_t l, std::atomic<int64_t>& next, const std::atomic<bool>& cancelled) {
    const RowLayer& layer = program_->layers()[l];
    float* row = sums_[l].data();
    if (layer.kind == RowLayer::kMean) {
        if (next++) return;
        const Value& value = program_->values()[layer.operand];
        const std::vector<float>& view = pixels_[layer.operand];
        for (int64_t c = 0; c < value.stored(); ++c) {
            double sum = 0;
            for (int64_t i = 0; i < value.pixels(); ++i) sum += view[i * value.stored() + c];
            row[c] = static_cast<float>(sum / static_cast<double>(value.pixels()));
        }
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
