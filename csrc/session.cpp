#include "session.h"

#include <barrier>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <latch>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>

namespace krypton {

namespace {

constexpr int64_t kPatchBytes = 512 * 1024;  // boxes that a chunk should keep in the cache
constexpr int64_t kMostPositions = 32;       // of a chunk
constexpr int64_t kTasks = 8;  // of a layer, for every thread: so that they end together
constexpr int64_t kAlignFloats = 16;
constexpr int64_t kDepth = 768;  // of a layer at a time, so that the rows stay in the cache

int64_t power_of_two(int64_t n) {
    int64_t p = 1;
    while (2 * p <= n) p *= 2;
    return p;
}

// `work(i)` on each of `threads` threads; `poll` on this one until all have ended. Threads are made anew for
// each call, so that a forked process has what it needs.
template <typename Work>
void on_threads(int threads, const Kernels& kernels, const std::function<bool()>& poll,
                std::atomic<bool>& cancelled, const Work& work) {
    std::mutex mutex;
    std::condition_variable ended;
    int running = threads;
    std::exception_ptr error;
    // Nobody starts before all are there: at a barrier they would wait for a thread that could not be made.
    std::latch all(1);
    bool complete = true;
    const auto body = [&](int i) {
        all.wait();
        if (complete) {
            kernels.flush_denormals();
            work(i, [&](const auto& step) {
                // A failed step must not keep the other threads waiting at a barrier.
                try {
                    if (!cancelled) step();
                } catch (...) {
                    const std::lock_guard lock(mutex);
                    if (!error) error = std::current_exception();
                    cancelled = true;
                }
            });
        }
        const std::lock_guard lock(mutex);
        if (--running == 0) ended.notify_all();
    };
    std::vector<std::thread> pool;
    try {
        for (int i = 0; i < threads; ++i) pool.emplace_back(body, i);
    } catch (...) {
        error = std::current_exception();
        complete = false;
        running = static_cast<int>(pool.size());
    }
    all.count_down();
    {
        std::unique_lock lock(mutex);
        while (!ended.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) {
            lock.unlock();
            if (poll && poll()) cancelled = true;
            lock.lock();
        }
    }
    for (std::thread& thread : pool) thread.join();
    if (error) std::rethrow_exception(error);
}

void finish(const Kernels& kernels, const Operator& op, const Job* jobs, std::size_t count) {
    if (op.epilogue.function == kIdentity) return;
    for (std::size_t i = 0; i < count; ++i)
        kernels.activate(
            {op.epilogue.function, op.epilogue.parameter, jobs[i].out, jobs[i].box.cells() * op.stored});
}

void clamp_rows(const Kernels& kernels, const Epilogue& epilogue, float* const* rows, int64_t count,
                int64_t columns) {
    kernels.combine(
        {kAdd, count, columns, rows, nullptr, nullptr, nullptr, rows, epilogue.low, epilogue.high});
    if (epilogue.function != kIdentity)
        for (int64_t i = 0; i < count; ++i)
            kernels.activate({epilogue.function, epilogue.parameter, rows[i], columns});
}

}  // namespace

std::vector<int> with_layers(const Program& program, std::vector<int> kept) {
    for (const RowLayer& layer : program.layers())
        if (layer.kind != RowLayer::kDense) kept.push_back(layer.operand);
    return kept;
}

Layout lay_out(const Program& program, const std::vector<Box>& extents, const std::vector<int>& kept) {
    const auto& ops = program.operators();
    const auto& values = program.values();
    const auto bytes = [&](int v) {
        return values[v].constant.empty() ? extents[v].cells() * values[v].stored() * 4 : 0;
    };
    Layout layout;
    int64_t chunk = 1;
    for (std::size_t i = 0; i < ops.size(); ++i) {
        int64_t footprint = bytes(ops[i]->value);
        for (int operand : ops[i]->operands) footprint += bytes(operand);
        const int64_t by_cache = kPatchBytes / std::max<int64_t>(footprint, 1);
        const int64_t cells = std::max<int64_t>(extents[ops[i]->value].cells(), 1);
        const int64_t by_weights = (ops[i]->preferred_cells() + cells - 1) / cells;
        const int64_t want =
            power_of_two(std::clamp<int64_t>(std::max(by_cache, by_weights), 1, kMostPositions));
        if (layout.segments.empty() || want > chunk) {
            chunk = std::max(chunk, want);
            layout.segments.push_back({i, i + 1, chunk});
        }
        layout.segments.back().last = i + 1;
    }
    layout.chunk = chunk;
    const auto segment_of = [&](std::size_t op) {
        std::size_t s = 0;
        while (s + 1 < layout.segments.size() && layout.segments[s].last <= op) ++s;
        return s;
    };

    // From when to when a value is needed, in operators.
    struct Life {
        std::size_t first, last;
        bool kept;
    };
    std::vector<Life> lives(values.size(), {0, 0, false});
    for (std::size_t i = 0; i < ops.size(); ++i) {
        lives[ops[i]->value] = {i, i, false};
        for (int operand : ops[i]->operands) lives[operand].last = i;
    }
    for (int v : kept) lives[v].kept = true;

    layout.places.resize(values.size());
    struct Taken {
        std::size_t begin, end;
        Life life;
    };
    std::vector<Taken> taken;
    for (std::size_t v = 0; v < values.size(); ++v) {
        if (!values[v].constant.empty()) continue;
        Life life = lives[v];
        Layout::Place& place = layout.places[v];
        if (layout.segments.empty()) {
            place.slots = 1;
        } else {
            const std::size_t from = segment_of(life.first), to = segment_of(life.last);
            place.slots = layout.segments[from].chunk;
            if (from != to || life.kept) {
                place.slots = chunk;
                life.first = layout.segments[from].first;
                life.last = life.kept ? ops.size() : layout.segments[to].last - 1;
            }
        }
        place.stride =
            (extents[v].cells() * values[v].stored() + kAlignFloats - 1) / kAlignFloats * kAlignFloats;
        const std::size_t size = static_cast<std::size_t>(place.stride * place.slots);
        // First fit among what is in use while this value lives.
        std::sort(taken.begin(), taken.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
        std::size_t offset = 0;
        for (const Taken& t : taken) {
            if (t.life.last < life.first || t.life.first > life.last) continue;
            if (offset + size <= t.begin) break;
            offset = std::max(offset, t.end);
        }
        place.offset = offset;
        taken.push_back({offset, offset + size, life});
        layout.floats = std::max(layout.floats, offset + size);
    }
    for (const Layout::Segment& segment : layout.segments)
        for (std::size_t i = segment.first; i < segment.last; ++i)
            layout.scratch =
                std::max(layout.scratch, ops[i]->scratch_bytes(extents[ops[i]->value], segment.chunk));
    return layout;
}

// -- the un-occluded input -------------------------------------------------------------------------------

Session::Session(std::shared_ptr<const Program> program, std::vector<Box> extents,
                 const std::vector<int>& kept, std::vector<Shrink> shrinks, const float* input,
                 const float* baseline, int threads, const std::function<bool()>& poll)
    : program_(std::move(program)),
      threads_(std::max(threads, 1)),
      extents_(std::move(extents)),
      shrinks_(std::move(shrinks)) {
    const auto& values = program_->values();
    const std::vector<int> all = with_layers(*program_, kept);
    layout_ = lay_out(*program_, extents_, all);

    const Value& in = values[0];
    views_.resize(values.size());
    views_[0].assign(in.pixels() * in.stored(), 0.0f);
    baseline_.assign(in.pixels() * in.stored(), 0.0f);
    for (int64_t i = 0; i < in.pixels(); ++i) {
        std::copy_n(input + i * in.channels, in.channels, views_[0].begin() + i * in.stored());
        std::copy_n(baseline + i * in.channels, in.channels, baseline_.begin() + i * in.stored());
    }
    materialise(poll);

    // A view that is only ever read inside changed boxes is needed no more.
    std::vector<bool> needed(values.size(), false);
    needed[0] = true;
    for (int v : all) needed[v] = true;
    for (const auto& op : program_->operators())
        for (std::size_t i = 0; i < op->operands.size(); ++i)
            if (op->reads_context(static_cast<int>(i))) needed[op->operands[i]] = true;
    for (std::size_t v = 0; v < values.size(); ++v)
        if (!needed[v] && !this->shrinks(static_cast<int>(v))) std::vector<float>().swap(views_[v]);
}

Plane Session::plane(int value) const {
    const Value& v = program_->values()[value];
    const float* view = v.constant.empty() ? views_[value].data() : v.constant.data();
    return {v.height, v.width, v.stored(), view, nullptr, {}};
}

void Session::materialise(const std::function<bool()>& poll) {
    const auto& ops = program_->operators();
    const auto& values = program_->values();
    const auto& layers = program_->layers();
    const Kernels& kernels = program_->kernels();
    for (const auto& op : ops) views_[op->value].resize(values[op->value].pixels() * op->stored);
    for (const RowLayer& layer : layers) {
        base_rows_.emplace_back(layer.stored(), 0.0f);
        base_out_.emplace_back(layer.stored(), 0.0f);
    }

    std::atomic<bool> cancelled = false;
    std::barrier barrier(threads_);
    std::vector<std::atomic<int64_t>> next(ops.size() + layers.size());
    on_threads(threads_, kernels, poll, cancelled, [&](int thread, const auto& guarded) {
        Scratch scratch(layout_.scratch);
        for (std::size_t i = 0; i < ops.size(); ++i) {
            guarded([&] {
                const Operator& op = *ops[i];
                const Value& value = values[op.value];
                std::vector<Plane> in;
                for (int operand : op.operands) in.push_back(plane(operand));
                // Bands of rows, a multiple of what any kernel computes together.
                const int64_t band = std::max<int64_t>(12, value.height / (4 * threads_) / 12 * 12);
                for (int64_t y; (y = next[i]++ * band) < value.height && !cancelled;) {
                    const Box box{{y, std::min(y + band, value.height)}, {0, value.width}};
                    const Job job{box, views_[op.value].data() + y * value.width * op.stored, in.data()};
                    scratch.reset();
                    op.run(kernels, &job, 1, scratch);
                    finish(kernels, op, &job, 1);
                }
            });
            barrier.arrive_and_wait();
        }
        for (std::size_t l = 0; l < layers.size(); ++l) {
            const RowLayer& layer = layers[l];
            guarded([&] {
                float* row = base_rows_[l].data();
                if (layer.kind == RowLayer::kMean) {
                    if (next[ops.size() + l]++) return;
                    const Value& value = values[layer.operand];
                    const std::vector<float>& view = views_[layer.operand];
                    for (int64_t c = 0; c < value.stored(); ++c) {
                        double sum = 0;
                        for (int64_t i = 0; i < value.pixels(); ++i) sum += view[i * value.stored() + c];
                        row[c] = static_cast<float>(sum / static_cast<double>(value.pixels()));
                    }
                    return;
                }
                const bool cells = layer.kind == RowLayer::kCells;
                Multiply m{};
                m.rows = m.a_stride = m.taps = 1;
                m.c = &row;
                m.low = -kNoLimit;
                m.high = kNoLimit;
                for (int64_t p; (p = next[ops.size() + l]++) < layer.weights[0].count() && !cancelled;) {
                    m.c_offset = p * kernels.panel;
                    m.columns = layer.weights[0].columns(p);
                    m.bias = layer.bias.data() + m.c_offset;
                    for (std::size_t cell = 0; cell < layer.weights.size(); ++cell) {
                        const Panels& weights = layer.weights[cell];
                        const float* a =
                            cells ? views_[layer.operand].data() + cell * values[layer.operand].stored()
                                  : base_out_[layer.operand].data();
                        m.a = &a;
                        m.depth = weights.depth();
                        m.b = weights[p];
                        kernels.multiply(m);
                        m.bias = nullptr;
                    }
                }
            });
            barrier.arrive_and_wait();
            guarded([&] {
                if (thread != 0) return;
                float* out = base_out_[l].data();
                std::copy(base_rows_[l].begin(), base_rows_[l].end(), out);
                clamp_rows(kernels, layer.epilogue, &out, 1, layer.stored());
            });
            barrier.arrive_and_wait();
        }
    });
    if (cancelled) throw std::runtime_error("cancelled");
}

void Session::base(const std::vector<Exit>& exits, const std::vector<RowExit>& rows) const {
    for (const Exit& exit : exits) {
        const Plane view = plane(exit.value);
        const int64_t channels = program_->values()[exit.value].channels;
        std::vector<const float*> pixels(exit.height * exit.width);
        view.pixels(exit.corners[0], exit.corners[1], exit.height, exit.width, nullptr, pixels.data());
        float* out = exit.out;
        for (const float* pixel : pixels) out = std::copy_n(pixel, channels, out);
    }
    for (const RowExit& row : rows)
        std::copy_n(base_out_[row.layer].data(), program_->layers()[row.layer].size, row.out);
}

// -- positions -------------------------------------------------------------------------------------------

struct Session::Worker {
    // operator new, since not every system has aligned_alloc.
    static constexpr std::align_val_t kAlign{64};
    struct Freed {
        void operator()(float* p) const { ::operator delete(p, kAlign); }
    };

    std::unique_ptr<float, Freed> arena;
    Scratch scratch;
    std::vector<Box> boxes;  // (values, chunk)
    std::vector<Job> jobs;
    std::vector<Plane> planes;
    std::vector<const float*> pixels;
};

struct Session::Batch {
    const std::vector<Occlusion>& positions;
    const std::vector<Exit>& exits;
    std::vector<std::vector<float>> rows;          // by layer: (positions, stored)
    std::vector<std::vector<float>> changes;       // by layer of kCells: (positions, cells, stored)
    std::vector<std::vector<Box>> changed;         // by layer of kCells: (positions)
    std::vector<double> effects;                   // of what shrinking dropped: (positions)
    std::atomic<bool>& cancelled;

    int64_t size() const { return static_cast<int64_t>(positions.size()); }
};

void Session::run_chunk(Worker& worker, Batch& batch, int64_t first, int64_t last) const {
    const auto& ops = program_->operators();
    const auto& values = program_->values();
    const Kernels& kernels = program_->kernels();
    const auto box_of = [&](int v, int64_t p) -> Box& { return worker.boxes[v * layout_.chunk + p - first]; };
    const auto patch_of = [&](int v, int64_t p) {
        const Layout::Place& place = layout_.places[v];
        return worker.arena.get() + place.offset + (p - first) % place.slots * place.stride;
    };
    const auto plane_of = [&](int v, int64_t p) {
        Plane plane = this->plane(v);
        if (values[v].constant.empty()) {
            plane.patch = patch_of(v, p);
            plane.box = box_of(v, p);
        }
        return plane;
    };
    const auto claim = [&](int v, int64_t p, const Box& box) {
        if (box.y.size() > extents_[v].y.size() || box.x.size() > extents_[v].x.size())
            throw std::invalid_argument("a box of value " + std::to_string(v) +
                                        " is larger than was planned");
        box_of(v, p) = box;
    };
    const auto occlude = [&](int64_t p) {
        const Occlusion& at = batch.positions[p];
        claim(0, p, at.box);
        const int64_t stored = values[0].stored();
        float* out = patch_of(0, p);
        for (int64_t y = at.box.y.lo; y < at.box.y.hi; ++y)
            for (int64_t x = at.box.x.lo; x < at.box.x.hi; ++x, out += stored) {
                const int64_t i = (y * values[0].width + x) * stored;
                std::copy_n(views_[0].data() + i, stored, out);
                std::copy(baseline_.data() + i + at.channels.lo, baseline_.data() + i + at.channels.hi,
                          out + at.channels.lo);
            }
    };
    if (layout_.segments.empty())
        for (int64_t p = first; p < last; ++p) occlude(p);
    std::vector<Box> operand_boxes;
    for (const Layout::Segment& segment : layout_.segments) {
        for (int64_t from = first; from < last; from += segment.chunk) {
            const int64_t to = std::min(from + segment.chunk, last);
            if (segment.first == 0)
                for (int64_t p = from; p < to; ++p) occlude(p);
            for (std::size_t i = segment.first; i < segment.last; ++i) {
                if (batch.cancelled) return;
                const Operator& op = *ops[i];
                worker.jobs.clear();
                worker.planes.clear();
                worker.planes.reserve((to - from) * op.operands.size());
                for (int64_t p = from; p < to; ++p) {
                    operand_boxes.clear();
                    for (int v : op.operands)
                        operand_boxes.push_back(values[v].constant.empty() ? box_of(v, p) : Box{});
                    const Box box = op.reach(operand_boxes.data());
                    claim(op.value, p, box);
                    if (box.empty()) continue;
                    const std::size_t begin = worker.planes.size();
                    for (int v : op.operands) worker.planes.push_back(plane_of(v, p));
                    worker.jobs.push_back({box, patch_of(op.value, p), worker.planes.data() + begin});
                }
                if (worker.jobs.empty()) continue;
                worker.scratch.reset();
                op.run(kernels, worker.jobs.data(), static_cast<int64_t>(worker.jobs.size()), worker.scratch);
                finish(kernels, op, worker.jobs.data(), worker.jobs.size());
                if (!shrinks(op.value)) continue;
                for (int64_t p = from; p < to; ++p) {
                    Box& box = box_of(op.value, p);
                    if (box.empty()) continue;
                    box = shrunk(shrinks_[op.value], plane_of(op.value, p), patch_of(op.value, p),
                                 batch.effects[p]);
                }
            }
        }
    }
    for (const Exit& exit : batch.exits) {
        const int64_t channels = values[exit.value].channels;
        worker.pixels.resize(exit.height * exit.width);
        for (int64_t p = first; p < last; ++p) {
            plane_of(exit.value, p)
                .pixels(exit.corners[2 * p], exit.corners[2 * p + 1], exit.height, exit.width, nullptr,
                        worker.pixels.data());
            float* out = exit.out + p * exit.height * exit.width * channels;
            for (const float* pixel : worker.pixels) out = std::copy_n(pixel, channels, out);
        }
    }
    const auto& layers = program_->layers();
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const RowLayer& layer = layers[l];
        if (layer.kind == RowLayer::kDense) continue;
        const Value& value = values[layer.operand];
        const int64_t stored = value.stored();
        for (int64_t p = first; p < last; ++p) {
            const Box& box = box_of(layer.operand, p);
            const float* patch = patch_of(layer.operand, p);
            const bool mean = layer.kind == RowLayer::kMean;
            const float* base = mean ? base_rows_[l].data() : nullptr;
            float* out = mean ? batch.rows[l].data() + p * stored
                              : batch.changes[l].data() + p * extents_[layer.operand].cells() * stored;
            if (!mean) batch.changed[l][p] = box;
            for (int64_t y = box.y.lo; y < box.y.hi; ++y)
                for (int64_t x = box.x.lo; x < box.x.hi; ++x, patch += stored) {
                    const float* view = views_[layer.operand].data() + (y * value.width + x) * stored;
                    if (mean) {
                        for (int64_t c = 0; c < stored; ++c) out[c] += patch[c] - view[c];
                    } else {
                        for (int64_t c = 0; c < stored; ++c) out[c] = patch[c] - view[c];
                        out += stored;
                    }
                }
            if (mean) {
                const float scale = 1.0f / static_cast<float>(value.pixels());
                for (int64_t c = 0; c < stored; ++c) out[c] = base[c] + out[c] * scale;
                clamp_rows(kernels, layer.epilogue, &out, 1, stored);
            }
        }
    }
}

void Session::run_layer(Batch& batch, std::size_t l, int64_t task, int64_t tasks) const {
    const RowLayer& layer = program_->layers()[l];
    const Kernels& kernels = program_->kernels();
    const int64_t n = batch.size(), stored = layer.stored();
    const Panels& shape = layer.weights[0];
    std::vector<float*> out(n);
    for (int64_t p = 0; p < n; ++p) out[p] = batch.rows[l].data() + p * stored;
    std::vector<const float*> a(n);
    std::vector<float*> c(n);
    const int64_t begin = task * shape.count() / tasks, end = (task + 1) * shape.count() / tasks;
    const int64_t offset = begin * kernels.panel, width = std::min(end * kernels.panel, stored) - offset;
    Multiply m{};
    m.taps = 1;
    m.low = -kNoLimit;
    m.high = kNoLimit;
    m.a = a.data();
    m.c = c.data();
    // Long sums in parts: more exact, and the rows stay in the cache meanwhile.
    const auto multiply = [&](const Panels& weights, const float* bias, const Panels* following) {
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
    };
    if (layer.kind == RowLayer::kDense) {
        const RowLayer& before = program_->layers()[layer.operand];
        m.rows = m.a_stride = n;
        for (int64_t p = 0; p < n; ++p) {
            a[p] = batch.rows[layer.operand].data() + p * before.stored();
            c[p] = out[p];
        }
        multiply(layer.weights[0], layer.bias.data(), nullptr);
    } else {
        const Value& value = program_->values()[layer.operand];
        for (int64_t p = 0; p < n; ++p) std::copy_n(base_rows_[l].data() + offset, width, out[p] + offset);
        for (int64_t y = 0; y < value.height; ++y) {
            for (int64_t x = 0; x < value.width; ++x) {
                if (batch.cancelled) return;
                m.rows = 0;
                for (int64_t p = 0; p < n; ++p) {
                    const Box& box = batch.changed[l][p];
                    if (y < box.y.lo || y >= box.y.hi || x < box.x.lo || x >= box.x.hi) continue;
                    const int64_t cell = (y - box.y.lo) * box.x.size() + x - box.x.lo;
                    a[m.rows] = batch.changes[l].data() +
                                (p * extents_[layer.operand].cells() + cell) * value.stored();
                    c[m.rows++] = out[p];
                }
                m.a_stride = m.rows;
                const int64_t cell = y * value.width + x;
                const bool last = cell + 1 == value.pixels();
                if (m.rows) multiply(layer.weights[cell], nullptr, last ? nullptr : &layer.weights[cell + 1]);
            }
        }
    }
    for (int64_t p = 0; p < n; ++p) out[p] += offset;
    clamp_rows(kernels, layer.epilogue, out.data(), n, width);
}

bool Session::run(const std::vector<Occlusion>& positions, const std::vector<Exit>& exits,
                  const std::vector<RowExit>& rows, double* effects,
                  const std::function<bool()>& poll) const {
    if (positions.empty()) return true;
    std::atomic<bool> cancelled = false;
    Batch batch{positions, exits, {}, {}, {}, std::vector<double>(positions.size()), cancelled};
    const auto& layers = program_->layers();
    const int64_t n = batch.size();
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const bool cells = layers[l].kind == RowLayer::kCells;
        const int v = layers[l].operand;
        batch.rows.emplace_back(n * layers[l].stored());
        batch.changes.emplace_back(cells ? n * extents_[v].cells() * program_->values()[v].stored() : 0);
        batch.changed.emplace_back(cells ? n : 0);
    }
    std::barrier barrier(threads_);
    std::atomic<int64_t> next = 0;
    std::vector<std::atomic<int64_t>> tasks(layers.size());
    on_threads(threads_, program_->kernels(), poll, cancelled, [&](int, const auto& guarded) {
        guarded([&] {
            Worker worker{std::unique_ptr<float, Worker::Freed>(static_cast<float*>(
                              ::operator new(layout_.floats * sizeof(float), Worker::kAlign))),
                          Scratch(layout_.scratch),
                          std::vector<Box>(program_->values().size() * layout_.chunk),
                          {},
                          {},
                          {}};
            // Large chunks first, small ones to the end, so that the threads end together.
            for (int64_t first = next; first < n && !cancelled;) {
                const int64_t share = (n - first + 2 * threads_ - 1) / (2 * threads_);
                const int64_t last = std::min(n, first + std::clamp<int64_t>(share, 1, layout_.chunk));
                if (!next.compare_exchange_weak(first, last)) continue;
                run_chunk(worker, batch, first, last);
                first = next;
            }
        });
        for (std::size_t l = 0; l < layers.size(); ++l) {
            barrier.arrive_and_wait();
            if (layers[l].kind == RowLayer::kMean) continue;
            guarded([&] {
                const int64_t count = std::min(layers[l].weights[0].count(), kTasks * threads_);
                for (int64_t task; (task = tasks[l]++) < count && !cancelled;)
                    run_layer(batch, l, task, count);
            });
        }
    });
    for (const RowExit& row : rows) {
        const RowLayer& layer = layers[row.layer];
        for (int64_t p = 0; p < n; ++p)
            std::copy_n(batch.rows[row.layer].data() + p * layer.stored(), layer.size,
                        row.out + p * layer.size);
    }
    if (effects) std::copy(batch.effects.begin(), batch.effects.end(), effects);
    return !cancelled;
}

std::size_t run_bytes(const Program& program, const std::vector<Box>& extents, const Layout& layout,
                      int threads, int64_t positions) {
    std::size_t bytes = threads * (layout.floats * sizeof(float) + layout.scratch +
                                   program.values().size() * layout.chunk * sizeof(Box));
    for (const RowLayer& layer : program.layers()) {
        bytes += positions * layer.stored() * sizeof(float);
        if (layer.kind == RowLayer::kCells)
            bytes += positions * sizeof(Box) + positions * extents[layer.operand].cells() *
                                                   program.values()[layer.operand].stored() * sizeof(float);
    }
    return bytes;
}

}  // namespace krypton
