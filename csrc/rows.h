// Layers on whole vectors, one for every position: means of a value, linear layers.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "chunk.h"

namespace krypton {

// An epilogue's limits and function on the first `columns` numbers of each row.
void finish_rows(const Kernels& kernels, const Epilogue& epilogue, float* const* rows, int64_t count,
                 int64_t columns);

// The vectors of a run. First every chunk is taken in, by any thread; then the linear layers are computed one
// after the other, each in tasks that any thread may take. `costs`, if not null, is the thread's own.
class Rows {
  public:
    // views: those of every position; empty where all have the session's own. settles: whether the sums of
    // every position become a part of its views.
    Rows(const Basis& basis, const std::vector<Box>& extents, int64_t positions,
         const std::vector<Views*>& views, bool settles);

    // Reads what changed at the positions of a chunk, of which the first is number `first` of the run.
    void take(const Chunk& chunk, int64_t first, Costs* costs);
    // How many tasks a layer has; none where taking chunks has computed it already.
    int64_t tasks(std::size_t layer, int threads) const;
    // Task number `task`, of those that `tasks` counted; all layers before are complete.
    void compute(std::size_t layer, int64_t task, int64_t tasks, Costs* costs,
                 const std::atomic<bool>& cancelled);
    const float* row(std::size_t layer, int64_t position) const {
        return rows_[layer].data() + position * program_.layers()[layer].stored();
    }

    // Bytes that the vectors of `positions` take.
    static std::size_t bytes(const Program& program, const std::vector<Box>& extents, int64_t positions);

  private:
    const Basis& basis_;
    const std::vector<Box>& extents_;
    const Program& program_;
    int64_t positions_;
    const std::vector<Views*>& views_;
    bool settles_;
    std::vector<std::vector<float>> rows_;     // by layer: (positions, stored)
    std::vector<std::vector<float>> changes_;  // by layer of kCells: (positions, cells of the extent, stored)
    std::vector<std::vector<Box>> changed_;    // by layer of kCells: (positions)

    // As `row`, to be written.
    float* vector(std::size_t layer, int64_t position) {
        return rows_[layer].data() + position * program_.layers()[layer].stored();
    }
    // A layer's sums at a position, but for what changed.
    const float* sums(std::size_t layer, int64_t position) const {
        return (views_.empty() ? basis_.views : *views_[position]).sums(layer).data();
    }
    // Makes sums [offset, offset + width), as `vector` holds them, those of the position's views.
    void settle(std::size_t layer, int64_t position, int64_t offset, int64_t width) {
        if (settles_)
            std::copy_n(vector(layer, position) + offset, width,
                        views_[position]->sums(layer).data() + offset);
    }
    // The changed cells of a position, minus the view.
    float* changes(std::size_t layer, int64_t position);
    void take_sum(std::size_t layer, const Plane& plane, int64_t position);
    void take_cells(std::size_t layer, const Plane& plane, int64_t position);
};

}  // namespace krypton
