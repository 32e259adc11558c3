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

// What a slice of four, F(2, 3) in depth, is multiplied by: its taps' weights.
constexpr double kOfPairs[kPairPoints][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

// Kernels of 3x3, 5x5, 1x3, 1x7, ... by tiles of several sizes whose interpolation points are nested, so that
// they share one transformed weight, and a box of any size is tiled without waste. Tiles are of rows and
// columns, and lie in stacks. In depth a kernel of three takes them by pairs, F(2, 3); of any other the
// products of transformed slices are added up tap by tap.
class WinogradConvolution : public Window {
  public:
    WinogradConvolution(const Kernels& kernels, const ConvolutionShape& shape, const float* weight,
                        const float* bias)
        : Window(shape.maps), in_(stored_channels(shape.in_channels)), depth_(shape.in_channels) {
        stored = stored_channels(shape.out_channels);
        bias_ = padded(bias, shape.out_channels, stored);
        const WindowMap &y = maps_[kY], &x = maps_[kX];
        const auto wy = weights_of(y.kernel, y.stride), wx = weights_of(x.kernel, x.stride);
        points_y_ = static_cast<int64_t>(wy.size());
        points_x_ = static_cast<int64_t>(wx.size());
        products_ = kAxisShapes[axis_kind(y.kernel, y.stride, most_outputs(y))].points *
                    kAxisShapes[axis_kind(x.kernel, x.stride, most_outputs(x))].points;
        const WindowMap& z = maps_[kZ];
        paired_ = z.kernel == 3 && z.stride == 1 && z.dilation == 1;
        const int64_t area = y.kernel * x.kernel;
        std::vector<double> sums(z.kernel);
        for (const auto& by_y : wy) {
            for (const auto& by_x : wx) {
                std::vector<double> factors;
                for (double at_y : by_y)
                    for (double at_x : by_x) factors.push_back(at_y * at_x);
                const std::size_t first = weights_.size();
                for (int64_t q = 0; q < sections(); ++q)
                    weights_.emplace_back(kernels, taps() * depth_, shape.out_channels);
                for (int64_t n = 0; n < shape.out_channels; ++n)
                    for (int64_t k = 0; k < depth_; ++k) {
                        const float* w = weight + (n * depth_ + k) * z.kernel * area;
                        for (int64_t i = 0; i < z.kernel; ++i, w += area) {
                            sums[i] = 0;
                            for (int64_t t = 0; t < area; ++t) sums[i] += factors[t] * w[t];
                            if (!paired_) weights_[first].at(i * depth_ + k, n) = static_cast<float>(sums[i]);
                        }
                        for (int64_t q = 0; paired_ && q < kPairPoints; ++q) {
                            const double* by = kOfPairs[q];
                            weights_[first + q].at(k, n) =
                                static_cast<float>(by[0] * sums[0] + by[1] * sums[1] + by[2] * sums[2]);
                        }
                    }
            }
        }
        // Rows that are multiplied together: they stay in L2 where the weights are few, and many share one
        // pass over the weights where those are many.
        const int64_t floats =
            paired_ ? sections() * (in_ + stored) : in_ * z.extent_read(kDeepest) / kDeepest + stored;
        const int64_t fewest = paired_ ? 12 : 24;
        block_ = std::clamp<int64_t>(kTransformedBytes / (products_ * floats * 4) / 12 * 12, fewest, 96);
        if (pairs() * sections() * taps() * in_ * stored * 4 > kManyWeights) block_ = paired_ ? 48 : 96;
    }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        int64_t grid_size = 0, stack_count = 0, residual_size = 0, all_rows = 0, slices = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Box& box = jobs[i].box;
            grid_size += cells_of(grid_read(box));
            residual_size += box.cells();
            stack_count += stacks(box);
            all_rows += stacks(box) / split(box[kZ].size(), kZ) * rows_of(box[kZ].size());
            slices += most_slices(box);
        }
        const float** grid = scratch.take<const float*>(grid_size);
        const float** residuals = operands.size() > 1 ? scratch.take<const float*>(residual_size) : nullptr;
        Stack* stack = scratch.take<Stack>(stack_count);
        int64_t n = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            const Sizes box = job.box.sizes(), read = grid_read(job.box);
            job.in[0].pixels(first_read(maps_, job.box.first()), read, outside_of(0.0f), grid);
            if (residuals) job.in[1].pixels(job.box, nullptr, residuals);
            const int64_t stride_z = maps_[kZ].stride, stride_y = maps_[kY].stride,
                          stride_x = maps_[kX].stride;
            for_parts(box, kZ, [&](int64_t z, int64_t deep) {
                for_parts(box, kY, [&](int64_t y, int64_t h) {
                    for_parts(box, kX, [&](int64_t x, int64_t w) {
                        const int64_t cell = (z * box[kY] + y) * box[kX] + x;
                        stack[n++] = {
                            axis_kind(maps_[kY].kernel, stride_y, h),
                            axis_kind(maps_[kX].kernel, stride_x, w),
                            static_cast<int>(h),
                            static_cast<int>(w),
                            deep,
                            grid + (z * stride_z * read[kY] + y * stride_y) * read[kX] + x * stride_x,
                            read[kX],
                            read[kY] * read[kX],
                            job.out + cell * stored,
                            box[kX] * stored,
                            box[kY] * box[kX] * stored,
                            residuals ? residuals + cell : nullptr,
                            box[kX],
                            box[kY] * box[kX],
                            0,
                            0,
                            0,
                        };
                    });
                });
            });
            grid += cells_of(read);
            if (residuals) residuals += job.box.cells();
        }
        const int64_t rows = std::min(block_, all_rows), most = std::min(slices, block_slices());
        const Room room{scratch.take<float>(sections() * in_floats(most)),
                        scratch.take<float>(sections() * out_floats(rows)),
                        scratch.take<const float*>(sections() * products_ * rows * taps()),
                        scratch.take<float*>(sections() * products_ * rows),
                        scratch.take<float>(ring_floats()),
                        in_floats(most),
                        out_floats(rows),
                        products_ * rows};
        // Blocks of about one size.
        const int64_t blocks = (all_rows + block_ - 1) / block_, share = (all_rows + blocks - 1) / blocks;
        for (int64_t first = 0, last; first < n; first = last) {
            int64_t taken = 0;
            for (last = first; last < n && taken < share && taken + rows_of(stack[last].depth) <= block_;
                 ++last)
                taken += rows_of(stack[last].depth);
            transform(kernels, stack + first, last - first, room);
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t count) const override {
        if (box.empty()) return 4096;
        const int64_t slices = std::min(count * most_slices(box), block_slices());
        return static_cast<std::size_t>(count * (8 * (cells_of(grid_read(box)) + box.cells()) +
                                                 stacks(box) * static_cast<int64_t>(sizeof(Stack))) +
                                        sections() * (in_floats(slices) + out_floats(block_)) * 4 +
                                        sections() * products_ * block_ * 8 * (taps() + 1) +
                                        ring_floats() * 4 + 4096);
    }

    std::size_t weight_bytes() const override {
        std::size_t bytes = bias_.size() * 4;
        for (const Panels& panels : weights_) bytes += panels.bytes();
        return bytes;
    }

    int64_t preferred_cells() const override {
        return block_ * (paired_ ? 2 : 1) * most_outputs(maps_[kY]) * most_outputs(maps_[kX]);
    }

  private:
    static constexpr int64_t kTransformedBytes = 640 * 1024, kManyWeights = 4 * 1024 * 1024;
    static constexpr int64_t kPairs = kMaxPoints * kMaxPoints;
    static constexpr int64_t kDeepest = 8;  // tiles of a stack
    static constexpr int kMostKinds = 9;    // of one operator's tiles: three to an axis

    // Tiles one behind the other, which read slices in common.
    struct Stack {
        WinogradAxis kind_y, kind_x;
        int rows, columns;
        int64_t depth;
        const float* const* pixels;  // of the first slice
        int64_t pixel_stride, slice_stride;
        float* out;
        int64_t out_stride, out_slice;
        const float* const* residual;
        int64_t residual_stride, residual_slice;
        int kind;            // its number in the block
        int64_t row, slice;  // its first ones, among those of its kind in the block
    };

    // Transformed slices and products, and pointers to them: (sections, pairs, taps in depth, rows) and
    // (sections, pairs, rows). Four slices of a stack lie in the ring, on their way to a section each.
    struct Room {
        float *in, *out;
        const float** a;
        float** c;
        float* ring;
        int64_t in_section, out_section, row_section;
    };

    // What the stacks of one kind have in a block, and where, by point, the first of it lies. A row is a
    // tile, or a pair of them, and a slice is what one tap of a row reads.
    struct Kind {
        int64_t rows = 0, slices = 0;
        int points;
        struct Place {
            int64_t pair, row, slice, rows;  // rows: of all kinds
            float *in, *out;                 // of the first section
            const float** a;
            float** c;
        } places[kPairs];
    };

    int64_t in_, depth_, points_y_, points_x_, block_;
    int64_t products_;  // of the largest tile
    bool paired_;       // in depth
    std::vector<Panels>
        weights_;  // by pair of points, those with the same weights counting as one, and section
    std::vector<float> bias_;

    int64_t pairs() const { return points_y_ * points_x_; }
    // Points in depth; what belongs to one of them lies together.
    int64_t sections() const { return paired_ ? kPairPoints : 1; }
    int64_t taps() const { return paired_ ? 1 : maps_[kZ].kernel; }
    int64_t rows_of(int64_t tiles) const { return paired_ ? (tiles + 1) / 2 : tiles; }
    int64_t slices_of(int64_t tiles) const { return paired_ ? rows_of(tiles) : maps_[kZ].extent_read(tiles); }
    // A line more for every pair of points: powers of two apart they would share a set of the cache.
    int64_t in_floats(int64_t slices) const { return products_ * slices * in_ + pairs() * kChannelStep; }
    int64_t out_floats(int64_t rows) const { return products_ * rows * stored + pairs() * kChannelStep; }
    int64_t ring_floats() const { return paired_ ? kPairPoints * products_ * (in_ + kChannelStep) : 0; }
    // Parts of `size` cells: of an axis of tiles as many as there are tiles, in depth as there are stacks.
    int64_t split(int64_t size, Axis axis) const {
        const int64_t most = axis == kZ ? kDeepest : most_outputs(maps_[axis]);
        return (size + most - 1) / most;
    }
    template <typename Visit>
    void for_parts(const Sizes& box, Axis axis, const Visit& visit) const {
        const int64_t size = box[axis], parts = split(size, axis);
        const int64_t unit = axis == kZ && paired_ ? 2 : 1, units = (size + unit - 1) / unit;
        for (int64_t i = 0; i < parts; ++i) {
            const int64_t first = i * units / parts * unit;
            visit(first, std::min((i + 1) * units / parts * unit, size) - first);
        }
    }
    int64_t stacks(const Box& box) const {
        int64_t count = 1;
        for (Axis axis : kAllAxes) count *= split(box[axis].size(), axis);
        return count;
    }
    int64_t most_slices(const Box& box) const {
        return stacks(box) * slices_of(std::min(box[kZ].size(), kDeepest));
    }
    // Most slices of a block: a tile more in a stack reads, or steps over, as many as the stride has.
    int64_t block_slices() const {
        return block_ * (paired_ ? 1 : std::max(maps_[kZ].extent_read(1), maps_[kZ].stride));
    }
    // A tile may be larger than what is left of the box: one more row and column, and slice, can be read.
    Sizes grid_read(const Box& box) const {
        return extents_read(maps_, {box[kZ].size() + paired_, box[kY].size() + 1, box[kX].size() + 1});
    }

    float* in_ring(const Room& room, int64_t slice, int point) const {
        return room.ring + (slice % kPairPoints * products_ + point) * (in_ + kChannelStep);
    }

    void transform(const Kernels& kernels, Stack* stacks, int64_t count, const Room& room) const {
        const WindowMap& deep = maps_[kZ];
        Kind kinds[kMostKinds];
        int known = 0, numbers[kWinogradAxes][kWinogradAxes] = {};  // from 1 on
        for (int64_t i = 0; i < count; ++i) {
            Stack& stack = stacks[i];
            int& number = numbers[stack.kind_y][stack.kind_x];
            if (!number) {
                number = ++known;
                const AxisShape &y = kAxisShapes[stack.kind_y], &x = kAxisShapes[stack.kind_x];
                Kind& kind = kinds[number - 1];
                kind.points = y.points * x.points;
                for (int p = 0; p < kind.points; ++p)
                    kind.places[p].pair = y.weight(p / x.points) * points_x_ + x.weight(p % x.points);
            }
            stack.kind = number - 1;
            Kind& kind = kinds[stack.kind];
            stack.row = kind.rows;
            stack.slice = kind.slices;
            kind.rows += rows_of(stack.depth);
            kind.slices += slices_of(stack.depth);
        }
        int64_t rows[kPairs] = {}, slices[kPairs] = {};
        for (Kind* kind = kinds; kind < kinds + known; ++kind)
            for (int p = 0; p < kind->points; ++p) {
                auto& place = kind->places[p];
                place.row = rows[place.pair];
                place.slice = slices[place.pair];
                rows[place.pair] += kind->rows;
                slices[place.pair] += kind->slices;
            }
        int64_t rows_before[kPairs] = {}, slices_before[kPairs] = {};
        for (int64_t pair = 1; pair < pairs(); ++pair) {
            rows_before[pair] = rows_before[pair - 1] + rows[pair - 1];
            slices_before[pair] = slices_before[pair - 1] + slices[pair - 1];
        }
        for (Kind* kind = kinds; kind < kinds + known; ++kind)
            for (int p = 0; p < kind->points; ++p) {
                auto& place = kind->places[p];
                const int64_t before = rows_before[place.pair];
                const int64_t lines = place.pair * kChannelStep;
                place.in = room.in + (slices_before[place.pair] + place.slice) * in_ + lines;
                place.out = room.out + (before + place.row) * stored + lines;
                place.a = room.a + before * taps() + place.row;
                place.c = room.c + before + place.row;
                place.rows = rows[place.pair];
            }
        float* spots[kPairs];
        for (int64_t i = 0; i < count; ++i) {
            const Stack& stack = stacks[i];
            const Kind& kind = kinds[stack.kind];
            const int64_t own = rows_of(stack.depth);
            for (int64_t slice = 0; slice < (paired_ ? 2 * own + 2 : slices_of(stack.depth)); ++slice) {
                for (int p = 0; p < kind.points; ++p)
                    spots[p] =
                        paired_ ? in_ring(room, slice, p) : kind.places[p].in + (stack.slice + slice) * in_;
                kernels.winograd_input[stack.kind_y][stack.kind_x](
                    {stack.pixels + slice * stack.slice_stride, stack.pixel_stride, spots, in_});
                if (!paired_ || slice < 3 || slice % 2 == 0) continue;
                const int64_t row = (slice - 3) / 2;
                for (int p = 0; p < kind.points; ++p) {
                    WinogradPair pair{{}, {}, in_};
                    for (int q = 0; q < kPairPoints; ++q) {
                        pair.in[q] = in_ring(room, slice - 3 + q, p);
                        pair.out[q] = kind.places[p].in + q * room.in_section + (stack.slice + row) * in_;
                    }
                    kernels.winograd_pair_input(pair);
                }
            }
            for (int p = 0; p < kind.points; ++p) {
                const auto& place = kind.places[p];
                for (int64_t q = 0; q < sections(); ++q)
                    for (int64_t row = 0; row < own; ++row) {
                        place.c[q * room.row_section + stack.row + row] =
                            place.out + q * room.out_section + (stack.row + row) * stored;
                        const float** a = place.a + q * room.row_section * taps() + stack.row + row;
                        const float* in =
                            place.in + q * room.in_section + (stack.slice + row * deep.stride) * in_;
                        for (int64_t t = 0; t < taps(); ++t, a += place.rows, in += deep.dilation * in_)
                            *a = in;
                    }
            }
        }
        Multiply m{};
        m.taps = taps();
        m.depth = depth_;
        m.bias = outside_of(0.0f);
        m.low = -kNoLimit;
        m.high = kNoLimit;
        const int64_t all = sections() * pairs();
        for (int64_t which = 0; which < all; ++which) {
            const int64_t pair = which / sections(), q = which % sections();
            m.rows = m.a_stride = rows[pair];
            if (!m.rows) continue;
            m.a = room.a + (q * room.row_section + rows_before[pair]) * taps();
            m.c = room.c + q * room.row_section + rows_before[pair];
            const int64_t panels = weights_[which].count();
            for (int64_t p = 0; p < panels; ++p) {
                m.b = weights_[which][p];
                m.next = p + 1 < panels    ? weights_[which][p + 1]
                         : which + 1 < all ? weights_[which + 1][0]
                                           : nullptr;
                m.columns = weights_[which].columns(p);
                m.c_offset = p * kernels.panel;
                kernels.multiply(m);
            }
        }
        for (int64_t i = 0; i < count; ++i) {
            const Stack& stack = stacks[i];
            const Kind& kind = kinds[stack.kind];
            for (int64_t z = 0; z < stack.depth; ++z) {
                const int64_t row = stack.row + (paired_ ? z / 2 : z), q = paired_ ? z % 2 : 0;
                for (int p = 0; p < kind.points; ++p) {
                    float* at = kind.places[p].out + row * stored;
                    if (paired_ && q == 0) {
                        WinogradPair pair{{}, {at, at + room.out_section}, stored};
                        for (int k = 0; k < kPairPoints; ++k) pair.in[k] = at + k * room.out_section;
                        kernels.winograd_pair_output(pair);
                    }
                    spots[p] = at + q * room.out_section;
                }
                const float* const* residual = stack.residual;
                kernels.winograd_output[stack.kind_y][stack.kind_x](
                    {spots, stack.out + z * stack.out_slice, stack.out_stride, stored, stack.rows,
                     stack.columns, bias_.data(), residual ? residual + z * stack.residual_slice : nullptr,
                     stack.residual_stride, epilogue.low, epilogue.high});
            }
        }
    }
};

}  // namespace

bool has_winograd(const ConvolutionShape& s) {
    const auto plain = [](const WindowMap& m) { return m.stride == 1 && (m.dilation == 1 || m.kernel == 1); };
    const auto halving = [](const WindowMap& m) { return m.kernel == 3 && m.stride == 2 && m.dilation == 1; };
    const auto small = [](int64_t k) { return k == 1 || k == 3 || k == 5 || k == 7; };
    const WindowMap &y = s.maps[kY], &x = s.maps[kX];
    const int64_t ky = y.kernel, kx = x.kernel;
    if (s.groups > 1 || s.in_channels < kChannelStep) return false;
    if (halving(y) && halving(x)) return true;
    return plain(y) && plain(x) && small(ky) && small(kx) &&
           (ky == kx ? ky == 3 || ky == 5 : ky == 1 || kx == 1);
}

std::unique_ptr<Operator> make_winograd(const Kernels& kernels, const ConvolutionShape& shape,
                                        const float* weight, const float* bias) {
    return std::make_unique<WinogradConvolution>(kernels, shape, weight, bias);
}

}  // namespace krypton
