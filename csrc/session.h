// A session: a program on one input. Its views, and outputs for any list of boxes of that input.
#pragma once

#include "basis.h"
#include "chunk.h"

namespace krypton {

// Memory for one value at all positions: at each, a box of `sizes` whose first cell is the position's corner,
// composed of changed cells and the view, cell by cell without padded channels.
struct Exit {
    int value;
    const Corner* corners;  // by position
    Sizes sizes;
    float* out;
};

// Memory for the vectors of one layer.
struct RowExit {
    int layer;
    float* out;  // (positions, size)
};

// Of a scalar by one value; for an operator that meets a global value, by what that alone makes of the image.
struct Gradient {
    int value;
    std::vector<float> pixels;  // stored
};

// Bytes that a run over `positions` takes, beside the session's own.
std::size_t run_bytes(const Program& program, const std::vector<Box>& extents, const std::vector<int>& kept,
                      int threads, int64_t positions);

class Session {
  public:
    // extents: the largest box of every value; kept: values that `run` may be asked for.
    // input, baseline: NDHWC (depth, height, width, channels).
    // shrinks: what is dropped of the boxes of every value; empty where nothing is dropped of any.
    // gradients: of a scalar by the values of operators that leave something out; their effects are told.
    Session(std::shared_ptr<const Program> program, std::vector<Box> extents, const std::vector<int>& kept,
            std::vector<Shrink> shrinks, const float* input, const float* baseline, int threads,
            const Poll& poll, const std::vector<Gradient>& gradients = {});

    // Outputs of the un-occluded input, shaped like those of `run` for one position with whole boxes.
    void base(const std::vector<Exit>& exits, const std::vector<RowExit>& rows) const;

    // effects: takes, for every position, the first-order effect of what was dropped or left out; or null.
    // costs: takes what every operator and layer cost, added to what it holds; or null.
    // False if it was cancelled; what the exits hold then means nothing.
    bool run(const std::vector<Occlusion>& positions, const std::vector<Exit>& exits,
             const std::vector<RowExit>& rows, double* effects, const Poll& poll,
             Costs* costs = nullptr) const;

    // Begins a walk, which `advance` leads on, from another input (NDHWC), or, where that is null, from the
    // session's own; returns its number. For sessions that keep every value and drop nothing.
    int begin(const float* input, const Poll& poll);
    // Makes walk `into` stand where `source` stands.
    void branch(int source, int into) { walks_[into]->become(*walks_[source]); }
    // Begins a walk where `source` stands; returns its number.
    int branch(int source);
    int walks() const { return static_cast<int>(walks_.size()); }

    // As `run`, of one change of each of some walks, whose boxes may be of any size. `settles`: each is
    // another walk, whose input the change stays; where that was cancelled, the walk has no meaning left.
    bool step(const std::vector<int>& walks, bool settles, std::vector<Occlusion> changes,
              const std::vector<Exit>& exits, const std::vector<RowExit>& rows, const Poll& poll);

  private:
    int threads_;
    Basis basis_;
    std::vector<int> kept_;
    std::vector<bool> read_;  // by value: whether anybody reads its view
    std::vector<std::unique_ptr<Views>> walks_;
    mutable Memories memories_;

    // views: by position, those that are read; empty for the session's own. settles: whether what changes
    // becomes a part of them.
    bool run(const std::vector<Occlusion>& positions, const Room& room, const std::vector<Views*>& views,
             bool settles, const std::vector<Exit>& exits, const std::vector<RowExit>& rows, double* effects,
             const Poll& poll, Costs* costs) const;
    void release_unread(Views& views) const;
};

}  // namespace krypton
