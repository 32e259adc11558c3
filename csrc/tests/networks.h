// Random programs and, beside each, the same in float64.
#pragma once

#include <memory>

#include "program.h"
#include "testing.h"

namespace krypton::testing {

constexpr int64_t kMostProducts = 4'000'000;  // of one layer, so that float64 loops take no time

// A program and, beside it, the same in float64.
struct Net {
    std::shared_ptr<Program> program;
    std::vector<std::function<Tensor(const std::vector<Tensor>&)>> operators;  // by value; none of the input
    std::vector<std::function<std::vector<double>(const std::vector<Tensor>&,
                                                  const std::vector<std::vector<double>>&)>>
        layers;

    std::vector<Tensor> values(const Tensor& input) const {
        std::vector<Tensor> all = {input};
        for (const auto& op : operators) all.push_back(op(all));
        return all;
    }
    std::vector<std::vector<double>> rows(const std::vector<Tensor>& values) const {
        std::vector<std::vector<double>> all;
        for (const auto& layer : layers) all.push_back(layer(values, all));
        return all;
    }
};

inline std::vector<float> resized(std::vector<float> values, int64_t size) {
    values.resize(size);
    return values;
}

class Builder {
  public:
    Builder(Random& random, const char* isa, int64_t largest)
        : random_(random),
          program_(std::make_shared<Program>(isa, random.sizes(largest), random.between(1, 20))) {
        net_.program = program_;
    }

    Net build() {
        for (int64_t i = 0, n = random_.between(0, 8); i < n; ++i) add_operator();
        for (int64_t i = 0, n = random_.between(0, 4); i < n; ++i) add_layer();
        return std::move(net_);
    }

  private:
    Random& random_;
    std::shared_ptr<Program> program_;
    Net net_;

    const Value& shape(int v) const { return program_->values()[v]; }
    int count() const { return static_cast<int>(program_->values().size()); }
    // Mostly of the last ones: chains with a few branches.
    int any_value() {
        return random_.chance(0.6) ? count() - 1 : static_cast<int>(random_.between(0, count() - 1));
    }
    int like(const Sizes& sizes, int64_t channels) {
        std::vector<int> found;
        for (int v = 0; v < count(); ++v)
            if (shape(v).sizes == sizes && (!channels || shape(v).channels == channels)) found.push_back(v);
        return found.empty() ? -1 : random_.choice(found);
    }
    Epilogue epilogue(bool clamps) {
        Epilogue end;
        if (clamps && random_.chance(0.4)) end.low = 0;
        if (clamps && random_.chance(0.2)) end.high = 2;
        if (random_.chance(0.4)) end.function = static_cast<Function>(random_.between(0, kFunctions - 1));
        end.parameter = 0.2f;
        return end;
    }
    std::vector<float> maybe(int64_t size) {
        return random_.chance(0.5) ? random_.numbers(size) : std::vector<float>();
    }

    template <typename F>
    void remember(const Epilogue& end, const F& compute) {
        net_.operators.push_back([end, compute](const std::vector<Tensor>& values) {
            Tensor out = compute(values);
            for (double& x : out.data) x = finished(x, end);
            return out;
        });
    }

    WindowMap window(int64_t n_in, int64_t kernel, int64_t stride, int64_t dilation) {
        WindowMap m{n_in, 0, kernel, stride, random_.between(0, kernel - 1), dilation};
        while (m.n_in + 2 * m.padding < dilation * (kernel - 1) + 1) ++m.padding;
        m.n_out = (m.n_in + 2 * m.padding - dilation * (kernel - 1) - 1) / stride + 1;
        return m;
    }

    void add_operator() {
        switch (random_.between(0, 9)) {
            case 0: return pool();
            case 1: return combine();
            case 2: return concat();
            case 3: return reindex();
            case 4: return layer_norm();
            case 5: return constant();
            case 6: return resample();
            case 7: return interleave();
            default: return convolution();
        }
    }

    // An axis of one cell is mostly left alone, as an image's depth is.
    ByAxis<WindowMap> windows(const Sizes& in, const Sizes& kernel, int64_t stride, int64_t dilation) {
        ByAxis<WindowMap> maps;
        for (Axis axis : kAllAxes) {
            const bool left = in[axis] == 1 && random_.chance(0.8);
            maps[axis] = left ? alone() : window(in[axis], kernel[axis], stride, dilation);
        }
        return maps;
    }

    void convolution() {
        const int in = any_value();
        const int64_t square = random_.choice<int64_t>({1, 3, 3, 5});
        const bool asymmetric = random_.chance(0.3), plain = random_.chance(0.6);
        const Sizes kernel{random_.between(1, 3), square,
                           asymmetric ? random_.choice<int64_t>({1, 2, 3, 7}) : square};
        ByAxis<WindowMap> maps = windows(shape(in).sizes, kernel, plain ? 1 : random_.between(1, 3),
                                         plain ? 1 : random_.between(1, 2));
        // Tiles, which have no other strides in their plane, may have any in depth.
        if (plain && random_.chance(0.3))
            maps[kZ] = window(shape(in).sizes[kZ], kernel[kZ], random_.between(1, 3), random_.between(1, 2));
        ConvolutionShape s{maps, shape(in).channels, random_.between(1, 40), 1};
        if (random_.chance(0.15)) s.groups = s.out_channels = s.in_channels;
        if (random_.chance(0.15) && s.in_channels % 2 == 0)
            s.groups = 2, s.out_channels = 2 * random_.between(1, 20);
        const int64_t fan_in = s.in_channels / s.groups * taps_of(maps);
        const Sizes sizes = sizes_out(maps);
        if (cells_of(sizes) * s.out_channels * fan_in > kMostProducts) return;
        const auto weight =
            random_.numbers(s.out_channels * fan_in, 1 / std::sqrt(static_cast<float>(fan_in)));
        const auto bias = maybe(s.out_channels);
        const int added = random_.chance(0.5) ? like(sizes, s.out_channels) : -1;
        std::vector<int> operands = {in};
        if (added >= 0) operands.push_back(added);
        const Epilogue end = epilogue(true);
        program_->add(
            make_convolution(program_->kernels(), s, weight.data(), bias.empty() ? nullptr : bias.data()),
            operands, sizes, s.out_channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            Tensor out = convolved(values[in], s, weight, bias);
            if (added >= 0) out += values[added];
            return out;
        });
    }

    void pool() {
        const int in = any_value();
        const bool maximum = random_.chance(0.5);
        const int64_t kernel = random_.between(1, 3);
        ByAxis<WindowMap> maps =
            windows(shape(in).sizes, {random_.between(1, 3), kernel, kernel}, random_.between(1, 3), 1);
        for (WindowMap& m : maps) {
            // A window of nothing but padding has no maximum.
            m.padding = std::min(m.padding, m.kernel / 2);
            if (m.n_in + 2 * m.padding < m.kernel) return;
            m.n_out = (m.n_in + 2 * m.padding - m.kernel) / m.stride + 1;
        }
        const Sizes sizes = sizes_out(maps);
        ByAxis<std::vector<float>> divisors;
        if (!maximum) divisors = random_divisors(random_, sizes);
        const Epilogue end = epilogue(false);
        program_->add(make_pool(maps, maximum, divisors), {in}, sizes, shape(in).channels, end);
        remember(end, [=](const std::vector<Tensor>& values) { return pooled(values[in], maps, divisors); });
    }

    void combine() {
        const int a = any_value();
        const Value v{shape(a).sizes, shape(a).channels, {}};
        const int b = random_.chance(0.7) ? like(v.sizes, v.channels) : -1;
        const auto arithmetic = random_.choice<Arithmetic>({kAdd, kSubtract, kMultiply, kMaximum, kMinimum});
        const auto scale = maybe(v.channels);
        const auto shift = scale.empty() ? scale : random_.numbers(v.channels), slope = maybe(v.channels);
        const Epilogue end = epilogue(true);
        const int64_t stored = scale.empty() ? 0 : v.stored();
        program_->add(make_combine(arithmetic, resized(scale, stored), resized(shift, stored),
                                   resized(slope, slope.empty() ? 0 : v.stored())),
                      b < 0 ? std::vector<int>{a} : std::vector<int>{a, b}, v.sizes, v.channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            Tensor out = values[a];
            for (std::size_t i = 0; i < out.data.size(); ++i) {
                double& x = out.data[i];
                if (b >= 0) x = arithmetic_of(arithmetic, x, values[b].data[i]);
                if (!scale.empty()) x = x * scale[i % v.channels] + shift[i % v.channels];
                if (!slope.empty() && x < 0) x *= slope[i % v.channels];
            }
            return out;
        });
    }

    void concat() {
        const int first = any_value();
        const Sizes sizes = shape(first).sizes;
        std::vector<int> operands = {first};
        while (operands.size() < 4 && random_.chance(0.6)) operands.push_back(like(sizes, 0));
        std::vector<Piece> pieces;
        std::vector<std::pair<int, int64_t>> sources;
        const bool shuffles = random_.chance(0.3);
        for (int i = 0, n = static_cast<int>(operands.size()); i < n || (shuffles && i < 40); ++i) {
            const int v = operands[i % n];
            const int64_t c = random_.between(0, shape(v).channels - 1);
            pieces.push_back({i % n, shuffles              ? Interval{c, c + 1}
                                     : random_.chance(0.5) ? Interval{0, shape(v).channels}
                                                           : random_.interval(shape(v).channels)});
            const Interval range = pieces.back().channels;
            for (int64_t k = range.lo; k < range.hi; ++k) sources.emplace_back(v, k);
        }
        const int64_t channels = static_cast<int64_t>(sources.size());
        const auto scale = maybe(channels);
        const auto shift = scale.empty() ? scale : random_.numbers(channels);
        const int64_t stored = scale.empty() ? 0 : stored_channels(channels);
        const Epilogue end = epilogue(true);
        program_->add(make_concat(pieces, resized(scale, stored), resized(shift, stored)), operands, sizes,
                      channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            return Tensor::of(sizes, channels, [&](const Corner& cell, int64_t c) {
                const double v = values[sources[c].first].at(cell, sources[c].second);
                return scale.empty() ? v : v * scale[c] + shift[c];
            });
        });
    }

    void reindex() {
        const int in = any_value();
        const auto cells = [&](int64_t n_in) {
            std::vector<int64_t> source(random_.between(1, std::min<int64_t>(n_in + 4, 40)));
            const bool shifts = random_.chance(0.5);  // as padding does, or in any order
            const int64_t by = random_.between(0, 3);
            for (int64_t i = 0; i < static_cast<int64_t>(source.size()); ++i)
                source[i] = !shifts         ? random_.between(-1, n_in - 1)
                            : i - by < n_in ? std::max<int64_t>(i - by, -1)
                                            : -1;
            return source;
        };
        const Sizes& from = shape(in).sizes;
        ByAxis<std::vector<int64_t>> sources;
        Sizes sizes;
        for (Axis axis : kAllAxes) {
            const bool left = from[axis] == 1 && random_.chance(0.8);
            sources[axis] = left ? std::vector<int64_t>{0} : cells(from[axis]);
            sizes[axis] = std::ssize(sources[axis]);
        }
        const Epilogue end = epilogue(false);
        program_->add(make_reindex(index_maps(sources, from), 0.5f), {in}, sizes, shape(in).channels, end);
        remember(end, [=](const std::vector<Tensor>& values) { return reindexed(values[in], sources, 0.5); });
    }

    void resample() {
        const int in = any_value();
        Resampling resampling(random_, shape(in).sizes);
        // Means, or numbers would grow from one to the next.
        for (Axis axis : kAllAxes)
            for (float& w : resampling.weights[axis]) w *= 0.2f;
        program_->add(make_resample(resampling.maps, resampling.weights), {in}, resampling.sizes,
                      shape(in).channels, {});
        remember({}, [=](const std::vector<Tensor>& values) { return resampling.of(values[in]); });
    }

    void interleave() {
        const int in = any_value();
        const Interleaving by(random_);
        const Value& v = shape(in);
        const int64_t channels = v.channels / cells_of(by.cells);
        const Sizes sizes = by.sizes(v.sizes);
        if (v.channels % cells_of(by.cells) || cells_of(sizes) * channels > kMostProducts / 100) return;
        auto op = make_interleave(v.sizes, by.cells, by.by_channel(), by.by_cell(channels));
        program_->add(std::move(op), {in}, sizes, channels, {});
        remember({}, [=](const std::vector<Tensor>& values) { return by.of(values[in]); });
    }

    void layer_norm() {
        const int in = any_value();
        const int64_t channels = shape(in).channels;
        const auto weight = maybe(channels), bias = maybe(channels);
        const Epilogue end = epilogue(false);
        const float epsilon = 0.25f;  // large, so that values which are nearly equal stay so
        program_->add(make_layer_norm(channels, epsilon, weight, bias), {in}, shape(in).sizes, channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            return normalised(values[in], epsilon, weight, bias);
        });
    }

    void constant() {
        const Value& v = shape(any_value());
        const Sizes sizes = v.sizes;
        const int64_t channels = v.channels;
        const auto pixels = random_.numbers(cells_of(sizes) * channels);
        program_->add_constant(sizes, channels, pixels.data());
        remember({}, [=](const std::vector<Tensor>&) {
            Tensor out(sizes, channels);
            out.data.assign(pixels.begin(), pixels.end());
            return out;
        });
    }

    void add_layer() {
        const Epilogue end = epilogue(true);
        const auto finish = [end](std::vector<double> row) {
            for (double& x : row) x = finished(x, end);
            return row;
        };
        const int value = any_value();
        const int64_t size = random_.between(1, 70);
        const bool constant = !shape(value).constant.empty();
        const int64_t kind = random_.between(0, 2);
        if (kind == 0 && !constant) {
            const bool mean = random_.chance(0.5);
            mean ? program_->add_mean(value, end) : program_->add_sum(value, end);
            net_.layers.push_back([=](const std::vector<Tensor>& values, const auto&) {
                const Tensor& v = values[value];
                std::vector<double> row(v.channels);
                for (std::size_t i = 0; i < v.data.size(); ++i)
                    row[i % v.channels] += v.data[i] / (mean ? static_cast<double>(v.cells.cells()) : 1.0);
                return finish(row);
            });
        } else if (kind == 1 && !constant) {
            const Value& v = shape(value);
            const int64_t depth = v.pixels() * v.channels;
            if (depth * size > kMostProducts / 4) return;
            const auto weight = random_.numbers(size * depth, 1 / std::sqrt(static_cast<float>(depth)));
            const auto bias = maybe(size);
            program_->add_cells(value, size, weight.data(), bias.empty() ? nullptr : bias.data(), end);
            net_.layers.push_back([=](const std::vector<Tensor>& values, const auto&) {
                const Tensor& v = values[value];
                const int64_t cells = v.cells.cells();
                std::vector<double> row(size);
                for (int64_t n = 0; n < size; ++n) {
                    if (!bias.empty()) row[n] = bias[n];
                    for (int64_t c = 0; c < v.channels; ++c)
                        for (int64_t i = 0; i < cells; ++i)
                            row[n] += v.data[i * v.channels + c] * weight[(n * v.channels + c) * cells + i];
                }
                return finish(row);
            });
        } else if (!program_->layers().empty()) {
            const int layer =
                static_cast<int>(random_.between(0, static_cast<int64_t>(program_->layers().size()) - 1));
            const int64_t depth = program_->layers()[layer].size;
            const auto weight = random_.numbers(size * depth, 1 / std::sqrt(static_cast<float>(depth)));
            const auto bias = maybe(size);
            program_->add_dense(layer, size, weight.data(), bias.empty() ? nullptr : bias.data(), end);
            net_.layers.push_back(
                [=](const std::vector<Tensor>&, const std::vector<std::vector<double>>& rows) {
                    std::vector<double> row(size);
                    for (int64_t n = 0; n < size; ++n) {
                        if (!bias.empty()) row[n] = bias[n];
                        for (int64_t k = 0; k < depth; ++k) row[n] += rows[layer][k] * weight[n * depth + k];
                    }
                    return finish(row);
                });
        }
    }
};

}  // namespace krypton::testing
