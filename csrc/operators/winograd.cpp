#include "operators/winograd.h"

#include <cmath>

#include "operators/sliding.h"

namespace krypton {

namespace {

// The weights of an axis as sums of its taps, by the points of its kind with the most outputs; those of all
// its kinds are among them.
std::vector<std::vector<double>> weights_of(int64_t taps, int64_t stride) {
    const double h = std::sqrt(0.5), t = std::sqrt(2.0);
    if (taps == 1) return {{1}};
    if (stride == 2) return {{1, 0, 0}, {1, 0, 1}, {1, 0, -1}, {0, 0, 1}, {0, 1, 0}};
    std::vector<double> finite = {0, h, -h, t, -t};
    if (taps == 7) finite = {0.4, -0.4, 0.8, -0.8, 1.25, -1.25, 2.5, -2.5};
    std::vector<std::vector<double>> out;
    for (double point : finite) {
        out.emplace_back();
        for (int64_t n = 0; n < taps; ++n) out.back().push_back(std::pow(point, static_cast<double>(n)));
    }
    out.emplace_back(taps, 0.0).back() = 1;  // infinity
    return out;
}

WinogradAxis axis_kind(int64_t taps, int64_t stride, int64_t outputs) {
    if (taps == 1) return kF1x1;
    if (stride == 2) return outputs > 2 ? kS3x3 : kS2x3;
    if (taps == 5) return kF2x5;
    if (taps == 7) return outputs > 2 ? kF3x7 : kF2x7;
    return outputs > 3 ? kF4x3 : outputs > 2 ? kF3x3 : kF2x3;
}

int64_t most_outputs(const WindowMap& m) {
    return m.kernel == 1 ? 1 : m.kernel == 5 ? 2 : m.kernel == 3 && m.stride == 1 ? 4 : 3;
}

// Kernels of 3x3, 5x5, 1x3, 1x7, ... by tiles of several sizes whose interpolation points are nested, so that
// they share one transformed weight, and a box of any size is tiled without waste.
class WinogradConvolution : public Window {
  public:
    WinogradConvolution(const Kernels& kernels, const ConvolutionShape& shape, const float* weight,
                        const float* bias)
        : Window(shape.y, shape.x), in_(stored_channels(shape.in_channels)), depth_(shape.in_channels) {
        stored = stored_channels(shape.out_channels);
        bias_ = padded(bias, shape.out_channels, stored);
        const auto wy = weights_of(y_.kernel, y_.stride), wx = weights_of(x_.kernel, x_.stride);
        points_y_ = static_cast<int64_t>(wy.size());
        points_x_ = static_cast<int64_t>(wx.size());
        products_ = kAxisShapes[axis_kind(y_.kernel, y_.stride, most_outputs(y_))].points *
                    kAxisShapes[axis_kind(x_.kernel, x_.stride, most_outputs(x_))].points;
        for (const auto& by_y : wy) {
            for (const auto& by_x : wx) {
                std::vector<double> factors;
                for (double y : by_y)
                    for (double x : by_x) factors.push_back(y * x);
                Panels panels(kernels, depth_, shape.out_channels);
                for (int64_t n = 0; n < shape.out_channels; ++n)
                    for (int64_t k = 0; k < depth_; ++k) {
                        const float* w = weight + (n * depth_ + k) * taps();
                        double sum = 0;
                        for (int64_t t = 0; t < taps(); ++t) sum += factors[t] * w[t];
                        panels.at(k, n) = static_cast<float>(sum);
                    }
                weights_.push_back(std::move(panels));
            }
        }
        // Tiles that are transformed together: their products stay in L2 where the weights are few, and
        // many share one pass over the weights where those are many.
        block_ = std::clamp<int64_t>(kTransformedBytes / (products_ * (in_ + stored) * 4) / 12 * 12, 24, 96);
        if (pairs() * in_ * stored * 4 > kManyWeights) block_ = 96;
    }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        int64_t grid_size = 0, tile_count = 0, residual_size = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Box& box = jobs[i].box;
            grid_size += y_.extent_read(box.y.size() + 1) * x_.extent_read(box.x.size() + 1);
            residual_size += box.cells();
            tile_count += split(box.y.size(), y_) * split(box.x.size(), x_);
        }
        const float** grid = scratch.take<const float*>(grid_size);
        const float** residuals = operands.size() > 1 ? scratch.take<const float*>(residual_size) : nullptr;
        Tile* tiles = scratch.take<Tile>(tile_count);
        int64_t n = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            const int64_t height = job.box.y.size(), width = job.box.x.size();
            // A tile may be larger than what is left of the box: one more row and column can be read.
            const int64_t rows = y_.extent_read(height + 1), columns = x_.extent_read(width + 1);
            job.in[0].pixels(y_.first_read(job.box.y.lo), x_.first_read(job.box.x.lo), rows, columns,
                             outside_of(0.0f), grid);
            if (residuals) job.in[1].pixels(job.box.y.lo, job.box.x.lo, height, width, nullptr, residuals);
            const int64_t down = split(height, y_), across = split(width, x_);
            for (int64_t ty = 0; ty < down; ++ty) {
                const int64_t y = ty * height / down, h = (ty + 1) * height / down - y;
                for (int64_t tx = 0; tx < across; ++tx) {
                    const int64_t x = tx * width / across, w = (tx + 1) * width / across - x;
                    Tile& tile = tiles[n++];
                    tile.kind_y = axis_kind(y_.kernel, y_.stride, h);
                    tile.kind_x = axis_kind(x_.kernel, x_.stride, w);
                    tile.rows = static_cast<int>(h);
                    tile.columns = static_cast<int>(w);
                    tile.pixels = grid + y * y_.stride * columns + x * x_.stride;
                    tile.pixel_stride = columns;
                    tile.out = job.out + (y * width + x) * stored;
                    tile.out_stride = width * stored;
                    tile.residual = residuals ? residuals + y * width + x : nullptr;
                    tile.residual_stride = width;
                }
            }
            grid += rows * columns;
            if (residuals) residuals += height * width;
        }
        float* in = scratch.take<float>(products_ * block_ * in_ + pairs() * kChannelStep);
        float* out = scratch.take<float>(products_ * block_ * stored + pairs() * kChannelStep);
        const float** a = scratch.take<const float*>(products_ * block_);
        float** c = scratch.take<float*>(products_ * block_);
        const int64_t blocks = (n + block_ - 1) / block_;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t first = b * n / blocks;
            transform(kernels, tiles + first, (b + 1) * n / blocks - first, in, out, a, c);
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t count) const override {
        const int64_t grid = y_.extent_read(box.y.size() + 1) * x_.extent_read(box.x.size() + 1);
        const int64_t tiles = split(box.y.size(), y_) * split(box.x.size(), x_);
        return static_cast<std::size_t>(count * (8 * (grid + box.cells()) + tiles * sizeof(Tile)) +
                                        products_ * block_ * (4 * (in_ + stored) + 16) +
                                        8 * pairs() * kChannelStep + 4096);
    }

    std::size_t weight_bytes() const override {
        std::size_t bytes = bias_.size() * 4;
        for (const Panels& panels : weights_) bytes += panels.bytes();
        return bytes;
    }

    int64_t preferred_cells() const override { return block_ * most_outputs(y_) * most_outputs(x_); }

  private:
    static constexpr int64_t kTransformedBytes = 640 * 1024, kManyWeights = 4 * 1024 * 1024;
    static constexpr int64_t kPairs = kMaxPoints * kMaxPoints;

    struct Tile {
        WinogradAxis kind_y, kind_x;
        int rows, columns;
        const float* const* pixels;
        int64_t pixel_stride;
        float* out;
        int64_t out_stride;
        const float* const* residual;
        int64_t residual_stride;
        int64_t rank;  // among the tiles of its kind in the block
    };

    int64_t in_, depth_, points_y_, points_x_, block_;
    int64_t products_;             // of the largest tile
    std::vector<Panels> weights_;  // by pair of points; those with the same weights count as one
    std::vector<float> bias_;

    int64_t pairs() const { return points_y_ * points_x_; }
    static int64_t split(int64_t size, const WindowMap& m) {
        return (size + most_outputs(m) - 1) / most_outputs(m);
    }

    void transform(const Kernels& kernels, Tile* tiles, int64_t count, float* in, float* out, const float** a,
                   float** c) const {
        int64_t of_kind[kWinogradAxes][kWinogradAxes] = {};
        for (int64_t i = 0; i < count; ++i) tiles[i].rank = of_kind[tiles[i].kind_y][tiles[i].kind_x]++;
        // Where the tiles of each kind begin among the products of a pair of points.
        int64_t rows[kPairs] = {};
        int64_t start[kWinogradAxes][kWinogradAxes][kPairs];
        for (int ky = 0; ky < kWinogradAxes; ++ky) {
            for (int kx = 0; kx < kWinogradAxes; ++kx) {
                if (!of_kind[ky][kx]) continue;
                const AxisShape &y = kAxisShapes[ky], &x = kAxisShapes[kx];
                for (int i = 0; i < y.points; ++i)
                    for (int j = 0; j < x.points; ++j) {
                        const int64_t pair = y.weight(i) * points_x_ + x.weight(j);
                        start[ky][kx][i * x.points + j] = rows[pair];
                        rows[pair] += of_kind[ky][kx];
                    }
            }
        }
        int64_t before[kPairs] = {};  // rows of the pairs before
        for (int64_t pair = 1; pair < pairs(); ++pair) before[pair] = before[pair - 1] + rows[pair - 1];
        // A line more for every pair of points: powers of two apart they would share a set of the cache.
        const auto row_of = [&](float* base, int64_t pair, int64_t row, int64_t channels) {
            return base + (before[pair] + row) * channels + pair * kChannelStep;
        };
        const auto place = [&](const Tile& tile, float* base, int64_t channels, float** to) {
            const AxisShape &y = kAxisShapes[tile.kind_y], &x = kAxisShapes[tile.kind_x];
            const int64_t* starts = start[tile.kind_y][tile.kind_x];
            for (int i = 0; i < y.points; ++i)
                for (int j = 0; j < x.points; ++j) {
                    const int64_t pair = y.weight(i) * points_x_ + x.weight(j);
                    *to++ = row_of(base, pair, *starts++ + tile.rank, channels);
                }
        };
        float* spots[kPairs];
        for (int64_t i = 0; i < count; ++i) {
            const Tile& tile = tiles[i];
            place(tile, in, in_, spots);
            kernels.winograd_input[tile.kind_y][tile.kind_x]({tile.pixels, tile.pixel_stride, spots, in_});
        }
        Multiply m{};
        m.taps = 1;
        m.depth = depth_;
        m.a = a;
        m.c = c;
        m.bias = outside_of(0.0f);
        m.low = -kNoLimit;
        m.high = kNoLimit;
        for (int64_t pair = 0; pair < pairs(); ++pair) {
            m.rows = m.a_stride = rows[pair];
            if (!m.rows) continue;
            for (int64_t r = 0; r < m.rows; ++r) {
                a[r] = row_of(in, pair, r, in_);
                c[r] = row_of(out, pair, r, stored);
            }
            const int64_t panels = weights_[pair].count();
            for (int64_t p = 0; p < panels; ++p) {
                m.b = weights_[pair][p];
                m.next = p + 1 < panels       ? weights_[pair][p + 1]
                         : pair + 1 < pairs() ? weights_[pair + 1][0]
                                              : nullptr;
                m.columns = weights_[pair].columns(p);
                m.c_offset = p * kernels.panel;
                kernels.multiply(m);
            }
        }
        for (int64_t i = 0; i < count; ++i) {
            const Tile& tile = tiles[i];
            place(tile, out, stored, spots);
            kernels.winograd_output[tile.kind_y][tile.kind_x](
                {spots, tile.out, tile.out_stride, stored, tile.rows, tile.columns, bias_.data(),
                 tile.residual, tile.residual_stride, epilogue.low, epilogue.high});
        }
    }
};

}  // namespace

bool has_winograd(const ConvolutionShape& s) {
    const auto plain = [](const WindowMap& m) { return m.stride == 1 && (m.dilation == 1 || m.kernel == 1); };
    const auto halving = [](const WindowMap& m) { return m.kernel == 3 && m.stride == 2 && m.dilation == 1; };
    const auto small = [](int64_t k) { return k == 1 || k == 3 || k == 5 || k == 7; };
    const int64_t ky = s.y.kernel, kx = s.x.kernel;
    if (halving(s.y) && halving(s.x)) return s.groups == 1 && s.in_channels >= kChannelStep;
    return s.groups == 1 && plain(s.y) && plain(s.x) && s.in_channels >= kChannelStep && small(ky) &&
           small(kx) && (ky == kx ? ky == 3 || ky == 5 : ky == 1 || kx == 1);
}

std::unique_ptr<Operator> make_winograd(const Kernels& kernels, const ConvolutionShape& shape,
                                        const float* weight, const float* bias) {
    return std::make_unique<WinogradConvolution>(kernels, shape, weight, bias);
}

}  // namespace krypton
