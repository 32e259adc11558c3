#include "session.h"

#include <algorithm>
#include <barrier>
#include <mutex>
#include <optional>

#include "rows.h"

namespace krypton {

namespace {

std::vector<Outside> outside_of(const Program& program, const Views& views,
                                const std::vector<Gradient>& gradients) {
    std::vector<Outside> outside(gradients.empty() ? 0 : program.values().size());
    for (const Gradient& gradient : gradients)
        for (const auto& op : program.operators())
            if (op->value == gradient.value && op->met() >= 0)
                outside[op->value] = {*op, views.plane(op->operands[0]), gradient.pixels,
                                      program.values()[op->operands[op->met()]].stored()};
    return outside;
}

Basis basis_of(std::shared_ptr<const Program> program, std::vector<Box> extents, const std::vector<int>& kept,
               std::vector<Shrink> shrinks, const float* input, const float* baseline, int threads,
               const Poll& poll, const std::vector<Gradient>& gradients) {
    Layout layout = lay_out(*program, extents, kept);
    std::vector<float> covering = stored_pixels(program->values()[0], baseline);
    Views views(*program, input, layout.scratch, threads, poll);
    std::vector<Outside> outside = outside_of(*program, views, gradients);
    return {std::move(program),  std::move(shrinks), {std::move(extents), std::move(layout)},
            std::move(covering), std::move(views),   std::move(outside)};
}

// Writes the pixels of an exit for position `p`, whose value is `plane`; `pixels` is room for their
// addresses.
void leave(const Exit& exit, int64_t p, const Plane& plane, int64_t channels,
           std::vector<const float*>& pixels) {
    const int64_t cells = cells_of(exit.sizes);
    pixels.resize(cells);
    plane.pixels(exit.corners[p], exit.sizes, nullptr, pixels.data());
    float* out = exit.out + p * cells * channels;
    for (const float* pixel : pixels) out = std::copy_n(pixel, channels, out);
}

}  // namespace

Session::Session(std::shared_ptr<const Program> program, std::vector<Box> extents,
                 const std::vector<int>& kept, std::vector<Shrink> shrinks, const float* input,
                 const float* baseline, int threads, const Poll& poll, const std::vector<Gradient>& gradients)
    : threads_(std::max(threads, 1)),
      basis_(basis_of(std::move(program), std::move(extents), kept, std::move(shrinks), input, baseline,
                      threads_, poll, gradients)),
      kept_(kept),
      read_(read_elsewhere(*basis_.program, kept)) {
    release_unread(basis_.views);
}

void Session::release_unread(Views& views) const {
    for (int v = 0; v < static_cast<int>(read_.size()); ++v)
        if (!read_[v] && !basis_.shrinks_value(v)) views.release(v);
}

int Session::begin(const float* input, const Poll& poll) {
    if (input) {
        auto views =
            std::make_unique<Views>(*basis_.program, input, basis_.room.layout.scratch, threads_, poll);
        release_unread(*views);
        walks_.push_back(std::move(views));
    } else {
        walks_.push_back(std::make_unique<Views>(basis_.views));
        walks_.back()->forked();
    }
    return static_cast<int>(walks_.size()) - 1;
}

int Session::branch(int source) {
    walks_.push_back(std::make_unique<Views>(*walks_[source]));
    walks_.back()->forked();
    return static_cast<int>(walks_.size()) - 1;
}

bool Session::step(const std::vector<int>& walks, bool settles, std::vector<Occlusion> changes,
                   const std::vector<Exit>& exits, const std::vector<RowExit>& rows, const Poll& poll) {
    std::vector<Views*> views;
    std::vector<Box> boxes;
    for (std::size_t i = 0; i < walks.size(); ++i) {
        views.push_back(walks_[walks[i]].get());
        changes[i].views = views.back();
        boxes.push_back(changes[i].box);
    }
    const bool done = run(changes, room_of(*basis_.program, boxes, kept_), views, settles, exits, rows,
                          nullptr, poll, nullptr);
    for (Views* each : views)
        if (settles) each->moved();
    return done;
}

void Session::base(const std::vector<Exit>& exits, const std::vector<RowExit>& rows) const {
    const Program& program = *basis_.program;
    std::vector<const float*> pixels;
    for (const Exit& exit : exits)
        leave(exit, 0, basis_.views.plane(exit.value), program.values()[exit.value].channels, pixels);
    for (const RowExit& row : rows)
        std::copy_n(basis_.views.row(row.layer).data(), program.layers()[row.layer].size, row.out);
}

bool Session::run(const std::vector<Occlusion>& positions, const std::vector<Exit>& exits,
                  const std::vector<RowExit>& rows, double* effects, const Poll& poll, Costs* costs) const {
    return run(positions, basis_.room, {}, false, exits, rows, effects, poll, costs);
}

bool Session::run(const std::vector<Occlusion>& positions, const Room& room, const std::vector<Views*>& views,
                  bool settles, const std::vector<Exit>& exits, const std::vector<RowExit>& row_exits,
                  double* effects, const Poll& poll, Costs* costs) const {
    if (positions.empty()) return true;
    const Program& program = *basis_.program;
    const auto& layers = program.layers();
    const int64_t n = static_cast<int64_t>(positions.size());
    Rows rows(basis_, room.extents, n, views, settles);
    std::vector<double> dropped(positions.size());
    std::atomic<bool> cancelled = false;
    std::atomic<int64_t> next = 0;
    std::vector<std::atomic<int64_t>> next_task(layers.size());
    std::barrier barrier(threads_);
    std::mutex adding;
    const auto run_chunks = [&](Costs* mine) {
        std::unique_ptr<Memory> memory = memories_.take();
        Chunk chunk(basis_, room, *memory, mine);
        std::vector<const float*> pixels;
        // Large chunks first, small ones to the end, so that the threads end together.
        for (int64_t first = next; first < n && !cancelled;) {
            const int64_t share = (n - first + 2 * threads_ - 1) / (2 * threads_);
            const int64_t last = std::min(n, first + std::clamp<int64_t>(share, 1, room.layout.chunk));
            if (!next.compare_exchange_weak(first, last)) continue;
            if (!chunk.run(&positions[first], last - first, &dropped[first], cancelled)) break;
            for (const Exit& exit : exits)
                for (int64_t p = first; p < last; ++p)
                    leave(exit, p, chunk.plane(exit.value, p - first), program.values()[exit.value].channels,
                          pixels);
            rows.take(chunk, first, mine);
            for (int64_t p = first; p < last && settles; ++p) {
                for (const auto& op : program.operators())
                    views[p]->settle(op->value, chunk.plane(op->value, p - first));
                views[p]->settle(0, chunk.plane(0, p - first));
            }
            first = next;
        }
        memories_.give(std::move(memory));
    };
    on_threads(threads_, program.kernels(), poll, cancelled, [&](int, const Guard& guard) {
        std::optional<Costs> own;
        if (costs) own.emplace(program);
        Costs* mine = own ? &*own : nullptr;
        guard([&] { run_chunks(mine); });
        for (std::size_t l = 0; l < layers.size(); ++l) {
            barrier.arrive_and_wait();
            guard([&] {
                const int64_t count = rows.tasks(l, threads_);
                for (int64_t task; (task = next_task[l]++) < count && !cancelled;)
                    rows.compute(l, task, count, mine, cancelled);
            });
        }
        if (!mine) return;
        const std::lock_guard lock(adding);
        costs->add(*mine);
    });
    for (const RowExit& exit : row_exits) {
        const int64_t size = layers[exit.layer].size;
        for (int64_t p = 0; p < n; ++p) std::copy_n(rows.row(exit.layer, p), size, exit.out + p * size);
    }
    if (effects) std::copy(dropped.begin(), dropped.end(), effects);
    return !cancelled;
}

std::size_t run_bytes(const Program& program, const std::vector<Box>& extents, const std::vector<int>& kept,
                      int threads, int64_t positions) {
    const Layout layout = lay_out(program, extents, kept);
    return threads * (layout.floats * sizeof(float) + layout.scratch + layout.elsewhere +
                      program.values().size() * layout.chunk * sizeof(Box)) +
           Rows::bytes(program, extents, positions);
}

}  // namespace krypton
