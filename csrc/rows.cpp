#include "rows.h"

#include <algorithm>

namespace krypton {

namespace {

constexpr int64_t kTasks = 8;    // of a layer, for every thread: so that they end together
constexpr int64_t kDepth = 768;  // of a linear layer at a time, so that the rows stay in the cache

// Rows times some of a linear layer's panels, added to what the rows of `c` hold.
struct PanelProduct {
    const Kernels& kernels;
    int64_t begin, end;  // panels
    Multiply m{};

    PanelProduct(const Kernels& kernels, int64_t begin, int64_t end, const float* const* a, float* const* c)
        : kernels(kernels), begin(begin), end(end) {
        m.taps = 1;
        m.low = -kNoLimit;
        m.high = kNoLimit;
        m.a = a;
        m.c = c;
    }

    // `bias` begins the sums, unless null; `following`: the panels wanted next, or null.
    void operator()(int64_t rows, const Panels& weights, const float* bias, const Panels* following) {
        m.rows = m.a_stride = rows;
        // Long sums in parts: more exact, and the rows stay in the cache meanwhile.
        for (int64_t k = 0; k < weights.depth(); k += kDepth) {
            m.depth = std::min(kDepth, weights.depth() - k);
            m.a_offset = k;
            for (int64_t panel = begin; panel < end; ++panel) {
                m.b = weights[panel] + k * kernels.panel;
                m.next = panel + 1 < end                 ? weights[panel + 1] + k * kernels.panel
                         : k + m.depth < weights.depth() ? weights[begin] + (k + m.depth) * kernels.panel
                         : following                     ? (*following)[begin]
                                                         : nullptr;
                m.columns = weights.columns(panel);
                m.c_offset = panel * kernels.panel;
                m.bias = bias && k == 0 ? bias + m.c_offset : nullptr;
                kernels.multiply(m);
            }
        }
    }
};

}  // namespace

void finish_rows(const Kernels& kernels, const Epilogue& epilogue, float* const* rows, int64_t count,
                 int64_t columns) {
    kernels.combine(
        {kAdd, count, columns, rows, nullptr, nullptr, nullptr, rows, epilogue.low, epilogue.high});
    if (epilogue.function == kIdentity) return;
    for (int64_t i = 0; i < count; ++i)
        kernels.activate({epilogue.function, epilogue.parameter, rows[i], columns});
}

Rows::Rows(const Basis& basis, const std::vector<Box>& extents, int64_t positions,
           const std::vector<Views*>& views, bool settles)
    : basis_(basis),
      extents_(extents),
      program_(*basis.program),
      positions_(positions),
      views_(views),
      settles_(settles) {
    for (const RowLayer& layer : program_.layers()) {
        const bool cells = layer.kind == RowLayer::kCells;
        const int64_t size =
            cells ? extents[layer.operand].cells() * program_.values()[layer.operand].stored() : 0;
        rows_.emplace_back(positions * layer.stored());
        changes_.emplace_back(positions * size);
        changed_.emplace_back(cells ? positions : 0);
    }
}

std::size_t Rows::bytes(const Program& program, const std::vector<Box>& extents, int64_t positions) {
    std::size_t bytes = 0;
    for (const RowLayer& layer : program.layers()) {
        bytes += layer.stored() * sizeof(float);
        if (layer.kind == RowLayer::kCells)
            bytes += sizeof(Box) + extents[layer.operand].cells() * program.values()[layer.operand].stored() *
                                       sizeof(float);
    }
    return positions * bytes;
}

float* Rows::changes(std::size_t layer, int64_t position) {
    const int operand = program_.layers()[layer].operand;
    return changes_[layer].data() +
           position * extents_[operand].cells() * program_.values()[operand].stored();
}

void Rows::take(const Chunk& chunk, int64_t first, Costs* costs) {
    for (std::size_t l = 0; l < program_.layers().size(); ++l) {
        const RowLayer& layer = program_.layers()[l];
        if (layer.kind == RowLayer::kDense) continue;
        const Stopwatch watch(costs ? &costs->layers[l] : nullptr);
        for (int64_t i = 0; i < chunk.size(); ++i) {
            const Plane plane = chunk.plane(layer.operand, i);
            if (costs) costs->layers[l].cells += plane.box.cells();
            if (layer.adds_up())
                take_sum(l, plane, first + i);
            else
                take_cells(l, plane, first + i);
        }
    }
}

void Rows::take_sum(std::size_t l, const Plane& plane, int64_t position) {
    const RowLayer& layer = program_.layers()[l];
    const int64_t channels = plane.channels;
    const float* base = sums(l, position);
    const float* now = plane.changed;
    float* out = vector(l, position);
    std::vector<double> all(channels);
    std::vector<float> of_row(channels);
    // Floats of a row are added up before they go to the double.
    for_rows(plane.box, plane.sizes, [&](int64_t first) {
        const float* before = plane.view + first * channels;
        std::fill(of_row.begin(), of_row.end(), 0.0f);
        for (int64_t x = 0; x < plane.box[kX].size(); ++x, now += channels, before += channels)
            for (int64_t c = 0; c < channels; ++c) of_row[c] += now[c] - before[c];
        for (int64_t c = 0; c < channels; ++c) all[c] += of_row[c];
    });
    const double scale = layer.kind == RowLayer::kMean ? 1 / static_cast<double>(cells_of(plane.sizes)) : 1.0;
    for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<float>(base[c] + all[c] * scale);
    settle(l, position, 0, channels);
    finish_rows(program_.kernels(), layer.epilogue, &out, 1, channels);
}

void Rows::take_cells(std::size_t l, const Plane& plane, int64_t position) {
    changed_[l][position] = plane.box;
    const int64_t channels = plane.channels;
    const float* now = plane.changed;
    float* out = changes(l, position);
    for_rows(plane.box, plane.sizes, [&](int64_t first) {
        const float* before = plane.view + first * channels;
        for (int64_t i = 0; i < plane.box[kX].size() * channels; ++i) *out++ = *now++ - *before++;
    });
}

int64_t Rows::tasks(std::size_t layer, int threads) const {
    const RowLayer& l = program_.layers()[layer];
    return l.adds_up() ? 0 : std::min(l.weights[0].count(), kTasks * threads);
}

void Rows::compute(std::size_t l, int64_t task, int64_t tasks, Costs* costs,
                   const std::atomic<bool>& cancelled) {
    const RowLayer& layer = program_.layers()[l];
    const Stopwatch watch(costs ? &costs->layers[l] : nullptr);
    if (costs && task == 0 && layer.kind == RowLayer::kDense) costs->layers[l].cells += positions_;
    const Kernels& kernels = program_.kernels();
    const int64_t panels = layer.weights[0].count();
    const int64_t begin = task * panels / tasks, end = (task + 1) * panels / tasks;
    const int64_t offset = begin * kernels.panel;
    const int64_t width = std::min(end * kernels.panel, layer.stored()) - offset;
    std::vector<const float*> a(positions_);
    std::vector<float*> c(positions_);
    PanelProduct multiply(kernels, begin, end, a.data(), c.data());
    if (layer.kind == RowLayer::kDense) {
        for (int64_t p = 0; p < positions_; ++p) {
            a[p] = row(layer.operand, p);
            c[p] = vector(l, p);
        }
        multiply(positions_, layer.weights[0], layer.bias.data(), nullptr);
    } else {
        const Value& value = program_.values()[layer.operand];
        for (int64_t p = 0; p < positions_; ++p)
            std::copy_n(sums(l, p) + offset, width, vector(l, p) + offset);
        for (int64_t cell = 0; cell < value.pixels(); ++cell) {
            if (cancelled) return;
            const Corner at{cell / value.sizes[kX] / value.sizes[kY],
                            cell / value.sizes[kX] % value.sizes[kY], cell % value.sizes[kX]};
            int64_t rows = 0;
            for (int64_t p = 0; p < positions_; ++p) {
                const Box& box = changed_[l][p];
                if (!box.holds(at)) continue;
                a[rows] = changes(l, p) + box.number(at) * value.stored();
                c[rows++] = vector(l, p);
            }
            const bool last = cell + 1 == value.pixels();
            if (rows) multiply(rows, layer.weights[cell], nullptr, last ? nullptr : &layer.weights[cell + 1]);
        }
    }
    for (int64_t p = 0; p < positions_; ++p) {
        if (layer.kind == RowLayer::kCells) settle(l, p, offset, width);
        c[p] = vector(l, p) + offset;
    }
    finish_rows(kernels, layer.epilogue, c.data(), positions_, width);
}

}  // namespace krypton
