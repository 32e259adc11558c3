// A session: a program on one input. Its views, and outputs for any list of boxes of that input.
#pragma once

#include <atomic>
#include <functional>

#include "program.h"
#include "shrink.h"

namespace krypton {

// What changes in the input at one position: cells of some channels.
struct Occlusion {
    Box box;
    Interval channels;
};

// Where a value of all positions goes: a box of `height` x `width` cells from (y[i], x[i]) on, NHWC without
// padded channels, composed of what changed and the view.
struct Exit {
    int value;
    const int64_t* corners;  // (positions, 2): y, x
    int64_t height, width;
    float* out;
};

struct RowExit {
    int layer;
    float* out;  // (positions, size)
};

// Memory for the boxes of a number of positions on one thread, laid out beforehand.
struct Layout {
    struct Segment {
        std::size_t first, last;  // operators
        int64_t chunk;               // positions that go through them together
    };
    struct Place {
        std::size_t offset = 0;  // floats
        int64_t stride = 0;         // floats from one position to the next
        int64_t slots = 0;          // positions that have a place of their own
    };
    std::vector<Segment> segments;
    std::vector<Place> places;  // by value
    int64_t chunk = 1;             // positions of all segments together
    std::size_t floats = 0;
    std::size_t scratch = 0;
};

// Values that live to the end of a chunk: those asked for, and those that layers read.
std::vector<int> with_layers(const Program& program, std::vector<int> kept);

// Operators in segments with chunks of their own, and places for their values.
Layout lay_out(const Program& program, const std::vector<Box>& extents, const std::vector<int>& kept);

// What a run over that many positions takes.
std::size_t run_bytes(const Program& program, const std::vector<Box>& extents, const Layout& layout,
                      int threads, int64_t positions);

class Session {
  public:
    // extents: the largest box of every value; kept: values that `run` may be asked for.
    // input, baseline: NHWC (height, width, channels).
    // shrinks: what is dropped of the boxes of every value; empty where nothing is dropped of any.
    // poll: called now and then on the calling thread; true cancels.
    Session(std::shared_ptr<const Program> program, std::vector<Box> extents, const std::vector<int>& kept,
            std::vector<Shrink> shrinks, const float* input, const float* baseline, int threads,
            const std::function<bool()>& poll);

    // Outputs of the un-occluded input, shaped like those of `run` for one position with whole boxes.
    void base(const std::vector<Exit>& exits, const std::vector<RowExit>& rows) const;

    // effects: takes, for every position, the first-order effect of what was dropped; or null.
    // False if it was cancelled; what the exits hold then means nothing.
    bool run(const std::vector<Occlusion>& positions, const std::vector<Exit>& exits,
             const std::vector<RowExit>& rows, double* effects, const std::function<bool()>& poll) const;

  private:
    struct Worker;
    struct Batch;

    std::shared_ptr<const Program> program_;
    int threads_;
    std::vector<Box> extents_;     // sizes only
    std::vector<Shrink> shrinks_;  // by value
    Layout layout_;
    std::vector<std::vector<float>> views_;  // by value
    std::vector<float> baseline_;
    std::vector<std::vector<float>> base_rows_;  // by layer, before its epilogue for kCells
    std::vector<std::vector<float>> base_out_;   // by layer

    Plane plane(int value) const;
    bool shrinks(int value) const { return !shrinks_.empty() && shrinks_[value].threshold > 0; }
    void materialise(const std::function<bool()>& poll);
    void run_chunk(Worker& worker, Batch& batch, int64_t first, int64_t last) const;
    void run_layer(Batch& batch, std::size_t layer, int64_t task, int64_t tasks) const;
};

}  // namespace krypton
