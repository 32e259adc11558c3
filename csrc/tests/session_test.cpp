// Random programs over random positions, against loops in float64 and against sessions on inputs that really
// are occluded; how memory is laid out; cancelling. Runs `session_test [rounds] [seed]`.
#include "session.h"
#include "testing.h"

#include <chrono>
#include <memory>
#include <stdexcept>

namespace krypton::testing {
namespace {

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

std::vector<float> padded(std::vector<float> values, int64_t size) {
    values.resize(size);
    return values;
}

class Builder {
  public:
    Builder(Random& random, const char* isa, int64_t largest)
        : random_(random),
          program_(std::make_shared<Program>(isa, random.between(1, largest), random.between(1, largest),
                                             random.between(1, 20))) {
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
    int like(int64_t height, int64_t width, int64_t channels) {
        std::vector<int> found;
        for (int v = 0; v < count(); ++v)
            if (shape(v).height == height && shape(v).width == width &&
                (!channels || shape(v).channels == channels))
                found.push_back(v);
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
        switch (random_.between(0, 7)) {
            case 0: return pool();
            case 1: return combine();
            case 2: return concat();
            case 3: return reindex();
            case 4: return layer_norm();
            case 5: return constant();
            default: return convolution();
        }
    }

    void convolution() {
        const int in = any_value();
        const int64_t square = random_.choice<int64_t>({1, 3, 3, 5});
        const bool asymmetric = random_.chance(0.3), plain = random_.chance(0.6);
        const int64_t ky = square, kx = asymmetric ? random_.choice<int64_t>({1, 2, 3, 7}) : square;
        const int64_t stride = plain ? 1 : random_.between(1, 3),
                      dilation = plain ? 1 : random_.between(1, 2);
        ConvolutionShape s{window(shape(in).height, ky, stride, dilation),
                           window(shape(in).width, kx, stride, dilation), shape(in).channels,
                           random_.between(1, 40), 1};
        if (random_.chance(0.15)) s.groups = s.out_channels = s.in_channels;
        if (random_.chance(0.15) && s.in_channels % 2 == 0)
            s.groups = 2, s.out_channels = 2 * random_.between(1, 20);
        const int64_t fan_in = s.in_channels / s.groups * ky * kx;
        if (s.y.n_out * s.x.n_out * s.out_channels * fan_in > kMostProducts) return;
        const auto weight =
            random_.numbers(s.out_channels * fan_in, 1 / std::sqrt(static_cast<float>(fan_in)));
        const auto bias = maybe(s.out_channels);
        const int added = random_.chance(0.5) ? like(s.y.n_out, s.x.n_out, s.out_channels) : -1;
        std::vector<int> operands = {in};
        if (added >= 0) operands.push_back(added);
        const Epilogue end = epilogue(true);
        program_->add(
            make_convolution(program_->kernels(), s, weight.data(), bias.empty() ? nullptr : bias.data()),
            operands, s.y.n_out, s.x.n_out, s.out_channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            Tensor out = convolved(values[in], s, weight, bias);
            if (added >= 0)
                for (std::size_t i = 0; i < out.data.size(); ++i) out.data[i] += values[added].data[i];
            return out;
        });
    }

    void pool() {
        const int in = any_value();
        const bool maximum = random_.chance(0.5);
        const int64_t kernel = random_.between(1, 3), stride = random_.between(1, 3);
        WindowMap my = window(shape(in).height, kernel, stride, 1),
                  mx = window(shape(in).width, kernel, stride, 1);
        // A window of nothing but padding has no maximum.
        my.padding = mx.padding = std::min(my.padding, kernel / 2);
        my.n_out = (my.n_in + 2 * my.padding - kernel) / stride + 1;
        mx.n_out = (mx.n_in + 2 * mx.padding - kernel) / stride + 1;
        if (my.n_in + 2 * my.padding < kernel || mx.n_in + 2 * mx.padding < kernel) return;
        std::vector<float> dy, dx;
        if (!maximum) {
            for (int64_t i = 0; i < my.n_out; ++i) dy.push_back(static_cast<float>(random_.between(1, 3)));
            for (int64_t i = 0; i < mx.n_out; ++i) dx.push_back(static_cast<float>(random_.between(1, 3)));
        }
        const Epilogue end = epilogue(false);
        program_->add(make_pool(my, mx, maximum, dy, dx), {in}, my.n_out, mx.n_out, shape(in).channels, end);
        remember(end, [=](const std::vector<Tensor>& values) { return pooled(values[in], my, mx, dy, dx); });
    }

    void combine() {
        const int a = any_value();
        const Value v{shape(a).height, shape(a).width, shape(a).channels, {}};
        const int b = random_.chance(0.7) ? like(v.height, v.width, v.channels) : -1;
        const auto arithmetic = static_cast<Arithmetic>(random_.between(0, 2));
        const auto scale = maybe(v.channels);
        const auto shift = scale.empty() ? scale : random_.numbers(v.channels);
        const Epilogue end = epilogue(true);
        const int64_t stored = scale.empty() ? 0 : v.stored();
        program_->add(make_combine(arithmetic, padded(scale, stored), padded(shift, stored)),
                      b < 0 ? std::vector<int>{a} : std::vector<int>{a, b}, v.height, v.width, v.channels,
                      end);
        remember(end, [=](const std::vector<Tensor>& values) {
            Tensor out = values[a];
            for (std::size_t i = 0; i < out.data.size(); ++i) {
                double& x = out.data[i];
                if (b >= 0) x = arithmetic_of(arithmetic, x, values[b].data[i]);
                if (!scale.empty()) x = x * scale[i % v.channels] + shift[i % v.channels];
            }
            return out;
        });
    }

    void concat() {
        const int first = any_value();
        const int64_t height = shape(first).height, width = shape(first).width;
        std::vector<int> operands = {first};
        while (operands.size() < 4 && random_.chance(0.6)) operands.push_back(like(height, width, 0));
        std::vector<Interval> ranges;
        std::vector<std::pair<int, int64_t>> sources;
        for (int v : operands) {
            ranges.push_back(random_.chance(0.5) ? Interval{0, shape(v).channels}
                                                 : random_.interval(shape(v).channels));
            for (int64_t c = ranges.back().lo; c < ranges.back().hi; ++c) sources.emplace_back(v, c);
        }
        const int64_t channels = static_cast<int64_t>(sources.size());
        const auto scale = maybe(channels);
        const auto shift = scale.empty() ? scale : random_.numbers(channels);
        const int64_t stored = scale.empty() ? 0 : stored_channels(channels);
        const Epilogue end = epilogue(true);
        program_->add(make_concat(ranges, padded(scale, stored), padded(shift, stored)), operands, height,
                      width, channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            return Tensor::of(height, width, channels, [&](int64_t y, int64_t x, int64_t c) {
                const double v = values[sources[c].first].at(y, x, sources[c].second);
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
        const auto y = cells(shape(in).height), x = cells(shape(in).width);
        const Epilogue end = epilogue(false);
        const int64_t channels = shape(in).channels;
        program_->add(make_reindex(IndexMap(y, shape(in).height), IndexMap(x, shape(in).width), 0.5f), {in},
                      static_cast<int64_t>(y.size()), static_cast<int64_t>(x.size()), channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            return Tensor::of(static_cast<int64_t>(y.size()), static_cast<int64_t>(x.size()), channels,
                              [&](int64_t i, int64_t j, int64_t c) {
                                  return y[i] < 0 || x[j] < 0 ? 0.5 : values[in].at(y[i], x[j], c);
                              });
        });
    }

    void layer_norm() {
        const int in = any_value();
        const int64_t channels = shape(in).channels;
        const auto weight = maybe(channels), bias = maybe(channels);
        const Epilogue end = epilogue(false);
        const float epsilon = 0.25f;  // large, so that values which are nearly equal stay so
        program_->add(make_layer_norm(channels, epsilon, weight, bias), {in}, shape(in).height,
                      shape(in).width, channels, end);
        remember(end, [=](const std::vector<Tensor>& values) {
            return normalised(values[in], epsilon, weight, bias);
        });
    }

    void constant() {
        const Value& v = shape(any_value());
        const int64_t height = v.height, width = v.width, channels = v.channels;
        const auto pixels = random_.numbers(height * width * channels);
        program_->add_constant(height, width, channels, pixels.data());
        remember({}, [=](const std::vector<Tensor>&) {
            Tensor out(height, width, channels);
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
            program_->add_mean(value, end);
            net_.layers.push_back([=](const std::vector<Tensor>& values, const auto&) {
                const Tensor& v = values[value];
                std::vector<double> row(v.channels);
                for (std::size_t i = 0; i < v.data.size(); ++i)
                    row[i % v.channels] += v.data[i] / static_cast<double>(v.height * v.width);
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
                const int64_t cells = v.height * v.width;
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

std::vector<float> plain(const Tensor& t) { return {t.data.begin(), t.data.end()}; }

// The largest boxes that the positions make.
std::vector<Box> extents_of(const Program& program, const std::vector<Occlusion>& positions) {
    std::vector<Box> extents(program.values().size());
    for (const Occlusion& at : positions) {
        std::vector<Box> boxes(program.values().size());
        boxes[0] = at.box;
        for (const auto& op : program.operators()) {
            std::vector<Box> in;
            for (int v : op->operands) in.push_back(boxes[v]);
            boxes[op->value] = op->reach(in.data());
        }
        for (std::size_t v = 0; v < boxes.size(); ++v)
            extents[v] = {{0, std::max(extents[v].y.hi, boxes[v].y.size())},
                          {0, std::max(extents[v].x.hi, boxes[v].x.size())}};
    }
    return extents;
}

struct Outputs {
    std::vector<std::vector<int64_t>> corners;
    std::vector<std::vector<float>> values, rows;
    std::vector<Exit> exits;
    std::vector<RowExit> row_exits;

    Outputs(Random& random, const Program& program, const std::vector<int>& kept, int64_t positions) {
        // Vectors of vectors: memory stays where it is once they have their length.
        corners.resize(kept.size());
        values.resize(kept.size());
        rows.resize(program.layers().size());
        for (std::size_t i = 0; i < kept.size(); ++i) {
            const Value& v = program.values()[kept[i]];
            const int64_t height = random.between(1, v.height), width = random.between(1, v.width);
            for (int64_t p = 0; p < positions; ++p) {
                corners[i].push_back(random.between(0, v.height - height));
                corners[i].push_back(random.between(0, v.width - width));
            }
            values[i].resize(positions * height * width * v.channels);
            exits.push_back({kept[i], corners[i].data(), height, width, values[i].data()});
        }
        for (std::size_t l = 0; l < rows.size(); ++l) {
            rows[l].resize(positions * program.layers()[l].size);
            row_exits.push_back({static_cast<int>(l), rows[l].data()});
        }
    }
};

// Of position p, against float64.
void compare(const char* what, int64_t seed, const Net& net, const Outputs& outputs, int64_t p,
             const Tensor& occluded) {
    const auto values = net.values(occluded);
    const auto rows = net.rows(values);
    // A wrong cell is off by about as much as values differ; rounding is far below.
    const auto tolerance = [](const std::vector<double>& all) {
        double largest = 1;
        for (double x : all) largest = std::max(largest, std::abs(x));
        return 2e-4 * largest;
    };
    for (const Exit& exit : outputs.exits) {
        const Tensor& expected = values[exit.value];
        const double most = tolerance(expected.data);
        const float* found = exit.out + p * exit.height * exit.width * expected.channels;
        for (int64_t y = 0; y < exit.height; ++y)
            for (int64_t x = 0; x < exit.width; ++x)
                for (int64_t c = 0; c < expected.channels; ++c) {
                    const double e = expected.at(exit.corners[2 * p] + y, exit.corners[2 * p + 1] + x, c);
                    check(close(*found, e, most), what, ", seed ", seed, ": value ", exit.value,
                          " of position ", p, " at (", y, ", ", x, ", ", c, "): ", *found, ", not ", e);
                    ++found;
                }
    }
    for (const RowExit& row : outputs.row_exits) {
        const auto& expected = rows[row.layer];
        const double most = tolerance(expected);
        for (std::size_t n = 0; n < expected.size(); ++n) {
            const float found = row.out[p * static_cast<int64_t>(expected.size()) + n];
            check(close(found, expected[n], most), what, ", seed ", seed, ": layer ", row.layer,
                  " of position ", p, ", number ", n, ": ", found, ", not ", expected[n]);
        }
    }
}

Tensor random_image(Random& random, const Value& shape) {
    return Tensor::of(shape.height, shape.width, shape.channels,
                      [&](int64_t, int64_t, int64_t) { return random.number(); });
}

Tensor occlude(const Tensor& input, const Tensor& baseline, const Occlusion& at) {
    return Tensor::of(input.height, input.width, input.channels, [&](int64_t y, int64_t x, int64_t c) {
        const bool inside = y >= at.box.y.lo && y < at.box.y.hi && x >= at.box.x.lo && x < at.box.x.hi &&
                            c >= at.channels.lo && c < at.channels.hi;
        return (inside ? baseline : input).at(y, x, c);
    });
}

void test_random_program(const char* isa, int64_t seed) {
    Random random(seed);
    // Large values make chunks of several sizes, hence several segments.
    const Net net = Builder(random, isa, random.chance(0.8) ? 14 : 40).build();
    const Program& program = *net.program;
    const Value& in = program.values()[0];
    const Tensor input = random_image(random, in), baseline = random_image(random, in);

    std::vector<Occlusion> positions;
    for (int64_t i = 0, n = random.chance(0.1) ? 0 : random.between(1, random.chance(0.2) ? 40 : 6); i < n;
         ++i) {
        if (!positions.empty() && random.chance(0.2)) {
            positions.push_back(random.choice(positions));
            continue;
        }
        Occlusion at{{random.interval(in.height), random.interval(in.width)}, random.interval(in.channels)};
        if (random.chance(0.1)) at.box = {{0, in.height}, {0, in.width}};
        if (random.chance(0.1)) at.box.y.hi = at.box.y.lo;
        if (random.chance(0.1)) at.channels.hi = at.channels.lo;
        positions.push_back(at);
    }
    std::vector<int> kept;
    for (std::size_t v = 0; v < program.values().size(); ++v)
        if (program.values()[v].constant.empty() && random.chance(0.5)) kept.push_back(static_cast<int>(v));
    const std::vector<Box> exact = extents_of(program, positions);
    std::vector<Box> extents = exact;
    for (std::size_t v = 0; v < extents.size(); ++v)
        if (random.chance(0.3))
            extents[v] = {{0, program.values()[v].height}, {0, program.values()[v].width}};
    const int threads = static_cast<int>(random.between(1, 4));
    const std::vector<float> x = plain(input), b = plain(baseline);
    const Session session(net.program, extents, kept, {}, x.data(), b.data(), threads, {});

    Outputs base(random, program, kept, 1);
    session.base(base.exits, base.row_exits);
    compare("base", seed, net, base, 0, input);

    const int64_t n = static_cast<int64_t>(positions.size());
    Outputs outputs(random, program, kept, n);
    int64_t polls = random.between(0, 3);
    const bool cancels = random.chance(0.2);
    const bool done = session.run(positions, outputs.exits, outputs.row_exits, nullptr,
                                  [&] { return cancels && polls-- <= 0; });
    check(done || cancels, "seed ", seed, ": cancelled by nobody");
    if (!done) return;
    for (int64_t p = 0; p < n; ++p)
        compare("run", seed, net, outputs, p, occlude(input, baseline, positions[p]));

    // The same kernels on an input that is occluded from the first.
    if (n) {
        const int64_t p = random.between(0, n - 1);
        const std::vector<float> other = plain(occlude(input, baseline, positions[p]));
        const Session fresh(net.program, extents, kept, {}, other.data(), b.data(), threads, {});
        Outputs whole(random, program, {}, 1);
        fresh.base({}, whole.row_exits);
        for (std::size_t l = 0; l < whole.rows.size(); ++l)
            for (std::size_t i = 0; i < whole.rows[l].size(); ++i) {
                const float found = outputs.rows[l][p * whole.rows[l].size() + i],
                            expected = whole.rows[l][i];
                check(close(found, expected, 1e-4 * (1 + std::abs(expected))), "seed ", seed, ": layer ", l,
                      " of position ", p, " is ", found, ", and ", expected, " from the start");
            }
    }

    // A box that is larger than was said is an error, not memory of somebody else.
    std::vector<int> shrinkable;
    for (std::size_t v = 0; v < exact.size(); ++v)
        if (exact[v].y.size() > 0 && program.values()[v].constant.empty())
            shrinkable.push_back(static_cast<int>(v));
    if (shrinkable.empty()) return;
    std::vector<Box> small = exact;
    small[random.choice(shrinkable)].y.hi -= 1;
    const Session cramped(net.program, small, kept, {}, x.data(), b.data(), threads, {});
    bool refused = false;
    try {
        cramped.run(positions, outputs.exits, outputs.row_exits, nullptr, {});
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    check(refused, "seed ", seed, ": a box larger than its extent");
}

// A random box on a random view: what is left is the bounding box of large changes, found by looking at all.
void test_shrunk(int64_t seed) {
    Random random(seed);
    const Value shape{random.between(1, 9), random.between(1, 9), random.between(1, 20), {}};
    const int64_t stored = shape.stored();
    const Tensor view = random_image(random, shape), gradient = random_image(random, shape);
    const std::vector<float> stored_view = view.stored();
    const Box box{random.interval(shape.height), random.interval(shape.width)};
    const float threshold = random.choice<float>({0, 0.5f, 1, 100});
    const double share = random.choice<double>({0, 0.02, 0.3});  // of cells that change much
    std::vector<float> patch(box.cells() * stored);
    for (int64_t y = box.y.lo, i = 0; y < box.y.hi; ++y)
        for (int64_t x = box.x.lo; x < box.x.hi; ++x)
            for (int64_t c = 0; c < stored; ++c, ++i) {
                patch[i] = stored_view[(y * shape.width + x) * stored + c];
                if (c < shape.channels)
                    patch[i] += random.chance(share / static_cast<double>(shape.channels)) ? 3 : 0.1f;
            }
    const std::vector<float> before = patch;
    const auto was = [&](int64_t y, int64_t x, int64_t c) {
        return before[((y - box.y.lo) * box.x.size() + x - box.x.lo) * stored + c];
    };

    Box expected;
    double effect = 7;
    for (int64_t y = box.y.lo; y < box.y.hi; ++y)
        for (int64_t x = box.x.lo; x < box.x.hi; ++x)
            for (int64_t c = 0; c < shape.channels; ++c)
                if (std::abs(was(y, x, c) - static_cast<float>(view.at(y, x, c))) >= threshold)
                    expected = join(expected, Box{{y, y + 1}, {x, x + 1}});
    double sum = effect;
    for (int64_t y = box.y.lo; y < box.y.hi; ++y)
        for (int64_t x = box.x.lo; x < box.x.hi; ++x) {
            if (y >= expected.y.lo && y < expected.y.hi && x >= expected.x.lo && x < expected.x.hi) continue;
            for (int64_t c = 0; c < shape.channels; ++c)
                sum += gradient.at(y, x, c) * (was(y, x, c) - view.at(y, x, c));
        }

    const bool compensated = random.chance(0.7);
    const Plane plane{shape.height, shape.width, stored, stored_view.data(), patch.data(), box};
    const Shrink shrink{threshold, compensated ? gradient.stored() : std::vector<float>()};
    const Box left = shrunk(shrink, plane, patch.data(), effect);
    check(left.empty() == expected.empty(), "shrunk, seed ", seed, ": empty or not");
    check(close(effect, compensated ? sum : 7, 1e-5 * (1 + std::abs(sum))), "shrunk, seed ", seed,
          ": effect ", effect, ", not ", sum);
    if (left.empty() || expected.empty()) return;
    check(left.y.lo == expected.y.lo && left.y.hi == expected.y.hi && left.x.lo == expected.x.lo &&
              left.x.hi == expected.x.hi,
          "shrunk, seed ", seed, ": another box");
    const float* found = patch.data();
    for (int64_t y = left.y.lo; y < left.y.hi; ++y)
        for (int64_t x = left.x.lo; x < left.x.hi; ++x)
            for (int64_t c = 0; c < stored; ++c)
                check(*found++ == was(y, x, c), "shrunk, seed ", seed, ": a pixel has moved wrongly");
}

// In a session: a threshold of nothing, and one that no change reaches, which leaves what is un-occluded and
// the whole first-order effect.
void test_shrinking(const char* isa) {
    Random random(3);
    auto program = std::make_shared<Program>(isa, 20, 18, 3);
    const WindowMap y{20, 20, 3, 1, 1, 1}, x{18, 18, 3, 1, 1, 1};
    const std::vector<float> first = random.numbers(24 * 3 * 9, 0.2f),
                             weight = random.numbers(24 * 24 * 9, 0.1f);
    program->add(make_convolution(program->kernels(), {y, x, 3, 24, 1}, first.data(), nullptr), {0}, 20, 18,
                 24, {0});
    program->add(make_convolution(program->kernels(), {y, x, 24, 24, 1}, weight.data(), nullptr), {1}, 20, 18,
                 24, {0});
    program->add_mean(2, {});
    const Value& in = program->values()[0];
    const Tensor input = random_image(random, in), baseline(20, 18, 3);
    const std::vector<float> a = plain(input), b = plain(baseline);
    std::vector<Occlusion> positions;
    for (int i = 0; i < 30; ++i) positions.push_back({{random.interval(20), random.interval(18)}, {0, 3}});
    const std::vector<Box> extents = extents_of(*program, positions);
    const std::vector<float> gradient = random.numbers(20 * 18 * stored_channels(24));
    const auto rows = [&](std::vector<Shrink> shrinks, std::vector<double>& effects) {
        const Session session(program, extents, {1}, std::move(shrinks), a.data(), b.data(), 2, {});
        std::vector<float> out(positions.size() * 24);
        effects.resize(positions.size());
        check(session.run(positions, {}, {{0, out.data()}}, effects.data(), {}), isa, ": cancelled");
        return out;
    };
    std::vector<double> none, nothing, all;
    const auto exact = rows({}, none);
    check(rows({{}, {0, gradient}, {}}, nothing) == exact, isa, ": a threshold of 0 changes something");
    const auto same = rows({{}, {1e9f, gradient}, {}}, all);
    for (std::size_t i = 0; i < same.size(); ++i)
        check(same[i] == same[i % 24], isa, ": something is left of what was dropped");
    const Session session(program, extents, {1}, {}, a.data(), b.data(), 2, {});
    std::vector<int64_t> corners(2 * positions.size());
    const std::size_t size = 20 * 18 * 24;
    std::vector<float> changed(positions.size() * size), view(size);
    session.base({{1, corners.data(), 20, 18, view.data()}}, {});
    session.run(positions, {{1, corners.data(), 20, 18, changed.data()}}, {}, nullptr, {});
    for (std::size_t p = 0; p < positions.size(); ++p) {
        double expected = 0;
        for (std::size_t i = 0; i < size; ++i)
            expected += gradient[i / 24 * stored_channels(24) + i % 24] *
                        (double{changed[p * size + i]} - double{view[i]});
        check(none[p] == 0 && nothing[p] == 0, isa, ": an effect of nothing");
        check(close(all[p], expected, 1e-3), isa, ": effect ", all[p], ", not ", expected);
    }
}

// Plays the schedule of a layout and asks at every step whether what is read is still there.
void test_layout(int64_t seed) {
    Random random(seed);
    Program program("", 64, 64, 16);
    std::vector<Box> extents;
    const auto extent = [&] {
        const int64_t side = random.choice<int64_t>({1, 4, 16, 40, 64});
        extents.push_back({{0, side}, {0, side}});
    };
    extent();
    for (int64_t i = 0, n = random.between(1, 12); i < n; ++i) {
        std::vector<int> operands;
        const int64_t last = static_cast<int64_t>(extents.size()) - 1;
        do operands.push_back(static_cast<int>(random.chance(0.6) ? last : random.between(0, last)));
        while (random.chance(0.3));
        program.add(make_concat({}, {}, {}), operands, 64, 64, 16 * random.between(1, 4), {});
        extent();
    }
    std::vector<int> kept;
    for (std::size_t v = 0; v < extents.size(); ++v)
        if (random.chance(0.2)) kept.push_back(static_cast<int>(v));
    const Layout layout = lay_out(program, extents, kept);

    std::vector<std::pair<int, int64_t>> owner(layout.floats / 16 + 1,
                                               {-1, -1});  // value and position, by cache line
    const auto lines = [&](int v, int64_t p) {
        const Layout::Place& place = layout.places[v];
        const std::size_t begin = place.offset + p % place.slots * place.stride;
        const std::size_t end = begin + extents[v].cells() * program.values()[v].stored();
        check(end <= layout.floats && place.offset % 16 == 0 && place.stride % 16 == 0, "seed ", seed,
              ": a place outside");
        return std::pair{begin / 16, end / 16};
    };
    const auto write = [&](int v, int64_t p) {
        const auto [begin, end] = lines(v, p);
        std::fill(owner.begin() + begin, owner.begin() + end, std::pair{v, p});
    };
    const auto read = [&](int v, int64_t p) {
        const auto [begin, end] = lines(v, p);
        for (std::size_t i = begin; i < end; ++i)
            if (owner[i] != std::pair{v, p})
                return check(false, "seed ", seed, ": value ", v, " of position ", p,
                             " was overwritten by value ", owner[i].first, " of position ", owner[i].second);
        check(true, " ");
    };
    for (const Layout::Segment& segment : layout.segments)
        for (int64_t from = 0; from < layout.chunk; from += segment.chunk) {
            if (segment.first == 0)
                for (int64_t p = from; p < from + segment.chunk; ++p) write(0, p);
            for (std::size_t i = segment.first; i < segment.last; ++i)
                for (int64_t p = from; p < from + segment.chunk; ++p) {
                    write(program.operators()[i]->value, p);
                    for (int v : program.operators()[i]->operands) read(v, p);
                }
        }
    for (int v : kept)
        for (int64_t p = 0; p < layout.chunk; ++p) read(v, p);
}

// A run that would take long ends soon after it is told to.
void test_cancel(const char* isa) {
    using Clock = std::chrono::steady_clock;
    Random random(1);
    auto program = std::make_shared<Program>(isa, 48, 48, 16);
    const std::vector<float> weight = random.numbers(16 * 16 * 9, 0.08f);
    const WindowMap window{48, 48, 3, 1, 1, 1};
    const int layers = 6;
    for (int i = 0; i < layers; ++i)
        program->add(
            make_convolution(program->kernels(), {window, window, 16, 16, 1}, weight.data(), nullptr), {i},
            48, 48, 16, {});
    const std::vector<Box> extents(layers + 1, Box{{0, 48}, {0, 48}});
    const std::vector<float> input = random.numbers(48 * 48 * 16);
    const Session session(program, extents, {}, {}, input.data(), input.data(), 2, {});
    const std::vector<Occlusion> positions(100'000, {{{0, 48}, {0, 48}}, {0, 16}});
    const auto start = Clock::now();
    int polls = 0;
    const bool done = session.run(positions, {}, {}, nullptr, [&] { return ++polls > 1; });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    check(!done, isa, ": a cancelled run says that it ended");
    check(seconds < 10, isa, ": cancelling took ", seconds, " s");  // sanitizers and emulators are slow

    // Views: told at the first question, which long ones are asked.
    bool thrown = false;
    try {
        const WindowMap large{400, 400, 3, 1, 1, 1};
        auto slow = std::make_shared<Program>(isa, 400, 400, 16);
        const std::vector<float> picture = random.numbers(400 * 400 * 16);
        for (int i = 0; i < 40; ++i)
            slow->add(make_convolution(slow->kernels(), {large, large, 16, 16, 1}, weight.data(), nullptr),
                      {i}, 400, 400, 16, {});
        Session(slow, std::vector<Box>(41), {}, {}, picture.data(), picture.data(), 2, [] { return true; });
    } catch (const std::runtime_error&) {
        thrown = true;
    }
    check(thrown, isa, ": a session whose making was cancelled");
}

void test_sealed() {
    Program program("", 4, 4, 1);
    program.seal();
    bool refused = false;
    try {
        program.add_mean(0, {});
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    check(refused, "a sealed program grew");
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    const int64_t rounds = argc > 1 ? std::atol(argv[1]) : 150, seed = argc > 2 ? std::atol(argv[2]) : 1;
    testing::test_sealed();
    for (int64_t i = seed; i < seed + rounds; ++i) testing::test_layout(i);
    for (int64_t i = seed; i < seed + 4 * rounds; ++i) testing::test_shrunk(i);
    for (const char* const* isa = kernel_names(); *isa; ++isa) {
        for (int64_t i = seed; i < seed + rounds; ++i) testing::test_random_program(*isa, i);
        testing::test_shrinking(*isa);
        testing::test_cancel(*isa);
    }
    return testing::report("session");
}
