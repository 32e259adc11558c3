#include "operators.h"

#include <cmath>
#include <cstring>

namespace krypton {

void Plane::pixels(int64_t y, int64_t x, int64_t rows, int64_t columns, const float* outside,
                   const float** out) const {
    const Interval whole{std::clamp<int64_t>(-x, 0, columns), std::clamp<int64_t>(width - x, 0, columns)};
    const Interval mine{std::clamp(box.x.lo - x, whole.lo, whole.hi),
                        std::clamp(box.x.hi - x, whole.lo, whole.hi)};
    const int64_t patch_width = box.x.size();
    for (int64_t r = 0; r < rows; ++r, out += columns) {
        const int64_t row = y + r;
        if (row < 0 || row >= height) {
            std::fill_n(out, columns, outside);
            continue;
        }
        const bool inside = row >= box.y.lo && row < box.y.hi && !mine.empty();
        const Interval changed = inside ? mine : Interval{whole.lo, whole.lo};
        const int64_t cell = row * width + x, patch_cell = (row - box.y.lo) * patch_width + x - box.x.lo;
        int64_t c = 0;
        for (; c < whole.lo; ++c) out[c] = outside;
        for (; c < changed.lo; ++c) out[c] = view + (cell + c) * channels;
        for (; c < changed.hi; ++c) out[c] = patch + (patch_cell + c) * channels;
        for (; c < whole.hi; ++c) out[c] = view + (cell + c) * channels;
        for (; c < columns; ++c) out[c] = outside;
    }
}

char* Scratch::take_bytes(std::size_t bytes) {
    const auto start = (reinterpret_cast<std::uintptr_t>(memory_.data()) + kAlign - 1) / kAlign * kAlign;
    const std::size_t offset = start - reinterpret_cast<std::uintptr_t>(memory_.data());
    if (offset + used_ + bytes > memory_.size()) {
        // The bound was too low: still right, only not foreseen.
        more_.emplace_back(bytes + kAlign);
        char* p = more_.back().data();
        return p + (kAlign - reinterpret_cast<std::uintptr_t>(p) % kAlign) % kAlign;
    }
    char* p = memory_.data() + offset + used_;
    used_ += bytes;
    return p;
}

Box Operator::reach(const Box* changed) const {
    Box all = changed[0];
    for (std::size_t i = 1; i < operands.size(); ++i) all = join(all, changed[i]);
    return all;
}

namespace {

constexpr int64_t kBlock = 96;  // rows of pixels that are computed together: their operands stay in L2

const float* outside_of(float value) {
    // Larger than any pixel that is read at once.
    static const std::vector<float> zeros(1 << 16, 0.0f), lowest(1 << 16, -kNoLimit);
    return value == 0.0f ? zeros.data() : lowest.data();
}

// An operator that slides a kernel over its first operand.
class Window : public Operator {
  public:
    Window(const WindowMap& y, const WindowMap& x) : y_(y), x_(x) {}

    Box reach(const Box* changed) const override {
        Box all;
        if (!changed[0].empty()) all = {y_.changed(changed[0].y), x_.changed(changed[0].x)};
        if (all.empty()) all = Box{};
        for (std::size_t i = 1; i < operands.size(); ++i) all = join(all, changed[i]);
        return all;
    }

    bool reads_context(int operand) const override {
        // A residual is added over the whole box, which may be larger than its own.
        return operand > 0 || y_.kernel > 1 || x_.kernel > 1 || operands.size() > 1;
    }

  protected:
    WindowMap y_, x_;

    int64_t taps() const { return y_.kernel * x_.kernel; }

    // Rows of pixels of all jobs in blocks: visit(rows, a, out, residual, places).
    struct Block {
        int64_t rows;
        const float** a;         // (taps, kBlock)
        float** out;             // (kBlock)
        const float** residual;  // (kBlock), or null
        int64_t* y;                 // (kBlock)
        int64_t* x;
    };

    std::size_t block_bytes(const Box& box) const {
        const int64_t grid = y_.extent_read(box.y.size()) * x_.extent_read(box.x.size());
        return static_cast<std::size_t>(grid + box.cells() + (taps() + 4) * kBlock + 64) * 8 + 4096;
    }

    template <typename Visit>
    void for_blocks(const Job* jobs, int64_t count, Scratch& scratch, float fill, const Visit& visit) const {
        int64_t largest = 0, cells = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Box& box = jobs[i].box;
            largest = std::max(largest, y_.extent_read(box.y.size()) * x_.extent_read(box.x.size()));
            cells = std::max(cells, box.cells());
        }
        const float** grid = scratch.take<const float*>(largest);
        const float** residuals = operands.size() > 1 ? scratch.take<const float*>(cells) : nullptr;
        Block block{0,
                    scratch.take<const float*>(taps() * kBlock),
                    scratch.take<float*>(kBlock),
                    residuals ? scratch.take<const float*>(kBlock) : nullptr,
                    scratch.take<int64_t>(kBlock),
                    scratch.take<int64_t>(kBlock)};
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            const int64_t rows = y_.extent_read(job.box.y.size()), columns = x_.extent_read(job.box.x.size());
            job.in[0].pixels(y_.first_read(job.box.y.lo), x_.first_read(job.box.x.lo), rows, columns,
                             outside_of(fill), grid);
            if (residuals)
                job.in[1].pixels(job.box.y.lo, job.box.x.lo, job.box.y.size(), job.box.x.size(), nullptr,
                                 residuals);
            float* out = job.out;
            const int64_t width = job.box.x.size();
            for (int64_t oy = 0; oy < job.box.y.size(); ++oy) {
                for (int64_t ox = 0; ox < width;) {
                    const int64_t n = std::min(width - ox, kBlock - block.rows), r = block.rows;
                    const float** a = block.a + r;
                    for (int64_t ky = 0; ky < y_.kernel; ++ky) {
                        const float** line = grid + (oy * y_.stride + ky * y_.dilation) * columns;
                        for (int64_t kx = 0; kx < x_.kernel; ++kx, a += kBlock) {
                            const float** from = line + ox * x_.stride + kx * x_.dilation;
                            for (int64_t j = 0; j < n; ++j) a[j] = from[j * x_.stride];
                        }
                    }
                    for (int64_t j = 0; j < n; ++j, out += stored) {
                        block.out[r + j] = out;
                        block.y[r + j] = job.box.y.lo + oy;
                        block.x[r + j] = job.box.x.lo + ox + j;
                        if (residuals) block.residual[r + j] = residuals[oy * width + ox + j];
                    }
                    ox += n;
                    block.rows += n;
                    if (block.rows == kBlock) {
                        visit(block);
                        block.rows = 0;
                    }
                }
            }
        }
        if (block.rows) visit(block);
    }
};

// -- convolutions ----------------------------------------------------------------------------------------

std::vector<float> padded(const float* values, int64_t count, int64_t size) {
    std::vector<float> out(size, 0.0f);
    if (values) std::copy_n(values, count, out.begin());
    return out;
}

// Every kernel, stride, dilation and group count: a panel of outputs reads a range of channels at every tap.
class GemmConvolution : public Window {
  public:
    GemmConvolution(const Kernels& kernels, const ConvolutionShape& shape, const float* weight,
                    const float* bias)
        : Window(shape.y, shape.x), channels_(shape.in_channels) {
        stored = stored_channels(shape.out_channels);
        const int64_t width = kernels.panel, out_group = shape.out_channels / shape.groups,
                      in_group = shape.in_channels / shape.groups;
        bias_ = padded(bias, shape.out_channels, stored + width);
        // Few channels make many short sums: gather them into long ones.
        gathered_ = shape.groups == 1 && channels_ < kChannelStep && taps() > 1;
        for (int64_t first = 0; first < stored; first += width) {
            Part part;
            const int64_t last = std::min(first + width, shape.out_channels) - 1;
            const int64_t first_group = std::min(first, last) / out_group;
            part.offset = first_group * in_group;
            part.depth = (last / out_group + 1) * in_group - part.offset;
            part.columns = std::min(width, stored - first);
            part.weight.assign(taps() * part.depth * width, 0.0f);
            for (int64_t o = first; o <= last; ++o)
                for (int64_t c = 0; c < in_group; ++c)
                    for (int64_t t = 0; t < taps(); ++t) {
                        const int64_t channel = o / out_group * in_group + c - part.offset;
                        part.weight[(t * part.depth + channel) * width + o - first] =
                            weight[(o * in_group + c) * taps() + t];
                    }
            parts_.push_back(std::move(part));
        }
    }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        const int64_t depth = taps() * channels_;
        float* rows = gathered_ ? scratch.take<float>(kBlock * depth) : nullptr;
        const float** pointers = gathered_ ? scratch.take<const float*>(kBlock) : nullptr;
        for_blocks(jobs, count, scratch, 0.0f, [&](const Block& block) {
            Multiply m{};
            m.rows = block.rows;
            m.a_stride = kBlock;
            if (gathered_) {
                for (int64_t r = 0; r < block.rows; ++r) {
                    float* row = rows + r * depth;
                    pointers[r] = row;
                    for (int64_t t = 0; t < taps(); ++t)
                        for (int64_t c = 0; c < channels_; ++c) *row++ = block.a[t * kBlock + r][c];
                }
            }
            m.c = block.out;
            m.taps = gathered_ ? 1 : taps();
            m.a = gathered_ ? pointers : block.a;
            m.residual = block.residual;
            m.low = epilogue.low;
            m.high = epilogue.high;
            for (std::size_t p = 0; p < parts_.size(); ++p) {
                m.depth = gathered_ ? depth : parts_[p].depth;
                m.a_offset = parts_[p].offset;
                m.columns = parts_[p].columns;
                m.c_offset = static_cast<int64_t>(p) * kernels.panel;
                m.b = parts_[p].weight.data();
                m.bias = bias_.data() + m.c_offset;
                kernels.multiply(m);
            }
        });
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override {
        return block_bytes(box) + (gathered_ ? kBlock * taps() * channels_ * 4 + kBlock * 8 + 256 : 0);
    }

    int64_t preferred_cells() const override { return kBlock; }

    std::size_t weight_bytes() const override {
        std::size_t bytes = bias_.size() * 4;
        for (const Part& part : parts_) bytes += part.weight.size() * 4;
        return bytes;
    }

  private:
    struct Part {
        int64_t offset, depth, columns;
        std::vector<float> weight;
    };
    int64_t channels_;
    bool gathered_;
    std::vector<Part> parts_;
    std::vector<float> bias_;
};

class DepthwiseConvolution : public Window {
  public:
    DepthwiseConvolution(const ConvolutionShape& shape, const float* weight, const float* bias)
        : Window(shape.y, shape.x) {
        stored = stored_channels(shape.out_channels);
        bias_ = padded(bias, shape.out_channels, stored);
        weight_.assign(taps() * stored, 0.0f);
        for (int64_t c = 0; c < shape.out_channels; ++c)
            for (int64_t t = 0; t < taps(); ++t) weight_[t * stored + c] = weight[c * taps() + t];
    }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for_blocks(jobs, count, scratch, 0.0f, [&](const Block& block) {
            kernels.depthwise({block.rows, taps(), stored, block.a, kBlock, weight_.data(), bias_.data(),
                               block.residual, block.out, epilogue.low, epilogue.high});
        });
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override { return block_bytes(box); }
    std::size_t weight_bytes() const override { return (weight_.size() + bias_.size()) * 4; }

  private:
    std::vector<float> weight_, bias_;
};

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
    int64_t products_;                // of the largest tile
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

bool has_winograd(const ConvolutionShape& s) {
    const auto plain = [](const WindowMap& m) { return m.stride == 1 && (m.dilation == 1 || m.kernel == 1); };
    const auto halving = [](const WindowMap& m) { return m.kernel == 3 && m.stride == 2 && m.dilation == 1; };
    const auto small = [](int64_t k) { return k == 1 || k == 3 || k == 5 || k == 7; };
    const int64_t ky = s.y.kernel, kx = s.x.kernel;
    if (halving(s.y) && halving(s.x)) return s.groups == 1 && s.in_channels >= kChannelStep;
    return s.groups == 1 && plain(s.y) && plain(s.x) && s.in_channels >= kChannelStep && small(ky) &&
           small(kx) && (ky == kx ? ky == 3 || ky == 5 : ky == 1 || kx == 1);
}

// -- the others ------------------------------------------------------------------------------------------

class Pool : public Window {
  public:
    Pool(const WindowMap& y, const WindowMap& x, bool maximum, std::vector<float> divisor_y,
         std::vector<float> divisor_x)
        : Window(y, x),
          maximum_(maximum),
          divisor_y_(std::move(divisor_y)),
          divisor_x_(std::move(divisor_x)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        float scale[kBlock];
        for_blocks(jobs, count, scratch, maximum_ ? -kNoLimit : 0.0f, [&](const Block& block) {
            if (!maximum_)
                for (int64_t r = 0; r < block.rows; ++r)
                    scale[r] = 1.0f / (divisor_y_[block.y[r]] * divisor_x_[block.x[r]]);
            kernels.pool(
                {block.rows, taps(), stored, block.a, kBlock, maximum_ ? nullptr : scale, block.out});
        });
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override { return block_bytes(box); }

  private:
    bool maximum_;
    std::vector<float> divisor_y_, divisor_x_;
};

// An operator that reads its operands at its own cells.
class Cellwise : public Operator {
  public:
    std::size_t scratch_bytes(const Box& box, int64_t) const override {
        return static_cast<std::size_t>((operands.size() + 1) * (box.cells() * 8 + 64) + 4096);
    }
    bool reads_context(int) const override { return operands.size() > 1; }

  protected:
    static float** out_pixels(const Job& job, int64_t stored, Scratch& scratch) {
        float** out = scratch.take<float*>(job.box.cells());
        for (int64_t i = 0; i < job.box.cells(); ++i) out[i] = job.out + i * stored;
        return out;
    }
    static const float** in_pixels(const Job& job, int operand, Scratch& scratch) {
        const float** in = scratch.take<const float*>(job.box.cells());
        const Box& box = job.box;
        job.in[operand].pixels(box.y.lo, box.x.lo, box.y.size(), box.x.size(), nullptr, in);
        return in;
    }
};

class CombineOperator : public Cellwise {
  public:
    CombineOperator(Arithmetic arithmetic, std::vector<float> scale, std::vector<float> shift)
        : arithmetic_(arithmetic), scale_(std::move(scale)), shift_(std::move(shift)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            const float** a = in_pixels(job, 0, scratch);
            const float** b = operands.size() > 1 ? in_pixels(job, 1, scratch) : nullptr;
            kernels.combine({arithmetic_, job.box.cells(), stored, a, b,
                             scale_.empty() ? nullptr : scale_.data(),
                             shift_.empty() ? nullptr : shift_.data(), out_pixels(job, stored, scratch),
                             epilogue.low, epilogue.high});
        }
    }

  private:
    Arithmetic arithmetic_;
    std::vector<float> scale_, shift_;
};

class Concat : public Cellwise {
  public:
    Concat(std::vector<Interval> channels, std::vector<float> scale, std::vector<float> shift)
        : channels_(std::move(channels)), scale_(std::move(scale)), shift_(std::move(shift)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            float** out = out_pixels(job, stored, scratch);
            int64_t offset = 0;
            const float** in = nullptr;
            for (std::size_t k = 0; k < operands.size(); ++k) {
                // A channel shuffle names one operand many times.
                if (k == 0 || operands[k] != operands[k - 1])
                    in = in_pixels(job, static_cast<int>(k), scratch);
                const int64_t from = channels_[k].lo, size = channels_[k].size();
                for (int64_t r = 0; r < job.box.cells(); ++r) {
                    if (size == 1) {
                        out[r][offset] = in[r][from];
                    } else {
                        std::memcpy(out[r] + offset, in[r] + from, size * sizeof(float));
                    }
                }
                offset += size;
            }
            if (offset < stored)
                for (int64_t r = 0; r < job.box.cells(); ++r)
                    std::fill(out[r] + offset, out[r] + stored, 0.0f);
            if (!scale_.empty() || epilogue.clamps())
                kernels.combine({kAdd, job.box.cells(), stored, out, nullptr,
                                 scale_.empty() ? nullptr : scale_.data(), shift_.data(), out, epilogue.low,
                                 epilogue.high});
        }
    }

  private:
    std::vector<Interval> channels_;
    std::vector<float> scale_, shift_;
};

class Reindex : public Operator {
  public:
    Reindex(IndexMap y, IndexMap x, float fill) : y_(std::move(y)), x_(std::move(x)), fill_(fill) {}

    Box reach(const Box* changed) const override {
        if (changed[0].empty()) return {};
        const Box box{y_.changed(changed[0].y), x_.changed(changed[0].x)};
        return box.empty() ? Box{} : box;
    }

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            float* out = job.out;
            for (int64_t y = job.box.y.lo; y < job.box.y.hi; ++y) {
                for (int64_t x = job.box.x.lo; x < job.box.x.hi; ++x, out += stored) {
                    const int64_t sy = y_.source[y], sx = x_.source[x];
                    const float* pixel;
                    if (sy < 0 || sx < 0) {
                        std::fill_n(out, stored, fill_);
                        continue;
                    }
                    job.in[0].pixels(sy, sx, 1, 1, nullptr, &pixel);
                    std::copy_n(pixel, stored, out);
                }
            }
        }
        (void)scratch;
    }

    std::size_t scratch_bytes(const Box&, int64_t) const override { return 0; }

  private:
    IndexMap y_, x_;
    float fill_;
};

class LayerNormOperator : public Cellwise {
  public:
    LayerNormOperator(int64_t channels, float epsilon, std::vector<float> weight, std::vector<float> bias)
        : channels_(channels), epsilon_(epsilon), weight_(std::move(weight)), bias_(std::move(bias)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            const float** in = in_pixels(job, 0, scratch);
            kernels.layer_norm(
                {job.box.cells(), channels_, stored, epsilon_, weight_.empty() ? nullptr : weight_.data(),
                 bias_.empty() ? nullptr : bias_.data(), in, out_pixels(job, stored, scratch)});
        }
    }

  private:
    int64_t channels_;
    float epsilon_;
    std::vector<float> weight_, bias_;
};

}  // namespace

std::unique_ptr<Operator> make_convolution(const Kernels& kernels, const ConvolutionShape& shape,
                                           const float* weight, const float* bias) {
    if (shape.groups == shape.in_channels && shape.out_channels == shape.in_channels && shape.groups > 1)
        return std::make_unique<DepthwiseConvolution>(shape, weight, bias);
    if (has_winograd(shape)) return std::make_unique<WinogradConvolution>(kernels, shape, weight, bias);
    return std::make_unique<GemmConvolution>(kernels, shape, weight, bias);
}

std::unique_ptr<Operator> make_pool(const WindowMap& y, const WindowMap& x, bool maximum,
                                    std::vector<float> divisor_y, std::vector<float> divisor_x) {
    return std::make_unique<Pool>(y, x, maximum, std::move(divisor_y), std::move(divisor_x));
}

std::unique_ptr<Operator> make_combine(Arithmetic arithmetic, std::vector<float> scale,
                                       std::vector<float> shift) {
    return std::make_unique<CombineOperator>(arithmetic, std::move(scale), std::move(shift));
}

std::unique_ptr<Operator> make_concat(std::vector<Interval> channels, std::vector<float> scale,
                                      std::vector<float> shift) {
    return std::make_unique<Concat>(std::move(channels), std::move(scale), std::move(shift));
}

std::unique_ptr<Operator> make_reindex(IndexMap y, IndexMap x, float fill) {
    return std::make_unique<Reindex>(std::move(y), std::move(x), fill);
}

std::unique_ptr<Operator> make_layer_norm(int64_t channels, float epsilon, std::vector<float> weight,
                                          std::vector<float> bias) {
    return std::make_unique<LayerNormOperator>(channels, epsilon, std::move(weight), std::move(bias));
}

}  // namespace krypton
